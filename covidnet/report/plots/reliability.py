"""A reliability diagram: accuracy by confidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from covidnet.report.plots.drawing import GREY, INK, axes_of, percent_axis, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from covidnet.evaluation.calibration import Bin, Calibration

# Fraction of the height of the histogram at the bottom.
_HISTOGRAM = 0.16

# Different from the class colours.
_AFTER = "#8a2be2"


@styled
def reliability_axes(
    calibration: Calibration, ax: Axes | None = None, title: str = "", after: Calibration | None = None
) -> Axes:
    """Draw accuracy against confidence in bins, with 95% intervals, over a histogram of the confidence.

    Args:
        calibration: of the predictions.
        ax: where to draw; a new figure if None.
        title: the title, followed by ECE and Brier score.
        after: the same images after temperature scaling, without a histogram; or None.

    Returns:
        The axes; its first line is the diagonal of perfect calibration, its second the bins.
    """
    ax = axes_of(ax)
    filled = _filled(calibration)
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
    _bins(ax, filled, INK, gid="before", label="as predicted", marker="o", markersize=4)
    lines = [title, _scores(calibration)]
    if after and (filled_after := _filled(after)):
        hollow = {"markerfacecolor": "white", "markeredgewidth": 1.2, "linestyle": (0, (4, 1.5))}
        look = {"label": "after temperature scaling", "marker": "s", "markersize": 4.5, **hollow}
        _bins(ax, filled_after, _AFTER, gid="after", **look)
        if scores := _scores(after):
            lines.append(f"after: {scores}")
        # Below the axes: inside, any corner may contain a bin.
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    _histogram(ax, filled)
    ax.set(xlim=(0.0, 1.0), ylim=(0.0, 1.01), xlabel="Confidence of the prediction", ylabel="Accuracy")
    ax.set_aspect("equal")
    percent_axis(ax.xaxis)
    percent_axis(ax.yaxis)
    ax.set_title("\n".join(part for part in lines if part))
    return ax


def _scores(calibration: Calibration) -> str:
    both = (("ECE", calibration.ece), ("Brier", calibration.brier))
    return ", ".join(f"{word} {value:.3f}" for word, value in both if value is not None)


def _filled(calibration: Calibration) -> list[Bin]:
    return [b for b in calibration.bins if b.n and b.confidence is not None and b.accuracy is not None]


def _bins(ax: Axes, bins: Sequence[Bin], colour: str, **line: Any) -> None:
    xs, ys = (np.array(values, np.float64) for values in ([b.confidence for b in bins], [b.accuracy for b in bins]))
    ax.plot(xs, ys, color=colour, linewidth=1.0, clip_on=False, **line)
    for x, b in zip(xs, bins, strict=True):
        if b.ci:
            ax.plot([x, x], b.ci, color=colour, linewidth=1.0, solid_capstyle="butt")


def _histogram(ax: Axes, bins: Sequence[Bin]) -> None:
    counts = np.array([b.n for b in bins], dtype=np.float64)
    if not counts.size:
        ax.text(0.5, 0.5, "no predictions", ha="center", va="center", color=GREY)
        return
    heights = counts / counts.max() * _HISTOGRAM
    lows = np.array([b.low for b in bins])
    highs = np.array([b.high for b in bins])
    ax.bar(lows, heights, highs - lows, align="edge", color="#dcdcdc", edgecolor="white", linewidth=0.8, zorder=0)
    for low, high, height, count in zip(lows, highs, heights, counts, strict=True):
        ax.text((low + high) / 2, height + 0.008, f"{int(count):,}", ha="center", va="bottom", fontsize=6.5, color=GREY)
