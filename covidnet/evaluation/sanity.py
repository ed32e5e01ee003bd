"""Whether heat maps depend on the trained weights: their similarity to maps after re-initialisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import rankdata

from covidnet.base.errors import DataError, SettingError
from covidnet.evaluation.bootstrap import RESAMPLES, cluster_codes, cluster_weights, percentile_interval
from covidnet.evaluation.localisation import MapEstimate

PAIRS = "pairs"
"""The baseline "stage": similarity between the trained maps of different images."""

SimilarityMeasure = Literal["ssim", "rank"]

MEASURES: tuple[SimilarityMeasure, ...] = get_args(SimilarityMeasure)
"""Structural similarity, and Spearman's rank correlation over pixels."""

MIN_IMAGES = 5
"""With fewer images the verdict is unclear, because their bootstrap intervals are too narrow."""

MAX_PAIR_SIMILARITY = 0.9
"""If the trained maps of different images are more similar than this on average, the test is uninformative."""

_LIMIT = 0.5  # maps depend on the weights if they retain less similarity than this
_WINDOW = 11  # pixels, the side of Wang et al.'s Gaussian window
_C1, _C2 = 0.01**2, 0.03**2  # Wang et al.'s constants for values in 0..1

Maps = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Similarity:
    """The similarity of maps by both `MEASURES`."""

    ssim: MapEstimate
    rank: MapEstimate

    def of(self, measure: SimilarityMeasure) -> MapEstimate:
        """The similarity by one measure."""
        return self.ssim if measure == "ssim" else self.rank


@dataclass(frozen=True)
class StageSimilarity:
    """The similarity of a model's maps before and after re-initialisation from the head down to a stage."""

    stage: str | None
    ssim: MapEstimate
    rank: MapEstimate

    def of(self, measure: SimilarityMeasure) -> MapEstimate:
        """The similarity by one measure."""
        return self.ssim if measure == "ssim" else self.rank


@dataclass(frozen=True)
class SanitySummary:
    """Whether maps change when the weights are re-initialised.

    Args:
        n: number of images.
        stages: from the head to the first layer.
        pairs: baseline: similarity between maps of different images.
        retained: (last stage - pairs) / (1 - pairs): 0 for maps as dissimilar as those of different images, 1 for
            unchanged maps; no value if the pairs are more similar than `MAX_PAIR_SIMILARITY`.
        verdict: ``does not depend`` if the interval of the retained ssim or rank is wholly above a half, ``depends`` if
            both are wholly below it, otherwise ``unclear``, as with fewer than `MIN_IMAGES` images.
        reason: why the verdict is unclear; otherwise None.
    """

    n: int | None
    stages: list[StageSimilarity]
    pairs: Similarity
    retained: Similarity
    verdict: str | None
    reason: str | None


def sanity_table(
    trained: Maps,
    randomised: Mapping[str, Maps],
    image_id: Sequence[str],
    patient_id: Sequence[str | float | None] | None = None,
) -> pd.DataFrame:
    """The similarity of a network's maps to those after its weights are re-initialised, from the head down.

    The stage ``pairs`` is the baseline: for each image the mean similarity of its trained map to the trained maps of
    all other images. Its run time is quadratic in the number of images. Maps are compared without removing their sign.

    A constant map has no rank correlation, and its SSIM with any map that is mostly 0 is high. So both measures are NaN
    if the trained map, or one of a pair, is constant. If only the map of the re-initialised network is constant,
    nothing is retained and both measures are 0. That rule is ours.

    Args:
        trained: (N, H, W), 0..1, maps of the trained network; H and W are at least 11.
        randomised: for each stage, from the head to the first layer, the maps of the same images, (N, H, W), with all
            weights down to that stage re-initialised; (repeats, N, H, W) if that was repeated.
        image_id: for each image its id.
        patient_id: for each image its patient, None or NaN where unknown; None if all are unknown.

    Returns:
        For each stage and repeat, and for ``pairs``, a row per image: image_id, patient_id, stage, ssim (-1..1, 1 for
        equal maps), rank (-1..1, 1 for the same order of pixels).

    Raises:
        DataError: shapes or lengths differ, or maps are smaller than the window.
        SettingError: a stage is named ``pairs``.

    Source: Adebayo et al. 2018, Sanity checks for saliency maps, https://doi.org/10.48550/arXiv.1810.03292; SSIM: Wang
    et al. 2004, https://doi.org/10.1109/TIP.2003.819861
    """
    trained, ids = np.asarray(trained), np.array(list(image_id), object)
    if trained.ndim != 3 or len(ids) != len(trained):
        raise DataError(f"trained: maps of shape {trained.shape} for {len(ids)} images; give (images, H, W)")
    if len(trained) and min(trained.shape[1:]) < _WINDOW:
        raise DataError(f"trained: maps of {trained.shape[1:]} pixels; each side must be at least {_WINDOW}")
    if PAIRS in randomised:
        raise SettingError("stage", PAIRS, "another name", "this one is the baseline of pairs of trained maps")
    ranks, windowed = _ranks(trained), [_Windowed(heat) for heat in trained]
    parts = []
    for stage, maps in randomised.items():
        repeats = np.asarray(maps)
        for drawn in repeats if repeats.ndim == 4 else repeats[None]:
            if drawn.shape != trained.shape:
                raise DataError(
                    f"{stage}: maps of shape {drawn.shape}; must be {trained.shape}, as those of the trained network"
                )
            rank = (ranks * _ranks(drawn)).sum(axis=1)
            ssim = np.array([one.ssim(_Windowed(other)) for one, other in zip(windowed, drawn, strict=True)])
            ssim = np.where(np.isfinite(rank), ssim, np.nan)
            lost = np.isfinite(ranks).all(axis=1) & (drawn.min(axis=(1, 2)) == drawn.max(axis=(1, 2)))
            parts.append(_rows(ids, stage, np.where(lost, 0.0, ssim), np.where(lost, 0.0, rank)))
    parts.append(_rows(ids, PAIRS, *_pairs(windowed, ranks, ids)))
    table = pd.concat(parts, ignore_index=True)
    table.insert(1, "patient_id", list([None] * len(ids) if patient_id is None else patient_id) * len(parts))
    return table


def sanity_summary(
    table: pd.DataFrame, stages: Sequence[str] | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> SanitySummary:
    """Whether maps change when the weights are re-initialised down to the first layer.

    An image with several rows of a stage, from repeats or from the joined tables of several models, is averaged first.
    Intervals are 95% bootstrap intervals over patients.

    Args:
        table: one or several joined tables of `sanity_table`; without a column patient_id every image counts as its own
            patient.
        stages: from the head to the first layer; None for the order of the table.
        resamples: number of bootstrap resamples.
        seed: of the bootstrap.

    Raises:
        DataError: the table has no stage, or lacks one of `stages`.
    """
    present = [stage for stage in dict.fromkeys(table["stage"]) if stage != PAIRS]
    order = present if stages is None else list(stages)
    absent = [stage for stage in order if stage not in present]
    if absent or not order:
        raise DataError(f"stages={', '.join(absent)}: must be stages of the table: {', '.join(present) or 'none'}")
    images = list(dict.fromkeys(table["image_id"]))
    means = table.groupby(["stage", "image_id"])[list(MEASURES)].mean()
    values = {
        stage: {m: means.loc[stage][m].reindex(images).to_numpy(np.float64) for m in MEASURES}
        for stage in [*order, PAIRS]
    }
    codes = cluster_codes(table.assign(patient_id=table.get("patient_id")).drop_duplicates("image_id"))
    units = len(np.unique(codes))
    weights = cluster_weights(codes, resamples, seed)
    once = np.ones((1, len(images)), np.int32)

    def mean(counts: npt.NDArray[np.int32], stage: str, measure: SimilarityMeasure) -> npt.NDArray[np.float64]:
        numbers = values[stage][measure]
        finite = np.isfinite(numbers)
        with np.errstate(invalid="ignore"):
            return np.asarray(counts[:, finite] @ numbers[finite] / counts[:, finite].sum(axis=1))

    def retained(counts: npt.NDArray[np.int32], measure: SimilarityMeasure) -> npt.NDArray[np.float64]:
        last, pairs = mean(counts, order[-1], measure), mean(counts, PAIRS, measure)
        if alike[measure]:
            return np.full_like(last, np.nan)
        return (last - pairs) / np.where(1.0 - pairs > 1e-9, 1.0 - pairs, np.nan)

    alike = {m: bool(mean(once, PAIRS, m)[0] > MAX_PAIR_SIMILARITY) for m in MEASURES}

    def count(*names: str, measure: SimilarityMeasure) -> int:
        return int(np.isfinite([values[name][measure] for name in names]).all(axis=0).sum())

    def of_stage(stage: str) -> dict[str, MapEstimate]:
        return {
            m: _estimate(mean(once, stage, m)[0], mean(weights, stage, m), count(stage, measure=m), units)
            for m in MEASURES
        }

    kept = {
        m: _estimate(retained(once, m)[0], retained(weights, m), count(order[-1], PAIRS, measure=m), units)
        for m in MEASURES
    }
    retained_both = Similarity(**kept)
    verdict = _verdict(retained_both)
    return SanitySummary(
        n=len(images),
        stages=[StageSimilarity(stage, **of_stage(stage)) for stage in order],
        pairs=Similarity(**of_stage(PAIRS)),
        retained=retained_both,
        verdict=verdict,
        reason=_reason(retained_both, any(alike.values())) if verdict == "unclear" else None,
    )


def _estimate(value: float, resampled: npt.NDArray[np.float64], n: int, units: int) -> MapEstimate:
    if not np.isfinite(value):
        return MapEstimate(None, None, n, "bootstrap")
    return MapEstimate(float(value), percentile_interval(resampled, units), n, "bootstrap")


def _verdict(retained: Similarity) -> str:
    both = (retained.ssim, retained.rank)
    ends = [one.ends for one in both if one.ends is not None and (one.n or 0) >= MIN_IMAGES]
    if any(low > _LIMIT for low, _ in ends):
        return "does not depend"
    return "depends" if len(ends) == len(both) and all(high < _LIMIT for _, high in ends) else "unclear"


def _reason(retained: Similarity, alike: bool) -> str:
    if any((one.n or 0) < MIN_IMAGES for one in (retained.ssim, retained.rank)):
        return "too few images"
    return "the maps of different images are nearly the same" if alike else "maps change by about half"


def _rows(ids: npt.NDArray[np.object_], stage: str, ssim: Maps, rank: Maps) -> pd.DataFrame:
    return pd.DataFrame({"image_id": ids, "stage": stage, "ssim": ssim, "rank": rank})


def _ranks(maps: Maps) -> npt.NDArray[np.float64]:
    """Pixel ranks of each map, centred and normalised: the dot product of two is Spearman's correlation."""
    images, height, width = maps.shape
    ranks = np.asarray(rankdata(maps.reshape(images, height * width), axis=1), np.float64)
    ranks -= ranks.mean(axis=1, keepdims=True)
    length = np.linalg.norm(ranks, axis=1, keepdims=True)
    return ranks / np.where(length > 0, length, np.nan)


class _Windowed:
    """A map with its local means and variances, computed once for all its pairs."""

    def __init__(self, heat: Maps) -> None:
        self.heat = np.asarray(heat, np.float64)
        self.mean = _blur(self.heat)
        self.variance = _blur(self.heat**2) - self.mean**2

    def ssim(self, other: _Windowed) -> float:
        """The structural similarity of two maps of values 0..1, averaged over all pixels."""
        product = self.mean * other.mean
        covariance = _blur(self.heat * other.heat) - product
        light = (2 * product + _C1) / (self.mean**2 + other.mean**2 + _C1)
        return float((light * (2 * covariance + _C2) / (self.variance + other.variance + _C2)).mean())


def _blur(heat: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    # Imported here: reading a table needs no cv2.
    import cv2

    return np.asarray(cv2.GaussianBlur(heat, (_WINDOW, _WINDOW), 1.5, borderType=cv2.BORDER_REFLECT_101), np.float64)


def _pairs(windowed: Sequence[_Windowed], ranks: Maps, ids: npt.NDArray[np.object_]) -> tuple[Maps, Maps]:
    """For each image the mean ssim and rank correlation of its map with the maps of the other images."""
    rank = ranks @ ranks.T
    ssim = np.full_like(rank, np.nan)
    for i, j in np.argwhere(np.triu(np.isfinite(rank), 1)):
        ssim[i, j] = ssim[j, i] = windowed[i].ssim(windowed[j])
    same = ids[:, None] == ids[None, :]

    def others(matrix: Maps) -> Maps:
        valid = np.isfinite(matrix) & ~same
        count = valid.sum(axis=1)
        return np.where(valid, matrix, 0.0).sum(axis=1) / np.where(count, count, np.nan)

    return others(ssim), others(rank)
