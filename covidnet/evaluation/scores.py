"""All metrics of a predictions table with 95% intervals, the patient as the unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.base.classes import DEFAULT_CLASSES, ClassList
from covidnet.evaluation.bootstrap import RESAMPLES, cluster_codes, cluster_weights, percentile_interval, resampled_sums
from covidnet.evaluation.calibration import brier_score, expected_calibration_error
from covidnet.evaluation.intervals import proportion_interval
from covidnet.evaluation.metrics import ClassMetrics, SplitMetrics, class_metrics, class_rates, confusion, cross_entropy
from covidnet.evaluation.ranking import ClassCurves, area_estimate, area_interval, area_parts, class_curves, roc_auc
from covidnet.evaluation.results import UNDEFINED_ESTIMATE, Estimate, Interval, estimate

Metric = Literal["sensitivity", "specificity", "f1", "auc"]
"""Metrics that are averaged over the classes."""

MACRO: tuple[Metric, ...] = get_args(Metric)


@dataclass(frozen=True)
class Scores:
    """Metrics of a class against the others, or their means over the classes."""

    sensitivity: Estimate
    specificity: Estimate
    f1: Estimate
    auc: Estimate

    def of(self, metric: Metric) -> Estimate:
        """The value of one metric."""
        found: Estimate = getattr(self, metric)
        return found


@dataclass(frozen=True)
class ClassScores(Scores):
    """All metrics of a class.

    Args:
        accuracy: of the class against the rest.
        support: number of images of the class.
    """

    accuracy: Estimate
    support: int | None


@dataclass(frozen=True)
class SplitScores:
    """All metrics of a predictions table with their intervals.

    Args:
        n: number of images.
        patients: number of patients; an image without a patient_id counts as its own patient.
        macro: means over the classes.
        loss: mean cross-entropy.
        confusion: image counts; rows are the true classes, columns the predicted ones.
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
        """The same metrics in the form of metrics.json."""
        classes = {
            label: ClassMetrics(
                one.sensitivity.value, one.specificity.value, one.f1.value, one.support or 0,
                one.sensitivity.ci, one.specificity.ci, one.f1.ci,
            )
            for label, one in self.classes.items()
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
        """The value of one metric."""
        found: float | None = getattr(self, metric)
        return found


@dataclass(frozen=True)
class PointScores:
    """The metrics of a predictions table without intervals, or a statistic of them over several tables."""

    accuracy: float | None
    macro: Rates
    classes: dict[str, Rates]
    loss: float | None


def scored(
    table: pd.DataFrame, *, resamples: int = RESAMPLES, seed: int = 0, classes: ClassList = DEFAULT_CLASSES
) -> SplitScores:
    """Every metric of a table, with 95% intervals.

    - Accuracy, sensitivity, specificity, F1 and the accuracy of one class against the rest have Wilson's interval on
      the effective number of images (`proportion_interval`, `f1_interval`; method ``wilson``).
    - AUC and its mean over the classes have DeLong's (`area_estimate`; method ``delong``).
    - The other means over the classes have the percentile interval of a bootstrap over patients (method ``bootstrap``).
      With equally many images of each class, though, the mean sensitivity is the accuracy and the mean specificity a
      linear function of it, so they take its interval.
    - Where a mean's own interval is undefined, as with 52 of 52 correct, it is the mean of its classes' intervals,
      which is no narrower.

    Args:
        table: a checked predictions table with each image once; it may be empty.
        resamples: number of bootstrap resamples.
        seed: of the bootstrap.
        classes: of the study.
    """
    codes = cluster_codes(table)
    truth, predicted = list(table["label"]), list(table["prediction"])
    counts = confusion(truth, predicted, classes)
    points = point_scores(table, classes)
    resampled = _resampled_rates(table, codes, resamples, seed, classes)
    n = int(counts.sum())
    correct = (table["label"] == table["prediction"]).to_numpy(bool)
    accuracy = _estimate(points.accuracy, proportion_interval(correct, codes), "wilson")
    by_class: dict[str, ClassScores] = {}
    rates_of = class_metrics(truth, predicted, codes, classes)
    for (label, rates), column in zip(rates_of.items(), classes.columns, strict=True):
        positive = (table["label"] == label).to_numpy(bool)
        agree = positive == (table["prediction"] == label).to_numpy(bool)
        by_class[label] = ClassScores(
            sensitivity=_estimate(rates.sensitivity, rates.sensitivity_ci, "wilson"),
            specificity=_estimate(rates.specificity, rates.specificity_ci, "wilson"),
            f1=_estimate(rates.f1, rates.f1_ci, "wilson"),
            auc=area_estimate(table[column], positive, codes),
            accuracy=_estimate(float(agree.mean()) if n else None, proportion_interval(agree, codes), "wilson"),
            support=rates.support,
        )
    macro: dict[str, Estimate] = {}
    for name in MACRO:
        value = points.macro.of(name)
        interval, method = _macro_area(table, value, codes, classes), "delong"
        if name != "auc":
            with np.errstate(invalid="ignore"):
                interval = percentile_interval(resampled[name].mean(axis=1), len(np.unique(codes)))
                method = "bootstrap"
        ends = [ends for of_class in by_class.values() if (ends := of_class.of(name).ci)]
        if interval is None and len(ends) == len(classes):
            low, high = (float(np.mean(side)) for side in zip(*ends, strict=True))
            interval, method = (low, high), "wilson"
        macro[name] = _estimate(value, interval, method)
    if accuracy.ci and len(set(counts.sum(axis=1).tolist())) == 1:
        low, high = (1.0 - (1.0 - end) / (len(classes) - 1) for end in accuracy.ci)
        macro["sensitivity"] = _estimate(points.macro.sensitivity, accuracy.ci, "wilson")
        macro["specificity"] = _estimate(points.macro.specificity, (low, high), "wilson")
    return SplitScores(
        n=n,
        patients=len(np.unique(codes)),
        accuracy=accuracy,
        macro=Scores(**macro),
        loss=points.loss,
        brier=brier_score(table, classes),
        ece=expected_calibration_error(table, classes=classes),
        confusion=counts.tolist(),
        classes=by_class,
    )


def scored_curves(
    table: pd.DataFrame, scores: SplitScores, *, resamples: int, seed: int, classes: ClassList = DEFAULT_CLASSES
) -> dict[str, ClassCurves]:
    """The curves of a table, with the AUC intervals of its scores.

    Args:
        table: a predictions table.
        scores: the scores of the same table.
        resamples: number of bootstrap resamples; at most 500 are used, because a band needs fewer than an interval and
            a curve has a hundred points.
        seed: of the bootstrap.
        classes: of the study.
    """
    weights = cluster_weights(cluster_codes(table), min(500, resamples), seed)
    return class_curves(table, weights, {label: of_class.auc for label, of_class in scores.classes.items()}, classes)


def point_scores(table: pd.DataFrame, classes: ClassList = DEFAULT_CLASSES) -> PointScores:
    """The metrics of a table without intervals.

    Args:
        table: a checked predictions table.
        classes: of the study.
    """
    counts, areas = confusion(list(table["label"]), list(table["prediction"]), classes), _areas(table, classes)
    n = int(counts.sum())
    by_class = {
        label: Rates(one.sensitivity, one.specificity, one.f1, float(area) if np.isfinite(area) else None)
        for (label, one), area in zip(class_rates(counts, classes).items(), areas, strict=True)
    }
    return PointScores(
        accuracy=float(np.trace(counts) / n) if n else None,
        macro=Rates(*(_mean([rates.of(name) for rates in by_class.values()]) for name in MACRO)),
        classes=by_class,
        loss=cross_entropy(table[list(classes.columns)].to_numpy(np.float64), list(table["label"]), classes),
    )


def _areas(table: pd.DataFrame, classes: ClassList) -> npt.NDArray[np.float64]:
    return np.array(
        [float(roc_auc(table[c], table["label"] == k)) for k, c in zip(classes, classes.columns, strict=True)]
    )


def _mean(values: Sequence[float | None]) -> float | None:
    # A mean over fewer classes would be a different metric under the same name.
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if len(present) == len(values) else None


def _resampled_rates(
    table: pd.DataFrame, codes: npt.NDArray[np.intp], resamples: int, seed: int, classes: ClassList
) -> dict[str, npt.NDArray[np.float64]]:
    """The metrics of each class in every resample, (B, classes); NaN where undefined."""
    truth = np.array([classes.index(label) for label in table["label"]], dtype=np.intp)
    predicted = np.array([classes.index(label) for label in table["prediction"]], dtype=np.intp)
    cells = np.zeros((len(table), len(classes) ** 2))
    cells[np.arange(len(table)), truth * len(classes) + predicted] = 1.0
    counts = resampled_sums(codes, cells, resamples, seed).reshape(-1, len(classes), len(classes))
    tp = np.einsum("bii->bi", counts)
    fn, fp = counts.sum(2) - tp, counts.sum(1) - tp
    tn = counts.sum((1, 2))[:, None] - tp - fn - fp
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "sensitivity": tp / (tp + fn),
            "specificity": tn / (tn + fp),
            "f1": 2 * tp / (2 * tp + fp + fn),
        }


def _macro_area(
    table: pd.DataFrame, value: float | None, codes: npt.NDArray[np.intp], classes: ClassList
) -> tuple[float, float] | None:
    """The interval of the mean AUC over the classes; a patient contributes to the error of each."""
    pairs = list(zip(classes, classes.columns, strict=True))
    parts = [
        area_parts(table[[column]].to_numpy(np.float64).T, table["label"] == label, codes) for label, column in pairs
    ]
    defined = [part for part in parts if part is not None]
    if value is None or len(defined) < len(parts):
        return None
    contributions = np.mean([part.contributions[0].sum(axis=0) for part in defined], axis=0)
    error = float(np.sqrt((contributions**2).sum()))
    return area_interval(value, error, min(part.error([1.0])[1] for part in defined))


def _estimate(value: float | None, interval: Interval | None, method: str) -> Estimate:
    return UNDEFINED_ESTIMATE if value is None else estimate(value, interval, method)
