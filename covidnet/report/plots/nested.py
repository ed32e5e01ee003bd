"""A plot of nested selection: the models of every outer fold, and the one that was selected without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from covidnet.evaluation.nested import NestedScores, compared_estimates
from covidnet.report.plots.drawing import GREY, INK, axes_of, percent_axis, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SELECTED = "#8e3b76"


@styled
def nested_axes(scores: NestedScores, ax: Axes | None = None, title: str = "") -> Axes:
    """Draw the accuracy of every model on its outer fold, the selected ones, and the two estimates as lines.

    Args:
        scores: of nested selection.
        ax: where to draw; a new figure if None.
        title: the title.

    Returns:
        The axes; gids: ``models``, ``selected``, ``nested`` (with its interval as ``interval``), ``validation``.
    """
    ax = axes_of(ax, 7.2, 2.8)
    found = {one.key: one.accuracy for one in compared_estimates(scores)}
    folds = [one.fold for one in scores.outer]
    xs, ys = zip(*((one.fold, value) for one in scores.outer for value in one.models), strict=True)
    (models,) = ax.plot(xs, ys, "o", color=GREY, markersize=3.2, alpha=0.45, markeredgewidth=0, label="the ten models")
    models.set_gid("models")
    (selected,) = ax.plot(
        folds, [one.accuracy for one in scores.outer], "D", color=_SELECTED, markersize=5, label="the selected model"
    )
    selected.set_gid("selected")
    if (ends := found["selected"].ci) is not None:
        ax.axhspan(*ends, color=_SELECTED, alpha=0.1, linewidth=0).set_gid("interval")
    for key, gid, colour, style, name in (
        ("selected", "nested", _SELECTED, "-", "nested selection, pooled, with its 95% interval"),
        ("validation", "validation", INK, "--", "the selected models on their own validation images"),
    ):
        if (value := found[key].value) is not None:
            ax.axhline(value, color=colour, linestyle=style, linewidth=1.0, label=name).set_gid(gid)
    ax.set_xticks(folds)
    ax.set_xlim(min(folds) - 0.6, max(folds) + 0.6)
    ax.set_xlabel("Outer fold")
    percent_axis(ax.yaxis)
    # Above the axes: inside, it could hide a model.
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, borderaxespad=0.2, handlelength=1.6)
    if title:
        ax.set_title(title, pad=30)
    return ax
