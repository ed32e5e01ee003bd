"""All numbers of a predictions table with their 95% intervals, the patient as the unit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.base.classes import CLASSES
from covidnet.evaluation.bootstrap import cluster_codes, cluster_weights, percentile_interval
from covidnet.evaluation.calibration import brier_score, expected_calibration_error
from covidnet.evaluation.intervals import proportion_interval
from covidnet.evaluation.metrics import class_metrics, class_rates, confusion, cross_entropy
from covidnet.evaluation.predictions import PROBABILITIES
from covidnet.evaluation.ranking import area_estimate, area_interval, area_parts, roc_auc

Estimate = dict[str, Any]
Interval = Sequence[float] | None

MACRO = ("sensitivity", "specificity", "f1", "auc")
"""Numbers of which the mean over the classes is given."""


def scored(table: pd.DataFrame, *, resamples: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Every number of a table, with intervals.

    An *estimate* is a dict of ``value``, ``ci`` ([low, high], 95%) and ``method``. Accuracy, sensitivity, specificity,
    F1 and the accuracy of one class against the rest are proportions, or rise with one: they have Wilson's interval on
    the effective number of images (`proportion_interval`, `f1_interval`; method ``wilson``). With as many images of
    each class the mean sensitivity is the accuracy and the mean specificity a linear function of it, so they share its
    interval. AUC and its mean over the classes have DeLong's (`area_estimate`; method ``delong``). The other means have
    the percentile interval of a bootstrap over patients (method ``bootstrap``). Where a mean has no interval of its
    own, as with 52 of 52 right, it has the mean of its classes' intervals, which is no narrower.

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
    truth, called = list(table["label"]), list(table["prediction"])
    counts, areas = confusion(truth, called), _areas(table)
    points = _points(counts, areas)
    drawn = _drawn(table, cluster_weights(codes, resamples, seed))
    n = int(counts.sum())
    is_it = {label: (table["label"] == label).to_numpy(bool) for label in CLASSES}
    said = {label: (table["prediction"] == label).to_numpy(bool) for label in CLASSES}
    right = (table["label"] == table["prediction"]).to_numpy(bool)
    accuracy = _estimate(points["accuracy"], proportion_interval(right, codes), "wilson")
    classes: dict[str, dict[str, Any]] = {}
    for (label, told), column in zip(class_metrics(truth, called, codes).items(), PROBABILITIES, strict=True):
        apart = is_it[label] == said[label]
        classes[label] = {
            **{
                name: _estimate(told[name], told[f"{name}_ci"], "wilson")
                for name in ("sensitivity", "specificity", "f1")
            },
            "auc": area_estimate(table[column], is_it[label], codes),
            "accuracy": _estimate(float(apart.mean()) if n else None, proportion_interval(apart, codes), "wilson"),
            "support": told["support"],
        }
    macro = {}
    for name in MACRO:
        value = points["macro"][name]
        found: Interval = _macro_area(table, value, codes)
        method = "delong"
        if name != "auc":
            with np.errstate(invalid="ignore"):
                found, method = percentile_interval(drawn[name].mean(axis=1), len(np.unique(codes))), "bootstrap"
        ends = [classes[label][name]["ci"] for label in CLASSES]
        if found is None and all(ends):
            found, method = [float(np.mean(side)) for side in zip(*ends, strict=True)], "wilson"
        macro[name] = _estimate(value, found, method)
    if n and len(set(counts.sum(axis=1).tolist())) == 1:
        low, high = accuracy["ci"]
        macro["sensitivity"] = _estimate(points["macro"]["sensitivity"], (low, high), "wilson")
        others = [1.0 - (1.0 - end) / (len(CLASSES) - 1) for end in (low, high)]
        macro["specificity"] = _estimate(points["macro"]["specificity"], others, "wilson")
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
    n, told = int(counts.sum()), class_rates(counts)
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
    """The numbers of each class in every resample, (B, 3); NaN where they do not exist."""
    truth = np.array([CLASSES.index(label) for label in table["label"]], dtype=np.intp)
    called = np.array([CLASSES.index(label) for label in table["prediction"]], dtype=np.intp)
    cells = np.zeros((len(table), len(CLASSES) ** 2), dtype=np.float32)
    cells[np.arange(len(table)), truth * len(CLASSES) + called] = 1.0
    # Whole numbers below 2**24 are exact in float32.
    counts = (weights.astype(np.float32) @ cells).astype(np.float64).reshape(-1, len(CLASSES), len(CLASSES))
    tp = np.einsum("bii->bi", counts)
    fn, fp = counts.sum(2) - tp, counts.sum(1) - tp
    tn = counts.sum((1, 2))[:, None] - tp - fn - fp
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "sensitivity": tp / (tp + fn),
            "specificity": tn / (tn + fp),
            "f1": 2 * tp / (2 * tp + fp + fn),
        }


def _macro_area(table: pd.DataFrame, value: float | None, codes: npt.NDArray[np.intp]) -> tuple[float, float] | None:
    """The interval of the mean of the classes' areas: a patient adds to all of them."""
    pairs = list(zip(CLASSES, PROBABILITIES, strict=True))
    parts = [
        area_parts(table[[column]].to_numpy(np.float64).T, table["label"] == label, codes) for label, column in pairs
    ]
    there = [part for part in parts if part is not None]
    if value is None or len(there) < len(parts):
        return None
    added = np.mean([part.added[0].sum(axis=0) for part in there], axis=0)
    return area_interval(value, float(np.sqrt((added**2).sum())), min(part.error([1.0])[1] for part in there))


def _estimate(value: float | None, interval: Interval, method: str) -> Estimate:
    if value is None or interval is None:
        return {"value": value, "ci": None, "method": None}
    return {"value": float(value), "ci": list(interval), "method": method}
