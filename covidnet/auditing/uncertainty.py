"""Uncertainty: prediction sets that hold the true class as often as promised, and what abstaining brings."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.auditing.finding import Answer, Finding
from covidnet.auditing.study import NotPossibleError, Study
from covidnet.base.classes import ClassList
from covidnet.base.names import counted
from covidnet.evaluation.bootstrap import cluster_codes
from covidnet.evaluation.intervals import proportion_interval
from covidnet.evaluation.ranking import area_estimate
from covidnet.sweep.folder import Run, Sweep

NAME = "uncertainty"

COVERAGE = 0.9
"""The share of each class's images whose prediction set holds the class."""

KEPT = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)
"""Shares of the images that a model answers, the others being those of the lowest confidence."""

# A class needs so many validation images, or its every set holds all classes.
_LEAST = ceil(COVERAGE / (1 - COVERAGE) - 1e-9)
_SHORTFALL, _ERRORS, _CHANCE = 0.02, 10, 0.6

Probabilities = npt.NDArray[np.float64]


def uncertainty(study: Study) -> Answer:
    """Verify class-conditional conformal prediction sets, and whether confidence says which predictions are wrong.

    Each model's thresholds are those of its validation images. The coverage of its sets is measured on its test fold,
    and on the unseen fold, where the ten sets of an image count as images of one patient.

    Raises:
        NotPossibleError: there is no sweep.

    Source: Vovk 2012, Conditional validity of inductive conformal predictors,
    https://proceedings.mlr.press/v25/vovk12.html
    """
    sweep = study.sweep
    tables, notes = {}, []
    try:
        found, coverage, note = _sets(sweep)
        tables["prediction_sets"] = coverage
        notes.append(note)
    except NotPossibleError as error:
        found = []
        notes.append(f"Not possible: prediction sets; {error}.")
    more, tables["abstention"], note = _abstention(sweep)
    return Answer([*found, *more], tables, [*notes, note])


def conformal_thresholds(probabilities: Probabilities, labels: npt.NDArray[np.intp], coverage: float) -> Probabilities:
    """For each class, the least probability with which an image's prediction set holds it.

    Args:
        probabilities: (n, classes) of images that the model was not fitted to.
        labels: (n,) 0..classes-1.
        coverage: the wanted share of each class's new images whose set holds the class, 0..1.

    Returns:
        (classes,); minus infinity for a class with too few images to promise that.

    Example:
        >>> scores = np.array([0.9, 0.8, 0.7, 0.2])[:, None] * [1, 0] + [0, 0.1]
        >>> conformal_thresholds(scores, np.zeros(4, int), 0.6).tolist()
        [0.7, -inf]
    """
    found = np.full(probabilities.shape[1], -np.inf)
    for at in range(len(found)):
        own = np.sort(probabilities[labels == at, at])[::-1]
        rank = ceil((len(own) + 1) * coverage - 1e-9)
        if 1 <= rank <= len(own):
            found[at] = own[rank - 1]
    return found


def _sets(sweep: Sweep) -> tuple[list[Finding], pd.DataFrame, str]:
    classes = sweep.classes
    parts = ["test", "unseen"] if sweep.has_unseen else ["test"]
    held: dict[str, list[pd.DataFrame]] = {part: [] for part in parts}
    for run in sweep.runs:
        val = _validation(run)
        labels = _codes(val, classes)
        few = [name for at, name in enumerate(classes) if (labels == at).sum() < _LEAST]
        if few:
            number = int((labels == classes.index(few[0])).sum())
            images = counted(number, "validation image")
            raise NotPossibleError(f"fold {run.fold} has {images} of {few[0]}, {_LEAST} are needed")
        least = conformal_thresholds(_scores(val, classes), labels, COVERAGE)
        for part in parts:
            rows = run.rows(part)
            inside = _scores(rows, classes) >= least
            held[part].append(
                rows.assign(
                    holds=inside[np.arange(len(rows)), _codes(rows, classes)],
                    size=inside.sum(1),
                    right=rows["label"] == rows["prediction"],
                )
            )
    rows_of, suspect = [], []
    for part in parts:
        whole = pd.concat(held[part], ignore_index=True)
        codes = cluster_codes(whole)
        for name in ("all", *classes):
            mine = np.ones(len(whole), bool) if name == "all" else (whole["label"] == name).to_numpy(bool)
            if not mine.any():
                continue
            holds, size = whole["holds"][mine].to_numpy(bool), whole["size"][mine]
            interval = proportion_interval(holds, codes[mine]) or (np.nan, np.nan)
            # As many classes and parts are tried.
            strict = proportion_interval(holds, codes[mine], 1 - 0.05 / (len(parts) * (len(classes) + 1)))
            row = (part, name, whole["image_id"][mine].nunique(), holds.mean(), *interval, size.mean(),
                   (size == 1).mean(), (size == 0).mean())  # fmt: skip
            rows_of.append(row)
            if strict is not None and strict[1] < COVERAGE - _SHORTFALL:
                suspect.append((float(holds.mean()), part, name, interval))
    columns = ["part", "class", "images", "coverage", "low", "high", "mean_size", "single", "empty"]
    table = pd.DataFrame(rows_of, columns=columns)
    test = pd.concat(held["test"], ignore_index=True)
    single = test[test["size"] == 1]
    rate = f", of which {single['holds'].mean():.1%} are right" if len(single) else ""
    note = (
        f"Sets for a coverage of {COVERAGE:.0%} of each class, with thresholds from validation images, name "
        f"{test['size'].mean():.2f} classes on average on test images; {len(single) / len(test):.1%} name one class "
        f"alone{rate}."
    )
    if not suspect:
        return [], table, note
    value, part, name, interval = min(suspect)
    of = f"{part} images" if name == "all" else f"{part} images of {name}"
    what = f"Prediction sets made for a coverage of {COVERAGE:.0%} hold the true class of fewer {of}."
    meaning = (
        "Validation images are unlike these images: probabilities, thresholds and sets made with them promise too much."
    )
    remedy = "Look at how validation images differ; calibrate on images of the intended use."
    return [Finding(NAME, "weakens", what, value, interval, (), meaning, remedy)], table, note


def _abstention(sweep: Sweep) -> tuple[list[Finding], pd.DataFrame, str]:
    """The accuracy of the predictions that are kept, by the thresholds of confidence that validation images give."""
    classes, parts = sweep.classes, []
    own = True
    for run in sweep.runs:
        test = run.rows("test")
        sure = _scores(test, classes).max(1)
        try:
            known = _scores(_validation(run), classes).max(1)
        except NotPossibleError:
            known, own = sure, False
        ranks = np.searchsorted(np.sort(known), sure, side="left") / len(known)
        parts.append(test.assign(sure=sure, rank=ranks, right=test["label"] == test["prediction"]))
    whole = pd.concat(parts, ignore_index=True)
    codes, right, rank = cluster_codes(whole), whole["right"].to_numpy(bool), whole["rank"].to_numpy(float)
    rows = []
    for share in KEPT:
        kept = rank >= 1 - share - 1e-9
        interval = proportion_interval(right[kept], codes[kept]) or (np.nan, np.nan)
        accuracy = right[kept].mean() if kept.any() else np.nan
        rows.append((share, kept.mean(), int(kept.sum()), accuracy, *interval, int((~right[kept]).sum())))
    names = ["wanted_share", "answered_share", "images", "accuracy", "low", "high", "errors"]
    table = pd.DataFrame(rows, columns=names)
    errors = int((~right).sum())
    source = "validation images" if own else "the test images themselves, there being no validation images apart"
    note = f"Abstention: thresholds of confidence from {source}. "
    if min(errors, len(right) - errors) < _ERRORS:
        least = f"{_ERRORS} right and {_ERRORS} wrong predictions are needed"
        return [], table, f"{note}Not possible: whether confidence says what is wrong; {least}."
    area = area_estimate(whole["sure"].to_numpy(float), right, codes)
    some = table[table["wanted_share"] == 0.8].iloc[0]
    assert area.value is not None  # there are both
    note += (
        f"Answering {some['answered_share']:.1%} of the test images gives an accuracy of {some['accuracy']:.1%}, "
        f"answering all of them {right.mean():.1%}. Confidence ranks a right prediction above a wrong one with "
        f"probability {area.value:.2f}."
    )
    if area.ci is None or area.ci[1] >= _CHANCE:
        return [], table, note
    what = "The models are hardly surer where they are right; how often a right prediction has the higher confidence."
    meaning = "Probabilities, thresholds and abstention say nothing about which predictions to trust."
    remedy = "Do not report confidence; calibrate the models, or report classes alone."
    return [Finding(NAME, "weakens", what, area.value, area.ci, (), meaning, remedy)], table, note


def _validation(run: Run) -> pd.DataFrame:
    """The validation images of a run, which are not among those that it is tested on."""
    val = run.rows("val")
    if not len(val):
        raise NotPossibleError("there are no validation images")
    if set(val["image_id"]) & set(run.rows("test")["image_id"]):
        raise NotPossibleError("validation images are test images")
    return val


def _scores(rows: pd.DataFrame, classes: ClassList) -> Probabilities:
    return np.asarray(rows[list(classes.columns)].to_numpy(np.float64))


def _codes(rows: pd.DataFrame, classes: Sequence[str]) -> npt.NDArray[np.intp]:
    place = {name: at for at, name in enumerate(classes)}
    return np.array([place[name] for name in rows["label"]], np.intp)
