"""Thumbnails as grey ranks: independent of exposure, and negated by inversion."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from covidnet.data.reading.thumbnails import SIDE

CELLS = 16
"""Cells along each side. Finer cells separate radiographs from other images no better, and cost more."""

Floats = npt.NDArray[np.float32]


def ranked(thumbnails: npt.NDArray[np.uint8]) -> Floats:
    """Reduce thumbnails to 16 x 16 cells and replace each cell's grey by its rank.

    Equal greys share their mean rank, as in Spearman's correlation, so that a turned image has turned ranks.

    Args:
        thumbnails: (N, 64, 64), 0..255.

    Returns:
        (N, 16, 16), mean 0; standard deviation 1 if no two cells are equal.
    """
    size = SIDE // CELLS
    cells = thumbnails.reshape(-1, CELLS, size, CELLS, size).sum(axis=(2, 4), dtype=np.int64).reshape(-1, CELLS**2)
    rows = zip(np.sort(cells, axis=1), cells, strict=True)
    ranks = np.stack([np.searchsorted(row, of) + np.searchsorted(row, of, "right") for row, of in rows])
    scale = np.sqrt(12.0) / (CELLS**2 - 1)
    return ((ranks / 2 - CELLS**2 / 2) * scale).astype(np.float32).reshape(-1, CELLS, CELLS)


def turned(images: Floats) -> Floats:
    """All eight orientations of an image: turned by 0, 90, 180 and 270 degrees, and each of these inverted.

    Args:
        images: (N, S, S), ranks.

    Returns:
        (N, 8, S, S); entry k is turned anticlockwise by 90 k degrees, and entry 4 + k is also inverted.
    """
    turns = np.stack([np.rot90(images, k, axes=(1, 2)) for k in range(4)], axis=1)
    return np.concatenate([turns, -turns], axis=1)
