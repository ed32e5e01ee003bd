"""ROC and precision-recall curves, the areas under them, and their confidence bands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from covidnet.base.classes import DEFAULT_CLASSES, ClassList
from covidnet.evaluation.bootstrap import cluster_codes, percentile_interval
from covidnet.evaluation.intervals import wilson
from covidnet.evaluation.results import UNDEFINED_ESTIMATE, Estimate, estimate

GRID: npt.NDArray[np.float64] = np.linspace(0.0, 1.0, 101)
"""The x values of curves and bands: false positive rates of a ROC curve, recalls of a precision-recall curve."""


@dataclass(frozen=True)
class RocCurve:
    """A ROC curve at the false positive rates of `GRID`, all fractions.

    Args:
        low: lower end of the pointwise 95% band; None without a band.
        high: upper end.
        auc: the area under the curve.
    """

    fpr: list[float]
    tpr: list[float]
    low: list[float] | None
    high: list[float] | None
    auc: Estimate


@dataclass(frozen=True)
class PrecisionRecallCurve:
    """A precision-recall curve at the recalls of `GRID`, all fractions.

    Args:
        low: lower end of the pointwise 95% band; None without a band.
        high: upper end.
        prevalence: the precision of random guessing.
    """

    recall: list[float]
    precision: list[float]
    low: list[float] | None
    high: list[float] | None
    average_precision: Estimate
    prevalence: float | None


@dataclass(frozen=True)
class ClassCurves:
    """The curves of a class against the others."""

    roc: RocCurve
    pr: PrecisionRecallCurve


def roc_auc(
    scores: npt.ArrayLike, positive: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> npt.NDArray[np.float64]:
    """The area under the ROC curve: the probability that a positive image has a higher score than a negative one.

    Args:
        scores: (n,) higher means more likely positive.
        positive: (n,) bool.
        weights: (n,) or (B, n) counts of each image, at least 0; 1 each if None.

    Returns:
        (B,) areas, 0..1; shape () unless weights are two-dimensional. Ties count one half. NaN without positive or
        without negative images.

    Source: Mann and Whitney 1947, https://doi.org/10.1214/aoms/1177730491

    Example:
        >>> float(roc_auc([0.1, 0.4, 0.35, 0.8], [False, False, True, True]))
        0.75
    """
    values, truth = np.asarray(scores, np.float64), np.asarray(positive, bool)
    counts = np.ones(len(values)) if weights is None else np.asarray(weights)
    order = np.argsort(values, kind="stable")
    ordered = np.take(counts, order, axis=-1).astype(np.float64)
    hits = ordered * truth[order]
    misses = ordered - hits
    below = np.cumsum(misses, axis=-1)
    total_hits, total_misses = hits.sum(-1), misses.sum(-1)
    # Negatives below a positive count one, those with the same score one half.
    if len(values):
        sorted_values = values[order]
        last = np.searchsorted(sorted_values, sorted_values, side="right") - 1
        first = np.searchsorted(sorted_values, sorted_values, side="left")
        lower = np.where(first > 0, np.take(below, np.maximum(first - 1, 0), axis=-1), 0.0)
        pairs = (hits * (lower + np.take(below, last, axis=-1)) / 2.0).sum(-1)
    else:
        pairs = np.zeros_like(total_hits)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(pairs / (total_hits * total_misses))


def roc_points(
    scores: npt.ArrayLike, positive: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """False and true positive rates at every threshold, from (0, 0) to (1, 1).

    Args:
        scores: (n,) higher means more likely positive.
        positive: (n,) bool, with both values present.

    Example:
        >>> rates = roc_points([0.1, 0.4, 0.35, 0.8], [False, False, True, True])
        >>> [values.tolist() for values in rates]
        [[0.0, 0.0, 0.5, 0.5, 1.0], [0.0, 0.5, 0.5, 1.0, 1.0]]
    """
    hits, misses = _steps(np.asarray(scores, np.float64), np.asarray(positive, bool), None)
    return misses[0] / misses[0, -1], hits[0] / hits[0, -1]


def precision_recall_points(
    scores: npt.ArrayLike, positive: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Recalls and precisions at every threshold, from high to low.

    Args:
        scores: (n,) higher means more likely positive.
        positive: (n,) bool, with at least one positive image.
    """
    hits, misses = _steps(np.asarray(scores, np.float64), np.asarray(positive, bool), None)
    return hits[0, 1:] / hits[0, -1], hits[0, 1:] / (hits[0, 1:] + misses[0, 1:])


@dataclass(frozen=True)
class AreaParts:
    """Areas of several scores on the same images, and each patient's contribution to their errors.

    Attributes:
        areas: (scores,) areas under the ROC curves, 0..1.
        contributions: (scores, 2, patients) the contribution of each patient's positive and negative images to the
            error of each area. The variance of a weighted sum of areas is the sum over patients of their squared
            contributions to it.
        units: number of patients with positive images, and with negative images.
        single: whether every patient has one image.
    """

    areas: npt.NDArray[np.float64]
    contributions: npt.NDArray[np.float64]
    units: tuple[int, int]
    single: bool

    def error(self, weights: npt.ArrayLike) -> tuple[float, float]:
        """Standard error of a weighted sum of the areas, and its degrees of freedom.

        Args:
            weights: (scores,) such as (1, -1) for a difference.

        Returns:
            The standard error, at least 0; Welch's degrees of freedom, infinite with one image per patient.
        """
        weighted = np.tensordot(np.asarray(weights, np.float64), self.contributions, 1)
        sides = (weighted**2).sum(axis=1)
        variance = float((weighted.sum(axis=0) ** 2).sum())
        if self.single or not sides.any():
            return sqrt(variance), np.inf
        return sqrt(variance), float(sides.sum() ** 2 / (sides**2 / (np.array(self.units) - 1)).sum())


def area_parts(scores: npt.ArrayLike, positive: npt.ArrayLike, patients: npt.ArrayLike) -> AreaParts | None:
    """Areas under ROC curves with each patient's contribution to their errors.

    Args:
        scores: (scores, n) of one or several methods on the same images; higher means more likely positive.
        positive: (n,) bool.
        patients: (n,) the patient of each image.

    Returns:
        The parts; None with fewer than two positive or two negative patients.

    Source: DeLong, DeLong and Clarke-Pearson 1988, https://doi.org/10.2307/2531595; the midrank algorithm: Sun and
    Xu 2014, https://doi.org/10.1109/LSP.2014.2337313; several images of a patient: Obuchowski 1997,
    https://doi.org/10.2307/2533958 (the small-sample factor for patients with images of both kinds is ours)
    """
    values, truth = np.asarray(scores, np.float64), np.asarray(positive, bool)
    codes = np.unique(np.asarray(patients), return_inverse=True)[1]
    m, n, k = int(truth.sum()), int((~truth).sum()), int(codes.max(initial=-1)) + 1
    units = (len(np.unique(codes[truth])), len(np.unique(codes[~truth])))
    if min(units) < 2:
        return None
    ranks, above, below = (stats.rankdata(part, axis=1) for part in (values, values[:, truth], values[:, ~truth]))
    # For each positive the share of negatives below it, for each negative the share of positives above it.
    of_positive = (ranks[:, truth] - above) / n
    of_negative = 1.0 - (ranks[:, ~truth] - below) / m
    areas = of_positive.mean(axis=1)
    contributions = np.zeros((len(values), 2, k))
    for side, (rows, placed, count) in enumerate(((truth, of_positive, m), (~truth, of_negative, n))):
        factor = sqrt(units[side] / (units[side] - 1)) / count
        for at, area in enumerate(areas):
            contributions[at, side] = factor * np.bincount(codes[rows], placed[at] - area, minlength=k)
    return AreaParts(areas, contributions, units, k == len(codes))


def area_interval(area: float, error: float, freedom: float) -> tuple[float, float] | None:
    """The 95% interval of an area, or of a mean of areas: Student's t on the logit scale, which keeps it in 0..1.

    Args:
        area: 0..1.
        error: its standard error.
        freedom: degrees of freedom, may be infinite.

    Returns:
        (low, high); None for an area of 0 or 1, which has no logit, or an error of 0.

    Source: Pepe 2003, The statistical evaluation of medical tests for classification and prediction, section 5.2.4;
    Qin and Hotilovac 2008, https://doi.org/10.1177/0962280207087173
    """
    if not 0.0 < area < 1.0 or error < 1e-9:
        return None
    half = float(stats.t.ppf(0.975, freedom)) * error / (area * (1.0 - area))
    middle = log(area / (1.0 - area))
    low, high = (1.0 / (1.0 + exp(-min(max(end, -700.0), 700.0))) for end in (middle - half, middle + half))
    return low, high


def area_estimate(scores: npt.ArrayLike, positive: npt.ArrayLike, patients: npt.ArrayLike) -> Estimate:
    """An area under a ROC curve with its 95% interval, the patient as the unit.

    The interval is `area_interval` with DeLong's variance. Where that is undefined, as with perfect separation, it is
    Wilson's: the area is the share of correctly ordered pairs of a positive and a negative image. The number of trials
    is the largest number of such pairs that share no patient: the number of patients with positive or with negative
    images, whichever is smaller, but at most half of all patients. If the area is not a whole number of pairs, it is
    rounded down for the lower end and up for the upper end, which is conservative. If all images are of one patient the
    interval is (0, 1).

    Args:
        scores: (n,) higher means more likely positive.
        positive: (n,) bool.
        patients: (n,) the patient of each image.

    Returns:
        The area; its method is ``delong`` or ``wilson``.
    """
    truth, codes = np.asarray(positive, bool), np.asarray(patients)
    value = float(roc_auc(scores, truth))
    if not np.isfinite(value):
        return UNDEFINED_ESTIMATE
    parts = area_parts(np.asarray(scores)[None], truth, codes)
    interval = None if parts is None else area_interval(value, *parts.error([1.0]))
    if interval is not None:
        return Estimate(value, interval, "delong")
    pairs = min(len(np.unique(codes[truth])), len(np.unique(codes[~truth])), len(np.unique(codes)) // 2)
    if not pairs:  # one patient has all images
        return Estimate(value, (0.0, 1.0), "wilson")
    # Rounded outwards, so that an area just below 1 does not count as 1 and the interval contains the area.
    lower = wilson(int(np.floor(value * pairs + 1e-9)), pairs)
    upper = wilson(int(np.ceil(value * pairs - 1e-9)), pairs)
    return Estimate(value, None if lower is None or upper is None else (lower[0], upper[1]), "wilson")


def average_precision(
    scores: npt.ArrayLike, positive: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> npt.NDArray[np.float64]:
    """The mean precision weighted by the increase in recall, without interpolation as in scikit-learn.

    Args:
        scores: (n,) higher means more likely positive.
        positive: (n,) bool.
        weights: (n,) or (B, n) as in `roc_auc`.

    Returns:
        (B,) or (), 0..1; NaN without positive images.
    """
    given = None if weights is None else np.asarray(weights)
    hits, misses = _steps(np.asarray(scores, np.float64), np.asarray(positive, bool), given)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.nan_to_num(hits[:, 1:] / (hits[:, 1:] + misses[:, 1:]))
        found = (np.diff(hits, axis=1) * precision).sum(1) / hits[:, -1]
    return found if given is not None and given.ndim == 2 else np.asarray(found[0])


def class_curves(
    table: pd.DataFrame,
    weights: npt.NDArray[np.int32],
    areas: Mapping[str, Estimate] | None = None,
    classes: ClassList = DEFAULT_CLASSES,
) -> dict[str, ClassCurves]:
    """ROC and precision-recall curves of every class against the others, with 95% bands.

    Args:
        table: a predictions table.
        weights: (B, n) counts of each row in each resample, see `cluster_weights`.
        areas: the AUC of each class with its interval; computed if None.
        classes: of the study.

    Returns:
        The curves by class, without classes that have no images or all of them. The bands are pointwise percentiles, so
        a whole curve lies within its band less often than 95%.
    """
    curves: dict[str, ClassCurves] = {}
    codes = cluster_codes(table)
    for label, column in zip(classes, classes.columns, strict=True):
        positive = (table["label"] == label).to_numpy(bool)
        if not positive.any() or positive.all():
            continue
        scores = table[column].to_numpy(np.float64)
        # The first row is the table itself, the others its resamples.
        counts = np.concatenate([np.ones((1, len(table)), weights.dtype), weights])
        hits, misses = _steps(scores, positive, counts)
        usable = (hits[:, -1] > 0) & (misses[:, -1] > 0)
        hits, misses = hits[usable], misses[usable]
        roc = np.array([_upper(m / m[-1], h / h[-1]) for h, m in zip(hits, misses, strict=True)])
        precisions = np.array([_precisions(h, m) for h, m in zip(hits, misses, strict=True)])
        means = average_precision(scores, positive, counts)
        ap = percentile_interval(means[1:], len(np.unique(codes[positive])))
        auc = areas[label] if areas else area_estimate(scores, positive, codes)
        mean_precision = estimate(float(means[0]), ap, "bootstrap")
        grid = GRID.tolist()
        curves[label] = ClassCurves(
            RocCurve(grid, roc[0].tolist(), *_band(roc[1:]), auc),
            PrecisionRecallCurve(
                grid, precisions[0].tolist(), *_band(precisions[1:]), mean_precision, float(positive.mean())
            ),
        )
    return curves


def _steps(
    scores: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_], weights: npt.NDArray[Any] | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Counts of positives and negatives at or above each distinct score, high to low, after a leading 0: (B, t + 1)."""
    counts = np.atleast_2d(np.ones(len(scores)) if weights is None else weights)
    order = np.argsort(-scores, kind="stable")
    ordered = counts[:, order].astype(np.float64)
    hits = np.cumsum(ordered * positive[order], axis=1)
    misses = np.cumsum(ordered * ~positive[order], axis=1)
    values = scores[order]
    ends = np.flatnonzero(np.append(values[1:] != values[:-1], True))
    zero = np.zeros((len(counts), 1))
    return np.concatenate([zero, hits[:, ends]], axis=1), np.concatenate([zero, misses[:, ends]], axis=1)


def _upper(fpr: npt.NDArray[np.float64], tpr: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The ROC curve on the grid, linear between thresholds; at a vertical step its upper end."""
    # At a false positive rate with several points np.interp gives the last, which is the highest.
    return np.interp(GRID, fpr, tpr)


def _precisions(hits: npt.NDArray[np.float64], misses: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Precision at the first threshold that reaches each recall of the grid."""
    recall, predicted = hits / hits[-1], hits + misses
    # A resample may lack the images with the highest scores: its curve starts at its first image.
    first = int(np.argmax(predicted > 0))
    at = np.maximum(np.searchsorted(recall, GRID - 1e-12, side="left"), first)
    at = np.minimum(at, len(recall) - 1)
    return np.asarray(hits[at] / predicted[at])


def _band(curves: npt.NDArray[np.float64]) -> tuple[list[float] | None, list[float] | None]:
    if len(curves) < 2:
        return None, None
    low, high = np.percentile(curves, [2.5, 97.5], axis=0)
    return low.tolist(), high.tolist()
