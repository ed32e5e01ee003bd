"""How coloured an image is: a radiograph with a tint or a few coloured marks hardly, a photograph strongly."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

MARKED = 16.0
"""How far, in grey levels of 255, a coloured pixel differs from the image's tint; JPEG artefacts stay below."""
STRONG = 96.0
"""From this strength, in grey levels of 255, a pixel counts as coloured even if the whole image has its hue."""


def colour_of(image: npt.NDArray[np.uint8]) -> float:
    """The share of an image that is coloured, apart from a tint that a scanner or display gives all of it.

    The tint is the mean hue. Pixels of that hue count only if it is strong.

    Args:
        image: (H, W, 3) RGB, 0..255; preferably small, such as 64 x 64, so that noise has averaged out.

    Returns:
        0..1; 0 for grey.

    Example:
        >>> ramp = np.arange(64, dtype=np.uint8).repeat(64).reshape(64, 64) * 3
        >>> sepia = np.stack([ramp, ramp * 0.9, ramp * 0.75], axis=2).astype(np.uint8)
        >>> colour_of(sepia), colour_of(np.stack([ramp, ramp.T, 255 - ramp], axis=2)) > 0.5
        (0.0, True)
    """
    red, green, blue = np.moveaxis(image.astype(np.float32), 2, 0)
    chroma = np.stack([red - green, blue - (red + green) / 2])
    mean = chroma.mean(axis=(1, 2))
    length = float(np.hypot(*mean))
    along = np.zeros_like(red) if length < 1e-6 else np.tensordot(mean / length, chroma, axes=1)
    whole = np.hypot(*chroma)
    # A component across the tint's hue, or opposite to it, is not tint.
    beside = np.sqrt(np.maximum(whole**2 - np.maximum(along, 0) ** 2, 0))
    return float(((beside > MARKED) | (whole > STRONG)).mean())
