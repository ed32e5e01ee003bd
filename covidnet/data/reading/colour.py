"""How coloured a picture is: an image with a tint or a few coloured marks is little coloured, a photograph is much."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

MARKED = 16.0
"""Levels of 255 by which a pixel has to leave the picture's own tint to count as coloured; JPEG alone stays below."""
STRONG = 96.0
"""Levels of 255 from which on a pixel counts as coloured though the whole picture has that hue."""


def colour_of(picture: npt.NDArray[np.uint8]) -> float:
    """The share of a picture that is coloured, beyond the one tint that a scanner or a display gives to all of it.

    The tint is the mean hue. What has the same hue counts only where it is strong.

    Args:
        picture: (H, W, 3) RGB, 0..255; best a small one, such as 64 x 64, in which noise has averaged out.

    Returns:
        0..1; 0 for grey.

    Example:
        >>> ramp = np.arange(64, dtype=np.uint8).repeat(64).reshape(64, 64) * 3
        >>> sepia = np.stack([ramp, ramp * 0.9, ramp * 0.75], axis=2).astype(np.uint8)
        >>> colour_of(sepia), colour_of(np.stack([ramp, ramp.T, 255 - ramp], axis=2)) > 0.5
        (0.0, True)
    """
    red, green, blue = np.moveaxis(picture.astype(np.float32), 2, 0)
    chroma = np.stack([red - green, blue - (red + green) / 2])
    mean = chroma.mean(axis=(1, 2))
    length = float(np.hypot(*mean))
    along = np.zeros_like(red) if length < 1e-6 else np.tensordot(mean / length, chroma, axes=1)
    whole = np.hypot(*chroma)
    # What lies across the tint's hue, or against it, is no tint.
    beside = np.sqrt(np.maximum(whole**2 - np.maximum(along, 0) ** 2, 0))
    return float(((beside > MARKED) | (whole > STRONG)).mean())
