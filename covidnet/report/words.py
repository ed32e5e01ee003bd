"""Numbers and names as text in a sentence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from covidnet.base.classes import DEFAULT_CLASSES, ClassList
from covidnet.base.names import counted
from covidnet.report.terminal import UNDEFINED, percent
from covidnet.report.values import split

if TYPE_CHECKING:
    from covidnet.evaluation.results import Measured
    from covidnet.evaluation.scores import ClassScores
    from covidnet.report.summary import SweepSummary

FOLDS = 10
"""The number of test folds of a complete cross-validation."""

MODELS = {"densenet121": "DenseNet121", "resnet50": "ResNet-50", "cnn": "CNN"}
"""Display names of networks; others keep their names from the settings."""

CARD_PAGE, CARD_PLAIN = "model_card.html", "model_card.md"
"""The files of the model card, next to the report."""

EXPLAINERS = {
    "gradcam": "Grad-CAM",
    "gradcam++": "Grad-CAM++",
    "cam": "CAM",
    "gradient": "gradient saliency",
    "eigencam": "EigenCAM",
}
"""Display names of heat map methods, by the setting ``explain.method``."""

TRAINED_ON = {
    "folder": "images from a folder (data=folder)",
    "phantom": "synthetic images (phantoms)",
    "kaggle": "the Kaggle images of the paper",
}
"""What a model was trained on, by the name of the data group."""

MEASURES = {
    "touch": "Touches a lesion",
    "pointing": "Pointing game",
    "iou": "IoU",
    "lesion_share": "Heat in the lesion",
    "lung_share": "Heat in the lungs",
}
"""Display names of the localisation measures, in display order."""


def patients_words(patients: int | None, known: int | None, unknown: int | None) -> str:
    """How many patients some images are of, each image of an unknown patient having been counted as one.

    Args:
        patients: so counted.
        known: known patients of the data set.
        unknown: its images without a patient.

    Example:
        >>> patients_words(90, 110, 0), patients_words(90, 12, 80), patients_words(90, 0, 110)
        ('90 patients', 'at most 90 patients', 'unknown patients')
    """
    if unknown and not known:
        return "unknown patients"
    return f"{'at most ' if unknown else ''}{count(patients, 'patient')}"


def estimate_text(estimate: Measured | float | None) -> str:
    """A rate with its interval: 94.6% [93.4, 95.6].

    Example:
        >>> from covidnet.evaluation.results import Measured
        >>> estimate_text(Measured(0.946, (0.934, 0.956))), estimate_text(0.5), estimate_text(None)
        ('94.6% [93.4, 95.6]', '50.0%', '–')
    """
    return percent(*split(estimate))


def beside_paper(summary: SweepSummary) -> bool:
    """Whether to show the paper's numbers: for the paper's own data, or if the setting ``paper`` says so.

    They are of its three classes, so they are never shown beside those of others.
    """
    if summary.classes.names != DEFAULT_CLASSES.names:
        return False
    return summary.data.name == "kaggle" if summary.paper is None else summary.paper


def versus(classes: ClassList) -> str:
    """What the rates of a class are about, as the start of a caption.

    Example:
        >>> versus(DEFAULT_CLASSES), versus(ClassList(("COVID-19", "Rest")))
        ('Each class against the other two', 'COVID-19 (positive) against Rest')
    """
    if classes.binary:
        return f"{classes.positive} (positive) against {next(name for name in classes if name != classes.positive)}"
    return f"Each class against the other {'two' if len(classes) == 3 else len(classes) - 1}"


def mean_words(classes: ClassList) -> str:
    """What the column `covidnet.report.summary.ALL` holds; empty if there is none.

    Example:
        >>> mean_words(DEFAULT_CLASSES)
        ' All classes: the mean of the three'
    """
    number = "three" if len(classes) == 3 else len(classes)
    return "" if classes.binary else f" All classes: the mean of the {number}"


def rate_of(right: int, n: int) -> str:
    """A count with its rate, or without it if n is too small.

    Args:
        right: the count.
        n: out of how many.

    Example:
        >>> rate_of(90, 100), rate_of(6, 9)
        ('90 of 100 (90.0%)', '6 of 9 (too few for a rate)')
    """
    return f"{right:,} of {n:,} ({'too few for a rate' if _too_few(n) else percent(right / n)})"


def estimate_of(estimate: Measured | float | None, n: int | None, thing: str = "image") -> str:
    """A rate with its interval and its n, or the count if n is too small for a rate.

    Args:
        estimate: an estimate of a fraction, a plain fraction, or None.
        n: out of how many things; None if unknown.
        thing: what is counted, in the singular.

    Example:
        >>> from covidnet.evaluation.results import Measured
        >>> estimate_of(Measured(0.946, (0.934, 0.956)), 1560)
        '94.6% [93.4, 95.6] of 1,560 images'
        >>> estimate_of(Measured(2 / 3, (0.35, 0.88)), 9), estimate_of(None, 0)
        ('6 of 9 images (too few for a rate)', 'no images')
    """
    value, _ = split(estimate)
    if n == 0:
        return f"no {thing}s"
    if n is None or not _too_few(n) or value is None:
        return f"{estimate_text(estimate)} of {count(n, thing)}"
    return f"{round(value * n)} of {count(n, thing)} (too few for a rate)"


def class_words(name: str, numbers: ClassScores, others: int | None) -> str:
    """A sentence with the sensitivity and specificity of a class and their n; absent classes are reported as absent.

    Args:
        name: of the class.
        numbers: its scores.
        others: number of images of the other classes; None if unknown.

    Example:
        >>> from covidnet.evaluation.results import from_json
        >>> from covidnet.evaluation.scores import ClassScores
        >>> numbers = from_json(ClassScores, {"support": 0, "specificity": {"value": 0.98}})
        >>> class_words("Normal", numbers, 50).split("; ")
        ['There are no images of Normal, so its sensitivity is undefined', 'the specificity is 98.0% of 50 images']
    """
    support, sensitivity, specificity = numbers.support, numbers.sensitivity, numbers.specificity
    first = f"For {name} the sensitivity is {estimate_of(sensitivity, support)}"
    second = f"the specificity is {estimate_of(specificity, others)}"
    if others == 0:
        second = "there are no images of other classes, so the specificity is undefined"
    if support == 0:
        return f"There are no images of {name}, so its sensitivity is undefined; {second}"
    return f"{first}; {second}" if others == 0 else f"{first} and {second} of the other classes"


def _too_few(n: int) -> bool:
    # Imported here: a command that only prints its settings does not need pandas.
    from covidnet.evaluation.sparse import MIN_IMAGES

    return n < MIN_IMAGES


def points(difference: float | None) -> str:
    """A difference of two rates in percentage points.

    Args:
        difference: a fraction of 1, or None.

    Example:
        >>> points(0.0156), points(-0.01), points(None)
        ('1.6 points', '−1.0 points', '–')
    """
    if difference is None:
        return UNDEFINED
    return f"{100 * difference:.1f} points".replace("-", "\N{MINUS SIGN}")


def count(number: int | None, thing: str = "") -> str:
    """A count of things: 1,560 images.

    Args:
        number: the count, or None.
        thing: what is counted, in the singular; its plural has an s.

    Example:
        >>> count(1560, "image"), count(1, "image"), count(None, "image")
        ('1,560 images', '1 image', '– images')
    """
    if number is None:
        return f"{UNDEFINED} {thing}s" if thing else UNDEFINED
    return counted(number, thing) if thing else f"{number:,}"


def probability(p: float | None) -> str:
    """A p value with its significant digits.

    Args:
        p: 0..1, or None.

    Example:
        >>> probability(0.18241), probability(0.0312), probability(0.00006), probability(None)
        ('0.18', '0.031', '< 0.001', '–')
    """
    if p is None:
        return UNDEFINED
    if p < 0.001:
        return "< 0.001"
    return f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def model_name(summary: SweepSummary) -> str:
    """The display name of a sweep's network."""
    name = summary.model.get("name")
    return "unknown model" if name is None else MODELS.get(str(name), str(name))


def is_locked(summary: SweepSummary) -> bool:
    """Whether the unseen fold is locked: no model of the sweep was scored on it."""
    return summary.unseen is None and summary.unseen_use.setting == "locked"


def fold_of(part: str | None) -> str:
    """The fold that the images of heat maps belong to.

    Args:
        part: the split of the images; None, in explanations of older versions, means the unseen fold.

    Example:
        >>> fold_of("test"), fold_of(None)
        ('test fold', 'unseen fold')
    """
    return f"{part or 'unseen'} fold"


def sweep_name(summary: SweepSummary) -> str:
    """The name of a sweep."""
    return summary.name or "unnamed sweep"


def measure_names(measures: Iterable[str]) -> str:
    """Names of localisation measures for a sentence.

    Args:
        measures: keys of `MEASURES`; others are kept as they are.

    Example:
        >>> measure_names(["iou", "pointing"]), measure_names([])
        ('IoU, pointing game', 'any measure')
    """
    names = [MEASURES.get(measure, str(measure)) for measure in measures]
    # An abbreviation keeps its capital.
    return ", ".join(name if name == "IoU" else f"{name[:1].lower()}{name[1:]}" for name in names) or "any measure"
