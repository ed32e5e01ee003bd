"""Temperature scaling: one number, fitted on validation images, that calibrates probabilities."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.base.classes import DEFAULT_CLASSES, ClassList
from covidnet.base.errors import SettingError

BOUNDS = (0.05, 100.0)
"""The range of temperatures: beyond it probabilities are 0 and 1, or all the same."""

# About the smallest normal float32: a probability of 0 in predictions.csv may have been this large.
_LEAST = 1.2e-38


def tempered(probabilities: npt.ArrayLike, temperature: float) -> npt.NDArray[np.float64]:
    """Probabilities after dividing the logits by a temperature.

    The logits need not be known: the log-probabilities differ from them by a constant. The order of the classes, and so
    the prediction, does not change.

    Args:
        probabilities: (..., classes), each row summing to 1.
        temperature: T > 0; above 1 brings the probabilities closer together, below 1 moves them apart.

    Returns:
        float64 of the same shape, each row summing to 1.

    Raises:
        SettingError: the temperature is not above 0.

    Example:
        >>> tempered([[0.8, 0.2]], 1.0).round(6).tolist(), tempered([[0.8, 0.2]], 2.0).round(3).tolist()
        ([[0.8, 0.2]], [[0.667, 0.333]])
    """
    if not (math.isfinite(temperature) and temperature > 0.0):
        raise SettingError("temperature", temperature, "a number above 0")
    logs = np.log(np.clip(np.asarray(probabilities, np.float64), _LEAST, None)) / temperature
    scores = np.exp(logs - logs.max(axis=-1, keepdims=True))
    return np.asarray(scores / scores.sum(axis=-1, keepdims=True), np.float64)


def fit_temperature(table: pd.DataFrame, classes: ClassList = DEFAULT_CLASSES) -> float | None:
    """The temperature that minimises the cross-entropy of a table.

    If all n images are correct that would be 0, with every probability 1, which n images cannot support. So the mean
    confidence is limited to (n + 1) / (n + 2), Laplace's rule of succession.

    Args:
        table: a checked predictions table of images that the model was not trained on.
        classes: of the study.

    Returns:
        T within `BOUNDS`; None without images.

    Source: Guo et al. 2017, On calibration of modern neural networks, https://proceedings.mlr.press/v70/guo17a.html.
    The bound on the confidence is ours.
    """
    if not len(table):
        return None
    from scipy.optimize import brentq, minimize_scalar

    scores = table[list(classes.columns)].to_numpy(np.float64)
    truth = np.array([classes.index(label) for label in table["label"]])
    rows = np.arange(len(truth))

    def loss(log_temperature: float) -> float:
        likely = tempered(scores, math.exp(log_temperature))[rows, truth]
        return float(-np.log(np.clip(likely, _LEAST, None)).mean())

    def excess(log_temperature: float) -> float:
        confidence = tempered(scores, math.exp(log_temperature)).max(axis=1).mean()
        return float(confidence - (len(rows) + 1) / (len(rows) + 2))

    low, high = (math.log(bound) for bound in BOUNDS)
    # The loss is convex in 1/T, so it has a single minimum.
    found = float(minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6}).x)
    if excess(found) > 0.0:
        found = float(brentq(excess, found, high)) if excess(high) < 0.0 else high
    return math.exp(found)
