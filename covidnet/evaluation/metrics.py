"""The numbers of metrics.json, computed from a predictions table.

An undefined value (the sensitivity of a class without images, the accuracy without any) is None, which is null in JSON:
never NaN, which JSON lacks, and never 0, which would claim a result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.base.classes import DEFAULT_CLASSES, ClassList
from covidnet.base.errors import DataError
from covidnet.evaluation.bootstrap import cluster_codes
from covidnet.evaluation.intervals import f1_interval, proportion_interval
from covidnet.evaluation.predictions import SPLITS, validate_predictions
from covidnet.evaluation.results import Interval

_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class ClassMetrics:
    """One class against the others: fractions of 1, with 95% intervals.

    Sensitivity is None for a class without images, specificity where all images are of the class, and F1 where no image
    is of the class or predicted as it. F1 is 0 for a class without images that is predicted nevertheless.

    Args:
        support: number of images of the class.
        sensitivity_ci: from `proportion_interval`, as that of the specificity; that of F1 is from `f1_interval`.
    """

    sensitivity: float | None
    specificity: float | None
    f1: float | None
    support: int
    sensitivity_ci: Interval | None = None
    specificity_ci: Interval | None = None
    f1_ci: Interval | None = None


@dataclass(frozen=True)
class SplitMetrics:
    """The numbers of one split in metrics.json.

    Args:
        n: number of images.
        patients: number of patients; an image without a patient_id counts as its own patient.
        accuracy: fraction of 1.
        accuracy_ci: its 95% interval, the patient as the unit (see `covidnet.evaluation.intervals`).
        loss: mean cross-entropy.
        confusion: image counts; rows are the true classes, columns the predicted ones.
        classes: by name.
    """

    n: int
    patients: int
    accuracy: float | None
    accuracy_ci: Interval | None
    loss: float | None
    confusion: list[list[int]]
    classes: dict[str, ClassMetrics]


def confusion(
    truth: Sequence[str], predicted: Sequence[str], classes: ClassList = DEFAULT_CLASSES
) -> npt.NDArray[np.int64]:
    """Count images by true and predicted class.

    Args:
        truth: the true class names, one per image.
        predicted: the predicted class names, one per image.
        classes: of the study.

    Returns:
        (classes, classes) counts: rows are the true classes, columns the predicted ones, in the order of `classes`.

    Raises:
        DataError: the two differ in length, or a class is unknown.

    Example:
        >>> confusion(["COVID-19", "Normal"], ["COVID-19", "Pneumonia"]).tolist()
        [[1, 0, 0], [0, 0, 1], [0, 0, 0]]
    """
    if len(truth) != len(predicted):
        raise DataError(f"predicted: {len(predicted)} classes for {len(truth)} images; give one for each")
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(counts, (_indices(truth, classes), _indices(predicted, classes)), 1)
    return counts


def class_rates(counts: npt.NDArray[np.int64], classes: ClassList = DEFAULT_CLASSES) -> dict[str, ClassMetrics]:
    """Sensitivity, specificity and F1 of each class against the others.

    Args:
        counts: (classes, classes) counts from `confusion`.
        classes: of the study.

    Returns:
        The metrics of each class by its name, without intervals.

    Example:
        >>> covid = class_rates(np.array([[50, 1, 1], [0, 48, 4], [0, 5, 47]]))["COVID-19"]
        >>> f"{covid.sensitivity:.3f} {covid.specificity:.3f} {covid.f1:.3f}"
        '0.962 1.000 0.980'
    """
    total = int(counts.sum())
    rates = {}
    for at, name in enumerate(classes):
        tp = int(counts[at, at])
        fn = int(counts[at].sum()) - tp
        fp = int(counts[:, at].sum()) - tp
        tn = total - tp - fn - fp
        rates[name] = ClassMetrics(_ratio(tp, tp + fn), _ratio(tn, tn + fp), _ratio(2 * tp, 2 * tp + fp + fn), tp + fn)
    return rates


def class_metrics(
    truth: Sequence[str], predicted: Sequence[str], patients: npt.ArrayLike, classes: ClassList = DEFAULT_CLASSES
) -> dict[str, ClassMetrics]:
    """The metrics of each class with 95% intervals, the patient as the unit.

    Args:
        truth: the true class names, one per image.
        predicted: the predicted class names, one per image.
        patients: (n,) the patient of each image, such as `covidnet.evaluation.bootstrap.cluster_codes` gives.
        classes: of the study.

    Returns:
        The metrics of each class by its name.

    Raises:
        DataError: lengths differ, or a class is unknown.

    Example:
        >>> covid = class_metrics(["COVID-19"] * 52, ["COVID-19"] * 49 + ["Normal"] * 3, range(52))["COVID-19"]
        >>> " ".join(f"{end:.3f}" for end in covid.sensitivity_ci)
        '0.844 0.980'
    """
    metrics = class_rates(confusion(truth, predicted, classes), classes)
    true_classes, predictions, groups = np.asarray(truth, object), np.asarray(predicted, object), np.asarray(patients)
    for name, rates in metrics.items():
        positive, called = true_classes == name, predictions == name
        either = positive | called
        metrics[name] = replace(
            rates,
            sensitivity_ci=proportion_interval(called[positive], groups[positive]),
            specificity_ci=proportion_interval(~called[~positive], groups[~positive]),
            f1_ci=f1_interval((positive & called)[either], groups[either]),
        )
    return metrics


def cross_entropy(
    probabilities: npt.ArrayLike, truth: Sequence[str], classes: ClassList = DEFAULT_CLASSES
) -> float | None:
    """Mean negative natural logarithm of the probability of the true class.

    Args:
        probabilities: (n, classes), in the order of `classes`.
        truth: the true class names, one per image.
        classes: of the study.

    Returns:
        The mean, at least 0; None without images. Probabilities below 1.2e-38, the smallest normal float32, are raised
        to it, so one image adds at most 87.3.

    Raises:
        DataError: the two differ in length, or a class is unknown.

    Example:
        >>> round(cross_entropy([[0.5, 0.25, 0.25]], ["COVID-19"]), 4)
        0.6931
    """
    scores = np.asarray(probabilities, dtype=np.float64).reshape(-1, len(classes))
    if len(scores) != len(truth):
        raise DataError(f"truth: {len(truth)} classes for {len(scores)} rows of probabilities; give one for each")
    return float(image_losses(scores, truth, classes).mean()) if len(scores) else None


def image_losses(
    probabilities: npt.ArrayLike, truth: Sequence[str], classes: ClassList = DEFAULT_CLASSES
) -> npt.NDArray[np.float64]:
    """The loss of each image, (n,); see `cross_entropy`.

    Args:
        probabilities: (n, classes), in the order of `classes`.
        truth: the true class names, one per image.
        classes: of the study.
    """
    scores = np.asarray(probabilities, dtype=np.float64)
    of_truth = scores[np.arange(len(scores)), _indices(truth, classes)]
    # Adding 0 turns the -0.0 of a perfect prediction into 0.0.
    return np.asarray(-np.log(np.maximum(of_truth, _TINY)) + 0.0, np.float64)


def split_metrics(table: pd.DataFrame, classes: ClassList = DEFAULT_CLASSES) -> SplitMetrics:
    """All metrics of one split.

    Args:
        table: a predictions table with rows of one split only, or no rows; it is validated first.
        classes: of the study.

    Raises:
        DataError: the table is not valid, or mixes splits.
    """
    table = validate_predictions(table, classes=classes)
    splits = list(table["split"].unique())
    if len(splits) > 1:
        raise DataError(f"predictions: splits {', '.join(splits)}; give the rows of one split")
    truth, predicted, patients = list(table["label"]), list(table["prediction"]), cluster_codes(table)
    counts = confusion(truth, predicted, classes)
    n, correct = int(counts.sum()), int(np.trace(counts))
    return SplitMetrics(
        n=n,
        patients=len(np.unique(patients)),
        accuracy=_ratio(correct, n),
        accuracy_ci=proportion_interval((table["label"] == table["prediction"]).to_numpy(bool), patients),
        loss=cross_entropy(table[list(classes.columns)].to_numpy(dtype=np.float64), truth, classes),
        confusion=counts.tolist(),
        classes=class_metrics(truth, predicted, patients, classes),
    )


def run_metrics(table: pd.DataFrame, classes: ClassList = DEFAULT_CLASSES) -> dict[str, SplitMetrics]:
    """The ``splits`` part of a run's metrics.json.

    Args:
        table: a run's whole predictions table; it is validated first.
        classes: of the study.

    Returns:
        `split_metrics` for ``val``, ``test`` and ``unseen``. A split without rows has n = 0 and None values.

    Raises:
        DataError: the table is not valid.

    Example:
        >>> from covidnet.evaluation.predictions import predictions_table
        >>> table = predictions_table(
        ...     image_id=["a"], path=["a.png"], patient_id=[None], label=["Normal"],
        ...     split="test", fold=3, probabilities=[[0.1, 0.7, 0.2]],
        ... )
        >>> metrics = run_metrics(table)
        >>> metrics["test"].accuracy, metrics["val"].accuracy
        (1.0, None)
    """
    table = validate_predictions(table, classes=classes)
    return {name: split_metrics(table[table["split"] == name], classes) for name in SPLITS}


def _indices(names: Sequence[str], classes: ClassList) -> npt.NDArray[np.intp]:
    try:
        return np.array([classes.index(name) for name in names], dtype=np.intp)
    except ValueError:
        unknown = next(name for name in names if name not in classes)
        raise DataError(f"class {unknown!r} is unknown; must be one of {', '.join(classes)}") from None


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
