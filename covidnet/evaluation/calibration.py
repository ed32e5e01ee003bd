"""Whether probabilities mean what they say: reliability, expected calibration error, Brier score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.base.classes import CLASSES
from covidnet.base.errors import SettingError
from covidnet.evaluation.bootstrap import cluster_codes
from covidnet.evaluation.intervals import proportion_interval
from covidnet.evaluation.predictions import PROBABILITIES
from covidnet.evaluation.results import Interval

BINS = 15
"""Bins of confidence, of equal width, as in Guo et al. 2017."""


@dataclass(frozen=True)
class Bin:
    """Predictions of about one confidence.

    Args:
        low: lower end of the confidence, not in the bin.
        high: upper end, in the bin.
        n: images.
        confidence: their mean; None in an empty bin.
        accuracy: fraction that is right; None in an empty bin.
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
        ece: of `expected_calibration_error`.
        brier: of `brier_score`.
        bins: of `reliability`.
    """

    ece: float | None
    brier: float | None
    bins: list[Bin]


def reliability(table: pd.DataFrame, bins: int = BINS) -> list[Bin]:
    """How often the predicted class is right, by the probability that it was given.

    Args:
        table: a checked predictions table.
        bins: bins of equal width over 0..1, each without its lower end and with its upper end.

    Raises:
        SettingError: bins is below 1.

    Source: Guo et al. 2017, On calibration of modern neural networks, https://proceedings.mlr.press/v70/guo17a.html
    """
    if bins < 1:
        raise SettingError("bins", bins, "an integer of at least 1")
    confidence, right = _confidence(table)
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


def expected_calibration_error(table: pd.DataFrame, bins: int = BINS) -> float | None:
    """The mean distance of confidence and accuracy over the bins of `reliability`, weighted by their images.

    Args:
        table: a checked predictions table.
        bins: as in `reliability`. Few images in many bins make it too large.

    Returns:
        0..1, 0 where the two agree in every bin; None for no images.

    Source: Naeini, Cooper and Hauskrecht 2015, https://doi.org/10.1609/aaai.v29i1.9602
    """
    if not len(table):
        return None
    apart = [
        one.n * abs(one.accuracy - one.confidence)
        for one in reliability(table, bins)
        if one.accuracy is not None and one.confidence is not None
    ]
    return float(sum(apart) / len(table))


def brier_score(table: pd.DataFrame) -> float | None:
    """The squared distance of the probabilities from the truth, summed over the classes, in the mean over the images.

    Args:
        table: a checked predictions table.

    Returns:
        0 (certain and right) to 2 (certain and wrong); 2/3 for one third each. None for no images.

    Source: Brier 1950, https://doi.org/10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2
    """
    return float(image_brier(table).mean()) if len(table) else None


def image_brier(table: pd.DataFrame) -> npt.NDArray[np.float64]:
    """The Brier score of each image, (n,), see `brier_score`.

    Args:
        table: a checked predictions table.
    """
    scores = table[list(PROBABILITIES)].to_numpy(np.float64)
    truth = np.array([CLASSES.index(label) for label in table["label"]], dtype=np.intp)
    return np.asarray(((scores - np.eye(len(CLASSES))[truth]) ** 2).sum(axis=1), np.float64)


def calibration(table: pd.DataFrame, bins: int = BINS) -> Calibration:
    """How well the probabilities of a predictions table are calibrated."""
    return Calibration(expected_calibration_error(table, bins), brier_score(table), reliability(table, bins))


def _confidence(table: pd.DataFrame) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    scores = table[list(PROBABILITIES)].to_numpy(np.float64)
    right = (table["label"] == table["prediction"]).to_numpy(bool)
    return scores.max(axis=1) if len(scores) else np.zeros(0), right
