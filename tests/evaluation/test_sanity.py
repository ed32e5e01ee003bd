"""The test by random weights: an edge detector fails it, and maps that change with the weights pass."""

from __future__ import annotations

import json
from collections.abc import Sequence

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr
from torchmetrics.functional.image import structural_similarity_index_measure

from covidnet.base.errors import DataError, SettingError
from covidnet.evaluation.results import to_json
from covidnet.evaluation.sanity import sanity_summary, sanity_table

STAGES = ("head", "block2", "block1", "stem")


def stretched(maps: np.ndarray) -> np.ndarray:
    maps = maps - maps.min(axis=(1, 2), keepdims=True)
    return (maps / maps.max(axis=(1, 2), keepdims=True)).astype(np.float32)


def smooth(count: int, seed: int, side: int = 48) -> np.ndarray:
    return stretched(gaussian_filter(np.random.default_rng(seed).normal(size=(count, side, side)), (0, 5, 5)))


def edges(images: np.ndarray) -> np.ndarray:
    """An edge detector: maps that do not depend on a network."""
    found = [np.hypot(cv2.Sobel(f, cv2.CV_32F, 1, 0), cv2.Sobel(f, cv2.CV_32F, 0, 1)) for f in images]
    return stretched(np.array(found))


def names(count: int) -> list[str]:
    return [f"i{k}" for k in range(count)]


def reference_ssim(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Wang et al.'s formula at every pixel, with their Gaussian window of 11 pixels."""
    x, y = x.astype(float), y.astype(float)

    def mean(a: np.ndarray) -> np.ndarray:
        return np.asarray(gaussian_filter(a, 1.5, truncate=5 / 1.5, mode="mirror"))

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x**2) - mx**2, mean(y**2) - my**2, mean(x * y) - mx * my
    return np.asarray((2 * mx * my + 0.01**2) * (2 * cov + 0.03**2) / ((mx**2 + my**2 + 0.01**2) * (vx + vy + 0.03**2)))


def of_stage(rows: pd.DataFrame, stage: str, measure: str) -> np.ndarray:
    return rows[rows["stage"] == stage][measure].to_numpy()


# The table


def test_ssim_is_that_of_the_paper_and_of_torchmetrics() -> None:
    one, other = smooth(5, 0), stretched(smooth(5, 0) + 0.6 * smooth(5, 1))
    found = of_stage(sanity_table(one, {"head": other}, names(5)), "head", "ssim")
    assert found == pytest.approx([reference_ssim(x, y).mean() for x, y in zip(one, other, strict=True)], abs=1e-9)
    pair = [torch.from_numpy(maps)[:, None].double() for maps in (one, other)]
    library = structural_similarity_index_measure(*pair, data_range=1.0, reduction="none")  # type: ignore[arg-type]
    assert found == pytest.approx(np.asarray(library), abs=1e-9)
    assert 0.1 < found.mean() < 0.95


def test_rank_is_spearmans_over_pixels_with_ties() -> None:
    one, other = np.round(smooth(4, 2), 1), np.maximum(smooth(4, 3) - 0.5, 0)
    found = of_stage(sanity_table(one, {"head": other}, names(4)), "head", "rank")
    assert found == pytest.approx([spearmanr(x.ravel(), y.ravel())[0] for x, y in zip(one, other, strict=True)])


def test_rank_depends_only_on_the_order_of_pixels() -> None:
    maps = smooth(3, 4)
    rows = sanity_table(maps, {"same": maps, "squared": maps**2, "upside down": 1 - maps}, names(3))
    assert of_stage(rows, "same", "rank") == pytest.approx(1)
    assert of_stage(rows, "same", "ssim") == pytest.approx(1)
    assert of_stage(rows, "squared", "rank") == pytest.approx(1, abs=1e-3)
    assert of_stage(rows, "squared", "ssim").max() < 0.99
    assert of_stage(rows, "upside down", "rank") == pytest.approx(-1, abs=1e-3)


def test_pairs_are_the_mean_over_the_other_images() -> None:
    maps = smooth(4, 5)
    rows = sanity_table(maps, {"head": maps}, names(4))
    assert list(rows["stage"]) == ["head"] * 4 + ["pairs"] * 4
    others = [1, 2, 3]
    assert of_stage(rows, "pairs", "ssim")[0] == pytest.approx(
        np.mean([reference_ssim(maps[0], maps[j]).mean() for j in others])
    )
    assert of_stage(rows, "pairs", "rank")[0] == pytest.approx(
        np.mean([spearmanr(maps[0].ravel(), maps[j].ravel())[0] for j in others])
    )


def test_a_constant_trained_map_is_nan_and_a_constant_re_initialised_one_is_0() -> None:
    maps, other = smooth(5, 6), smooth(5, 7)
    maps[[1, 4]], other[[2, 4]] = 0, 0.5
    rows = sanity_table(maps, {"head": other}, names(5))
    for measure in ("ssim", "rank"):
        found = of_stage(rows, "head", measure)
        assert np.isnan(found).tolist() == [False, True, False, False, True]
        assert found[2] == 0
        assert np.isnan(of_stage(rows, "pairs", measure)).tolist() == [False, True, False, False, True]
    alone = sanity_table(maps[[0, 2, 3]], {"head": other[[0, 2, 3]]}, names(3))
    np.testing.assert_allclose(of_stage(rows, "pairs", "ssim")[[0, 2, 3]], of_stage(alone, "pairs", "ssim"))


def test_a_network_with_constant_maps_after_re_initialisation_passes() -> None:
    trained = smooth(8, 6)
    found = summary_of(trained, [trained, trained, trained, np.zeros_like(trained)])
    assert found.stages[-1].rank.value == 0
    assert found.verdict == "depends"
    assert found.reason is None


def test_repeats_of_a_stage_have_own_rows_and_are_averaged_in_the_summary() -> None:
    trained, draws = smooth(6, 8), np.stack([smooth(6, 70 + k) for k in range(3)])
    rows = sanity_table(trained, {"head": trained, "stem": draws}, names(6))
    assert len(rows) == 6 * (1 + 3 + 1)
    each = [of_stage(sanity_table(trained, {"stem": one}, names(6)), "stem", "rank") for one in draws]
    np.testing.assert_array_equal(of_stage(rows, "stem", "rank"), np.concatenate(each))
    found = sanity_summary(rows, resamples=50)
    assert found.n == found.stages[-1].rank.n == 6
    assert found.stages[-1].rank.value == pytest.approx(np.mean(each))
    with pytest.raises(DataError, match="stem: maps of shape"):
        sanity_table(trained, {"stem": draws[:, :4]}, names(6))


def test_one_image_has_no_pairs() -> None:
    rows = sanity_table(smooth(1, 8), {"head": smooth(1, 9)}, ["a"])
    assert rows.loc[rows["stage"] == "pairs", ["ssim", "rank"]].isna().all(axis=None)
    found = sanity_summary(rows, resamples=50)
    assert to_json(found.retained.ssim) == {"value": None, "ci": None, "n": 0, "method": "bootstrap"}
    assert found.verdict == "unclear"


def test_mismatched_arguments_raise() -> None:
    maps = smooth(3, 0)
    with pytest.raises(DataError, match=r"head: maps of shape \(2, 48, 48\); must be \(3, 48, 48\)"):
        sanity_table(maps, {"head": maps[:2]}, names(3))
    with pytest.raises(DataError, match="for 2 images"):
        sanity_table(maps, {"head": maps}, names(2))
    with pytest.raises(DataError, match="each side must be at least 11"):
        sanity_table(maps[:, :10], {"head": maps[:, :10]}, names(3))
    with pytest.raises(SettingError, match="stage=pairs"):
        sanity_table(maps, {"pairs": maps}, names(3))


# The verdict


def summary_of(trained: np.ndarray, by_stage: Sequence[np.ndarray], resamples: int = 300) -> dict:
    return sanity_summary(
        sanity_table(trained, dict(zip(STAGES, by_stage, strict=True)), names(len(trained))), resamples=resamples
    )


def test_an_edge_detector_fails() -> None:
    maps = edges(np.random.default_rng(0).random((8, 1, 1)).astype(np.float32) + smooth(8, 10))
    found = summary_of(maps, [maps] * 4)
    for measure in ("ssim", "rank"):
        assert getattr(found.retained, measure).value == pytest.approx(1)
        assert getattr(found.pairs, measure).value < 0.9
    assert found.verdict == "does not depend"


def test_an_edge_detector_with_a_little_noise_fails_too() -> None:
    maps = edges(smooth(8, 10))
    noisy = [stretched(maps + 0.02 * smooth(8, 20 + k)) for k in range(4)]
    assert summary_of(maps, noisy).verdict == "does not depend"


def test_maps_that_change_in_each_stage_depend_on_the_weights() -> None:
    found = summary_of(smooth(10, 11), [smooth(10, 30 + k) for k in range(4)])
    for measure in ("ssim", "rank"):
        assert getattr(found.retained, measure).value == pytest.approx(0, abs=0.2)
        assert getattr(found.retained, measure).ci[1] < 0.5
    assert found.verdict == "depends"


def test_maps_that_change_by_half_retain_about_half() -> None:
    trained, new = smooth(12, 12), smooth(12, 13)
    found = summary_of(trained, [stretched(trained + new)] * 4)
    for measure in ("ssim", "rank"):
        assert 0.25 < getattr(found.retained, measure).value < 0.85


def test_the_last_stage_decides() -> None:
    trained = smooth(8, 14)
    new = smooth(8, 15)
    assert summary_of(trained, [trained, trained, trained, new]).verdict == "depends"
    assert summary_of(trained, [new, new, new, trained]).verdict == "does not depend"


def test_maps_with_the_same_ranks_fail_though_their_ssim_changes() -> None:
    trained = stretched(smooth(8, 16) + np.linspace(0, 0.05, 48)[None, :, None])
    found = summary_of(trained, [0.5 * trained**4] * 4)
    assert found.retained.ssim.value < 0.5
    assert found.retained.rank.value == pytest.approx(1, abs=0.01)
    assert found.verdict == "does not depend"


def test_an_interval_that_contains_a_half_is_unclear() -> None:
    trained = smooth(8, 17)
    mixed = np.concatenate([trained[:4], smooth(4, 18)])
    found = summary_of(trained, [mixed] * 4)
    assert found.retained.rank.ci[0] < 0.5 < found.retained.rank.ci[1]
    assert (found.verdict, found.reason) == ("unclear", "maps change by about half")


def test_few_images_are_unclear() -> None:
    trained = smooth(5, 19)
    enough, few = summary_of(trained, [trained] * 4), summary_of(trained[:4], [trained[:4]] * 4)
    assert (enough.verdict, enough.reason) == ("does not depend", None)
    assert (few.verdict, few.reason) == ("unclear", "too few images")


@pytest.mark.parametrize("apart", [0.0, 0.05])
def test_nearly_identical_maps_of_all_images_are_unclear(apart: float) -> None:
    trained = stretched(np.repeat(smooth(1, 20), 6, axis=0) + apart * smooth(6, 21))
    found = summary_of(trained, [trained] * 4)
    for measure in ("ssim", "rank"):
        assert getattr(found.pairs, measure).value > 0.9
        assert getattr(found.retained, measure).value is None
        assert getattr(found.retained, measure).ci is None
    assert (found.verdict, found.reason) == ("unclear", "the maps of different images are nearly the same")


# The summary


def test_retained_is_the_definition_from_means_over_images() -> None:
    trained = smooth(9, 21)
    rows = sanity_table(trained, {"head": smooth(9, 22), "stem": stretched(trained + smooth(9, 23))}, names(9))
    found = sanity_summary(rows, resamples=4000, seed=3)
    last, pairs = of_stage(rows, "stem", "rank"), of_stage(rows, "pairs", "rank")
    assert found.retained.rank.value == pytest.approx((last.mean() - pairs.mean()) / (1 - pairs.mean()))
    assert found.stages[0].ssim.value == pytest.approx(of_stage(rows, "head", "ssim").mean())
    # An independent bootstrap of the same ratio.
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 9, (4000, 9))
    ratios = (last[drawn].mean(1) - pairs[drawn].mean(1)) / (1 - pairs[drawn].mean(1))
    # Percentiles expanded for nine patients.
    tail = 100 * stats.norm.sf(np.sqrt(9 / 8) * stats.t.ppf(0.975, 8))
    expected = np.percentile(ratios, [tail, 100 - tail])
    width = np.ptp(expected)
    assert found.retained.rank.ci == pytest.approx(list(expected), abs=0.1 * width)
    assert json.loads(json.dumps(to_json(found))) == to_json(found)


def test_stages_keep_their_order() -> None:
    trained = smooth(5, 24)
    rows = sanity_table(trained, {stage: smooth(5, 40 + k) for k, stage in enumerate(STAGES)}, names(5))
    assert [one.stage for one in sanity_summary(rows, resamples=50).stages] == list(STAGES)
    shuffled = rows.sample(frac=1, random_state=0)
    found = sanity_summary(shuffled, STAGES[:2], resamples=50)
    assert [one.stage for one in found.stages] == ["head", "block2"]
    with pytest.raises(DataError, match="stages=layer9: must be stages of the table: head, block2, block1, stem"):
        sanity_summary(rows, ["layer9"])
    with pytest.raises(DataError, match="of the table: none"):
        sanity_summary(rows[rows["stage"] == "pairs"])


def test_the_same_image_from_several_models_counts_once() -> None:
    first, second = (
        sanity_table(smooth(6, s), {"head": smooth(6, s + 1)}, names(6)) for s in (50, 60)
    )  # fmt: skip
    found = sanity_summary(pd.concat([first, second], ignore_index=True), resamples=50)
    assert found.n == found.stages[0].rank.n == 6
    both = [of_stage(part, "head", "rank").mean() for part in (first, second)]
    assert found.stages[0].rank.value == pytest.approx(np.mean(both))
    once = sanity_summary(first, resamples=50)
    assert sanity_summary(pd.concat([first, first], ignore_index=True), resamples=50) == once
