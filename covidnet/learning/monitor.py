"""Whether lower or higher is better for a monitored metric. This is the only place that defines it."""

from __future__ import annotations

from typing import Literal

from covidnet.base.classes import DEFAULT_CLASSES, ClassList
from covidnet.base.errors import SettingError

_DIRECTIONS: dict[str, Literal["min", "max"]] = {
    "train/loss": "min",
    "train/accuracy": "max",
    "val/loss": "min",
    "val/accuracy": "max",
}
_RATES = ("sensitivity", "specificity", "f1")


def direction(
    monitor: str, name: str = "monitor", classes: ClassList | None = DEFAULT_CLASSES
) -> Literal["min", "max"]:
    """Whether lower or higher is better, for checkpoint, early stopping, plateau scheduler and search.

    Args:
        monitor: a metric that is logged during training, such as ``val/loss``.
        name: the setting that names it.
        classes: of the study; None if they are not known yet, so that any class is accepted.

    Raises:
        SettingError: no such metric is logged during training, so its direction is unknown.

    Example:
        >>> direction("val/loss"), direction("val/accuracy")
        ('min', 'max')
    """
    parts = monitor.split("/")
    if len(parts) == 3 and parts[0] == "val" and parts[2] in _RATES and (classes is None or parts[1] in classes):
        return "max"
    if monitor not in _DIRECTIONS:
        listed = "train/loss, train/accuracy, val/loss, val/accuracy, or val/CLASS/sensitivity, /specificity or /f1"
        named = "" if classes is None else f"CLASS is {', '.join(classes)}; "
        raise SettingError(name, monitor, listed, f"{named}nothing else is logged in training")
    return _DIRECTIONS[monitor]


def search_direction(monitor: str) -> str:
    """The direction in Optuna's terms, of any class.

    Example:
        >>> search_direction("val/accuracy")
        'maximize'
    """
    return {"min": "minimize", "max": "maximize"}[direction(monitor, classes=None)]
