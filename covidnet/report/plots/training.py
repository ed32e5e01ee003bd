"""How the loss fell while the models were trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from covidnet.report.plots.drawing import GREY, INK, axes_of, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@styled
def training_axes(
    curves: Sequence[Mapping[str, Any]],
    key: str,
    ax: Axes | None = None,
    title: str = "",
    highlight: int | None = None,
) -> Axes:
    """Draw one loss of every fold by epoch.

    Args:
        curves: each with ``fold``, ``epoch``, the loss, and ``best`` or ``stopped``: the epoch whose weights were kept,
            or else the one at which training stopped, where it is known.
        key: ``train_loss`` or ``val_loss``. Folds without it are left out.
        ax: where to draw; a new figure if None.
        title: above.
        highlight: the fold whose line is drawn thick.

    Returns:
        The axes; one line for each fold that has values, with a dot at the marked epoch.
    """
    from matplotlib.ticker import MaxNLocator

    ax = axes_of(ax)
    last = 0
    for curve in curves:
        epochs = np.array(curve.get("epoch") or [], dtype=np.float64)
        losses = np.array(curve.get(key) or [], dtype=np.float64)
        if not epochs.size or epochs.size != losses.size or np.isnan(losses).all():
            continue
        last = max(last, int(epochs.max()))
        chosen = highlight is not None and curve.get("fold") == highlight
        colour, width = (INK, 1.6) if chosen else (GREY, 0.7)
        # A single epoch is no line.
        marker = "_" if epochs.size == 1 else ""
        (line,) = ax.plot(epochs, losses, color=colour, linewidth=width, marker=marker, zorder=3 if chosen else 2)
        line.set_gid(f"{key} {curve.get('fold')}")
        marked = curve.get("best") if curve.get("best") is not None else curve.get("stopped")
        where = np.flatnonzero(epochs == marked) if marked is not None else np.array([], dtype=np.intp)
        if where.size and not np.isnan(losses[where[0]]):
            ax.plot(epochs[where[0]], losses[where[0]], "o", color=colour, markersize=4.5 if chosen else 3, zorder=4)
    ax.set_xlabel("Epoch")
    ax.set_ylabel("Cross-entropy")
    ax.set_xlim(-0.3, max(last, 1) + 0.3)
    # With auto the axes that share this one still widen it.
    ax.set_ylim(bottom=0.0, auto=True)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if title:
        ax.set_title(title)
    return ax
