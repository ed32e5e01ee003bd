"""Whether a monitored metric is better when it is lower or higher: the one place that says so."""

from __future__ import annotations

from typing import Literal

from covidnet.base.classes import CLASSES
from covidnet.base.errors import SettingError

_DIRECTIONS: dict[str, Literal["min", "max"]] = {
    "train/loss": "min",
    "train/accuracy": "max",
    "val/loss": "min",
    "val/accuracy": "max",
    **{f"val/{label}/{name}": "max" for label in CLASSES for name in ("sensitivity", "specificity", "f1")},
}


def direction(monitor: str, name: str = "monitor") -> Literal["min", "max"]:
    """Which end of a metric is the better one, for checkpoint, early stopping, plateau scheduler and search.

    Args:
        monitor: a metric that is logged while a run trains, such as ``val/loss``.
        name: the setting that names it.

    Raises:
        SettingError: no such metric is logged during training, so that its direction is not known.

    Example:
        >>> direction("val/loss"), direction("val/accuracy")
        ('min', 'max')
    """
    if monitor not in _DIRECTIONS:
        listed = "train/loss, train/accuracy, val/loss, val/accuracy, or val/CLASS/sensitivity, /specificity or /f1"
        raise SettingError(name, monitor, listed, f"CLASS is {', '.join(CLASSES)}; nothing else is logged in training")
    return _DIRECTIONS[monitor]


def search_direction(monitor: str) -> str:
    """The direction in Optuna's words.

    Example:
        >>> search_direction("val/accuracy")
        'maximize'
    """
    return {"min": "minimize", "max": "maximize"}[direction(monitor)]
