"""The picture of a Secondary Capture: the image, the heat map on it, and the notice burnt in."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from covidnet.serving.facts import NOTICE
from covidnet.serving.web.pictures import HEAT_COLOURS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from covidnet.data.loading.transforms import SquareFit

LONGEST = 1024
"""Longer side of the image in pixels at most; the original is in the archive."""

OPACITY = 0.6
"""Where influence is greatest; elsewhere in proportion to it. The image is visible everywhere."""

_WIDTH = 512
_TEXT, _LINE, _MARGIN = 16, 21, 8


def overlay(
    image: npt.NDArray[np.uint8], heat: npt.NDArray[np.floating], fit: SquareFit, lines: Sequence[str]
) -> npt.NDArray[np.uint8]:
    """Draw an image, its heat map and a heading of text, whose first line is the notice.

    Args:
        image: (H, W) grey.
        heat: (S, S) influence, 0..1, on the network's square input.
        fit: how the image was made square.
        lines: of the heading, below the notice.

    Returns:
        (h, w, 3) RGB. The picture is at least 512 pixels wide, so that the text can be read.
    """
    height, width = image.shape
    scale = min(LONGEST / max(height, width), max(1.0, _WIDTH / width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    grey = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR))
    laid = np.clip(np.nan_to_num(fit.back(np.asarray(heat, np.float32), grey.shape)), 0, 1)[..., None]
    colours = HEAT_COLOURS[np.rint(laid[..., 0] * 255).astype(np.uint8)]
    opacity = OPACITY * laid
    mixed = np.rint(grey[..., None] * (1 - opacity) + colours * opacity).astype(np.uint8)
    across = max(_WIDTH, mixed.shape[1])
    font = ImageFont.load_default(_TEXT)
    letters = int((across - 2 * _MARGIN) / (_TEXT * 0.5))
    text = [part for line in (NOTICE, *lines) for part in textwrap.wrap(line, letters)]
    head = 2 * _MARGIN + _LINE * len(text)
    sheet = Image.new("RGB", (across, head + mixed.shape[0]))
    sheet.paste(Image.fromarray(mixed), ((across - mixed.shape[1]) // 2, head))
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(text):
        pen.text((_MARGIN, _MARGIN + _LINE * number), line, (255, 255, 0) if number == 0 else (255, 255, 255), font)
    return np.asarray(sheet, np.uint8)
