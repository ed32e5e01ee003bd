"""Converts grey levels of any depth to 8 bits, and limits the size of images."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from covidnet.base.errors import ImageRefusedError
from covidnet.data.reading.containers import SAVE

_DEPTHS = (8, 10, 12, 14, 16)


class Limits(NamedTuple):
    """The allowed sizes of an image, checked against its header before it is decoded."""

    path: str | Path
    max_megapixels: float
    min_side: int

    def check(self, width: int, height: int) -> None:
        """Refuse an image of a size outside the limits.

        Raises:
            ImageRefusedError: naming the size and the limit.
        """
        if min(width, height) < self.min_side:
            cause = f"too small: {width} x {height} pixels, each side needs {self.min_side}"
            raise ImageRefusedError(self.path, cause, "use the image at its original size")
        if width * height > self.max_megapixels * 1e6:
            size = f"{width} x {height} = {width * height / 1e6:.0f} megapixels"
            cause = f"too large: {size}, the limit is {self.max_megapixels:g}"
            raise ImageRefusedError(self.path, cause, "make it smaller, or raise data.max_megapixels")


def to_eight_bits(values: np.ndarray, path: str | Path, declared: int | None = None) -> np.ndarray:
    """Scale values by their depth in bits, so that the range of that depth becomes 0..255.

    Args:
        values: integers or floats. Integers below 0 mean the signed range of the depth. Floats must not be below 0;
            those within 0..1 are fractions.
        path: the file that errors name.
        declared: the depth in bits that the file declares; ignored if the values exceed it.

    Returns:
        uint8 of the same shape.

    Raises:
        ImageRefusedError: values that fit no depth, or are not finite; it names their range.

    Example:
        >>> to_eight_bits(np.array([0, 2048, 4095]), "image.png").tolist()
        [0, 128, 255]
    """
    if values.dtype == np.uint8 and declared in (None, 8):
        return values
    low, high = values.min(), values.max()
    real = values.dtype.kind == "f"
    if real and not (np.isfinite(low) and np.isfinite(high)):
        raise ImageRefusedError(path, f"float values from {low} to {high}, not all finite", SAVE)
    if real and low >= 0 and high <= 1:
        return np.round(values * 255.0).astype(np.uint8)
    for depth in (declared or _DEPTHS[0], *_DEPTHS):
        floor, top = (0 if low >= 0 else -(1 << (depth - 1))), (1 << depth) - 1
        if low >= floor and high <= floor + top and not (real and low < 0):
            break
    else:
        raise ImageRefusedError(path, f"values from {low:g} to {high:g} fit no depth of 8 to 16 bits", SAVE)
    if real:
        return np.round(values * (255.0 / top)).astype(np.uint8)
    # A table is faster than arithmetic on every pixel.
    table = np.round(np.arange(top + 1) * (255.0 / top)).astype(np.uint8)
    return through(table, values, floor)


def through(table: np.ndarray, values: np.ndarray, floor: int) -> np.ndarray:
    """``table[values - floor]``, computed in parts, since numpy needs 8 bytes for each index.

    Args:
        table: the result for each value.
        values: integers of any shape.
        floor: the value of the table's first entry.

    Example:
        >>> through(np.array([9, 8, 7]), np.array([[5, 6], [7, 5]]), 5).tolist()
        [[9, 8], [7, 9]]
    """
    found = np.empty(values.shape, table.dtype)
    step = max(1, 2**18 * len(values) // max(1, values.size))
    for start in range(0, len(values), step):
        found[start : start + step] = table[values[start : start + step].astype(np.int32) - floor]
    return found
