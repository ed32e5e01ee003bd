"""Classes of which there are too few images for an interval: their intervals are taken back, and it is said why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.base.classes import CLASSES
from covidnet.base.names import counted
from covidnet.evaluation.bootstrap import cluster_codes
from covidnet.evaluation.metrics import SplitMetrics
from covidnet.evaluation.ranking import ClassCurves
from covidnet.evaluation.results import UNDEFINED_ESTIMATE, Estimate
from covidnet.evaluation.scores import Scores, SplitScores

FEWEST_IMAGES = 10
"""Fewer images than that get no interval: with nine all right, Wilson's reaches from 70% to 100%."""

FEWEST_PATIENTS = 5
"""Images of fewer patients get none either: a bootstrap of four patients has 35 different draws, of which 34 leave a
patient out."""


@dataclass(frozen=True)
class Size:
    """How many images there are, and of how many patients.

    Args:
        patients: an unknown one counts as one of its own.
        enough: whether that is enough for an interval.
    """

    images: int | None = field(metadata={"key": "films"})
    patients: int | None
    enough: bool | None


@dataclass(frozen=True)
class ClassSize(Size):
    """The size of a class.

    Args:
        others: all other classes together.
    """

    others: Size


def class_sizes(table: pd.DataFrame) -> dict[str, ClassSize]:
    """How many images and patients each class has, and whether that is enough for an interval.

    Args:
        table: a checked predictions table.
    """
    codes = cluster_codes(table)
    found = {}
    for label in CLASSES:
        is_it = (table["label"] == label).to_numpy(bool)
        found[label] = ClassSize(**vars(_size(codes[is_it])), others=_size(codes[~is_it]))
    return found


def sparse_words(table: pd.DataFrame, absent: Mapping[str, str] | None = None) -> list[str]:
    """What is said of classes that are absent or too few, one sentence each.

    Args:
        table: a checked predictions table.
        absent: for classes without any image in the table why there is none, as a clause; see `why_absent`.
    """
    words = []
    for label, size in class_sizes(table).items():
        if not size.images:
            why = (absent or {}).get(label) or f"no image of {label} is there"
            words.append(
                f"{why[:1].upper()}{why[1:]}: {label} has no sensitivity, F1 or AUC, and there is no mean over the "
                "classes."
            )
        elif not size.enough:
            words.append(
                f"{label} has {counted(size.images, 'image')} of {counted(size.patients or 0, 'patient')}: too few for "
                f"an interval (from {FEWEST_IMAGES} images and {FEWEST_PATIENTS} patients on one is given)."
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


def without_sparse(scores: SplitScores, table: pd.DataFrame) -> SplitScores:
    """Scores without the intervals that too few images would make up.

    Sensitivity and F1 are of the images of a class, specificity of all others, AUC of both, accuracy of all images,
    and a mean over the classes of each class. F1 of a class that is absent goes as a whole: it would be 0 by one false
    call.

    Args:
        scores: of `covidnet.evaluation.scores.scored`.
        table: that they were computed from.

    Returns:
        The scores; an interval that is taken back is None, and so is its method.
    """
    sizes = class_sizes(table)
    whole = bool(_size(cluster_codes(table)).enough)
    classes = {}
    for label, size in sizes.items():
        of, own, rest = scores.classes[label], bool(size.enough), bool(size.others.enough)
        classes[label] = replace(
            of,
            sensitivity=_kept(of.sensitivity, own),
            specificity=_kept(of.specificity, rest),
            f1=_kept(of.f1, own) if size.images else UNDEFINED_ESTIMATE,
            auc=_kept(of.auc, own and rest),
            accuracy=_kept(of.accuracy, whole),
        )
    every, absent = all(size.enough for size in sizes.values()), any(not size.images for size in sizes.values())
    means = {
        one.name: UNDEFINED_ESTIMATE if absent else _kept(getattr(scores.macro, one.name), every)
        for one in fields(Scores)
    }
    return replace(scores, accuracy=_kept(scores.accuracy, whole), macro=Scores(**means), classes=classes)


def split_without_sparse(metrics: SplitMetrics, table: pd.DataFrame) -> SplitMetrics:
    """The same for one split of metrics.json.

    Args:
        metrics: of `covidnet.evaluation.metrics.split_metrics`.
        table: that they were computed from.
    """
    classes = {}
    for label, size in class_sizes(table).items():
        of = metrics.classes[label]
        classes[label] = replace(
            of,
            f1=of.f1 if size.images else None,
            sensitivity_ci=of.sensitivity_ci if size.enough else None,
            specificity_ci=of.specificity_ci if size.others.enough else None,
            f1_ci=of.f1_ci if size.enough else None,
        )
    accuracy_ci = metrics.accuracy_ci if _size(cluster_codes(table)).enough else None
    return replace(metrics, accuracy_ci=accuracy_ci, classes=classes)


def curves_without_sparse(curves: Mapping[str, ClassCurves], table: pd.DataFrame) -> dict[str, ClassCurves]:
    """Curves without the bands that too few images would make up.

    Args:
        curves: of `covidnet.evaluation.ranking.class_curves`.
        table: that they were computed from.
    """
    sizes = class_sizes(table)
    found = dict(curves)
    for label, of in curves.items():
        if not (sizes[label].enough and sizes[label].others.enough):
            found[label] = ClassCurves(
                replace(of.roc, low=None, high=None, auc=_kept(of.roc.auc, False)),
                replace(of.pr, low=None, high=None, average_precision=_kept(of.pr.average_precision, False)),
            )
    return found


def _size(codes: npt.NDArray[np.intp]) -> Size:
    images, patients = len(codes), len(set(codes.tolist()))
    return Size(images, patients, images >= FEWEST_IMAGES and patients >= FEWEST_PATIENTS)


def _kept(estimate: Estimate, enough: bool) -> Estimate:
    return estimate if enough else replace(estimate, ci=None, method=None)
