"""Marks in the corners of an image that look like text, such as a name that was burnt in."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

CORNERS = ("top left", "top right", "bottom left", "bottom right")
"""The corners, each a quarter of the height and 40% of the width."""

_SIDE = 1024
_DOWN, _ACROSS = 0.25, 0.4
# Letters, in pixels of an image with _SIDE pixels on its longer side.
_LOWEST, _HIGHEST, _WIDEST = 6, 60, 1.6
_CONTRAST = 40
# One or two letters are the side marker of every radiograph, L or R.
_LETTERS = 4


def text_like_corners(image: npt.NDArray[np.uint8]) -> list[str]:
    """The `CORNERS` with a row of at least four marks of the size and distance of letters.

    It finds lines of text with strong contrast, bright or dark. It is no proof that an image has none: faint, large,
    slanted or handwritten text and text elsewhere is not found.

    Args:
        image: (h, w) uint8, as displayed.

    Example:
        >>> text_like_corners(np.zeros((200, 200), np.uint8))
        []
    """
    scale = _SIDE / max(image.shape)
    if scale < 1:
        size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    elif scale > 2:
        image = np.asarray(cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR), np.uint8)
    high, wide = round(image.shape[0] * _DOWN), round(image.shape[1] * _ACROSS)
    parts = [
        image[rows, columns]
        for rows in (slice(high), slice(-high, None))
        for columns in (slice(wide), slice(-wide, None))
    ]
    return [name for name, part in zip(CORNERS, parts, strict=True) if _has_text(part) or _has_text(255 - part)]


def _has_text(part: npt.NDArray[np.uint8]) -> bool:
    """Whether a part of an image has a row of bright letters."""
    # Strokes are narrow: what an opening removes. Ribs and borders are wider or fainter.
    kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (11, 11))
    strokes = cv2.morphologyEx(np.ascontiguousarray(part), cv2.MORPH_TOPHAT, kernel)
    _, _, boxes, _ = cv2.connectedComponentsWithStats((strokes > _CONTRAST).astype(np.uint8), connectivity=8)
    letters = [
        (int(x), int(y), int(w), int(h))
        for x, y, w, h, area in boxes[1:]
        if _LOWEST <= h <= _HIGHEST and w <= _WIDEST * h and area >= 0.1 * w * h and area >= h
    ]
    letters.sort()
    for first in letters:
        x, y, w, h = first
        row = 1
        end = x + w
        for other in letters:
            near = end - 0.3 * h <= other[0] <= end + 1.2 * h
            alike = 0.6 <= other[3] / h <= 1.6 and abs(other[1] + other[3] - y - h) <= 0.35 * h
            if near and alike:
                row += 1
                end = other[0] + other[2]
                if row >= _LETTERS:
                    return True
    return False
