"""Shuffled labels: would the accuracy be as high if the labels had nothing to do with the images?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.auditing.acquisition import balanced_accuracy
from covidnet.auditing.closed_form import FOLDS, Codes, cross_validated
from covidnet.auditing.finding import Answer, Finding, Level
from covidnet.auditing.study import NotPossibleError, Study
from covidnet.base.names import counted
from covidnet.evaluation.bootstrap import cluster_codes
from covidnet.evaluation.intervals import proportion_interval
from covidnet.sweep.summary import ensemble_predictions, pooled_predictions

NAME = "shuffled_labels"

# The whole pipeline is fitted again for each permutation.
_REFITS = 200
_AT_ONCE = 100
_CHANCE = 0.05
_TEST, _UNSEEN = "test folds", "unseen fold, by the ensemble"
_LEAST = 10

_REMEDY = (
    "Look for labels that were joined to the wrong images, or for too few images; claim no performance until then."
)


def shuffled_labels(study: Study) -> Answer:
    """Compare the accuracy with the accuracies of exchanged labels.

    Labels are exchanged between patients with equally many images, all labels of a patient together. Of a sweep the
    predictions are kept. Of the images the whole pipeline is repeated
    for each exchange: standardisation, ridge regression on the features, and cross-validation.

    Raises:
        NotPossibleError: neither the images nor a sweep can be read, or too few patients can exchange their labels.

    Source: Phipson and Smyth 2010, Permutation p-values should never be zero, https://doi.org/10.2202/1544-6115.1585
    """
    findings: list[Finding] = []
    rows: list[tuple[object, ...]] = []
    reasons: dict[str, str] = {}
    for what in (_TEST, _UNSEEN, "images"):
        try:
            # What a sweep has learned is in the images.
            proven = bool(rows) and not findings
            found, row = _pipeline(study, proven) if what == "images" else _reported(study, what)
        except NotPossibleError as error:
            reasons[what] = str(error)
            continue
        findings += found
        rows.append(row)
    if not rows:
        raise NotPossibleError("; ".join(dict.fromkeys(reasons.values())))
    notes = [f"Not possible: the {what}; {why}." for what, why in reasons.items()]
    names = ["accuracy_of", "images", "patients", "accuracy", "exchanged_mean", "exchanged_highest_5", "exchanges", "p"]
    notes.append(
        "Exchanged: the mean accuracy with labels exchanged between patients, and what 5% of the exchanges reach. The "
        "p value counts the data as one of the exchanges. The mean is above guessing where one class is more frequent, "
        "or where patients with equally many images are mostly of one class."
    )
    return Answer(findings, {NAME: pd.DataFrame(rows, columns=names)}, notes)


def exchanged(
    labels: npt.NDArray[np.integer], patients: Codes, exchanges: int, seed: int | Sequence[int]
) -> npt.NDArray[np.int8]:
    """Labels exchanged between patients with equally many images, all labels of a patient together.

    Args:
        labels: (n,) the label of each image.
        patients: (n,) the patient of each image.
        exchanges: how many.
        seed: of the exchanges.

    Returns:
        (n, exchanges) labels; those of a patient that has no partner stay as they are.

    Raises:
        NotPossibleError: fewer than ten patients have a partner with other labels.
    """
    rows_of = defaultdict(list)
    for row, patient in enumerate(patients.tolist()):
        rows_of[patient].append(row)
    blocks = defaultdict(list)
    for rows in rows_of.values():
        blocks[len(rows)].append(rows)
    found = np.repeat(labels[:, None].astype(np.int8), exchanges, 1)
    rng, movable = np.random.default_rng(seed), 0
    for _, same in sorted(blocks.items()):
        at = np.array(same)
        own = labels[at]
        movable += 0 if (own == own[0]).all() else len(same)
        order = rng.permuted(np.tile(np.arange(len(same)), (exchanges, 1)), axis=1)
        found[at] = own[order].transpose(1, 2, 0)
    if movable < _LEAST:
        some = f"{counted(movable, 'patient has', 'patients have')} another with as many images and other labels"
        raise NotPossibleError(f"{some}, at least {_LEAST} are needed")
    return found


def p_value(observed: float, exchanged: npt.ArrayLike) -> float:
    """The share of accuracies that are at least as high, the observed one among them.

    Args:
        observed: the accuracy.
        exchanged: (m,) those with exchanged labels.

    Example:
        >>> p_value(0.9, [0.3, 0.4, 0.9])
        0.5
    """
    null = np.asarray(exchanged, np.float64)
    return float((1 + (null >= observed - 1e-12).sum()) / (1 + len(null)))


def _reported(study: Study, part: str) -> tuple[list[Finding], tuple[object, ...]]:
    """The accuracy on the test folds, or that of the ensemble on the unseen fold."""
    sweep = study.sweep
    if part == _UNSEEN and not sweep.has_unseen:
        raise NotPossibleError("not every model has predicted it")
    table = pooled_predictions(sweep.runs) if part == _TEST else ensemble_predictions(sweep.runs)
    codes = cluster_codes(table)
    labels, told = (
        np.array([sweep.classes.index(name) for name in table[column]]) for column in ("label", "prediction")
    )
    right = labels == told
    null = np.concatenate([
        (exchanged(labels, codes, min(_AT_ONCE, study.resamples - start), [study.seed, start]) == told[:, None]).mean(0)
        for start in range(0, study.resamples, _AT_ONCE)
    ])  # fmt: skip
    value, p = float(right.mean()), p_value(right.mean(), null)
    row = _row(part, codes, value, null, p)
    if p <= _CHANCE:
        return [], row
    what = f"The accuracy on the {part} is no better than with labels exchanged between patients ({_against(null, p)})."
    meaning = "The models have learned nothing of these labels that holds for other patients."
    level: Level = "blocks" if part == _TEST else "weakens"
    return [Finding(NAME, level, what, value, proportion_interval(right, codes), (), meaning, _REMEDY)], row


def _pipeline(study: Study, proven: bool) -> tuple[list[Finding], tuple[object, ...]]:
    """The balanced accuracy of ridge regression on stored features or thumbnails."""
    inputs = study.inputs
    names, labels = np.unique(study.images["label"].to_numpy(str)[inputs.rows], return_inverse=True)
    if len(names) < 2:
        raise NotPossibleError("all images are of one class")
    patients = study.patients[inputs.rows]
    others = exchanged(labels, patients, min(_REFITS, study.resamples), study.seed)
    every = np.concatenate([labels[:, None].astype(np.int8), others], 1)
    told = cross_validated(inputs.features, every, patients, len(names), study.seed)
    hits = told == every
    by_class = [(hits & (every == one)).sum(0) / (every == one).sum(0) for one in range(len(names))]
    value, *null = np.mean(by_class, 0).tolist()
    p = p_value(value, null)
    row = _row(f"{inputs.name}, ridge regression in {FOLDS} folds (balanced accuracy)", patients, value, null, p)
    if p <= _CHANCE:
        return [], row
    what = f"Ridge regression on {inputs.name} predicts the class no better than with labels exchanged between patients"
    # Thumbnails show little.
    level: Level = "weakens" if inputs.stored and not proven else "information"
    meaning = (
        "These inputs say nothing about the labels: the labels are of other images, or the inputs show too little."
    )
    units = np.unique(patients, return_inverse=True)[1]
    _, interval = balanced_accuracy(hits[:, 0], names[labels], units, study.resamples, study.seed)
    finding = Finding(NAME, level, f"{what} ({_against(null, p)}).", value, interval, (), meaning, _REMEDY)
    return [finding], row


def _row(name: str, patients: Codes, value: float, null: npt.ArrayLike, p: float) -> tuple[object, ...]:
    drawn = np.asarray(null, np.float64)
    numbers = value, float(drawn.mean()), float(np.quantile(drawn, 1 - _CHANCE)), len(drawn), p
    return (name, len(patients), len(set(patients.tolist())), *numbers)


def _against(null: npt.ArrayLike, p: float) -> str:
    drawn = np.asarray(null, np.float64)
    return f"these reach {drawn.mean():.1%} on average; p = {p:.2g}"
