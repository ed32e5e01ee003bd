"""Agreement between readers and a model: Cohen's kappa, and the sensitivity of each alone and of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import nan, sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from covidnet.evaluation.intervals import wilson

MODEL = "model"
"""The name of the model among the raters."""

_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Reading:
    """What one reader said about one image.

    Args:
        reader: the reader's name.
        image: what identifies the image.
        verdict: the reader's class.
        prediction: the model's class.
        label: the true class; None if it is unknown.
    """

    reader: str
    image: str
    verdict: str
    prediction: str
    label: str | None = None


def cohen_kappa(table: npt.ArrayLike) -> tuple[float, float, float]:
    """Cohen's kappa of two raters, with its 95% interval.

    Args:
        table: (k, k) counts; rows are the classes of the first rater, columns those of the second.

    Returns:
        (kappa, low, high); NaN where it is undefined: no image, or both raters named one and the same class throughout.
        The images count as independent.

    Reference:
        Fleiss, J. L., Cohen, J. and Everitt, B. S. (1969). Large sample standard errors of kappa and weighted kappa.
        Psychological Bulletin 72(5), 323-327. DOI 10.1037/h0028106

    Example:
        >>> [round(value, 3) for value in cohen_kappa([[20, 5], [10, 15]])]
        [0.4, 0.151, 0.649]
    """
    counts = np.asarray(table, np.float64)
    n = counts.sum()
    if not n:
        return nan, nan, nan
    share = counts / n
    rows, columns = share.sum(axis=1), share.sum(axis=0)
    chance = float(rows @ columns)
    if chance >= 1:
        return nan, nan, nan
    kappa = (float(np.trace(share)) - chance) / (1 - chance)
    same = float(np.diag(share) @ (1 - (rows + columns) * (1 - kappa)) ** 2)
    apart = share * (columns[:, None] + rows[None, :]) ** 2
    other = (1 - kappa) ** 2 * float(apart.sum() - np.trace(apart))
    variance = (same + other - (kappa - chance * (1 - kappa)) ** 2) / (n * (1 - chance) ** 2)
    half = _Z * sqrt(max(0.0, variance))
    return kappa, max(-1.0, kappa - half), min(1.0, kappa + half)


def agreements(readings: Sequence[Reading], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Each two raters on the images that both rated: every reader and the model.

    Args:
        readings: at most one of each reader and image.
        classes: in order.

    Returns:
        For each pair: ``first``, ``second``, ``images``, ``agreement`` (a share), ``kappa``, ``low`` and ``high``.
    """
    rated: dict[str, dict[str, str]] = {MODEL: {}}
    for reading in readings:
        rated.setdefault(reading.reader, {})[reading.image] = reading.verdict
        rated[MODEL][reading.image] = reading.prediction
    found = []
    for first, second in combinations([*sorted(set(rated) - {MODEL}), MODEL], 2):
        table = np.zeros((len(classes), len(classes)))
        for image in rated[first].keys() & rated[second].keys():
            table[classes.index(rated[first][image]), classes.index(rated[second][image])] += 1
        kappa, low, high = cohen_kappa(table)
        images = int(table.sum())
        share = float(np.trace(table) / images) if images else nan
        found.append(
            {"first": first, "second": second, "images": images, "agreement": share}
            | {"kappa": kappa, "low": low, "high": high}
        )
    return found


def reader_rates(readings: Sequence[Reading], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Sensitivity and specificity for each reader and class, of the reader, of the model, and of either of the two.

    "Either" says the class where the reader or the model says it.

    Args:
        readings: at most one of each reader and image; those without a label are left out.
        classes: in order.

    Returns:
        For each reader, class and rater (``reader``, ``model``, ``either``): ``positives`` and ``negatives`` (images),
        ``sensitivity`` and ``specificity``, each with ``_low`` and ``_high`` of Wilson's 95% interval; NaN without
        images. Images count as independent.
    """
    found = []
    for reader in sorted({reading.reader for reading in readings}):
        known = [reading for reading in readings if reading.reader == reader and reading.label is not None]
        for name in classes:
            truth = np.array([reading.label == name for reading in known], bool)
            by_reader = np.array([reading.verdict == name for reading in known], bool)
            by_model = np.array([reading.prediction == name for reading in known], bool)
            for rater, said in (("reader", by_reader), (MODEL, by_model), ("either", by_reader | by_model)):
                row: dict[str, Any] = {"reader": reader, "class": name, "rater": rater}
                row |= {"positives": int(truth.sum()), "negatives": int((~truth).sum())}
                found.append(row | _rate("sensitivity", said[truth]) | _rate("specificity", ~said[~truth]))
    return found


def _rate(name: str, hits: npt.NDArray[np.bool_]) -> dict[str, float]:
    low, high = wilson(int(hits.sum()), len(hits)) or (nan, nan)
    return {name: float(hits.mean()) if len(hits) else nan, f"{name}_low": low, f"{name}_high": high}
