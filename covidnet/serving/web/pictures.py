"""The image and its heat map as data URLs for a browser."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

if TYPE_CHECKING:
    from covidnet.data.loading.transforms import SquareFit

LONGEST = 768
"""Maximum length of a preview's longer side in pixels; a smaller image is not enlarged."""

_BLUE_FIRST = np.asarray(cv2.applyColorMap(np.arange(256, dtype=np.uint8), cv2.COLORMAP_INFERNO))
HEAT_COLOURS: npt.NDArray[np.uint8] = np.ascontiguousarray(_BLUE_FIRST.reshape(256, 3)[:, ::-1])
"""The colour of influence 0..255: Inferno, whose lightness increases monotonically, also for colour-blind readers."""

# Opacity equals influence: without influence the image is visible unchanged.
_ALPHA = bytes(range(256))


def preview_of(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The image with at most `LONGEST` pixels on its longer side.

    Args:
        image: (H, W) uint8 grey.
    """
    height, width = image.shape
    shrink = LONGEST / max(height, width)
    if shrink >= 1:
        return image
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def jpeg_url(image: npt.NDArray[np.uint8]) -> str:
    """A grey picture (H, W) uint8 as a data URL."""
    _, packed = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return "data:image/jpeg;base64," + base64.b64encode(packed.tobytes()).decode("ascii")


def heat_url(heat: npt.NDArray[np.floating], fit: SquareFit, shape: tuple[int, int]) -> str:
    """A heat map as a coloured PNG in a data URL, transparent where the map is 0.

    Args:
        heat: (S, S) influence, 0..1, on the network's square input.
        fit: how the image was made square.
        shape: (H, W) of the picture below the map.
    """
    laid = fit.back(np.asarray(heat, np.float32), shape)
    levels = np.rint(np.clip(np.nan_to_num(laid), 0, 1) * 255).astype(np.uint8)
    picture = Image.frombytes("P", levels.shape[::-1], levels.tobytes())
    # A palette needs a quarter of the bytes of four channels, and every viewer shows the same colours.
    picture.putpalette(HEAT_COLOURS.tobytes())
    file = io.BytesIO()
    picture.save(file, "PNG", transparency=_ALPHA, compress_level=3)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
