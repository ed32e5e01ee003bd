"""Clinical reading: predictive values at given prevalences, an operating point, net benefit, sample size."""

from __future__ import annotations

from math import floor

import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.auditing.finding import Answer, Finding, Level
from covidnet.auditing.study import Study
from covidnet.base.names import counted
from covidnet.evaluation.bootstrap import cluster_codes
from covidnet.evaluation.intervals import proportion_interval, wilson
from covidnet.evaluation.results import Interval
from covidnet.sweep.folder import Run
from covidnet.sweep.summary import pooled_predictions

NAME = "clinical"

THRESHOLDS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
"""Probabilities from which a decision is taken, for the net benefit."""

_HALF_WIDTH = 0.05
# A threshold for a sensitivity s needs 1 / (1 - s) images: with fewer, the lowest of them decides alone.
_SHORTFALL = 0.02


def clinical(study: Study) -> Answer:
    """What the positive class's sensitivity and specificity mean where the disease is as rare as in practice.

    Raises:
        NotPossibleError: there is no sweep.
    """
    sweep = study.sweep
    table, name = pooled_predictions(sweep.runs), sweep.classes.positive
    column = sweep.classes.columns[sweep.classes.index(name)]
    codes = cluster_codes(table)
    positive = (table["label"] == name).to_numpy(bool)
    called = (table["prediction"] == name).to_numpy(bool)
    notes = []
    if not positive.any() or positive.all():
        return Answer((), {}, [f"Not possible: sensitivity or specificity of {name}; there are no images for it."])
    sensitivity, specificity = float(called[positive].mean()), float((~called[~positive]).mean())
    wide = [_interval(called[positive], codes[positive]), _interval(~called[~positive], codes[~positive])]
    rows = []
    for prevalence in study.prevalences:
        ppv, npv = predictive_values(sensitivity, specificity, prevalence)
        ends = [predictive_values(wide[0][end], wide[1][end], prevalence) for end in (0, 1)]
        rows.append((name, prevalence, ppv, ends[0][0], ends[1][0], npv, ends[0][1], ends[1][1]))
    columns = ["class", "prevalence", "ppv", "ppv_low", "ppv_high", "npv", "npv_low", "npv_high"]
    values = pd.DataFrame(rows, columns=columns)
    rarest = values.sort_values("prevalence").iloc[0]
    what = f"Share of the images called {name} that are {name} (PPV), at {100 * rarest['prevalence']:.2g}% prevalence."
    meaning = (
        f"Here {float(positive.mean()):.0%} of the images are {name}; where it is rarer, more of the calls are wrong."
    )
    remedy = "Report predictive values at the prevalence of the intended use, from predictive_values.csv."
    interval = (float(rarest["ppv_low"]), float(rarest["ppv_high"]))
    findings = [Finding(NAME, "information", what, float(rarest["ppv"]), interval, (), meaning, remedy)]
    tables = {"predictive_values": values, "net_benefit": _net_benefit(study, table[column].to_numpy(float), positive)}
    found, points, why = _operating_point(study, sweep.runs, name, column)
    findings += found
    tables |= {"operating_points": points} if len(points) else {}
    notes += [why] if why else []
    needed = sample_size(sensitivity, _HALF_WIDTH)
    notes.append(
        f"To know a sensitivity of {sensitivity:.1%} to {100 * _HALF_WIDTH:.0f} points on each side takes "
        f"{counted(needed, 'patient')} with {name}; there are {len(set(codes[positive])):,}."
    )
    notes.append(
        "Intervals of predictive values combine the 97.5% intervals of sensitivity and specificity, so that they cover "
        "at least 95%. Probabilities are not calibrated; net benefit is at the given prevalences."
    )
    return Answer(findings, tables, notes)


def predictive_values(sensitivity: float, specificity: float, prevalence: float) -> tuple[float, float]:
    """Positive and negative predictive value by Bayes' theorem; NaN where nothing is called so.

    Args:
        sensitivity: 0..1.
        specificity: 0..1.
        prevalence: 0..1.

    Example:
        >>> [round(value, 3) for value in predictive_values(0.9, 0.9, 0.1)]
        [0.5, 0.988]
    """
    tp, fp = prevalence * sensitivity, (1 - prevalence) * (1 - specificity)
    tn, fn = (1 - prevalence) * specificity, prevalence * (1 - sensitivity)
    return (tp / (tp + fp) if tp + fp else float("nan")), (tn / (tn + fn) if tn + fn else float("nan"))


def threshold_for(scores: npt.ArrayLike, sensitivity: float) -> float:
    """The highest threshold that keeps a sensitivity on some positive images; a score at the threshold is positive.

    Args:
        scores: (n,) of positive images, at least one.
        sensitivity: 0..1.

    Example:
        >>> threshold_for([0.1, 0.2, 0.3, 0.4], 0.75)
        0.2
    """
    ordered = np.sort(np.asarray(scores, np.float64))
    # 1 - 0.95 is a little above 0.05.
    return float(ordered[min(len(ordered) - 1, floor((1 - sensitivity) * len(ordered) + 1e-9))])


def sample_size(rate: float, half_width: float) -> int:
    """The smallest number of independent images for which Wilson's 95% interval is no wider than wanted.

    Args:
        rate: the expected proportion, 0..1.
        half_width: of the interval, above 0.
    """

    def width(n: int) -> float:
        low, high = wilson(round(rate * n), n) or (0.0, 1.0)
        return high - low

    low, high = 1, 2
    while width(high) > 2 * half_width:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if width(middle) <= 2 * half_width else (middle, high)
    return high


def _interval(hits: npt.NDArray[np.bool_], codes: npt.NDArray[np.intp]) -> Interval:
    found = proportion_interval(hits, codes, 0.975)
    assert found is not None  # there are images
    return found


def _net_benefit(study: Study, scores: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_]) -> pd.DataFrame:
    """Net benefit of the model and of treating everybody, at each prevalence and threshold.

    Source: Vickers and Elkin 2006, Decision curve analysis, https://doi.org/10.1177/0272989X06295361
    """
    own = positive.mean() / (1 - positive.mean())
    rows = []
    for prevalence in study.prevalences:
        shift = prevalence / (1 - prevalence) / own
        for threshold in THRESHOLDS:
            odds = threshold / (1 - threshold)
            # The probability here that is `threshold` where the positive class has this prevalence.
            called = scores >= odds / shift / (1 + odds / shift)
            harm = (1 - prevalence) * odds
            model = prevalence * called[positive].mean() - harm * called[~positive].mean()
            rows.append((prevalence, threshold, model, prevalence - harm, 0.0))
    return pd.DataFrame(rows, columns=["prevalence", "threshold", "model", "treat_all", "treat_none"])


def _operating_point(study: Study, runs: list[Run], name: str, column: str) -> tuple[list[Finding], pd.DataFrame, str]:
    least = floor(1 / (1 - study.sensitivity) + 0.5)
    parts, rows = [], []
    for run in runs:
        val, test = run.rows("val"), run.rows("test")
        if set(val["image_id"]) & set(test["image_id"]):
            return [], pd.DataFrame(), "Not possible: an operating point; validation images are test images."
        scores = val.loc[val["label"] == name, column]
        if len(scores) < least:
            why = f"fold {run.fold} has {counted(len(scores), 'validation image')} of {name}, {least} are needed"
            return [], pd.DataFrame(), f"Not possible: a threshold for a sensitivity of {study.sensitivity:g}; {why}."
        threshold = threshold_for(scores, study.sensitivity)
        part = test.assign(called=test[column] >= threshold)
        parts.append(part)
        hit = part["label"] == name
        rows.append((run.fold, threshold, len(scores), part["called"][hit].mean(), 1 - part["called"][~hit].mean()))
    whole = pd.concat(parts, ignore_index=True)
    codes, called = cluster_codes(whole), whole["called"].to_numpy(bool)
    positive = (whole["label"] == name).to_numpy(bool)
    interval = proportion_interval(called[positive], codes[positive])
    sensitivity, specificity = float(called[positive].mean()), float((~called[~positive]).mean())
    short = interval is not None and interval[1] < study.sensitivity - _SHORTFALL
    level: Level = "weakens" if short else "information"
    what = (
        f"Sensitivity for {name} on test images, beside a specificity of {specificity:.1%}, at thresholds chosen for "
        f"{study.sensitivity:.0%} on validation images."
    )
    meaning = (
        "The threshold does not keep its sensitivity on new images." if short else "The threshold holds on new images."
    )
    remedy = "Choose thresholds on more validation images." if short else "Report this pair, and how it was chosen."
    columns = ["fold", "threshold", "validation_positives", "test_sensitivity", "test_specificity"]
    finding = Finding(NAME, level, what, sensitivity, interval, (), meaning, remedy)
    return [finding], pd.DataFrame(rows, columns=columns), ""
