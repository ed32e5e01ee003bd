"""Classes with too few images for an interval: their intervals are removed, with a sentence that says why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.base.classes import DEFAULT_CLASSES
from covidnet.base.names import counted
from covidnet.evaluation.bootstrap import cluster_codes
from covidnet.evaluation.metrics import SplitMetrics
from covidnet.evaluation.ranking import ClassCurves
from covidnet.evaluation.results import UNDEFINED_ESTIMATE, Estimate
from covidnet.evaluation.scores import MACRO, Scores, SplitScores

MIN_IMAGES = 10
"""With fewer images there is no interval: for nine of nine correct, Wilson's is 70% to 100%."""

MIN_PATIENTS = 5
"""With fewer patients there is none either: a bootstrap of four patients has 35 distinct resamples, 34 of which lack a
patient."""


@dataclass(frozen=True)
class Size:
    """A number of images and of their patients.

    Args:
        patients: an image without a patient_id counts as its own patient.
        enough: whether that is enough for an interval.
    """

    images: int | None = field(metadata={"key": "films"})
    patients: int | None
    enough: bool | None


@dataclass(frozen=True)
class ClassSize(Size):
    """The size of a class.

    Args:
        others: the size of all other classes together.
    """

    others: Size


def class_sizes(table: pd.DataFrame, classes: Iterable[str] = DEFAULT_CLASSES) -> dict[str, ClassSize]:
    """How many images and patients each class has, and whether that is enough for an interval.

    Args:
        table: a checked predictions table.
        classes: of the study.
    """
    codes = cluster_codes(table)
    sizes = {}
    for label in classes:
        positive = (table["label"] == label).to_numpy(bool)
        sizes[label] = ClassSize(**vars(_size(codes[positive])), others=_size(codes[~positive]))
    return sizes


def sparse_notes(
    table: pd.DataFrame, absent: Mapping[str, str] | None = None, classes: Iterable[str] = DEFAULT_CLASSES
) -> list[str]:
    """A sentence for each class that has no images or too few.

    Args:
        table: a checked predictions table.
        absent: for classes without images the reason, as a clause; see `why_absent`.
        classes: of the study.
    """
    notes = []
    for label, size in class_sizes(table, classes).items():
        if not size.images:
            why = (absent or {}).get(label) or f"there are no images of {label}"
            notes.append(
                f"{why[:1].upper()}{why[1:]}: {label} has no sensitivity, F1 or AUC, and there is no mean over the "
                "classes."
            )
        elif not size.enough:
            notes.append(
                f"{label} has {counted(size.images, 'image')} of {counted(size.patients or 0, 'patient')}: too few for "
                f"an interval, which takes at least {MIN_IMAGES} images and {MIN_PATIENTS} patients."
            )
    return notes


def why_absent(label: str, *, images: int, refused: int, training: int, unreadable: int) -> str:
    """Why no images of a class are scored: there are none, the gate refused them, or they are training images.

    Args:
        label: the class.
        images: number of readable images of the class in the data set.
        refused: how many of them the input gate refused.
        training: how many of the others are training images, which are excluded.
        unreadable: number of unreadable files in the data set, of any class.

    Example:
        >>> why_absent("Normal", images=0, refused=0, training=0, unreadable=0)
        'this data set has no images of Normal'
        >>> why_absent("Normal", images=7, refused=7, training=0, unreadable=0)
        'the input gate refused all 7 images of Normal'
        >>> why_absent("Normal", images=7, refused=3, training=4, unreadable=0)
        'of 7 images of Normal the input gate refused 3, and 4 were excluded as training images'
    """
    if not images:
        unread = f" ({counted(unreadable, 'file')} could not be read)" if unreadable else ""
        return f"this data set has no {'readable ' if unreadable else ''}images of {label}{unread}"
    if refused >= images:
        return f"the input gate refused all {images} images of {label}"
    if training >= images:
        return f"all {images} images of {label} were excluded as training images of the model"
    return (
        f"of {images} images of {label} the input gate refused {refused}, and {training} were excluded as training "
        "images"
    )


def without_sparse(scores: SplitScores, table: pd.DataFrame) -> SplitScores:
    """Scores without the intervals that rest on too few images.

    An interval needs enough images: for sensitivity and F1 of the class, for specificity of all others, for AUC of
    both, for accuracy in all, and for a mean over the classes of each class. A class without images has no F1 either:
    one false positive would make it 0.

    Args:
        scores: from `covidnet.evaluation.scores.scored`.
        table: the table that they were computed from.

    Returns:
        The scores; a removed interval and its method are None.
    """
    sizes = class_sizes(table, scores.classes)
    whole = bool(_size(cluster_codes(table)).enough)
    classes = {}
    for label, size in sizes.items():
        of_class, own, rest = scores.classes[label], bool(size.enough), bool(size.others.enough)
        classes[label] = replace(
            of_class,
            sensitivity=_interval_if(of_class.sensitivity, own),
            specificity=_interval_if(of_class.specificity, rest),
            f1=_interval_if(of_class.f1, own) if size.images else UNDEFINED_ESTIMATE,
            auc=_interval_if(of_class.auc, own and rest),
            accuracy=_interval_if(of_class.accuracy, whole),
        )
    every, absent = all(size.enough for size in sizes.values()), any(not size.images for size in sizes.values())
    macro = {metric: UNDEFINED_ESTIMATE if absent else _interval_if(scores.macro.of(metric), every) for metric in MACRO}
    return replace(scores, accuracy=_interval_if(scores.accuracy, whole), macro=Scores(**macro), classes=classes)


def split_without_sparse(metrics: SplitMetrics, table: pd.DataFrame) -> SplitMetrics:
    """The same for one split of metrics.json.

    Args:
        metrics: from `covidnet.evaluation.metrics.split_metrics`.
        table: the table that they were computed from.
    """
    classes = {}
    for label, size in class_sizes(table, metrics.classes).items():
        of_class = metrics.classes[label]
        classes[label] = replace(
            of_class,
            f1=of_class.f1 if size.images else None,
            sensitivity_ci=of_class.sensitivity_ci if size.enough else None,
            specificity_ci=of_class.specificity_ci if size.others.enough else None,
            f1_ci=of_class.f1_ci if size.enough else None,
        )
    accuracy_ci = metrics.accuracy_ci if _size(cluster_codes(table)).enough else None
    return replace(metrics, accuracy_ci=accuracy_ci, classes=classes)


def curves_without_sparse(curves: Mapping[str, ClassCurves], table: pd.DataFrame) -> dict[str, ClassCurves]:
    """Curves without the bands and intervals that rest on too few images.

    Args:
        curves: from `covidnet.evaluation.ranking.class_curves`.
        table: the table that they were computed from.
    """
    sizes = class_sizes(table, curves)
    kept = dict(curves)
    for label, curve in curves.items():
        if not (sizes[label].enough and sizes[label].others.enough):
            roc, pr = curve.roc, curve.pr
            kept[label] = ClassCurves(
                replace(roc, low=None, high=None, auc=_interval_if(roc.auc, False)),
                replace(pr, low=None, high=None, average_precision=_interval_if(pr.average_precision, False)),
            )
    return kept


def _size(codes: npt.NDArray[np.intp]) -> Size:
    images, patients = len(codes), len(set(codes.tolist()))
    return Size(images, patients, images >= MIN_IMAGES and patients >= MIN_PATIENTS)


def _interval_if(estimate: Estimate, enough: bool) -> Estimate:
    return estimate if enough else replace(estimate, ci=None, method=None)
