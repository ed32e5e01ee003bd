"""Flags for images that are not upright frontal chest X-rays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from covidnet.gate.flags import Flag

_DARK = 40
_RING = 0.9
_EDGE = 3


def direction_flag(way: int) -> Flag:
    """The flag of an image that fits after turning or inverting it.

    Args:
        way: 1..7, an entry of `covidnet.gate.ranks.turned`: the quarter turns anticlockwise that set the image upright,
            plus 4 if it is also inverted.

    Example:
        >>> direction_flag(1).text
        'looks turned by 90 degrees; turn it a quarter anticlockwise'
    """
    turns, inverted = way % 4, way >= 4
    if not turns:
        return Flag("inverted", "looks inverted, a negative in which bone is dark; invert its grey", learned=True)
    looks = ("turned by 90 degrees", "upside down", "turned by 90 degrees")[turns - 1]
    remedy = ("turn it a quarter anticlockwise", "turn it by 180 degrees", "turn it a quarter clockwise")[turns - 1]
    if inverted:
        return Flag("inverted_and_rotated", f"looks {looks} and inverted; {remedy} and invert its grey", learned=True)
    return Flag(f"rotated_{90 * turns}", f"looks {looks}; {remedy}", learned=True)


LATERAL = Flag(
    "lateral", "looks like a lateral view, not a frontal one; use the frontal image (PA or AP)", learned=True
)
CT = Flag("ct", "looks like a CT slice, a body surrounded by black; give a frontal chest radiograph", learned=True)
NOT_FRONTAL = Flag("not_frontal", "does not look like a frontal chest image; give one, PA or AP", learned=True)


def has_black_border(thumbnail: npt.NDArray[np.uint8]) -> bool:
    """Whether an image is black along all edges but not in the middle, as CT slices are and few radiographs.

    Args:
        thumbnail: (64, 64).
    """
    edge = np.ones(thumbnail.shape, bool)
    edge[_EDGE:-_EDGE, _EDGE:-_EDGE] = False
    side = len(thumbnail) // 4
    return bool((thumbnail[edge] < _DARK).mean() > _RING and thumbnail[side:-side, side:-side].mean() > _DARK)
