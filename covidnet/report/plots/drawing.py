"""The shared style of all figures of a report, and new figures and axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from itertools import cycle
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#222222"
"""Colour of lines and text that belong to no class."""

GREY = "#767676"
"""Colour of references and other models' lines; contrast 4.5:1 on white, so that it prints well."""

_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (3, 1.2, 1, 1.2)), (0, (1, 1)), (0, (8, 1.5, 1, 1.5)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")

WIDTH = 7.2
"""Width in inches of a figure over the full text width."""

# Any, because matplotlib's type requires every key as a literal.
_STYLE: Any = {
    # Matplotlib's own font: the same drawing on every machine.
    "font.family": ["DejaVu Sans"],
    "font.size": 8.0,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.0,
    "axes.titlelocation": "left",
    # Where a title stands anyway: no figure has ticks above its axes, and looking for some measures every text again.
    "axes.titley": 1.0,
    "axes.edgecolor": "#555555",
    "axes.linewidth": 0.6,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "text.color": INK,
    "text.parse_math": False,
    # Text as outlines: widths do not depend on the reader's fonts, so nothing overlaps.
    "svg.fonttype": "path",
    # Without a salt the ids in an SVG are random, and drawings of the same numbers differ.
    "svg.hashsalt": "covidnet",
}

P = ParamSpec("P")
R = TypeVar("R")


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function to draw in the style of the report, without changing the process's settings."""

    @wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        from matplotlib import rc_context

        with rc_context(_STYLE):
            return draw(*args, **kwargs)

    return inside


@styled
def new_figure(width: float = WIDTH, height: float = 3.0) -> Figure:
    """An empty figure with constrained layout on an Agg canvas, independent of pyplot.

    Args:
        width: inches.
        height: inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def axes_of(ax: Axes | None, width: float = 3.5, height: float = 3.2) -> Axes:
    """The given axes, or those of a new figure.

    Args:
        ax: axes, or None.
        width: of a new figure, in inches.
        height: of a new figure, in inches.
    """
    return new_figure(width, height).add_subplot() if ax is None else ax


def percent_axis(axis: Any) -> None:
    """Label an axis of fractions in percent.

    Args:
        axis: the x or y axis of some axes.
    """
    # As many decimals as the ticks need: 95%, 97.5%.
    axis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")


def dashes_of(classes: Sequence[str]) -> dict[str, Any]:
    """A line style per class, to distinguish them in black and white; they repeat after the fifth.

    Args:
        classes: of the study.
    """
    return dict(zip(classes, cycle(_DASHES), strict=False))


def markers_of(classes: Sequence[str]) -> dict[str, str]:
    """A marker per class, for the same reason; they repeat after the seventh.

    Args:
        classes: of the study.
    """
    return dict(zip(classes, cycle(_MARKERS), strict=False))
