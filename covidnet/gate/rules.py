"""Rules that need no training images: properties that no usable radiograph has."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from covidnet.data.reading.images import Radiograph
from covidnet.gate.exposure import EXPOSE
from covidnet.gate.flags import Flag

MIN_SIDE = 64
"""Pixels. The reader refuses small images too, see `data.min_side`."""
MAX_COLOUR = 0.10
"""The share of an image that may be coloured, as marks and stamps are; see `covidnet.data.reading.colour`."""
MAX_SHAPE = 2.5
"""The largest ratio of long to short side. Chest images stay below 2.3; whole-spine images are longer."""
EQUAL = 8
"""Grey levels that count as one."""
MAX_EQUAL = 0.45
"""The share of an image that may have one grey other than black; paper and empty diagrams have more."""
MAX_BLACK = 0.85
"""The share of an image that may be black."""
MIN_SMOOTH = 0.6
"""The lowest correlation of neighbouring pixels; the lowest of 1,157 public images of 320 pixels is 0.91."""

GIVE = "give a frontal chest radiograph"

_ROWS = 256
_FLAT = 60
_SMOOTH_IMAGE = 0.9
_LEVELS = 40


def rule_flags(image: Radiograph, max_shape: float = MAX_SHAPE) -> list[Flag]:
    """The faults of an image in its header, colour and pixels, without its exposure.

    Args:
        image: as read.
        max_shape: the largest ratio of long to short side.
    """
    height, width = image.pixels.shape
    flags = []
    if min(height, width) < MIN_SIDE:
        flags.append(Flag("small", f"too small: {width} x {height} pixels; use the image at its original size"))
    if image.view == "L":
        flags.append(Flag("lateral", "a lateral view by its DICOM header; use the frontal image (PA or AP)"))
    if image.colour > MAX_COLOUR:
        text = f"not a radiograph: {image.colour:.0%} of it is coloured; use the grey image"
        flags.append(Flag("colour", text))
    if (shape := max(height, width) / min(height, width)) > max_shape:
        text = f"not a chest image by its shape: {width} x {height} pixels, one side {shape:.1f} times the other"
        flags.append(Flag("shape", f"{text}; crop it to the chest"))
    if flag := _pixel_flag(image.pixels):
        flags.append(flag)
    return flags


def _pixel_flag(pixels: npt.NDArray[np.uint8]) -> Flag | None:
    # Sample whole rows: neighbouring pixels stay neighbours, and a large image costs no more than a small one.
    rows = pixels[:: max(1, len(pixels) // _ROWS)]
    values = rows.astype(np.float32)
    values -= values.mean()
    smooth = float((values[:, 1:] * values[:, :-1]).mean() / max(float((values**2).mean()), 1e-6))
    share = np.bincount(rows.ravel(), minlength=256) / rows.size
    grown = share.cumsum()
    # An image without contrast is nearly uniform too, but that is a fault of its exposure.
    if np.searchsorted(grown, 0.99) - np.searchsorted(grown, 0.01) >= _FLAT and (flag := _one_grey(share, smooth)):
        return flag
    if smooth < MIN_SMOOTH:
        text = f"not a radiograph: neighbouring pixels hardly correlate ({smooth:.2f}), as in noise"
        return Flag("noise", f"{text}; {GIVE}")
    return None


def _one_grey(share: npt.NDArray[np.float64], smooth: float) -> Flag | None:
    """The flag if too much of an image is black, white or another single grey; share: (256,) of each level."""
    equal = np.convolve(share, np.ones(EQUAL), "valid")
    most, black = int(equal[EQUAL:].argmax()) + EQUAL, float(equal[0])
    if black <= MAX_BLACK and equal[most] <= MAX_EQUAL:
        return None
    # The rest of a badly exposed image has smooth greys; ink has few greys and hard edges.
    image = smooth > _SMOOTH_IMAGE and int((share > 1e-4).sum()) > _LEVELS
    if black > MAX_BLACK:
        if image:
            return Flag("dark", f"too dark: {black:.0%} of it is black; {EXPOSE}")
        return Flag("page", f"not a radiograph: {black:.0%} of it is black, as in a page or a drawing; {GIVE}")
    if image and most + EQUAL > 255:
        return Flag("bright", f"too bright: {equal[most]:.0%} of it is white; {EXPOSE}")
    return Flag("page", f"not a radiograph: {equal[most]:.0%} of it has one grey, as in a page or a drawing; {GIVE}")
