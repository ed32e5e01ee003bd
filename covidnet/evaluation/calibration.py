"""Whether probabilities mean what they say: reliability, expected calibration error, Brier score."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.base.classes import CLASSES
from covidnet.base.errors import SettingError
from covidnet.evaluation.bootstrap import cluster_codes
from covidnet.evaluation.intervals import proportion_interval
from covidnet.evaluation.predictions import PROBABILITIES

BINS = 15
"""Bins of confidence, of equal width, as in Guo et al. 2017."""


def reliability(table: pd.DataFrame, bins: int = BINS) -> list[dict[str, Any]]:
    """How often the predicted class is right, by the probability that it was given.

    Args:
        table: a checked predictions table.
        bins: bins of equal width over 0..1, each without its lower end and with its upper end.

    Returns:
        For each bin ``low``, ``high``, ``n``, and ``confidence`` (mean), ``accuracy`` and ``ci`` (95%, the patient as
        the unit, see `proportion_interval`), None in an empty bin.

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
        ends = proportion_interval(right[inside], codes[inside])
        found.append(
            {
                "low": float(edges[at]),
                "high": float(edges[at + 1]),
                "n": n,
                "confidence": float(confidence[inside].mean()) if n else None,
                "accuracy": hits / n if n else None,
                "ci": None if ends is None else list(ends),
            }
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
    parts = [one for one in reliability(table, bins) if one["n"]]
    return float(sum(one["n"] * abs(one["accuracy"] - one["confidence"]) for one in parts) / len(table))


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


def calibration(table: pd.DataFrame, bins: int = BINS) -> dict[str, Any]:
    """``ece``, ``brier`` and the ``bins`` of a predictions table."""
    return {
        "ece": expected_calibration_error(table, bins),
        "brier": brier_score(table),
        "bins": reliability(table, bins),
    }


def _confidence(table: pd.DataFrame) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    scores = table[list(PROBABILITIES)].to_numpy(np.float64)
    right = (table["label"] == table["prediction"]).to_numpy(bool)
    return scores.max(axis=1) if len(scores) else np.zeros(0), right
