"""Measures of heat maps against their definitions, and maps whose place is known against the three baselines."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import t
from sklearn.metrics import jaccard_score

from covidnet.base.errors import DataError
from covidnet.evaluation.localisation import (
    MEASURES,
    centre_prior,
    heat_share,
    localisation_summary,
    localisation_table,
    otsu_iou,
    pointing,
)
from covidnet.evaluation.results import to_json

SHAPE = (40, 48)


def smooth(count: int, seed: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """Random maps, each stretched to 0..1 like a model's."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(count, *shape)), (0, 4, 4))
    noise -= noise.min(axis=(1, 2), keepdims=True)
    return (noise / noise.max(axis=(1, 2), keepdims=True)).astype(np.float32)


def discs(count: int, seed: int, radius: float = 5.0) -> list[np.ndarray]:
    """A round lesion per image, anywhere."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(SHAPE)
    places = zip(rng.uniform(0, SHAPE[0], count), rng.uniform(0, SHAPE[1], count), strict=True)
    return [np.hypot(rows - y, columns - x) < radius for y, x in places]


def square_at(top: int, width: int) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[top : top + 12, 20 : 20 + width] = True
    return mask


def table(heats: np.ndarray, lesions: list[Any], lungs: list[Any] | None = None, **more: Any) -> pd.DataFrame:
    n = len(heats)
    given = {"image_id": [f"i{k}" for k in range(n)], "patient_id": [f"p{k}" for k in range(n)]} | more
    return localisation_table(heats, lesions, lungs or [None] * n, label=["COVID-19"] * n, **given)


def best_thresholds(levels: np.ndarray) -> list[int]:
    """All thresholds with the largest variance between the two parts, by trying every one."""
    flat = levels.ravel().astype(float)
    scores = []
    for threshold in range(256):
        low, high = flat[flat <= threshold], flat[flat > threshold]
        squared = (low.mean() - high.mean()) ** 2 if len(low) and len(high) else 0.0
        scores.append(len(low) * len(high) * squared)
    return [at for at, score in enumerate(scores) if score > max(scores) * (1 - 1e-12)]


# One map


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_map_equal_to_the_mask_scores_1_and_its_complement_0(dtype: type) -> None:
    for mask in discs(8, 0):
        for measure in (pointing, otsu_iou, heat_share):
            assert measure(mask.astype(dtype), mask) == 1.0
            assert measure((~mask).astype(dtype), mask) == 0.0


def test_pointing_depends_only_on_the_hottest_pixel() -> None:
    heat = np.zeros(SHAPE)
    heat[7, 9], heat[8, 9] = 1.0, 0.999
    mask = np.zeros(SHAPE, bool)
    mask[8, 9] = True
    assert pointing(heat, mask) == 0.0
    mask[7, 9] = True
    assert pointing(heat, mask) == 1.0


def test_tied_maxima_share_the_point() -> None:
    heat, mask = np.zeros(SHAPE), np.zeros(SHAPE, bool)
    heat[0, :3] = heat[1, 0] = 0.7
    mask[0] = True
    assert pointing(heat, mask) == 0.75


def test_heat_share_is_heat_inside_over_all_heat() -> None:
    heats = smooth(6, 1)
    for heat, mask in zip(heats, discs(6, 2), strict=True):
        inside = sum(float(heat[at]) for at in zip(*np.nonzero(mask), strict=True))
        assert heat_share(heat, mask) == pytest.approx(inside / sum(float(v) for v in heat.ravel()))


def test_otsu_iou_is_the_jaccard_score_at_the_threshold_of_the_largest_variance() -> None:
    for heat, mask in zip(smooth(12, 3), discs(12, 4, 9.0), strict=True):
        levels = np.round(heat.astype(float) * 255)
        expected = {jaccard_score(mask.ravel(), (levels > t).ravel()) for t in best_thresholds(levels)}
        assert any(otsu_iou(heat, mask) == pytest.approx(one) for one in expected)


def test_otsu_iou_does_not_depend_on_contrast() -> None:
    heat, mask = np.round(smooth(1, 3)[0] * 255) / 255, discs(1, 4, 9.0)[0]
    assert otsu_iou(0.2 + 0.3 * heat, mask) == otsu_iou(heat, mask)


@pytest.mark.parametrize("measure", [pointing, otsu_iou, heat_share])
def test_a_constant_map_or_an_empty_mask_gives_nan(measure: Any) -> None:
    mask, heat = discs(1, 0)[0], smooth(1, 0)[0]
    for constant in (np.zeros(SHAPE), np.full(SHAPE, 0.4, np.float32), np.full(SHAPE, np.nan)):
        assert np.isnan(measure(constant, mask))
    assert np.isnan(measure(heat, np.zeros(SHAPE, bool)))
    assert np.isfinite(measure(heat, np.ones(SHAPE, bool)))


@pytest.mark.parametrize("measure", [pointing, otsu_iou, heat_share])
def test_a_mask_of_another_size_raises(measure: Any) -> None:
    with pytest.raises(DataError, match=r"shape \(48, 40\) for a map of \(40, 48\)"):
        measure(smooth(1, 0)[0], np.ones(SHAPE[::-1], bool))


@pytest.mark.parametrize("shape", [(40, 48), (41, 33), (64, 64)])
def test_centre_prior_is_a_gaussian_of_a_quarter_of_the_shorter_side(shape: tuple[int, int]) -> None:
    prior = centre_prior(shape).astype(float)
    assert prior.max() == 1.0
    assert prior.min() > 0.0
    assert np.array_equal(prior, prior[::-1])
    assert np.array_equal(prior, prior[:, ::-1])
    middle, sigma = (shape[0] - 1) // 2, min(shape) / 4
    steps = np.diff(np.log(prior[middle]))
    # The log of a Gaussian is a parabola, whose second difference is -1 / variance.
    assert np.diff(steps) == pytest.approx(-1 / sigma**2, rel=1e-3)


# The table


def test_an_image_has_a_row_for_its_map_and_for_each_baseline() -> None:
    heats, lesions, lungs = smooth(3, 0), discs(3, 1), discs(3, 2, 12.0)
    rows = table(heats, lesions, lungs, patient_id=["p", None, "p"])
    assert list(rows.columns) == ["image_id", "patient_id", "label", "map", "constant", *MEASURES]
    assert list(rows["map"]) == ["model", "centre", "mean_map", "chance"] * 3
    assert not rows["constant"].any()
    expected = {"model": heats[1], "centre": centre_prior(SHAPE), "mean_map": (heats[0] + heats[2]) / 2}
    for name, heat in expected.items():
        row = rows[(rows["image_id"] == "i1") & (rows["map"] == name)].iloc[0]
        assert row["pointing"] == pointing(heat, lesions[1])
        assert row["iou"] == pytest.approx(otsu_iou(heat, lesions[1]), abs=0.01)
        assert row["lesion_share"] == pytest.approx(heat_share(heat, lesions[1]))
        assert row["lung_share"] == pytest.approx(heat_share(heat, lungs[1]))
        assert pd.isna(row["patient_id"])
        assert row["label"] == "COVID-19"


def test_the_mean_map_excludes_the_image() -> None:
    lesions = discs(4, 5)
    others = [np.mean([m for j, m in enumerate(lesions) if j != at], axis=0) for at in range(4)]
    rows = table(np.array(lesions, np.float32), lesions)
    found = rows[rows["map"] == "mean_map"]
    for measure, name in ((pointing, "pointing"), (heat_share, "lesion_share")):
        expected = [measure(heat, mask) for heat, mask in zip(others, lesions, strict=True)]
        assert found[name].to_numpy() == pytest.approx(expected)


def test_the_mean_of_one_map_is_that_map_with_its_ties() -> None:
    hot, half = square_at(10, 12), square_at(10, 6)
    # float64, so that sums are rounded.
    heats = np.array([smooth(1, 7)[0].astype(float) / 3, 0.3 * hot + 0.1])
    rows = table(heats, [half] * 2)
    assert rows[(rows["map"] == "mean_map") & (rows["image_id"] == "i0")]["pointing"].item() == 0.5


def test_a_duplicate_is_not_another_image() -> None:
    rows = table(smooth(2, 0), discs(2, 1), image_id=["a", "a"])
    assert rows.loc[rows["map"] == "mean_map", list(MEASURES)].isna().all(axis=None)


def test_unknown_measures_are_nan() -> None:
    heats, lesion, lung = smooth(4, 0), discs(1, 1)[0], discs(1, 2, 12.0)[0]
    heats[3] = 0
    rows = table(heats, [None, np.zeros(SHAPE, bool), lesion, lesion], [lung, lung, None, lung])
    model = rows[rows["map"] == "model"].set_index("image_id")
    defined = model[list(MEASURES)].notna()
    assert model["constant"].tolist() == [False, False, False, True]
    assert defined.loc["i0"].tolist() == defined.loc["i1"].tolist() == [False, False, False, False, True]
    assert defined.loc["i2"].tolist() == [True, True, True, True, False]
    # A miss on the lesion; no heat that could lie in the lungs.
    assert defined.loc["i3"].tolist() == [True, True, True, True, False]
    assert (model.loc["i3", list(MEASURES[:-1])] == 0).all()
    assert rows[rows["map"] == "centre"].set_index("image_id").loc["i3", list(MEASURES)].notna().all()
    alone = table(heats[:1], [lesion])
    assert alone.loc[alone["map"] == "mean_map", list(MEASURES)].isna().all(axis=None)


def test_chance_is_the_region_s_share_of_the_area() -> None:
    lesions, lungs = discs(40, 30, 9.0), discs(40, 31, 14.0)
    rows = table(smooth(40, 32), lesions, lungs)
    chance = rows[rows["map"] == "chance"]
    assert chance[["touch", "iou"]].isna().all(axis=None)
    # A place drawn at random, many times: how often it lies in the region.
    rng = np.random.default_rng(0)
    y, x = rng.integers(0, SHAPE[0], 20_000), rng.integers(0, SHAPE[1], 20_000)
    for measure, masks in (("pointing", lesions), ("lesion_share", lesions), ("lung_share", lungs)):
        drawn = [mask[y, x].mean() for mask in masks]
        np.testing.assert_allclose(chance[measure], drawn, atol=0.015)
    # Uniform heat has the share of chance.
    even = np.ones(SHAPE)
    even[0, 0] += 1e-6
    assert chance["lesion_share"].iloc[0] == pytest.approx(heat_share(even, lesions[0]), abs=1e-6)
    unknown = table(smooth(2, 0), [None, np.zeros(SHAPE, bool)])
    assert unknown.loc[unknown["map"] == "chance", list(MEASURES)].isna().all(axis=None)


def test_lists_of_other_lengths_raise() -> None:
    with pytest.raises(DataError, match="lungs: 1 values for 2 maps"):
        table(smooth(2, 0), discs(2, 0), [None])


# The summary


def test_maps_equal_to_the_lesions_beat_both_priors() -> None:
    lesions = discs(30, 8)
    found = localisation_summary(table(np.array(lesions, np.float32), lesions), 300)
    for measure in ("pointing", "iou", "lesion_share"):
        assert to_json(found.measures[measure].model) == {"value": 1.0, "ci": None, "n": 30, "method": "bootstrap"}
    assert found.not_better == found.not_better_than_mean_map == []
    assert found.better_than_centre is True
    assert (found.n, found.images, found.patients, found.constant) == (30, 30, 30, 0)
    assert json.loads(json.dumps(to_json(found))) == to_json(found)


def test_a_constant_difference_is_its_own_interval() -> None:
    corner = np.zeros(SHAPE, bool)
    corner[:5, :5] = True
    found = localisation_summary(table(np.array([corner] * 6, np.float32), [corner] * 6), 100)
    assert to_json(found.measures["pointing"].difference) == {"value": 1.0, "ci": None, "n": 6, "method": "bootstrap"}
    assert found.better_than_centre is True
    # All images have the same map.
    assert found.not_better_than_mean_map == ["pointing", "iou", "lesion_share"]


@pytest.mark.parametrize("seed", range(4))
def test_random_maps_are_not_better_than_the_centre(seed: int) -> None:
    found = localisation_summary(table(smooth(40, seed), discs(40, 100 + seed)), 300)
    assert found.better_than_centre is False
    assert found.not_better


def test_maps_away_from_the_lesions_are_worse() -> None:
    lesions = discs(30, 8)
    found = localisation_summary(table(1 - np.array(lesions, np.float32), lesions), 300)
    assert found.not_better == ["pointing", "iou", "lesion_share"]
    assert found.measures["lesion_share"].difference.ci[1] < 0


def test_with_few_patients_there_is_no_verdict() -> None:
    lesions = discs(30, 8)
    for patients, expected in ((4, None), (5, True)):
        rows = table(np.array(lesions, np.float32), lesions, patient_id=[f"p{k % patients}" for k in range(30)])
        found = localisation_summary(rows, 300)
        assert found.patients == patients
        assert found.better_than_centre is expected


def test_values_are_means_over_images_and_differences_are_paired() -> None:
    lesions, heats = discs(12, 9), smooth(12, 10)
    heats[[2, 5]] = 0
    rows = table(heats, lesions, discs(12, 33, 14.0))
    found = localisation_summary(rows, 200).measures["lesion_share"]
    # A constant map has a lesion_share of 0 by definition.
    model = np.array([0.0 if n in (2, 5) else heat_share(heats[n], lesions[n]) for n in range(12)])
    centre = np.array([heat_share(centre_prior(SHAPE), mask) for mask in lesions])
    chance = np.array([mask.mean() for mask in lesions])
    assert {one.n for one in vars(found).values() if one is not found.n} == {found.n} == {12}
    assert found.model.value == pytest.approx(model.mean())
    assert found.centre.value == pytest.approx(centre.mean())
    assert found.chance.value == pytest.approx(chance.mean())
    assert found.difference.value == pytest.approx((model - centre).mean())
    assert found.difference_chance.value == pytest.approx((model - chance).mean())


def test_all_numbers_of_a_measure_are_over_the_same_images() -> None:
    """A constant map has no lung_share, so its image is excluded for the baselines too."""
    lungs, heats = discs(12, 33, 14.0), smooth(12, 10)
    heats[[2, 5]] = 0
    found = localisation_summary(table(heats, [None] * 12, lungs), 200).measures["lung_share"]
    left = [n for n in range(12) if n not in (2, 5)]
    assert {one.n for one in vars(found).values() if one is not found.n} == {found.n} == {10}
    centre = np.mean([heat_share(centre_prior(SHAPE), lungs[n]) for n in left])
    assert found.centre.value == pytest.approx(centre)
    assert found.chance.value == pytest.approx(np.mean([lungs[n].mean() for n in left]))
    difference = found.model.value - found.centre.value
    assert found.difference.value == pytest.approx(difference)


def test_constant_maps_are_counted_by_class_among_images_with_a_mask() -> None:
    lesions, heats = [*discs(7, 9), None], smooth(8, 10)
    heats[[0, 1, 5, 7]] = 0
    rows = localisation_table(
        heats, lesions, [None] * 8, list("abcdefgh"), [None] * 8, ["Normal"] * 4 + ["COVID-19"] * 4
    )
    found = localisation_summary(rows, 100)
    assert found.constant == 3
    assert found.constant_by_class == {"COVID-19": 1, "Normal": 2}
    assert json.loads(json.dumps(to_json(found))) == to_json(found)


def test_an_older_table_with_nan_for_misses_gives_the_same_summary() -> None:
    lesions, heats = discs(8, 9), smooth(8, 10)
    heats[[0, 1]] = 0
    rows = table(heats, lesions)
    old = rows[rows["map"] != "chance"].drop(columns="constant")
    old.loc[rows["constant"], list(MEASURES)] = np.nan
    found, before = localisation_summary(rows, 100), localisation_summary(old, 100)
    assert before.constant == 2
    for measure in MEASURES:
        for name in ("model", "centre", "mean_map", "difference", "difference_mean_map"):
            assert getattr(before.measures[measure], name) == getattr(found.measures[measure], name)


def test_maps_that_beat_the_centre_but_not_chance_are_not_better() -> None:
    """Lesions at the edge, where the centre prior is nearly 0: uniform heat beats it and equals chance."""
    rng = np.random.default_rng(0)
    edge = [np.zeros(SHAPE, bool) for _ in range(20)]
    for mask in edge:
        top = rng.integers(0, 30)
        mask[top : top + 8, :4] = True
    even = 1 + 0.01 * rng.random((20, *SHAPE))
    found = localisation_summary(table(even, edge), 300)
    share = found.measures["lesion_share"]
    assert share.difference.ci[0] > 0
    assert share.difference_chance.ci[0] < 0
    assert "lesion_share" in found.not_better
    assert found.better_than_centre is False


def test_intervals_are_wider_for_correlated_images_of_a_patient() -> None:
    lesions, heats = discs(40, 11), smooth(40, 12)
    heats, lesions = np.repeat(heats[:10], 4, axis=0), [lesions[k // 4] for k in range(40)]
    widths = []
    for patients in ([f"p{k}" for k in range(40)], [f"p{k // 4}" for k in range(40)]):
        found = localisation_summary(table(heats, lesions, patient_id=patients), 2000)
        low, high = found.measures["lesion_share"].model.ci or (0.0, 0.0)
        widths.append(high - low)
    # Four copies of an image carry as much information as one: the standard error doubles, and t replaces z.
    assert widths[1] / widths[0] == pytest.approx(2.0 * t.ppf(0.975, 9) / t.ppf(0.975, 39), rel=0.15)


def test_the_same_image_from_several_models_counts_once() -> None:
    lesions = discs(10, 13)
    first, second = table(smooth(10, 14), lesions), table(smooth(10, 15), lesions)
    found = localisation_summary(pd.concat([first, second], ignore_index=True), 200)
    assert (found.n, found.images) == (10, 10)
    for name in ("model", "mean_map", "centre"):
        both = [part[part["map"] == name]["iou"].to_numpy() for part in (first, second)]
        assert getattr(found.measures["iou"], name).value == pytest.approx(np.mean(both))
        assert getattr(found.measures["iou"], name).n == 10
    once = localisation_summary(pd.concat([first, first], ignore_index=True), 200)
    assert once == replace(localisation_summary(first, 200), maps=20)


def test_a_constant_map_of_one_model_excludes_only_its_own_baselines() -> None:
    lungs, heats = discs(6, 16, 14.0), smooth(6, 17)
    silent = heats.copy()
    silent[0] = 0
    maps = [heats, silent, smooth(6, 18)]
    parts = [table(one, [None] * 6, lungs) for one in maps]
    found = localisation_summary(pd.concat(parts, ignore_index=True), 200)
    of = {name: np.array([part[part["map"] == name]["lung_share"] for part in parts]) for name in ("model", "mean_map")}
    assert np.isnan(of["model"]).sum() == 1
    expected = np.nanmean(of["model"] - of["mean_map"], axis=0).mean()
    assert found.measures["lung_share"].difference_mean_map.value == pytest.approx(expected)
    assert found.constant == 1


def test_images_without_a_lesion_count_for_lungs_only() -> None:
    empty = [np.zeros(SHAPE, bool)] * 8
    found = localisation_summary(table(smooth(8, 19), empty, discs(8, 20, 14.0)), 100)
    assert (found.n, found.images, found.patients) == (0, 8, 0)
    assert found.better_than_centre is None
    assert to_json(found.measures["pointing"].model) == {"value": None, "ci": None, "n": 0, "method": "bootstrap"}
    assert found.measures["lung_share"].n == 8
    assert found.measures["lung_share"].difference.ci is not None


def test_maps_that_are_all_constant_are_not_better() -> None:
    lesions = discs(8, 21)
    found = localisation_summary(table(np.zeros((8, *SHAPE), np.float32), lesions), 100)
    assert found.better_than_centre is False
    assert found.constant == 8
    assert found.measures["iou"].model.value == 0
    assert found.measures["iou"].centre.n == 8
    # The mean of constant maps is constant.
    assert found.measures["iou"].mean_map.value == 0


def test_an_empty_table() -> None:
    found = localisation_summary(table(smooth(1, 0)[:0], []), 100)
    assert (found.images, found.better_than_centre) == (0, None)


def test_writing_and_reading_a_table_keeps_the_summary(tmp_path: Any) -> None:
    rows = table(smooth(8, 22), discs(8, 23), patient_id=["p", None] * 4)
    rows.to_csv(tmp_path / "t.csv", index=False)
    again = pd.read_csv(tmp_path / "t.csv", dtype={"image_id": str, "patient_id": str})
    assert localisation_summary(again, 100) == localisation_summary(rows, 100)
    assert localisation_summary(rows, 100).patients == 5


def test_a_map_touches_a_lesion_if_its_hot_part_overlaps_it() -> None:
    heat = np.zeros((1, 8, 8))
    heat[0, :4] = 1.0
    far, near = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    far[6:, :] = near[3:7, :2] = True
    for mask, expected in ((far, 0.0), (near, 1.0)):
        rows = localisation_table(heat, [mask], [None], ["a"], ["p"], ["COVID-19"])
        assert rows.set_index("map").loc["model", "touch"] == expected
