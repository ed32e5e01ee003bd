"""How well a score ranks images: ROC and precision-recall curves, their areas, and their bands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from covidnet.base.classes import CLASSES
from covidnet.evaluation.bootstrap import cluster_codes, percentile_interval
from covidnet.evaluation.intervals import wilson
from covidnet.evaluation.predictions import PROBABILITIES
from covidnet.evaluation.results import UNDEFINED_ESTIMATE, Estimate, estimate

GRID: npt.NDArray[np.float64] = np.linspace(0.0, 1.0, 101)
"""Where curves and bands are given: false positive rates of a ROC curve, recalls of a precision-recall curve."""


@dataclass(frozen=True)
class RocCurve:
    """A ROC curve at the rates of `GRID`, all fractions.

    Args:
        low: lower end of the pointwise 95% band at each rate; None without a band.
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
        low: lower end of the pointwise 95% band at each recall; None without a band.
        high: upper end.
        prevalence: the precision of guessing.
    """

    recall: list[float]
    precision: list[float]
    low: list[float] | None
    high: list[float] | None
    average_precision: Estimate
    prevalence: float | None


@dataclass(frozen=True)
class ClassCurves:
    """The curves of a class against the other two."""

    roc: RocCurve
    pr: PrecisionRecallCurve


def roc_auc(
    scores: npt.ArrayLike, positive: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> npt.NDArray[np.float64]:
    """The area under the ROC curve: how often a positive image has a higher score than a negative one.

    Args:
        scores: (n,) the higher, the likelier positive.
        positive: (n,) bool.
        weights: (n,) or (B, n) how often each image counts, at least 0; once each if None.

    Returns:
        (B,) areas, 0..1; shape () for weights of one dimension. Ties count one half. NaN without a positive or without
        a negative image.

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
    # Negatives below a positive count one, those of the same score one half.
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
        scores: (n,) the higher, the likelier positive.
        positive: (n,) bool, with both values in it.

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
    """Recalls and precisions at every threshold, from high to low thresholds.

    Args:
        scores: (n,) the higher, the likelier positive.
        positive: (n,) bool, with a positive image in it.
    """
    hits, misses = _steps(np.asarray(scores, np.float64), np.asarray(positive, bool), None)
    called = hits[0, 1:] + misses[0, 1:]
    return hits[0, 1:] / hits[0, -1], hits[0, 1:] / called


@dataclass(frozen=True)
class AreaParts:
    """Areas of several scores on the same images, and what each patient adds to their errors.

    Attributes:
        areas: (scores,) areas under the ROC curves, 0..1.
        added: (scores, 2, patients) what each patient adds to the error of each area, by the patient's positive and by
            the patient's negative images. The variance of any weighted sum of areas is the sum over patients of the
            square of what they add to it.
        units: patients with positive images, patients with negative images.
        single: whether every patient has one image.
    """

    areas: npt.NDArray[np.float64]
    added: npt.NDArray[np.float64]
    units: tuple[int, int]
    single: bool

    def error(self, weights: npt.ArrayLike) -> tuple[float, float]:
        """Standard error of a weighted sum of the areas, and its degrees of freedom.

        Args:
            weights: (scores,) such as (1, -1) for a difference.

        Returns:
            The error, at least 0; Welch's degrees of freedom, infinite where every patient has one image.
        """
        added = np.tensordot(np.asarray(weights, np.float64), self.added, 1)
        sides = (added**2).sum(axis=1)
        variance = float((added.sum(axis=0) ** 2).sum())
        if self.single or not sides.any():
            return sqrt(variance), np.inf
        return sqrt(variance), float(sides.sum() ** 2 / (sides**2 / (np.array(self.units) - 1)).sum())


def area_parts(scores: npt.ArrayLike, positive: npt.ArrayLike, patients: npt.ArrayLike) -> AreaParts | None:
    """Areas under ROC curves with what their errors are made of, the patient as the unit.

    Args:
        scores: (scores, n) of one or several methods on the same images; the higher, the likelier positive.
        positive: (n,) bool.
        patients: (n,) the patient of each image.

    Returns:
        The parts; None with fewer than two patients on a side.

    Source: DeLong, DeLong and Clarke-Pearson 1988, https://doi.org/10.2307/2531595; the algorithm by midranks: Sun and
    Xu 2014, https://doi.org/10.1109/LSP.2014.2337313; several images of a patient: Obuchowski 1997,
    https://doi.org/10.2307/2533958 (the small-sample factor of patients with images on both sides is ours)
    """
    values, truth = np.asarray(scores, np.float64), np.asarray(positive, bool)
    of = np.unique(np.asarray(patients), return_inverse=True)[1]
    m, n, k = int(truth.sum()), int((~truth).sum()), int(of.max(initial=-1)) + 1
    units = (len(np.unique(of[truth])), len(np.unique(of[~truth])))
    if min(units) < 2:
        return None
    ranks, above, below = (stats.rankdata(part, axis=1) for part in (values, values[:, truth], values[:, ~truth]))
    # For each positive the share of negatives that it beats, and for each negative the share of positives above it.
    of_positive = (ranks[:, truth] - above) / n
    of_negative = 1.0 - (ranks[:, ~truth] - below) / m
    areas = of_positive.mean(axis=1)
    added = np.zeros((len(values), 2, k))
    for side, (rows, placed, count) in enumerate(((truth, of_positive, m), (~truth, of_negative, n))):
        factor = sqrt(units[side] / (units[side] - 1)) / count
        for at, area in enumerate(areas):
            added[at, side] = factor * np.bincount(of[rows], placed[at] - area, minlength=k)
    return AreaParts(areas, added, units, k == len(of))


def area_interval(area: float, error: float, freedom: float) -> tuple[float, float] | None:
    """The 95% interval of an area, or of a mean of areas: of Student's t on the logit scale, so that it stays in 0..1.

    Args:
        area: 0..1.
        error: its standard error.
        freedom: degrees of freedom, may be infinite.

    Returns:
        Its ends; None for an area of 0 or 1, or without an error, of which it has no logit.

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

    The interval is `area_interval` with DeLong's variance. Where there is none, as with perfect separation, it is
    Wilson's on as many trials as there can be pairs of a positive and a negative image that share no patient: the
    patients with positive or with negative images, whichever are fewer, but at most half of all patients. The area is
    the share of pairs in the right order. Where that is no whole number of pairs the lower end is that of the next
    lower one, the upper that of the next higher one: wide rather than narrow. All images of one patient have (0, 1).

    Args:
        scores: (n,) the higher, the likelier positive.
        positive: (n,) bool.
        patients: (n,) the patient of each image.

    Returns:
        The area; its method is ``delong`` or ``wilson``.
    """
    truth, of = np.asarray(positive, bool), np.asarray(patients)
    value = float(roc_auc(scores, truth))
    if not np.isfinite(value):
        return UNDEFINED_ESTIMATE
    parts = area_parts(np.asarray(scores)[None], truth, of)
    found = None if parts is None else area_interval(value, *parts.error([1.0]))
    if found is not None:
        return Estimate(value, found, "delong")
    pairs = min(len(np.unique(of[truth])), len(np.unique(of[~truth])), len(np.unique(of)) // 2)
    if not pairs:
        # One patient has all images: nothing tells how others would be ranked.
        return Estimate(value, (0.0, 1.0), "wilson")
    # Rounded outwards: an area just below 1 is not taken for 1, and the interval holds its own area.
    lower = wilson(int(np.floor(value * pairs + 1e-9)), pairs)
    upper = wilson(int(np.ceil(value * pairs - 1e-9)), pairs)
    return Estimate(value, None if lower is None or upper is None else (lower[0], upper[1]), "wilson")


def average_precision(
    scores: npt.ArrayLike, positive: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> npt.NDArray[np.float64]:
    """The mean precision, weighted by the gain in recall at each threshold; no interpolation, as in scikit-learn.

    Args:
        scores: (n,) the higher, the likelier positive.
        positive: (n,) bool.
        weights: (n,) or (B, n) as in `roc_auc`.

    Returns:
        (B,) or (), 0..1; NaN without a positive image.
    """
    given = None if weights is None else np.asarray(weights)
    hits, misses = _steps(np.asarray(scores, np.float64), np.asarray(positive, bool), given)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.nan_to_num(hits[:, 1:] / (hits[:, 1:] + misses[:, 1:]))
        found = (np.diff(hits, axis=1) * precision).sum(1) / hits[:, -1]
    return found if given is not None and given.ndim == 2 else np.asarray(found[0])


def class_curves(
    table: pd.DataFrame, weights: npt.NDArray[np.int32], areas: Mapping[str, Estimate] | None = None
) -> dict[str, ClassCurves]:
    """ROC and precision-recall curves of every class against the other two, with 95% bands.

    Args:
        table: a predictions table.
        weights: (B, n) how often each row was drawn in each resample, see `cluster_weights`.
        areas: the area of each class with its interval, where it is known already; computed here if None.

    Returns:
        The curves by class; none for a class that is absent or alone. The bands are pointwise percentiles, so that a
        whole curve lies in its band less often than 95 times of 100.
    """
    found: dict[str, ClassCurves] = {}
    codes = cluster_codes(table)
    for label, column in zip(CLASSES, PROBABILITIES, strict=True):
        positive = (table["label"] == label).to_numpy(bool)
        if not positive.any() or positive.all():
            continue
        scores = table[column].to_numpy(np.float64)
        # The first row is the table itself.
        everything = np.concatenate([np.ones((1, len(table)), weights.dtype), weights])
        hits, misses = _steps(scores, positive, everything)
        usable = (hits[:, -1] > 0) & (misses[:, -1] > 0)
        hits, misses = hits[usable], misses[usable]
        roc = np.array([_upper(m / m[-1], h / h[-1]) for h, m in zip(hits, misses, strict=True)])
        recalls = np.array([_precisions(h, m) for h, m in zip(hits, misses, strict=True)])
        means = average_precision(scores, positive, everything)
        ap = percentile_interval(means[1:], len(np.unique(codes[positive])))
        auc = areas[label] if areas else area_estimate(scores, positive, codes)
        precision = estimate(float(means[0]), ap, "bootstrap")
        grid = GRID.tolist()
        found[label] = ClassCurves(
            RocCurve(grid, roc[0].tolist(), *_band(roc[1:]), auc),
            PrecisionRecallCurve(grid, recalls[0].tolist(), *_band(recalls[1:]), precision, float(positive.mean())),
        )
    return found


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
    """The ROC curve on the grid, straight between thresholds; at a jump its upper end."""
    # Between two rates np.interp goes from the last point of the first to the first point of the second, as it should;
    # at a rate of several points it gives the last, which is the highest.
    return np.interp(GRID, fpr, tpr)


def _precisions(hits: npt.NDArray[np.float64], misses: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Precision at the first threshold that reaches each recall of the grid."""
    recall, called = hits / hits[-1], hits + misses
    # A resample may lack the images of the highest scores: its curve begins at the first score that it has.
    first = int(np.argmax(called > 0))
    at = np.maximum(np.searchsorted(recall, GRID - 1e-12, side="left"), first)
    at = np.minimum(at, len(recall) - 1)
    return np.asarray(hits[at] / called[at])


def _band(curves: npt.NDArray[np.float64]) -> tuple[list[float] | None, list[float] | None]:
    if len(curves) < 2:
        return None, None
    low, high = np.percentile(curves, [2.5, 97.5], axis=0)
    return low.tolist(), high.tolist()
