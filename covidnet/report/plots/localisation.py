"""A plot of the localisation measures of a model's maps and of three baselines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from covidnet.report.plots.drawing import GREY, INK, axes_of, percent_axis, styled
from covidnet.report.words import MEASURES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from covidnet.evaluation.localisation import MeasureSummary

_LOOKS = (("model", INK, "o", INK), ("centre prior", GREY, "s", "white"), ("mean map", GREY, "^", "white"),
          ("chance", GREY, "x", GREY))  # fmt: skip
_STEP = 0.19


@styled
def localisation_axes(measures: Mapping[str, MeasureSummary], ax: Axes | None = None) -> Axes:
    """Draw each measure of the model, the centre prior, the mean map and chance, with 95% intervals, in percent.

    Args:
        measures: by name.
        ax: where to draw; a new figure if None.

    Returns:
        The axes, with the first measure on top; the lines with the gids ``model``, ``centre``, ``mean_map`` and
        ``chance`` are the values.
    """
    known = [name for name in MEASURES if name in measures]
    ax = axes_of(ax, 7.2, 0.8 + 0.5 * max(len(known), 1))
    values = {
        "model": [measures[name].model for name in known],
        "centre": [measures[name].centre for name in known],
        "mean_map": [measures[name].mean_map for name in known],
        "chance": [measures[name].chance for name in known],
    }
    for rank, ((key, of_map), (label, colour, marker, face)) in enumerate(zip(values.items(), _LOOKS, strict=True)):
        xs, ys = [], []
        for row, estimate in enumerate(of_map):
            if estimate.value is None:
                continue
            xs.append(estimate.value)
            ys.append(row + (rank - 1.5) * _STEP)
            if estimate.ci:
                ax.plot(estimate.ci, [ys[-1]] * 2, color=colour, linewidth=1.2, solid_capstyle="butt")
        if xs:
            (dots,) = ax.plot(xs, ys, marker, color=colour, markerfacecolor=face, markersize=5, label=label)
            dots.set_gid(key)
            # Not cut off at 0 or 100%.
            dots.set_clip_on(False)
    for row, estimates in enumerate(zip(*values.values(), strict=True)):
        if all(estimate.value is None for estimate in estimates):
            ax.text(0.01, row, "no value", va="center", color=GREY)
    ax.set_yticks(range(len(known)), [MEASURES[name] for name in known])
    ax.set_ylim(max(len(known), 1) - 0.5, -0.5)
    ax.set_xlim(0.0, 1.0)
    # Room between the names and a dot at 0.
    ax.tick_params(axis="y", length=0, pad=7)
    ax.grid(axis="x", color="#e4e4e4", linewidth=0.6)
    ax.set_axisbelow(True)
    percent_axis(ax.xaxis)
    if ax.get_legend_handles_labels()[1]:
        ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(values), borderaxespad=0.2, handletextpad=0.2)
    return ax
