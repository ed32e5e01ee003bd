"""Calibration of probabilities: reliability, expected calibration error, Brier score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.base.classes import DEFAULT_CLASSES, ClassList
from covidnet.base.errors import SettingError
from covidnet.evaluation.bootstrap import cluster_codes
from covidnet.evaluation.intervals import proportion_interval
from covidnet.evaluation.results import Interval

BINS = 15
"""The number of equal-width confidence bins, as in Guo et al. 2017."""


@dataclass(frozen=True)
class Bin:
    """Predictions whose confidence lies in one bin.

    Args:
        low: lower end, exclusive.
        high: upper end, inclusive.
        n: number of images.
        confidence: mean confidence; None in an empty bin.
        accuracy: fraction correct; None in an empty bin.
        ci: 95% interval of the accuracy, the patient as the unit, see `proportion_interval`.
    """

    low: float
    high: float
    n: int
    confidence: float | None
    accuracy: float | None
    ci: Interval | None


@dataclass(frozen=True)
class Calibration:
    """How well probabilities are calibrated.

    Args:
        ece: see `expected_calibration_error`.
        brier: see `brier_score`.
        bins: see `reliability`.
    """

    ece: float | None
    brier: float | None
    bins: list[Bin]


def reliability(table: pd.DataFrame, bins: int = BINS, classes: ClassList = DEFAULT_CLASSES) -> list[Bin]:
    """Accuracy by the probability of the predicted class.

    Args:
        table: a checked predictions table.
        bins: number of equal-width bins over 0..1, each excluding its lower and including its upper end.
        classes: of the study.

    Raises:
        SettingError: bins is below 1.

    Source: Guo et al. 2017, On calibration of modern neural networks, https://proceedings.mlr.press/v70/guo17a.html
    """
    if bins < 1:
        raise SettingError("bins", bins, "an integer of at least 1")
    confidence, right = _confidence(table, classes)
    codes = cluster_codes(table)
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    found = []
    for at in range(bins):
        inside = place == at
        n, hits = int(inside.sum()), int(right[inside].sum())
        found.append(
            Bin(
                low=float(edges[at]),
                high=float(edges[at + 1]),
                n=n,
                confidence=float(confidence[inside].mean()) if n else None,
                accuracy=hits / n if n else None,
                ci=proportion_interval(right[inside], codes[inside]),
            )
        )
    return found


def expected_calibration_error(
    table: pd.DataFrame, bins: int = BINS, classes: ClassList = DEFAULT_CLASSES
) -> float | None:
    """The mean absolute difference of confidence and accuracy over the bins of `reliability`, weighted by images.

    Args:
        table: a checked predictions table.
        bins: as in `reliability`. With few images per bin the estimate is biased upwards.
        classes: of the study.

    Returns:
        0..1; None without images.

    Source: Naeini, Cooper and Hauskrecht 2015, https://doi.org/10.1609/aaai.v29i1.9602
    """
    if not len(table):
        return None
    errors = [
        part.n * abs(part.accuracy - part.confidence)
        for part in reliability(table, bins, classes)
        if part.accuracy is not None and part.confidence is not None
    ]
    return float(sum(errors) / len(table))


def brier_score(table: pd.DataFrame, classes: ClassList = DEFAULT_CLASSES) -> float | None:
    """The squared error of the probabilities, summed over classes and averaged over images.

    Args:
        table: a checked predictions table.
        classes: of the study.

    Returns:
        0 (certain and right) to 2 (certain and wrong); 1 - 1/K for equal probabilities of K classes. None
        without images.

    Source: Brier 1950, https://doi.org/10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2
    """
    return float(image_brier(table, classes).mean()) if len(table) else None


def image_brier(table: pd.DataFrame, classes: ClassList = DEFAULT_CLASSES) -> npt.NDArray[np.float64]:
    """The Brier score of each image, (n,), see `brier_score`.

    Args:
        table: a checked predictions table.
        classes: of the study.
    """
    scores = table[list(classes.columns)].to_numpy(np.float64)
    truth = np.array([classes.index(label) for label in table["label"]], dtype=np.intp)
    return np.asarray(((scores - np.eye(len(classes))[truth]) ** 2).sum(axis=1), np.float64)


def calibration(table: pd.DataFrame, bins: int = BINS, classes: ClassList = DEFAULT_CLASSES) -> Calibration:
    """The `Calibration` of a predictions table."""
    return Calibration(
        expected_calibration_error(table, bins, classes), brier_score(table, classes), reliability(table, bins, classes)
    )


def _confidence(table: pd.DataFrame, classes: ClassList) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    scores = table[list(classes.columns)].to_numpy(np.float64)
    right = (table["label"] == table["prediction"]).to_numpy(bool)
    return scores.max(axis=1) if len(scores) else np.zeros(0), right
