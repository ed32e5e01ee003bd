"""ROC and precision-recall curves of each class against the other two, with their bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from covidnet.base.classes import CLASSES, COLOURS
from covidnet.report.plots.drawing import DASHES, GREY, axes_of, percent_axis, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# From this area on all curves lie in the corner, and need a lens to be told apart.
_CROWDED = 0.95


@styled
def roc_axes(curves: Mapping[str, Any], ax: Axes | None = None, title: str = "") -> Axes:
    """Draw sensitivity against 1 - specificity; the corner once more, enlarged, where all curves lie in it.

    Args:
        curves: for each class name ``roc`` with ``fpr``, ``tpr``, the band ``low`` and ``high`` (fractions, all of one
            length) and ``auc`` (an estimate). Classes without a curve are left out.
        ax: where to draw; a new figure if None.
        title: above.

    Returns:
        The axes; its first lines are the curves in the order of the classes, named by them.
    """
    ax = axes_of(ax)
    drawn = _draw(ax, curves, "roc", "fpr", "tpr", "auc", "AUC")
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.7, linestyle=":")
    _frame(ax, title, "1 \N{MINUS SIGN} specificity", "Sensitivity")
    if _crowded(curves, drawn, "roc", "auc"):
        lens = ax.inset_axes((0.44, 0.36, 0.5, 0.5), xlim=(-0.005, 0.25), ylim=(0.75, 1.005))
        _draw(lens, curves, "roc", "fpr", "tpr", "auc", "AUC")
        _lens(ax, lens, [0.0, 0.1, 0.2])
    return ax


@styled
def precision_recall_axes(curves: Mapping[str, Any], ax: Axes | None = None, title: str = "") -> Axes:
    """Draw precision against sensitivity; a dotted line shows what guessing reaches.

    Args:
        curves: for each class name ``pr`` with ``recall``, ``precision``, the band ``low`` and ``high`` (fractions, all
            of one length), ``average_precision`` (an estimate) and ``prevalence``. Classes without one are left out.
        ax: where to draw; a new figure if None.
        title: above.

    Returns:
        The axes; its first lines are the curves in the order of the classes, named by them.
    """
    ax = axes_of(ax)
    drawn = _draw(ax, curves, "pr", "recall", "precision", "average_precision", "AP")
    for prevalence in {curves[name]["pr"].get("prevalence") for name in drawn} - {None}:
        ax.axhline(prevalence, color=GREY, linewidth=0.7, linestyle=":")
    _frame(ax, title, "Sensitivity (recall)", "Precision")
    if _crowded(curves, drawn, "pr", "average_precision"):
        lens = ax.inset_axes((0.14, 0.36, 0.5, 0.5), xlim=(0.75, 1.005), ylim=(0.75, 1.005))
        _draw(lens, curves, "pr", "recall", "precision", "average_precision", "AP")
        _lens(ax, lens, [0.8, 0.9, 1.0])
    return ax


def _crowded(curves: Mapping[str, Any], drawn: Sequence[str], kind: str, area: str) -> bool:
    areas = [_value(curves[name][kind].get(area)) for name in drawn]
    return bool(areas) and all(value is not None and value >= _CROWDED for value in areas)


def _lens(ax: Axes, lens: Axes, ticks: Sequence[float]) -> None:
    lens.set_xticks(list(ticks))
    lens.set_yticks([0.8, 0.9, 1.0])
    percent_axis(lens.xaxis)
    percent_axis(lens.yaxis)
    lens.tick_params(labelsize=6.5)
    for side in ("top", "right"):
        lens.spines[side].set_visible(True)
    ax.indicate_inset_zoom(lens, edgecolor=GREY, linewidth=0.5, alpha=0.7)


def _draw(ax: Axes, curves: Mapping[str, Any], kind: str, x: str, y: str, area: str, word: str) -> list[str]:
    drawn = []
    for name in CLASSES:
        curve = (curves.get(name) or {}).get(kind) or {}
        xs, ys = curve.get(x), curve.get(y)
        if not xs or not ys:
            continue
        value = _value(curve.get(area))
        label = name if value is None else f"{name}, {word} {value:.3f}{_ends(curve.get(area))}"
        (line,) = ax.plot(xs, ys, color=COLOURS[name], linestyle=DASHES[name], label=label, solid_capstyle="butt")
        line.set_gid(f"{kind} {name}")
        drawn.append(name)
    # After the lines, so that the axes' first lines are the curves.
    for name in drawn:
        curve = curves[name][kind]
        low, high = curve.get("low"), curve.get("high")
        if _same_length(curve[x], low, high):
            # Without None, which a band cannot hold.
            ends = np.array([curve[x], low, high], dtype=np.float64)
            ax.fill_between(*ends, color=COLOURS[name], alpha=0.16, linewidth=0)
    return drawn


def _same_length(xs: Sequence[float], low: Any, high: Any) -> bool:
    return low is not None and high is not None and len(low) == len(high) == len(xs)


def _value(estimate: Any) -> float | None:
    return None if estimate is None else estimate.get("value")


def _ends(estimate: Any) -> str:
    ends = estimate.get("ci")
    return "" if ends is None else f" [{ends[0]:.3f}, {ends[1]:.3f}]"


def _frame(ax: Axes, title: str, x: str, y: str) -> None:
    ax.set(xlim=(-0.01, 1.0), ylim=(0.0, 1.01), xlabel=x, ylabel=y, aspect="equal")
    percent_axis(ax.xaxis)
    percent_axis(ax.yaxis)
    if ax.get_legend_handles_labels()[1]:
        ax.legend(loc="lower right", handlelength=2.4, borderaxespad=0.3, labelspacing=0.3)
    if title:
        ax.set_title(title)
