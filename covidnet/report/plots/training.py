"""A plot of the loss by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from covidnet.report.plots.drawing import GREY, INK, axes_of, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from covidnet.report.summary import Loss, TrainingCurve


@styled
def training_axes(
    curves: Sequence[TrainingCurve],
    loss: Loss,
    ax: Axes | None = None,
    title: str = "",
    highlight: int | None = None,
) -> Axes:
    """Draw one loss of every fold by epoch.

    Args:
        curves: of the folds; those without the loss are skipped.
        loss: the loss to draw.
        ax: where to draw; a new figure if None.
        title: the title.
        highlight: the fold with a thick line.

    Returns:
        The axes, with a line per fold and a dot at its best epoch.
    """
    from matplotlib.ticker import MaxNLocator

    ax = axes_of(ax)
    last = 0
    for curve in curves:
        epochs = np.array(curve.epoch, dtype=np.float64)
        losses = np.array(curve.of(loss), dtype=np.float64)
        if not epochs.size or epochs.size != losses.size or np.isnan(losses).all():
            continue
        last = max(last, int(epochs.max()))
        chosen = highlight is not None and curve.fold == highlight
        colour, width = (INK, 1.6) if chosen else (GREY, 0.7)
        # A single epoch gives no visible line.
        marker = "_" if epochs.size == 1 else ""
        (line,) = ax.plot(epochs, losses, color=colour, linewidth=width, marker=marker, zorder=3 if chosen else 2)
        line.set_gid(f"{loss} {curve.fold}")
        marked = curve.stopped if curve.best is None else curve.best
        where = np.flatnonzero(epochs == marked) if marked is not None else np.array([], dtype=np.intp)
        if where.size and not np.isnan(losses[where[0]]):
            ax.plot(epochs[where[0]], losses[where[0]], "o", color=colour, markersize=4.5 if chosen else 3, zorder=4)
    ax.set_xlabel("Epoch")
    ax.set_ylabel("Cross-entropy")
    ax.set_xlim(-0.3, max(last, 1) + 0.3)
    # auto=True, so that axes sharing this one can still extend it.
    ax.set_ylim(bottom=0.0, auto=True)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if title:
        ax.set_title(title)
    return ax
