"""Reliability: whether images that are called with 80% confidence are right in 80% of cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from covidnet.report.plots.drawing import GREY, INK, axes_of, percent_axis, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# How much of the height the counts take, at the foot of the drawing.
_FOOT = 0.16

# Not a class's colour.
_AFTER = "#8a2be2"


@styled
def reliability_axes(
    bins: Sequence[Mapping[str, Any]],
    ece: float | None = None,
    brier: float | None = None,
    ax: Axes | None = None,
    title: str = "",
    after: Mapping[str, Any] | None = None,
) -> Axes:
    """Draw accuracy against confidence in bins, with 95% intervals, over a histogram of the confidence.

    Args:
        bins: each with ``low`` and ``high`` (its ends), ``n`` (images), ``confidence`` and ``accuracy`` (means, None
            where it is empty) and ``ci``.
        ece: expected calibration error.
        brier: Brier score, 0..2.
        ax: where to draw; a new figure if None.
        title: above; ECE and Brier score follow it.
        after: ``bins``, ``ece`` and ``brier`` of the same images after the temperature, or None. They get no histogram.

    Returns:
        The axes; its first line is the diagonal of perfect calibration, its second the bins.
    """
    ax = axes_of(ax)
    filled = _filled(bins)
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
    _bins(ax, filled, INK, gid="before", label="as predicted", marker="o", markersize=4)
    told = [title, _scores(ece, brier)]
    if after and (filled_after := _filled(after.get("bins") or ())):
        hollow = {"markerfacecolor": "white", "markeredgewidth": 1.2, "linestyle": (0, (4, 1.5))}
        look = {"label": "after the temperature", "marker": "s", "markersize": 4.5, **hollow}
        _bins(ax, filled_after, _AFTER, gid="after", **look)
        if scores := _scores(after.get("ece"), after.get("brier")):
            told.append(f"after: {scores}")
        # Below: any corner inside may hold a bin of few images.
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    _histogram(ax, filled)
    ax.set(xlim=(0.0, 1.0), ylim=(0.0, 1.01), xlabel="Confidence of the prediction", ylabel="Right predictions")
    ax.set_aspect("equal")
    percent_axis(ax.xaxis)
    percent_axis(ax.yaxis)
    ax.set_title("\n".join(part for part in told if part))
    return ax


def _scores(ece: float | None, brier: float | None) -> str:
    return ", ".join(f"{word} {value:.3f}" for word, value in (("ECE", ece), ("Brier", brier)) if value is not None)


def _filled(bins: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [b for b in bins if b.get("n") and b.get("confidence") is not None and b.get("accuracy") is not None]


def _bins(ax: Axes, bins: Sequence[Mapping[str, Any]], colour: str, **line: Any) -> None:
    xs, ys = [b["confidence"] for b in bins], [b["accuracy"] for b in bins]
    ax.plot(xs, ys, color=colour, linewidth=1.0, clip_on=False, **line)
    for b in bins:
        if b.get("ci"):
            ax.plot([b["confidence"]] * 2, b["ci"], color=colour, linewidth=1.0, solid_capstyle="butt")


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
