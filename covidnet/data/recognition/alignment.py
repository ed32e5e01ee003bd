"""Similarity of two images at 64 x 64 pixels if one may be a crop of the other, computed by batched matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from covidnet.data.reading.thumbnails import SIDE, Pixels

Floats = npt.NDArray[Any]  # float32

LEAST = 44.0
"""The smallest window in pixels of the 64: just over two thirds of a side."""

WHOLE = 61.5
"""A window at least this long counts as the whole side: less than 4% of it is cut off."""

# Added to the local contrast, in grey levels, so that weaker contrast is not amplified.
_NOISE = 8.0

# Rounding alone gives a uniform image a length below this. It is not scaled up to 1; an image of two greys is longer.
_NOTHING = 0.01

# Lengths and step of the initial windows: any window down to 77% of a side is close to one of them.
_LENGTHS = (64.0, 57.0, 51.0)
_STEP = 3.2

# The most that one refinement step moves and scales a window, as shares of it.
_MOVE, _SCALE = 0.08, 0.1


@dataclass(frozen=True)
class Level:
    """Images at one size, with local mean and contrast removed, as brightness, contrast and gamma change these.

    Args:
        side: height and width in pixels.
        sigma: of the Gaussian that gives the local mean, in pixels.
    """

    side: int
    sigma: float

    def of(self, images: Floats, rows: Floats | None = None, columns: Floats | None = None) -> Floats:
        """Windows of images at this size.

        Args:
            images: (..., 64, 64).
            rows: (..., side, 64) from `window_matrices`; None for the whole height.
            columns: the same for the width.

        Returns:
            (..., side, side), each of mean 0 and length 1, so that a product of two is their correlation.
        """
        whole = _whole(self.side)
        left, right = whole if rows is None else rows, whole if columns is None else columns
        return self.normalised(left @ images @ np.swapaxes(right, -1, -2))

    def normalised(self, small: Floats) -> Floats:
        """Images of this size with local mean and contrast removed, scaled to mean 0 and length 1.

        Args:
            small: (..., side, side).
        """
        mean, spread = gaussian(self.side, self.sigma), gaussian(self.side, 1.5 * self.sigma)
        small = small - mean @ small @ mean.T
        small /= np.sqrt(np.maximum(spread @ (small * small) @ spread.T, 0.0)) + np.float32(_NOISE)
        small -= small.mean((-2, -1), keepdims=True)
        small /= np.maximum(np.sqrt((small * small).sum((-2, -1), keepdims=True)), np.float32(_NOTHING))
        return small


COARSE = Level(16, 1.0)
"""The level at which all windows of all images are compared."""

MIDDLE = Level(32, 1.5)

FINE = Level(64, 2.0)
"""The level at which the similarity is measured."""


def windows() -> npt.NDArray[np.float64]:
    """The initial windows.

    Returns:
        (W, 4) top, height, left, width in pixels of the 64; the first is the whole.
    """
    axis = _axis_windows()
    return np.array([(*rows, *columns) for rows in axis for columns in axis])


def coarse_windows(pixels: Pixels) -> Floats:
    """Every window of every image at the coarse level.

    Args:
        pixels: (N, 64, 64) uint8.

    Returns:
        (N, W, 256), in the order of `windows`.
    """
    axis, side = _axis_windows(), COARSE.side
    starts, lengths = np.array(axis).T
    rows = window_matrices(starts, lengths, side)
    mean, spread = gaussian(side, COARSE.sigma), gaussian(side, 1.5 * COARSE.sigma)
    plain, blurred = rows.reshape(-1, SIDE), (mean @ rows).reshape(-1, SIDE)
    found = np.empty((len(pixels), len(axis) ** 2, side * side), np.float32)
    for start in range(0, len(pixels), 32):
        some = pixels[start : start + 32].astype(np.float32)
        # Like Level.normalised, for all windows of an image at once.
        detail = plain @ some @ plain.T
        detail -= blurred @ some @ blurred.T
        shape = (len(some), len(axis), side, len(axis) * side)
        power = (spread @ (detail * detail).reshape(shape)).reshape(-1, side) @ spread.T
        cells = detail.reshape(len(some), len(axis), side, len(axis), side)
        cells /= np.sqrt(np.maximum(power, 0.0)).reshape(cells.shape) + np.float32(_NOISE)
        small = np.ascontiguousarray(cells.swapaxes(2, 3)).reshape(len(some), -1, side * side)
        small -= small.mean(-1, keepdims=True)
        small /= np.maximum(np.sqrt(np.einsum("bwp,bwp->bw", small, small)), np.float32(_NOTHING))[..., None]
        found[start : start + 32] = small
    return found


def refine(
    inner: Pixels, outer: Pixels, window: npt.NDArray[np.float64], levels: Sequence[tuple[Level, int]]
) -> tuple[Floats, npt.NDArray[np.float64]]:
    """Move and stretch windows of images until they match other images.

    Args:
        inner: (B, 64, 64) uint8.
        outer: (B, 64, 64) uint8; a window of each is compared with the whole of `inner`.
        window: (B, 4), the initial windows: top, height, left, width in pixels of the 64.
        levels: the levels, each with its number of steps.

    Returns:
        (B,) the correlation at the last level, and (B, 4) the windows.

    Source: Baker and Matthews 2004, Lucas-Kanade 20 years on, https://doi.org/10.1023/B:VISI.0000011205.11775.fd
    """
    images = outer.astype(np.float32)
    best = np.full(len(inner), -1.0, np.float32)
    for level, steps in levels:
        target = level.of(inner.astype(np.float32))
        slopes, inverse = _directions(target)
        best[:] = -np.inf
        found, at = window.copy(), window.copy()
        for step in range(steps + 1):
            rows, columns = (window_matrices(at[:, n], at[:, n + 1], level.side) for n in (0, 2))
            seen = level.of(images, rows, columns)
            score = np.einsum("bij,bij->b", target, seen)
            better = score > best
            best[better], found[better] = score[better], at[better]
            if step < steps:
                rest = (target - seen).reshape(len(at), slopes.shape[2], 1)
                at = _moved(at, (inverse @ (slopes @ rest))[..., 0], level.side)
        window = found
    return best, window


def window_matrices(start: npt.ArrayLike, length: npt.ArrayLike, side: int) -> Floats:
    """Matrices that resample a part of 64 pixels to fewer or as many pixels, each the mean of what it covers.

    Args:
        start: (B,) in pixels, 0..64.
        length: (B,) in pixels, so that the part ends within the 64.
        side: pixels of the result.

    Returns:
        (B, side, 64), to be multiplied with a column of pixels.

    Example:
        >>> window_matrices([0.0], [64.0], 2)[0, :, ::32].tolist()
        [[0.03125, 0.0], [0.0, 0.03125]]
    """
    starts, lengths = np.asarray(start, np.float32), np.asarray(length, np.float32)
    edges = starts[:, None] + lengths[:, None] * (np.arange(side + 1, dtype=np.float32) / np.float32(side))
    covered = np.clip(edges[:, :, None] - np.arange(SIDE, dtype=np.float32), np.float32(0.0), np.float32(1.0))
    return (covered[:, 1:] - covered[:, :-1]) * (side / lengths)[:, None, None]


def _moved(window: npt.NDArray[np.float64], change: npt.NDArray[np.floating], side: int) -> npt.NDArray[np.float64]:
    """Windows after a step, kept inside the image and no shorter than the minimum."""
    moved = np.empty_like(window)
    for n in (0, 2):
        start, length = window[:, n], window[:, n + 1]
        shift = np.clip(change[:, n], -_MOVE * side, _MOVE * side) * length / side
        length = np.clip(length * (1.0 + np.clip(change[:, n + 1], -_SCALE, _SCALE)), LEAST, SIDE)
        moved[:, n], moved[:, n + 1] = np.clip(start + shift, 0.0, SIDE - length), length
    return moved


def _directions(target: Floats) -> tuple[Floats, Floats]:
    """How an image changes if an axis is shifted or stretched.

    Returns:
        (B, 4, pixels) the slopes, and (B, 4, 4) matrices that turn their products with a difference into the
        least-squares solution.
    """
    place = np.arange(target.shape[-1], dtype=np.float32) + np.float32(0.5)
    down, across = np.gradient(target, axis=(1, 2))
    slopes = np.stack([down, down * place[:, None], across, across * place], 1).reshape(
        len(target), 4, target.shape[1] * target.shape[2]
    )
    square = (slopes @ slopes.swapaxes(1, 2)).astype(np.float64)
    # An image without structure has no direction to move in; its window stays where it is.
    square += 1e-6 * (np.trace(square, axis1=1, axis2=2)[:, None, None] + 1e-6) * np.eye(4)
    return slopes, np.linalg.inv(square).astype(np.float32)


@lru_cache
def _axis_windows() -> tuple[tuple[float, float], ...]:
    """Start and length of the windows of one axis."""
    found = []
    for length in _LENGTHS:
        slack = SIDE - length
        found += [(float(start), length) for start in np.linspace(0.0, slack, int(np.ceil(slack / _STEP)) + 1)]
    return tuple(found)


@lru_cache
def _whole(side: int) -> Floats:
    return window_matrices([0.0], [float(SIDE)], side)[0]


@lru_cache
def gaussian(side: int, sigma: float) -> Floats:
    """(side, side): a Gaussian blur of one axis, mirrored at the ends."""
    place = np.arange(side)
    weights = np.zeros((side, side))
    # The kernel is negligible beyond four sigmas, and no sigma here is longer than a side.
    for turn in (-1, 0, 1):
        for there in (place, -1 - place):
            weights += np.exp(-0.5 * ((place[:, None] - there - 2 * turn * side) / sigma) ** 2)
    # Denormal float32 values near 0 would make a product many times slower.
    weights[weights < 1e-6] = 0.0
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
