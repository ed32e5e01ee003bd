"""Reliability: whether films that are called with 80% confidence are right in 80% of cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from covidnet.report.drawing import GREY, INK, axes_of, percent_axis, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# How much of the height the counts take, at the foot of the drawing.
_FOOT = 0.16


@styled
def reliability_axes(
    bins: Sequence[Mapping[str, Any]],
    ece: float | None = None,
    brier: float | None = None,
    ax: Axes | None = None,
    title: str = "",
) -> Axes:
    """Draw accuracy against confidence in bins, with 95% intervals, over a histogram of the confidence.

    Args:
        bins: each with ``low`` and ``high`` (its ends), ``n`` (films), ``confidence`` and ``accuracy`` (means, None
            where it is empty) and ``ci``.
        ece: expected calibration error.
        brier: Brier score, 0..2.
        ax: where to draw; a new figure if None.
        title: above; ECE and Brier score follow it.

    Returns:
        The axes; its first line is the diagonal of perfect calibration, its second the bins.
    """
    ax = axes_of(ax)
    filled = [b for b in bins if b.get("n") and b.get("confidence") is not None and b.get("accuracy") is not None]
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
    xs, ys = [b["confidence"] for b in filled], [b["accuracy"] for b in filled]
    ax.plot(xs, ys, color=INK, marker="o", markersize=4, linewidth=1.0, clip_on=False)
    for b in filled:
        if b.get("ci"):
            ax.plot([b["confidence"]] * 2, b["ci"], color=INK, linewidth=1.0, solid_capstyle="butt")
    _histogram(ax, filled)
    ax.set(xlim=(0.0, 1.0), ylim=(0.0, 1.01), xlabel="Confidence of the prediction", ylabel="Right predictions")
    ax.set_aspect("equal")
    percent_axis(ax.xaxis)
    percent_axis(ax.yaxis)
    scores = [f"{word} {value:.3f}" for word, value in (("ECE", ece), ("Brier", brier)) if value is not None]
    ax.set_title("\n".join(part for part in (title, ", ".join(scores)) if part))
    return ax


def _histogram(ax: Axes, bins: Sequence[Mapping[str, Any]]) -> None:
    counts = np.array([b["n"] for b in bins], dtype=np.float64)
    if not counts.size:
        ax.text(0.5, 0.5, "no predictions", ha="center", va="center", color=GREY)
        return
    heights = counts / counts.max() * _FOOT
    lows = np.array([b["low"] for b in bins])
    highs = np.array([b["high"] for b in bins])
    ax.bar(lows, heights, highs - lows, align="edge", color="#dcdcdc", edgecolor="white", linewidth=0.8, zorder=0)
    for low, high, height, count in zip(lows, highs, heights, counts, strict=True):
        ax.text((low + high) / 2, height + 0.008, f"{int(count):,}", ha="center", va="bottom", fontsize=6.5, color=GREY)
