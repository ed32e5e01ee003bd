"""A plot of the optimism of selecting the best of several models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from covidnet.evaluation.selection import SimulatedChoice, best_of
from covidnet.report.plots.drawing import GREY, INK, axes_of, percent_axis, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MIN_LIKELIHOOD = 0.001


@styled
def selection_axes(
    accuracies: Sequence[float | None],
    n: int,
    simulated: SimulatedChoice | None,
    selected: float | None = None,
    ax: Axes | None = None,
    title: str = "",
) -> Axes:
    """Draw the models' scores on the unseen fold, and the distributions by chance for equally good models.

    Args:
        accuracies: of the models on the unseen fold.
        n: number of images of that fold; the effective number if patients have several.
        simulated: the simulated best of models with the same mean accuracy, or None.
        selected: accuracy of the selected model on the unseen fold.
        ax: where to draw; a new figure if None.
        title: the title.

    Returns:
        The axes; the lines with the gids ``single`` and ``best`` are the two distributions.
    """
    ax = axes_of(ax, 7.2, 2.6)
    known = sorted(value for value in accuracies if value is not None)
    p, expected = (None, None) if simulated is None else (simulated.accuracy, simulated.expected_best)
    top = 1.0
    xs = list(known)
    if p is not None and n and known:
        heights = []
        for models, name, colour, label in (
            (1, "single", GREY, "one model of their mean accuracy, by chance"),
            (len(known), "best", INK, f"the best of {len(known)} such models, by chance"),
        ):
            chance = best_of(p, n, models)
            likely = np.flatnonzero(chance > _MIN_LIKELIHOOD * chance.max())
            rows = np.arange(max(likely[0] - 1, 0), min(likely[-1] + 2, n + 1))
            (line,) = ax.plot(rows / n, chance[rows], color=colour, linewidth=1.1, label=label)
            line.set_gid(name)
            ax.fill_between(rows / n, chance[rows], color=colour, alpha=0.12, linewidth=0)
            heights.append(float(chance.max()))
            xs += [rows[0] / n, rows[-1] / n]
        top = max(heights)
    foot = -0.12 * top
    if known:
        spots = _stacked(known, foot, 0.075 * top)
        (dots,) = ax.plot(known, spots, "o", color=INK, markersize=3.6, alpha=0.8, label="the models, as scored")
        dots.set_markeredgewidth(0)
        dots.set_gid("models")
        foot = min(spots)
    marks = ((p, "mean", GREY, "--"), (expected, "expected best", INK, "--"),
             (max(known) if known else None, "best", INK, "-"), (selected, "selected", "#8e3b76", "-"))  # fmt: skip
    _marks(ax, [(value, name, colour, style) for value, name, colour, style in marks if value is not None], top)
    ax.axhline(0.0, color="#555555", linewidth=0.6)
    ax.set_ylim(foot - 0.08 * top, 1.62 * top)
    if xs:
        ax.set_xlim(min(xs) - 0.01, min(max(xs), 1.0) + 0.01)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("Accuracy on the unseen fold")
    percent_axis(ax.xaxis)
    if known:
        # Above the axes: inside, it could overlap the name of a line.
        ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, borderaxespad=0.2, handlelength=1.6)
    if title:
        ax.set_title(title, pad=34 if known else None)
    return ax


def _stacked(values: Sequence[float], first: float, step: float) -> list[float]:
    """Heights that stack models with the same score."""
    seen: dict[float, int] = {}
    heights = []
    for value in values:
        rank = seen.get(value, 0)
        heights.append(first - rank * step)
        seen[value] = rank + 1
    return heights


def _marks(ax: Axes, marks: Sequence[tuple[float, str, str, str]], top: float) -> None:
    """Vertical lines with their names at different heights, so that names do not overlap."""
    for rank, (value, name, colour, style) in enumerate(sorted(marks, key=lambda mark: mark[0])):
        height = top * (1.14 + 0.13 * rank)
        (line,) = ax.plot([value, value], [0.0, height], color=colour, linestyle=style, linewidth=1.0)
        line.set_gid(name)
        ax.annotate(
            f"{name} {100 * value:.1f}%", (value, height), xytext=(-3, 0), textcoords="offset points",
            ha="right", va="center", color=colour, fontsize=7.5,
        )  # fmt: skip
