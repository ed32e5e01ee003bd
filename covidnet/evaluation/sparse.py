"""Classes of which there are too few images for an interval: their intervals are taken back, and it is said why."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import pandas as pd

from covidnet.base.classes import CLASSES
from covidnet.base.names import counted
from covidnet.evaluation.bootstrap import cluster_codes

FEWEST_IMAGES = 10
"""Fewer images than that get no interval: with nine all right, Wilson's reaches from 70% to 100%."""

FEWEST_PATIENTS = 5
"""Images of fewer patients get none either: a bootstrap of four patients has 35 different draws, of which 34 leave a
patient out."""


def class_sizes(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """How many images and patients each class has, and whether that is enough for an interval.

    Args:
        table: a checked predictions table.

    Returns:
        For each class ``images``, ``patients`` (an unknown one counts as one of its own) and ``enough``; for the key
        ``others`` in it the same of all other classes together.
    """
    codes = cluster_codes(table)
    found: dict[str, dict[str, Any]] = {}
    for label in CLASSES:
        is_it = (table["label"] == label).to_numpy(bool)
        found[label] = {**_size(codes[is_it]), "others": _size(codes[~is_it])}
    return found


def sparse_words(table: pd.DataFrame, absent: Mapping[str, str] | None = None) -> list[str]:
    """What is said of classes that are absent or too few, one sentence each.

    Args:
        table: a checked predictions table.
        absent: for classes without any image in the table why there is none, as a clause; see `why_absent`.
    """
    words = []
    for label, size in class_sizes(table).items():
        if not size["films"]:
            why = (absent or {}).get(label) or f"no image of {label} is there"
            words.append(
                f"{why[:1].upper()}{why[1:]}: {label} has no sensitivity, F1 or AUC, and there is no mean over the "
                "classes."
            )
        elif not size["enough"]:
            images, patients = size["films"], size["patients"]
            words.append(
                f"{label} has {counted(images, 'image')} of {counted(patients, 'patient')}: too few for an "
                f"interval (from {FEWEST_IMAGES} images and {FEWEST_PATIENTS} patients on one is given)."
            )
    return words


def why_absent(label: str, *, images: int, refused: int, training: int, unreadable: int) -> str:
    """Why no image of a class counts: absent, refused and left out are different things.

    Args:
        label: the class.
        images: of the class in the set, that can be read.
        refused: of them, by the input gate.
        training: of the others, those that are training images and are left out.
        unreadable: files of the set, of any class, that cannot be read.

    Example:
        >>> why_absent("Normal", images=0, refused=0, training=0, unreadable=0)
        'no image of Normal is in this set'
        >>> why_absent("Normal", images=7, refused=7, training=0, unreadable=0)
        'all 7 images of Normal were refused by the input gate'
        >>> why_absent("Normal", images=7, refused=3, training=4, unreadable=0)
        'of 7 images of Normal 3 were refused by the input gate and 4 are training images and left out'
    """
    if not images:
        more = f", of which {unreadable} file{'' if unreadable == 1 else 's'} could not be read" if unreadable else ""
        return f"no {'readable ' if unreadable else ''}image of {label} is in this set{more}"
    if refused >= images:
        return f"all {images} images of {label} were refused by the input gate"
    if training >= images:
        return f"all {images} images of {label} are training images of the model and left out"
    return (
        f"of {images} images of {label} {refused} were refused by the input gate and {training} are training images "
        f"and "
        "left out"
    )


def without_sparse(scores: Mapping[str, Any], table: pd.DataFrame) -> dict[str, Any]:
    """Scores without the intervals that too few images would make up.

    Sensitivity and F1 are of the images of a class, specificity of all others, AUC of both, accuracy of all images,
    and a mean over the classes of each class. F1 of a class that is absent goes as a whole: it would be 0 by one false
    call.

    Args:
        scores: of `covidnet.evaluation.scores.scored`.
        table: that they were computed from.

    Returns:
        A copy in the same form; an interval that is taken back is None, and so is its method.
    """
    found, sizes = deepcopy(dict(scores)), class_sizes(table)
    whole = _size(cluster_codes(table))["enough"]
    every = all(size["enough"] for size in sizes.values())
    for label, size in sizes.items():
        told = found["classes"][label]
        if not size["films"]:
            told["f1"] = _none()
        rest = size["others"]["enough"]
        for name, enough in (
            ("sensitivity", size["enough"]),
            ("f1", size["enough"]),
            ("specificity", rest),
            ("auc", size["enough"] and rest),
            ("accuracy", whole),
        ):
            _keep(told[name], enough)
    _keep(found["accuracy"], whole)
    for name, estimate in found["macro"].items():
        if any(not size["films"] for size in sizes.values()):
            found["macro"][name] = _none()
        _keep(estimate, every)
    return found


def split_without_sparse(metrics: Mapping[str, Any], table: pd.DataFrame) -> dict[str, Any]:
    """The same for one split of metrics.json.

    Args:
        metrics: of `covidnet.evaluation.metrics.split_metrics`.
        table: that they were computed from.
    """
    found, sizes = deepcopy(dict(metrics)), class_sizes(table)
    if not _size(cluster_codes(table))["enough"]:
        found["accuracy_ci"] = None
    for label, size in sizes.items():
        told = found["classes"][label]
        if not size["films"]:
            told["f1"] = None
        if not size["enough"]:
            told["sensitivity_ci"] = told["f1_ci"] = None
        if not size["others"]["enough"]:
            told["specificity_ci"] = None
    return found


def curves_without_sparse(curves: Mapping[str, Any], table: pd.DataFrame) -> dict[str, Any]:
    """Curves without the bands that too few images would make up.

    Args:
        curves: of `covidnet.evaluation.ranking.class_curves`.
        table: that they were computed from.
    """
    found, sizes = deepcopy(dict(curves)), class_sizes(table)
    for label, curve in found.items():
        if not (sizes[label]["enough"] and sizes[label]["others"]["enough"]):
            for kind in ("roc", "pr"):
                curve[kind] |= {"low": None, "high": None}
            _keep(curve["roc"]["auc"], False)
            _keep(curve["pr"]["average_precision"], False)
    return found


def _size(codes: Any) -> dict[str, Any]:
    images, patients = len(codes), len(set(codes.tolist()))
    return {
        "films": images,
        "patients": patients,
        "enough": images >= FEWEST_IMAGES and patients >= FEWEST_PATIENTS,
    }


def _none() -> dict[str, Any]:
    return {"value": None, "ci": None, "method": None}


def _keep(estimate: dict[str, Any], enough: bool) -> None:
    if not enough:
        estimate["ci"] = estimate["method"] = None
