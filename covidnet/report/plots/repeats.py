"""A plot of a metric over repeats of a cross-validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from covidnet.evaluation.repeats import Spread
from covidnet.report.plots.drawing import GREY, INK, axes_of, percent_axis, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@styled
def repeats_axes(values: Mapping[str, Sequence[float]], found: Spread, ax: Axes | None = None, title: str = "") -> Axes:
    """Draw a dot for each repeat in a column for each split, and the standard error of the images around the mean.

    Args:
        values: the metric of each seed, by split.
        found: its spread.
        ax: where to draw; a new figure if None.
        title: the title.

    Returns:
        The axes; the dots of a split have the gid ``split NAME``, the band has the gid ``images``.
    """
    ax = axes_of(ax, 7.2, 2.4)
    if found.images is not None:
        band = ax.axhspan(found.mean - found.images, found.mean + found.images, color=GREY, alpha=0.18, linewidth=0)
        band.set_gid("images")
    ax.axhline(found.mean, color=GREY, linewidth=0.8)
    for place, (name, of_split) in enumerate(values.items()):
        (dots,) = ax.plot([place] * len(of_split), list(of_split), "o", color=INK, markersize=4, alpha=0.7)
        dots.set_gid(f"split {name}")
    ax.set_xticks(range(len(values)), list(values))
    ax.set_xlim(-0.6, len(values) - 0.4)
    ax.set_xlabel("Split")
    percent_axis(ax.yaxis)
    if title:
        ax.set_title(title)
    return ax
