"""Limits that a small, known share of images exceeds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_TAIL = 0.1
_FEW = 100


def tail_limit(scores: npt.NDArray[np.floating], share: float) -> float:
    """The score that a given share of images exceeds, even if the share is less than one of these images.

    Excesses over the 90th percentile are assumed to be exponential, which needs only their mean. (Peaks over threshold:
    Coles 2001, https://doi.org/10.1007/978-1-4471-3675-0, chapter 4, with shape 0.) Few images say little about their
    tail, so for n images the share is divided by 1 + 100 / n. If more images than the share exceed that limit, for
    example because there are two kinds of image, the limit is the empirical quantile.

    Args:
        scores: (N,), of images that must pass.
        share: of images that may exceed the limit, below 0.1.

    Returns:
        The limit; infinite without scores.

    Example:
        >>> exponential = -np.log(np.arange(1, 10_000) / 10_000)  # P(score > x) = exp(-x)
        >>> round(tail_limit(exponential, 0.01), 1), round(float(-np.log(0.01)), 1)
        (4.6, 4.6)
    """
    if not len(scores):
        return float("inf")
    start = float(np.quantile(scores, 1 - _TAIL))
    excess = scores[scores > start] - start
    mean = float(excess.mean()) if len(excess) else 0.0
    limit = start + mean * float(np.log(_TAIL / share * (1 + _FEW / len(scores))))
    return max(limit, float(np.quantile(scores, 1 - share)))
