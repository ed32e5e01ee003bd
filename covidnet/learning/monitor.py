"""Whether lower or higher is better for a monitored metric. This is the only place that defines it."""

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
    """Whether lower or higher is better, for checkpoint, early stopping, plateau scheduler and search.

    Args:
        monitor: a metric that is logged during training, such as ``val/loss``.
        name: the setting that names it.

    Raises:
        SettingError: no such metric is logged during training, so its direction is unknown.

    Example:
        >>> direction("val/loss"), direction("val/accuracy")
        ('min', 'max')
    """
    if monitor not in _DIRECTIONS:
        listed = "train/loss, train/accuracy, val/loss, val/accuracy, or val/CLASS/sensitivity, /specificity or /f1"
        raise SettingError(name, monitor, listed, f"CLASS is {', '.join(CLASSES)}; nothing else is logged in training")
    return _DIRECTIONS[monitor]


def search_direction(monitor: str) -> str:
    """The direction in Optuna's terms.

    Example:
        >>> search_direction("val/accuracy")
        'maximize'
    """
    return {"min": "minimize", "max": "maximize"}[direction(monitor)]
