"""ROC and precision-recall curves of each class against the others, with their bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from covidnet.base.classes import DEFAULT_CLASSES, ClassList
from covidnet.evaluation.results import UNDEFINED_ESTIMATE
from covidnet.report.plots.drawing import GREY, axes_of, dashes_of, percent_axis, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from covidnet.evaluation.ranking import ClassCurves
    from covidnet.evaluation.results import Estimate

    # x, y, both ends of the band, and the area.
    Curve = tuple[list[float], list[float], list[float] | None, list[float] | None, Estimate]

# If all areas are at least this large, the curves lie in the corner and need an inset.
_CROWDED = 0.95


@styled
def roc_axes(
    curves: Mapping[str, ClassCurves], ax: Axes | None = None, title: str = "", classes: ClassList = DEFAULT_CLASSES
) -> Axes:
    """Draw sensitivity against 1 - specificity, with an inset of the corner if all curves lie in it.

    Args:
        curves: by class; classes without a curve are skipped.
        ax: where to draw; a new figure if None.
        title: the title.
        classes: of the study; of two, the positive one is drawn.

    Returns:
        The axes; its first lines are the curves in class order, labelled by class.
    """
    ax = axes_of(ax)
    parts: dict[str, Curve] = {
        name: (c.roc.fpr, c.roc.tpr, c.roc.low, c.roc.high, c.roc.auc) for name, c in curves.items()
    }
    drawn = _draw(ax, parts, "roc", "AUC", classes)
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.7, linestyle=":")
    _frame(ax, title, "1 \N{MINUS SIGN} specificity", "Sensitivity")
    if _crowded(drawn):
        inset = ax.inset_axes((0.44, 0.36, 0.5, 0.5), xlim=(-0.005, 0.25), ylim=(0.75, 1.005))
        _draw(inset, parts, "roc", "AUC", classes)
        _finish_inset(ax, inset, [0.0, 0.1, 0.2])
    return ax


@styled
def precision_recall_axes(
    curves: Mapping[str, ClassCurves], ax: Axes | None = None, title: str = "", classes: ClassList = DEFAULT_CLASSES
) -> Axes:
    """Draw precision against sensitivity; a dotted line shows random guessing.

    Args:
        curves: by class; classes without a curve are skipped.
        ax: where to draw; a new figure if None.
        title: the title.
        classes: of the study; of two, the positive one is drawn.

    Returns:
        The axes; its first lines are the curves in class order, labelled by class.
    """
    ax = axes_of(ax)
    parts: dict[str, Curve] = {
        name: (c.pr.recall, c.pr.precision, c.pr.low, c.pr.high, c.pr.average_precision) for name, c in curves.items()
    }
    drawn = _draw(ax, parts, "pr", "AP", classes)
    for prevalence in {known for name in drawn if (known := curves[name].pr.prevalence) is not None}:
        ax.axhline(prevalence, color=GREY, linewidth=0.7, linestyle=":")
    _frame(ax, title, "Sensitivity (recall)", "Precision")
    if _crowded(drawn):
        inset = ax.inset_axes((0.14, 0.36, 0.5, 0.5), xlim=(0.75, 1.005), ylim=(0.75, 1.005))
        _draw(inset, parts, "pr", "AP", classes)
        _finish_inset(ax, inset, [0.8, 0.9, 1.0])
    return ax


def _crowded(drawn: Mapping[str, Estimate]) -> bool:
    return bool(drawn) and all(area.value is not None and area.value >= _CROWDED for area in drawn.values())


def _finish_inset(ax: Axes, inset: Axes, ticks: Sequence[float]) -> None:
    inset.set_xticks(list(ticks))
    inset.set_yticks([0.8, 0.9, 1.0])
    percent_axis(inset.xaxis)
    percent_axis(inset.yaxis)
    inset.tick_params(labelsize=6.5)
    for side in ("top", "right"):
        inset.spines[side].set_visible(True)
    ax.indicate_inset_zoom(inset, edgecolor=GREY, linewidth=0.5, alpha=0.7)


def _draw(ax: Axes, curves: Mapping[str, Curve], kind: str, word: str, classes: ClassList) -> dict[str, Estimate]:
    drawn, colours, dashes = {}, classes.colours, dashes_of(classes)
    for name in classes.reported:
        xs, ys, _, _, area = curves.get(name, ([], [], None, None, UNDEFINED_ESTIMATE))
        if not xs or not ys:
            continue
        label = name if area.value is None else f"{name}, {word} {area.value:.3f}{_ends(area)}"
        (line,) = ax.plot(xs, ys, color=colours[name], linestyle=dashes[name], label=label, solid_capstyle="butt")
        line.set_gid(f"{kind} {name}")
        drawn[name] = area
    # After the lines, so that the axes' first lines are the curves.
    for name in drawn:
        xs, _, low, high, _ = curves[name]
        if low is not None and high is not None and len(low) == len(high) == len(xs):
            ax.fill_between(xs, low, high, color=colours[name], alpha=0.16, linewidth=0)
    return drawn


def _ends(area: Estimate) -> str:
    return "" if area.ci is None else f" [{area.ci[0]:.3f}, {area.ci[1]:.3f}]"


def _frame(ax: Axes, title: str, x: str, y: str) -> None:
    ax.set(xlim=(-0.01, 1.0), ylim=(0.0, 1.01), xlabel=x, ylabel=y, aspect="equal")
    percent_axis(ax.xaxis)
    percent_axis(ax.yaxis)
    if labels := ax.get_legend_handles_labels()[1]:
        small = {} if len(labels) <= 6 else {"fontsize": max(2.5, 45 / len(labels))}
        ax.legend(loc="lower right", handlelength=2.4, borderaxespad=0.3, labelspacing=0.3, **small)
    if title:
        ax.set_title(title)
