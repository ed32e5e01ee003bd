"""Dot plots of each fold, which show the scatter behind a mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from covidnet.base.classes import DEFAULT_CLASSES, ClassList
from covidnet.report.plots.drawing import GREY, INK, axes_of, markers_of, percent_axis, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SPREAD = 0.26


@styled
def fold_accuracy_axes(
    test: Sequence[float | None],
    unseen: Sequence[float | None],
    ensemble: float | None = None,
    published: float | None = None,
    ax: Axes | None = None,
    title: str = "",
) -> Axes:
    """Draw the accuracy of each model on its test fold and on the unseen fold.

    Args:
        test: fractions, one for each fold, in the order of the folds.
        unseen: fractions of the same models on the unseen fold; skipped if all are None.
        ensemble: accuracy of the ensemble on the unseen fold.
        published: the paper's accuracy on test folds.
        ax: where to draw; a new figure if None.
        title: the title.

    Returns:
        The axes. Short lines are means; dots are in fold order from left to right.
    """
    ax = axes_of(ax)
    groups = {"Test folds": test}
    if any(value is not None for value in unseen):
        groups["Unseen fold"] = unseen
    for at, (name, values) in enumerate(groups.items()):
        _dots(ax, at, values, INK, "o", name)
    if ensemble is not None:
        (mark,) = ax.plot([1 + _SPREAD + 0.14], [ensemble], marker="D", color=INK, markersize=6, linestyle="none")
        mark.set_markerfacecolor("white")
        mark.set_label("Mean of the models (ensemble)")
    if published is not None:
        ax.plot([-0.42, 0.42], [published] * 2, color=GREY, linestyle="--", linewidth=1.0, label="Paper, test folds")
    ax.set_xticks(range(len(groups)), list(groups))
    _finish(ax, title or "Accuracy", [*test, *unseen, ensemble, published], len(groups))
    return ax


@styled
def fold_class_axes(
    values: Mapping[str, Sequence[float | None]],
    published: Mapping[str, float | None] | None = None,
    ax: Axes | None = None,
    title: str = "",
    classes: ClassList = DEFAULT_CLASSES,
) -> Axes:
    """Draw one metric of each class for each fold.

    Args:
        values: fractions for each class, in the order of the folds.
        published: the paper's value for each class.
        ax: where to draw; a new figure if None.
        title: the title, such as ``Sensitivity``.
        classes: of the study; of two, the positive one is drawn.

    Returns:
        The axes. Short lines are means, dashed ones the paper's values.
    """
    ax = axes_of(ax)
    references = published or {}
    names, colours, markers = classes.reported, classes.colours, markers_of(classes)
    for at, name in enumerate(names):
        _dots(ax, at, values.get(name, ()), colours[name], markers[name], name)
        reference = references.get(name)
        if reference is not None:
            ax.plot([at - 0.42, at + 0.42], [reference] * 2, color=GREY, linestyle="--", linewidth=1.0)
    ax.set_xticks(range(len(names)), names, rotation=90 if len(names) > 4 else 0)
    _finish(ax, title, [*(v for name in names for v in values.get(name, ())), *references.values()], len(names))
    return ax


def _dots(ax: Axes, at: int, values: Sequence[float | None], colour: str, marker: str, name: str) -> None:
    known = [(fold, value) for fold, value in enumerate(values) if value is not None]
    if not known:
        ax.text(at, 0.5, "no value", ha="center", va="center", color=GREY, transform=ax.get_xaxis_transform())
        return
    offsets = np.linspace(-_SPREAD, _SPREAD, len(values)) if len(values) > 1 else np.zeros(1)
    xs, ys = [at + float(offsets[fold]) for fold, _ in known], [value for _, value in known]
    (dots,) = ax.plot(xs, ys, marker=marker, color=colour, markersize=4, linestyle="none", alpha=0.75)
    dots.set_markeredgewidth(0)
    dots.set_gid(name)
    if len(ys) > 1:
        mean = float(np.mean(ys))
        ax.plot([at - 0.36, at + 0.36], [mean] * 2, color=colour, linewidth=1.6, solid_capstyle="butt")


def _finish(ax: Axes, title: str, values: Sequence[float | None], groups: int) -> None:
    low = min((value for value in values if value is not None), default=0.0)
    span = max(1.0 - low, 0.02)
    ax.set_xlim(-0.55, groups - 0.45)
    ax.set_ylim(max(-0.02, low - 0.08 * span), 1.0 + 0.06 * span)
    ax.grid(axis="y", color="#e4e4e4", linewidth=0.6)
    ax.set_axisbelow(True)
    percent_axis(ax.yaxis)
    if title:
        ax.set_title(title)
