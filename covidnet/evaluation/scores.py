"""All numbers of a predictions table with their 95% intervals, the patient as the unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.base.classes import CLASSES
from covidnet.evaluation.bootstrap import cluster_codes, cluster_weights, percentile_interval
from covidnet.evaluation.calibration import brier_score, expected_calibration_error
from covidnet.evaluation.intervals import proportion_interval
from covidnet.evaluation.metrics import ClassMetrics, SplitMetrics, class_metrics, class_rates, confusion, cross_entropy
from covidnet.evaluation.predictions import PROBABILITIES
from covidnet.evaluation.ranking import ClassCurves, area_estimate, area_interval, area_parts, class_curves, roc_auc
from covidnet.evaluation.results import UNDEFINED_ESTIMATE, Estimate, Interval, estimate

Metric = Literal["sensitivity", "specificity", "f1", "auc"]
"""Numbers of which the mean over the classes is given."""

MACRO: tuple[Metric, ...] = get_args(Metric)


@dataclass(frozen=True)
class Scores:
    """Numbers of a class against the other two, or their means over the classes."""

    sensitivity: Estimate
    specificity: Estimate
    f1: Estimate
    auc: Estimate

    def of(self, metric: Metric) -> Estimate:
        """One of the numbers."""
        found: Estimate = getattr(self, metric)
        return found


@dataclass(frozen=True)
class ClassScores(Scores):
    """All numbers of a class.

    Args:
        accuracy: of the class against the rest.
        support: images of the class.
    """

    accuracy: Estimate
    support: int | None


@dataclass(frozen=True)
class SplitScores:
    """All numbers of a predictions table with their intervals.

    Args:
        n: images.
        patients: an unknown one counts as one of its own.
        macro: means over the classes.
        loss: mean cross-entropy.
        confusion: images; rows are the true classes, columns the predicted ones.
        classes: by name.
    """

    n: int | None
    patients: int | None
    accuracy: Estimate
    macro: Scores
    loss: float | None
    brier: float | None
    ece: float | None
    confusion: list[list[int]]
    classes: dict[str, ClassScores]

    def flat(self) -> SplitMetrics:
        """The same numbers in the form of metrics.json."""
        classes = {
            label: ClassMetrics(
                of.sensitivity.value, of.specificity.value, of.f1.value, of.support or 0,
                of.sensitivity.ci, of.specificity.ci, of.f1.ci,
            )
            for label, of in self.classes.items()
        }  # fmt: skip
        return SplitMetrics(
            self.n or 0, self.patients or 0, self.accuracy.value, self.accuracy.ci, self.loss, self.confusion, classes
        )


@dataclass(frozen=True)
class Rates:
    """`Scores` without intervals."""

    sensitivity: float | None
    specificity: float | None
    f1: float | None
    auc: float | None

    def of(self, metric: Metric) -> float | None:
        """One of the numbers."""
        found: float | None = getattr(self, metric)
        return found


@dataclass(frozen=True)
class PointScores:
    """The numbers of a predictions table without intervals, or a statistic of them over several tables."""

    accuracy: float | None
    macro: Rates
    classes: dict[str, Rates]
    loss: float | None


def scored(table: pd.DataFrame, *, resamples: int = 2000, seed: int = 0) -> SplitScores:
    """Every number of a table, with 95% intervals.

    Accuracy, sensitivity, specificity, F1 and the accuracy of one class against the rest are proportions, or rise with
    one: they have Wilson's interval on the effective number of images (`proportion_interval`, `f1_interval`; method
    ``wilson``). With as many images of each class the mean sensitivity is the accuracy and the mean specificity a
    linear function of it, so they share its interval. AUC and its mean over the classes have DeLong's (`area_estimate`;
    method ``delong``). The other means have the percentile interval of a bootstrap over patients (method
    ``bootstrap``). A mean without an interval of its own, as with 52 of 52 right, has the mean of its classes'
    intervals, which is no narrower.

    Args:
        table: a checked predictions table, each image once; it may be empty.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    codes = cluster_codes(table)
    truth, called = list(table["label"]), list(table["prediction"])
    counts = confusion(truth, called)
    points = point_scores(table)
    drawn = _drawn(table, cluster_weights(codes, resamples, seed))
    n = int(counts.sum())
    is_it = {label: (table["label"] == label).to_numpy(bool) for label in CLASSES}
    said = {label: (table["prediction"] == label).to_numpy(bool) for label in CLASSES}
    right = (table["label"] == table["prediction"]).to_numpy(bool)
    accuracy = _estimate(points.accuracy, proportion_interval(right, codes), "wilson")
    classes: dict[str, ClassScores] = {}
    for (label, of), column in zip(class_metrics(truth, called, codes).items(), PROBABILITIES, strict=True):
        apart = is_it[label] == said[label]
        classes[label] = ClassScores(
            sensitivity=_estimate(of.sensitivity, of.sensitivity_ci, "wilson"),
            specificity=_estimate(of.specificity, of.specificity_ci, "wilson"),
            f1=_estimate(of.f1, of.f1_ci, "wilson"),
            auc=area_estimate(table[column], is_it[label], codes),
            accuracy=_estimate(float(apart.mean()) if n else None, proportion_interval(apart, codes), "wilson"),
            support=of.support,
        )
    macro: dict[str, Estimate] = {}
    for name in MACRO:
        value = points.macro.of(name)
        found, method = _macro_area(table, value, codes), "delong"
        if name != "auc":
            with np.errstate(invalid="ignore"):
                found, method = percentile_interval(drawn[name].mean(axis=1), len(np.unique(codes))), "bootstrap"
        ends = [ends for of_class in classes.values() if (ends := of_class.of(name).ci)]
        if found is None and len(ends) == len(CLASSES):
            low, high = (float(np.mean(side)) for side in zip(*ends, strict=True))
            found, method = (low, high), "wilson"
        macro[name] = _estimate(value, found, method)
    if accuracy.ci and len(set(counts.sum(axis=1).tolist())) == 1:
        low, high = (1.0 - (1.0 - end) / (len(CLASSES) - 1) for end in accuracy.ci)
        macro["sensitivity"] = _estimate(points.macro.sensitivity, accuracy.ci, "wilson")
        macro["specificity"] = _estimate(points.macro.specificity, (low, high), "wilson")
    return SplitScores(
        n=n,
        patients=len(np.unique(codes)),
        accuracy=accuracy,
        macro=Scores(**macro),
        loss=points.loss,
        brier=brier_score(table),
        ece=expected_calibration_error(table),
        confusion=counts.tolist(),
        classes=classes,
    )


def scored_curves(table: pd.DataFrame, scores: SplitScores, *, resamples: int, seed: int) -> dict[str, ClassCurves]:
    """The curves of a table, with the areas of its scores: one number has one interval.

    Args:
        table: a predictions table.
        scores: of the same table.
        resamples: of the bootstrap; 500 at most are used, because a band needs fewer than the end of an interval, and a
            curve has a hundred points.
        seed: of the bootstrap.
    """
    weights = cluster_weights(cluster_codes(table), min(500, resamples), seed)
    return class_curves(table, weights, {label: of_class.auc for label, of_class in scores.classes.items()})


def point_scores(table: pd.DataFrame) -> PointScores:
    """The same numbers without intervals.

    Args:
        table: a checked predictions table.
    """
    counts, areas = confusion(list(table["label"]), list(table["prediction"])), _areas(table)
    n = int(counts.sum())
    classes = {
        label: Rates(of.sensitivity, of.specificity, of.f1, float(area) if np.isfinite(area) else None)
        for (label, of), area in zip(class_rates(counts).items(), areas, strict=True)
    }
    return PointScores(
        accuracy=float(np.trace(counts) / n) if n else None,
        macro=Rates(*(_mean([of.of(name) for of in classes.values()]) for name in MACRO)),
        classes=classes,
        loss=cross_entropy(table[list(PROBABILITIES)].to_numpy(np.float64), list(table["label"])),
    )


def _areas(table: pd.DataFrame) -> npt.NDArray[np.float64]:
    return np.array(
        [float(roc_auc(table[c], table["label"] == k)) for k, c in zip(CLASSES, PROBABILITIES, strict=True)]
    )


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


def _estimate(value: float | None, interval: Interval | None, method: str) -> Estimate:
    return UNDEFINED_ESTIMATE if value is None else estimate(value, interval, method)
