"""How well a score ranks images: ROC and precision-recall curves, their areas, and their bands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.evaluation.bootstrap import area_estimate, cluster_codes, cluster_weights, percentile_interval
from covidnet.evaluation.predictions import PROBABILITIES
from covidnet.labels import CLASSES

GRID: npt.NDArray[np.float64] = np.linspace(0.0, 1.0, 101)
"""Where curves and bands are given: false positive rates of a ROC curve, recalls of a precision-recall curve."""


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


def scored_curves(table: pd.DataFrame, scores: Mapping[str, Any], *, resamples: int, seed: int) -> dict[str, Any]:
    """The curves of `class_curves` beside the scores of the same table: one number has one interval.

    Args:
        table: a predictions table.
        scores: of `covidnet.evaluation.scores.scored`; the areas are theirs, of all resamples.
        resamples: of the bootstrap; 500 at most are used, for a band needs fewer than the end of an interval, and a
            curve has a hundred points.
        seed: of the bootstrap.
    """
    weights = cluster_weights(cluster_codes(table), min(500, resamples), seed)
    return class_curves(table, weights, {label: of_class["auc"] for label, of_class in scores["classes"].items()})


def class_curves(
    table: pd.DataFrame, weights: npt.NDArray[Any], areas: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """ROC and precision-recall curves of every class against the other two, with 95% bands.

    Args:
        table: a predictions table.
        weights: (B, n) how often each row was drawn in each resample, see `cluster_weights`.
        areas: the area of each class with its interval, where it is known already; computed from `weights` if None.

    Returns:
        For each class ``roc`` (fpr, tpr, low, high, auc) and ``pr`` (recall, precision, low, high, average_precision,
        prevalence), at the rates of `GRID`; empty for a class that is absent or alone. The bands are pointwise
        percentiles, so that a whole curve lies in its band less often than 95 times of 100.
    """
    found: dict[str, Any] = {}
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
        ap = percentile_interval(means[1:])
        found[label] = {
            "roc": {"fpr": GRID.tolist(), "tpr": roc[0].tolist(), **_band(roc[1:]),
                    "auc": areas[label] if areas else _area(scores, positive, everything)},
            "pr": {"recall": GRID.tolist(), "precision": recalls[0].tolist(), **_band(recalls[1:]),
                   "average_precision": {"value": float(means[0]), "ci": None if ap is None else list(ap),
                                         "method": None if ap is None else "bootstrap"},
                   "prevalence": float(positive.mean())},
        }  # fmt: skip
    return found


def _area(
    scores: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_], weights: npt.NDArray[Any]
) -> dict[str, Any]:
    """The area with its interval; the first row of `weights` is the table itself."""
    found = roc_auc(scores, positive, weights)
    return area_estimate(float(found[0]), found[1:], positive)


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


def _band(curves: npt.NDArray[np.float64]) -> dict[str, list[float] | None]:
    if len(curves) < 2:
        return {"low": None, "high": None}
    low, high = np.percentile(curves, [2.5, 97.5], axis=0)
    return {"low": low.tolist(), "high": high.tolist()}
