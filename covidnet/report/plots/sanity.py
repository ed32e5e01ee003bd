"""A plot of the sanity test: similarity of heat maps to the trained model's as the network is re-initialised."""

from __future__ import annotations

from typing import TYPE_CHECKING

from covidnet.report.plots.drawing import GREY, INK, axes_of, styled
from covidnet.report.values import clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from covidnet.evaluation.sanity import SanitySummary, SimilarityMeasure

_LETTERS = 24


@styled
def sanity_axes(sanity: SanitySummary, measure: SimilarityMeasure, ax: Axes | None = None, title: str = "") -> Axes:
    """Draw the similarity of maps to the trained model's, by the stage down to which the network was re-initialised.

    Args:
        sanity: the result of the sanity test.
        measure: the similarity measure.
        ax: where to draw; a new figure if None.
        title: the title.

    Returns:
        The axes; the line with the measure as its gid has the stages, the one with the gid ``pairs`` is the baseline,
        whose interval is a band.
    """
    ax = axes_of(ax)
    pairs = sanity.pairs.of(measure)
    ax.axhline(1.0, color=GREY, linewidth=0.8, linestyle=":", label="unchanged")
    values = [0.0, 1.0]
    if pairs.value is not None:
        if pairs.ci:
            ax.axhspan(*pairs.ci, color="#dcdcdc", linewidth=0, zorder=0)
            values += pairs.ci
        line = ax.axhline(pairs.value, color=GREY, linewidth=1.0, linestyle="--", label="different images")
        line.set_gid("pairs")
    xs, ys = [], []
    for at, stage in enumerate(sanity.stages):
        estimate = stage.of(measure)
        if estimate.value is None:
            continue
        xs.append(at)
        ys.append(estimate.value)
        values += [estimate.value, *(estimate.ci or ())]
        if estimate.ci:
            ax.plot([at, at], estimate.ci, color=INK, linewidth=1.2, solid_capstyle="butt")
    if xs:
        (line,) = ax.plot(xs, ys, "o-", color=INK, markersize=4, linewidth=1.0, label="re-initialised")
        line.set_gid(measure)
    ax.set_xticks(range(len(sanity.stages)), [_name(stage.stage) for stage in sanity.stages], rotation=40, ha="right")
    ax.tick_params(axis="x", pad=1)
    ax.set_xlim(-0.5, max(len(sanity.stages), 1) - 0.5)
    # Room for the legend above the highest line.
    span = max(values) - min(values)
    ax.set_ylim(min(values) - 0.05 * span, max(values) + 0.28 * span)
    ax.set_yticks([tick for tick in ax.get_yticks() if min(values) - 0.05 * span <= tick <= max(values) + 1e-9])
    ax.set_ylabel("Similarity of the maps")
    ax.set_xlabel("Re-initialised from the head down to")
    ax.legend(loc="upper left", ncols=2, borderaxespad=0.2)
    if title:
        ax.set_title(title)
    return ax


def _name(stage: str | None) -> str:
    # The font has all ASCII letters, but a custom network may name its layers with any character.
    return clean(stage or "").encode("ascii", "backslashreplace").decode()[:_LETTERS]
