"""All numbers of a predictions table with their 95% intervals: Wilson's for proportions, a bootstrap for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.evaluation.bootstrap import area_estimate, cluster_codes, cluster_weights, percentile_interval
from covidnet.evaluation.calibration import brier_score, expected_calibration_error
from covidnet.evaluation.intervals import f1_interval, wilson
from covidnet.evaluation.metrics import class_metrics, confusion, cross_entropy
from covidnet.evaluation.predictions import PROBABILITIES
from covidnet.evaluation.ranking import roc_auc
from covidnet.labels import CLASSES

Estimate = dict[str, Any]
Interval = Sequence[float] | None

MACRO = ("sensitivity", "specificity", "f1", "auc")
"""Numbers of which the mean over the classes is given."""


def scored(table: pd.DataFrame, *, resamples: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Every number of a table, with intervals.

    An *estimate* is a dict of ``value``, ``ci`` ([low, high], 95%) and ``method``. Sensitivity, specificity and the
    accuracy of one class against the rest are proportions and have Wilson's interval, which takes the images for
    independent. Accuracy, F1, AUC and the means over the classes have the percentile interval of a bootstrap over
    patients. Where that degenerates, as with 52 of 52 right, they fall back: accuracy to Wilson's interval, F1 to
    `f1_interval`, AUC to `area_estimate`, and a mean over classes to the mean of its classes' intervals, which is no
    narrower than an interval of the mean.

    Args:
        table: a checked predictions table, each image once; it may be empty.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        ``n``, ``patients``, ``accuracy``, ``macro`` (sensitivity, specificity, f1, auc), ``loss``, ``brier``, ``ece``,
        ``confusion`` (rows true, columns predicted) and for each of ``classes`` sensitivity, specificity, f1, auc,
        accuracy and support. Plain values; what does not exist is None.
    """
    codes = cluster_codes(table)
    counts, areas = confusion(list(table["label"]), list(table["prediction"])), _areas(table)
    points = _points(counts, areas)
    weights = cluster_weights(codes, resamples, seed)
    drawn = _drawn(table, weights)
    n, right = int(counts.sum()), int(np.trace(counts))
    accuracy = _estimate(points["accuracy"], drawn["accuracy"], wilson(right, n))
    classes: dict[str, dict[str, Any]] = {}
    plain = class_metrics(counts)
    for at, label in enumerate(CLASSES):
        told, positive = plain[label], (table["label"] == label).to_numpy(bool)
        tp = int(counts[at, at])
        fn, fp = int(counts[at].sum()) - tp, int(counts[:, at].sum()) - tp
        apart = wilson(n - fn - fp, n)
        classes[label] = {
            "sensitivity": _wilson(told["sensitivity"], told["sensitivity_ci"]),
            "specificity": _wilson(told["specificity"], told["specificity_ci"]),
            "f1": _estimate(told["f1"], drawn["f1"][:, at], f1_interval(tp, fp, fn)),
            "auc": area_estimate(areas[at], drawn["auc"][:, at], positive),
            "accuracy": _wilson((n - fn - fp) / n if n else None, apart),
            "support": told["support"],
        }
    macro = {}
    for name in MACRO:
        with np.errstate(invalid="ignore"):
            means = drawn[name].mean(axis=1)
        ends = [classes[label][name]["ci"] for label in CLASSES]
        fallback = (
            None if any(end is None for end in ends) else [float(np.mean(side)) for side in zip(*ends, strict=True)]
        )
        macro[name] = _estimate(points["macro"][name], means, fallback)
    return {
        "n": n,
        "patients": len(np.unique(codes)),
        "accuracy": accuracy,
        "macro": macro,
        "loss": _loss(table),
        "brier": brier_score(table),
        "ece": expected_calibration_error(table),
        "confusion": counts.tolist(),
        "classes": classes,
    }


def point_scores(table: pd.DataFrame) -> dict[str, Any]:
    """The same numbers without intervals.

    Args:
        table: a checked predictions table.

    Returns:
        ``accuracy``, ``loss``, ``macro`` and ``classes`` with sensitivity, specificity, f1 and auc, floats or None.
    """
    counts = confusion(list(table["label"]), list(table["prediction"]))
    return {**_points(counts, _areas(table)), "loss": _loss(table)}


def _loss(table: pd.DataFrame) -> float | None:
    return cross_entropy(table[list(PROBABILITIES)].to_numpy(np.float64), list(table["label"]))


def _areas(table: pd.DataFrame) -> npt.NDArray[np.float64]:
    return np.array(
        [float(roc_auc(table[c], table["label"] == k)) for k, c in zip(CLASSES, PROBABILITIES, strict=True)]
    )


def _points(counts: npt.NDArray[np.int64], areas: npt.NDArray[np.float64]) -> dict[str, Any]:
    n, told = int(counts.sum()), class_metrics(counts)
    classes = {
        label: {
            **{name: told[label][name] for name in ("sensitivity", "specificity", "f1")},
            "auc": float(areas[at]) if np.isfinite(areas[at]) else None,
        }
        for at, label in enumerate(CLASSES)
    }
    macro = {name: _mean([classes[label][name] for label in CLASSES]) for name in MACRO}
    return {"accuracy": float(np.trace(counts) / n) if n else None, "macro": macro, "classes": classes}


def _mean(values: Sequence[float | None]) -> float | None:
    # A mean over fewer classes would be another number under the same name.
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if len(there) == len(values) else None


def _drawn(table: pd.DataFrame, weights: npt.NDArray[np.int32]) -> dict[str, npt.NDArray[np.float64]]:
    """The numbers in every resample: accuracy (B,), and (B, 3) for each class; NaN where they do not exist."""
    truth = np.array([CLASSES.index(label) for label in table["label"]], dtype=np.intp)
    called = np.array([CLASSES.index(label) for label in table["prediction"]], dtype=np.intp)
    cells = np.zeros((len(table), len(CLASSES) ** 2), dtype=np.float32)
    cells[np.arange(len(table)), truth * len(CLASSES) + called] = 1.0
    # Whole numbers below 2**24 are exact in float32.
    counts = (weights.astype(np.float32) @ cells).astype(np.float64).reshape(-1, len(CLASSES), len(CLASSES))
    total = counts.sum((1, 2))
    tp = np.einsum("bii->bi", counts)
    fn, fp = counts.sum(2) - tp, counts.sum(1) - tp
    tn = total[:, None] - tp - fn - fp
    columns = [roc_auc(table[c], table["label"] == k, weights) for k, c in zip(CLASSES, PROBABILITIES, strict=True)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "accuracy": tp.sum(1) / total,
            "sensitivity": tp / (tp + fn),
            "specificity": tn / (tn + fp),
            "f1": 2 * tp / (2 * tp + fp + fn),
            "auc": np.stack(columns, axis=1),
        }


def _wilson(value: float | None, interval: Interval) -> Estimate:
    if value is None or interval is None:
        return {"value": value, "ci": None, "method": None}
    return {"value": float(value), "ci": list(interval), "method": "wilson"}


def _estimate(value: float | None, resampled: npt.NDArray[np.float64], fallback: Interval) -> Estimate:
    if value is None:
        return {"value": None, "ci": None, "method": None}
    found = percentile_interval(resampled)
    if found is None:
        return _wilson(value, fallback)
    return {"value": float(value), "ci": list(found), "method": "bootstrap"}
