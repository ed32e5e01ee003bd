"""Rules that need no training images: what no radiograph looks like, whatever it shows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from covidnet.data.reading.images import Radiograph
from covidnet.gate.exposure import EXPOSE
from covidnet.gate.flags import Flag

MIN_SIDE = 64
"""Pixels; images are refused by their reader too, see `data.min_side`."""
MAX_COLOUR = 0.10
"""Share of a picture that may be coloured: marks and stamps are; see `covidnet.data.reading.colour`."""
MAX_SHAPE = 2.5
"""Times that an image may be as long as it is wide. Real images stay below 2.3, whole-spine images are not chests."""
EQUAL = 8
"""Levels of grey that count as one."""
MAX_EQUAL = 0.45
"""Share of an image that may have one grey that is not black: paper and empty diagrams have more."""
MAX_BLACK = 0.85
"""Share of an image that may be black."""
MIN_SMOOTH = 0.6
"""Least correlation of neighbouring pixels; 0.91 is the least of 1,157 public images of 320 pixels."""

GIVE = "give a frontal chest radiograph"

_ROWS = 256
_FLAT = 60
_SMOOTH_IMAGE = 0.9
_LEVELS = 40


def rule_flags(image: Radiograph, max_shape: float = MAX_SHAPE) -> list[Flag]:
    """What is wrong with an image by its header, its colour and its pixels, exposure apart.

    Args:
        image: as read.
        max_shape: times that it may be as long as it is wide.
    """
    height, width = image.pixels.shape
    flags = []
    if min(height, width) < MIN_SIDE:
        flags.append(Flag("small", f"too small: {width} x {height} pixels; use the image at its original size"))
    if image.view == "L":
        flags.append(Flag("lateral", "a lateral view by its DICOM header; use the frontal image (PA or AP)"))
    if image.colour > MAX_COLOUR:
        text = f"not a radiograph: a picture in colour, {image.colour:.0%} of it is coloured; use the grey image"
        flags.append(Flag("colour", text))
    if (shape := max(height, width) / min(height, width)) > max_shape:
        text = f"not a chest image by its shape: {width} x {height} pixels, one side {shape:.1f} times the other"
        flags.append(Flag("shape", f"{text}; cut it to the chest"))
    if flag := _pixel_flag(image.pixels):
        flags.append(flag)
    return flags


def _pixel_flag(pixels: npt.NDArray[np.uint8]) -> Flag | None:
    # Whole rows from all over the image: neighbours stay neighbours, and a large image costs no more than a small one.
    rows = pixels[:: max(1, len(pixels) // _ROWS)]
    values = rows.astype(np.float32)
    values -= values.mean()
    smooth = float((values[:, 1:] * values[:, :-1]).mean() / max(float((values**2).mean()), 1e-6))
    share = np.bincount(rows.ravel(), minlength=256) / rows.size
    grown = share.cumsum()
    # Without contrast everything has one grey, and that is another fault.
    if np.searchsorted(grown, 0.99) - np.searchsorted(grown, 0.01) >= _FLAT and (flag := _one_grey(share, smooth)):
        return flag
    if smooth < MIN_SMOOTH:
        text = f"not a radiograph: neighbouring pixels hardly agree (correlation {smooth:.2f}), as in noise"
        return Flag("noise", f"{text}; {GIVE}")
    return None


def _one_grey(share: npt.NDArray[np.float64], smooth: float) -> Flag | None:
    """Whether too much of a picture is black, white or of another grey; share: (256,) of each level."""
    equal = np.convolve(share, np.ones(EQUAL), "valid")
    most, black = int(equal[EQUAL:].argmax()) + EQUAL, float(equal[0])
    if black <= MAX_BLACK and equal[most] <= MAX_EQUAL:
        return None
    # A badly exposed image has smooth greys in what is left of it; ink has few greys and hard edges.
    image = smooth > _SMOOTH_IMAGE and int((share > 1e-4).sum()) > _LEVELS
    if black > MAX_BLACK:
        if image:
            return Flag("dark", f"too dark: {black:.0%} of it are black; {EXPOSE}")
        return Flag("page", f"no image to be seen: {black:.0%} of it are black, as of a page or a drawing; {GIVE}")
    if image and most + EQUAL > 255:
        return Flag("bright", f"too bright: {equal[most]:.0%} of it are white; {EXPOSE}")
    return Flag(
        "page", f"no image to be seen: {equal[most]:.0%} of it have one grey, as of a page or a drawing; {GIVE}"
    )
