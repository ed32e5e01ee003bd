"""Find images that are others turned by a few degrees: aligned by least squares, as `alignment` aligns windows."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from covidnet.data.reading.thumbnails import SIDE, Pixels
from covidnet.data.recognition.alignment import COARSE, FINE, MIDDLE, Floats

Ints = npt.NDArray[np.intp]

ANGLES = (-10.0, -7.5, -5.0, -2.5, 2.5, 5.0, 7.5, 10.0)
"""The angles from which an alignment starts, in degrees."""

# The share of a side that a square still shows after it was turned by 10 degrees, with its corners cut off.
_PART = 0.86

# The most that an alignment stretches or shears, and moves in pixels; more is not the same image.
_STRETCH, _SHIFT = 0.15, 9.0

# A pair whose best angle is below this at the coarse level is not aligned: of tilted copies one in a hundred is.
ROUGH = 0.65

SIMILARITY = 0.93
"""A tilted image counts as another from this correlation.

In 1,157 radiographs tilted copies have 0.97, two exposures of one patient up to 0.89, and different people up to 0.76.
"""

_STEPS = ((COARSE, 3), (MIDDLE, 4), (FINE, 4))


def straightened(images: Pixels) -> Floats:
    """The centre of each image, turned by each of `ANGLES`, at the coarse level.

    Args:
        images: (N, 64, 64).

    Returns:
        (N, angles, 256), each of mean 0 and length 1.
    """
    turned = np.stack([[_turned(image, angle) for angle in ANGLES] for image in images]).astype(np.float32)
    return COARSE.of(turned).reshape(len(images), len(ANGLES), -1)


def centres(images: Pixels) -> Floats:
    """The centre of each image at the coarse level.

    Args:
        images: (N, 64, 64).

    Returns:
        (N, 256), each of mean 0 and length 1.
    """
    return COARSE.of(np.stack([_turned(image, 0.0) for image in images]).astype(np.float32)).reshape(len(images), -1)


def similarity(inner: Pixels, outer: Pixels, angle: float) -> tuple[float, float]:
    """How alike two images are if one is the other turned by a few degrees.

    Args:
        inner: (64, 64).
        outer: (64, 64).
        angle: about how far `inner` has to be turned to be straight, in degrees.

    Returns:
        The correlation at the fine level, -1 if the alignment is not that of a turned image; and the angle.

    Source: Baker and Matthews 2004, Lucas-Kanade 20 years on, https://doi.org/10.1023/B:VISI.0000011205.11775.fd
    """
    target, wide = _turned(inner, angle).astype(np.float32), outer.astype(np.float32)
    warp = np.array([[_PART, 0.0, 0.0], [0.0, _PART, 0.0]])
    best, found = -1.0, warp
    for level, steps in _STEPS:
        aim = level.of(target[None])[0]
        slopes, inverse = _directions(aim)
        best, at = -np.inf, found
        for step in range(steps + 1):
            seen = level.of(_warped(wide, at)[None])[0]
            score = float((aim * seen).sum())
            if score > best:
                best, found = score, at
            if step < steps:
                change = (inverse @ (slopes @ (aim - seen).ravel())).reshape(2, 3)
                change[:, 2] = np.clip(change[:, 2], -0.1, 0.1)
                change[:, :2] = np.clip(change[:, :2], -0.06, 0.06)
                at = at + at[:, :2] @ change
    rest = found[:, :2] / _PART
    moved = np.abs(found[:, 2]).max() * SIDE / 2
    turn = np.degrees(np.arctan2(rest[1, 0] - rest[0, 1], rest[0, 0] + rest[1, 1]))
    fits = np.abs(rest - np.eye(2)).max() <= _STRETCH and moved <= _SHIFT
    return (best if fits else -1.0), float(angle - turn)


def _turned(image: Pixels, angle: float) -> Pixels:
    """The centre of an image after it was turned, at its full size."""
    middle = (SIDE - 1) / 2
    matrix = cv2.getRotationMatrix2D((middle, middle), angle, 1 / _PART)
    return np.asarray(
        cv2.warpAffine(image, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    )


def _warped(image: Floats, warp: npt.NDArray[np.float64]) -> Floats:
    """An image sampled at places that an affine map names, in half sides from the centre, x before y."""
    middle = (SIDE - 1) / 2
    shift = warp[:, 2] * SIDE / 2 + middle - warp[:, :2] @ [middle, middle]
    matrix = np.column_stack([warp[:, :2], shift])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(image, matrix, (SIDE, SIDE), flags=flags, borderMode=cv2.BORDER_REPLICATE))


def _directions(target: Floats) -> tuple[Floats, npt.NDArray[np.float64]]:
    """How an image changes with each of the six numbers of an affine map, and the inverse of their products."""
    side = target.shape[0]
    down, across = np.gradient(target)
    x, y = _places(side)
    # A slope is per pixel; the map counts in half sides.
    slopes = np.stack([axis * part * (side / 2) for axis in (across, down) for part in (x, y, np.ones_like(x))])
    slopes = slopes.reshape(6, -1).astype(np.float64)
    square = slopes @ slopes.T
    square += 1e-6 * (np.trace(square) + 1e-6) * np.eye(6)
    return slopes.astype(np.float32), np.linalg.inv(square)


@lru_cache
def _places(side: int) -> tuple[Floats, Floats]:
    place = ((np.arange(side) + 0.5) / side * 2 - 1).astype(np.float32)
    x, y = np.meshgrid(place, place)
    return x, y
