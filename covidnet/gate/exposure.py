"""Detect images that are too dark, too bright or without contrast. Thumbnails are used for this and for the limits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from covidnet.data.reading.thumbnails import SIDE
from covidnet.gate.flags import Flag
from covidnet.gate.limits import tail_limit

EXPOSE = "export it again with its window, or use another image"


class Exposure(NamedTuple):
    """How bright an image is, in grey of 0..255.

    Args:
        mean: mean grey.
        low: 5th percentile.
        high: 95th percentile.
        middle: interquartile range.
    """

    mean: float
    low: float
    high: float
    middle: float

    @classmethod
    def of(cls, thumbnail: npt.NDArray[np.uint8]) -> Exposure:
        """Of one thumbnail (64, 64)."""
        return cls(*(float(value) for value in exposures(thumbnail[None])[0]))


class ExposureLimits(NamedTuple):
    """The limits beyond which an image's exposure is refused.

    Args:
        dark: lowest mean.
        dark_high: lowest `Exposure.high`.
        bright: highest mean.
        bright_low: highest `Exposure.low`.
        contrast: smallest difference of high and low.
        middle: smallest `Exposure.middle`.
    """

    dark: float = 45.0
    dark_high: float = 80.0
    bright: float = 220.0
    bright_low: float = 185.0
    contrast: float = 24.0
    middle: float = 24.0

    @classmethod
    def of(cls, seen: npt.NDArray[np.float64], share: float) -> ExposureLimits:
        """Set limits from known images, with a margin of five grey levels on brightness.

        Images of one source have similar exposure, but other exposures are not wrong. So there are innermost limits:
        what lies between them is never refused.

        Args:
            seen: (N, 4), from `exposures`.
            share: of images that may lie beyond each limit, before the margin is added.
        """
        mean, low, high, middle = seen.T
        fixed, room = cls(), 5.0
        return cls(
            min(65.0, -tail_limit(-mean, share) - room),
            min(110.0, -tail_limit(-high, share) - room),
            max(195.0, tail_limit(mean, share) + room),
            max(150.0, tail_limit(low, share) + room),
            min(fixed.contrast, -tail_limit(low - high, share)),
            min(fixed.middle, -tail_limit(-middle, share)),
        )


def exposures(thumbnails: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """The `Exposure` of each thumbnail: (N, 64, 64) to (N, 4)."""
    flat = thumbnails.reshape(len(thumbnails), SIDE**2)
    found = [_levels(flat[start : start + _CHUNK]) for start in range(0, len(flat), _CHUNK)]
    low, first, third, high = np.concatenate([np.zeros((0, len(_AT))), *found]).T
    return np.stack([flat.mean(axis=1), low, high, third - first], axis=1)


_AT = np.array([0.05, 0.25, 0.75, 0.95])
_CHUNK = 256


def _levels(flat: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """The grey levels at the quantiles `_AT`. Counting is many times faster than sorting."""
    counts = np.bincount((np.arange(len(flat))[:, None] * 256 + flat).ravel(), minlength=256 * len(flat))
    grown = counts.reshape(-1, 256).cumsum(axis=1)
    return np.stack([(grown >= at * flat.shape[1]).argmax(axis=1) for at in _AT], axis=1).astype(np.float64)


def exposure_flag(exposure: Exposure, limits: ExposureLimits) -> Flag | None:
    """What is wrong with an image's exposure, or None."""
    mean, low, high, middle = exposure
    if high - low < limits.contrast:
        text = f"hardly any contrast: 90% of it is within {high - low:.0f} of 255 grey levels"
        return Flag("flat", f"{text}; {EXPOSE}")
    if mean < limits.dark or high < limits.dark_high:
        return Flag("dark", f"too dark: mean grey {mean:.0f} of 255, all but 5% below {high:.0f}; {EXPOSE}")
    if mean > limits.bright or low > limits.bright_low:
        return Flag("bright", f"too bright: mean grey {mean:.0f} of 255, all but 5% above {low:.0f}; {EXPOSE}")
    if middle < limits.middle:
        # The image is nearly uniform, so its grey gives the cause.
        code = "bright" if mean > 190 else "dark" if mean < 60 else "flat"
        cause = {"bright": "too bright", "dark": "too dark", "flat": "hardly any contrast"}[code]
        return Flag(code, f"{cause}: half of it is within {middle:.0f} of 255 grey levels; {EXPOSE}")
    return None
