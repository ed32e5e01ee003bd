"""A plot of a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from covidnet.base.classes import DEFAULT_CLASSES
from covidnet.base.errors import DataError
from covidnet.report.plots.drawing import INK, WIDTH, axes_of, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def row_fractions(counts: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Each count as a fraction of its row.

    Args:
        counts: (n, n), rows are the true classes.

    Returns:
        (n, n) fractions; NaN in a row without images.

    Example:
        >>> row_fractions([[3, 1], [0, 2]]).tolist()
        [[0.75, 0.25], [0.0, 1.0]]
    """
    array = np.asarray(counts, dtype=np.float64)
    total = array.sum(1, keepdims=True)
    return np.divide(array, total, out=np.full_like(array, np.nan), where=total > 0)


def matrix_size(classes: int) -> tuple[float, float]:
    """Width and height in inches of a figure with the matrix of so many classes.

    Args:
        classes: the number of rows.
    """
    return (WIDTH / 2, 3.4) if classes <= 5 else (WIDTH, WIDTH - 0.2)


@styled
def confusion_axes(
    counts: Sequence[Sequence[int]], ax: Axes | None = None, title: str = "", classes: Sequence[str] = DEFAULT_CLASSES
) -> Axes:
    """Draw counts, with the percentage of their row for up to five classes; darker cells have a higher percentage.

    Args:
        counts: (n, n) images, rows are the true classes, columns the predicted ones.
        ax: where to draw; a new figure if None.
        title: the title.
        classes: names of rows and columns.

    Returns:
        The axes.

    Raises:
        DataError: the counts do not have a row and a column per class.
    """
    array = np.asarray(counts)
    if array.shape != (len(classes), len(classes)):
        raise DataError(f"confusion: counts of shape {array.shape}; give {len(classes)} rows and columns")
    ax = axes_of(ax)
    fractions = row_fractions(array)
    ax.imshow(np.nan_to_num(fractions), cmap="Blues", vmin=0.0, vmax=1.15)
    many, size = len(classes) > 5, min(8.5, max(3.0, 60 / len(classes)))
    for row in range(len(classes)):
        for column in range(len(classes)):
            share = fractions[row, column]
            text = f"{array[row, column]:,}" + ("" if np.isnan(share) or many else f"\n{100 * share:.1f}%")
            weight = "bold" if row == column else "normal"
            colour = "white" if share > 0.55 else INK
            ax.text(column, row, text, ha="center", va="center", color=colour, fontsize=size, fontweight=weight)
    ticks = np.arange(len(classes))
    if many:
        ax.set_xticks(ticks, list(classes), rotation=90, fontsize=size)
        ax.set_yticks(ticks, list(classes), fontsize=size)
    else:
        ax.set_xticks(ticks, list(classes))
        ax.set_yticks(ticks, list(classes), rotation=90, va="center")
    ax.set_xlabel("Predicted class")
    ax.set_ylabel("True class")
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    # White lines between the cells.
    ax.set_xticks(ticks[1:] - 0.5, minor=True)
    ax.set_yticks(ticks[1:] - 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=1.5)
    ax.tick_params(which="minor", length=0)
    if title:
        ax.set_title(title)
    return ax
