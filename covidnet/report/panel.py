"""Heat maps beside their films on one sheet, as in the paper's Figure 4."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from covidnet.atomic import write_bytes
from covidnet.errors import DataError

if TYPE_CHECKING:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

OPACITY = 0.4
"""How much of an overlay is the heat map; the rest is the film."""

# Inches, so that nothing on the sheet can lie over something else whatever its number of films.
_CELL, _GAP, _BETWEEN, _MARGIN = 1.6, 0.04, 0.22, 0.2
_TITLE_POINTS, _CAPTION_POINTS = 8.0, 9.0
_TITLE_LINES = 2
_BAR_WIDTH, _BAR_HEIGHT, _BAR_SPACE = 2.4, 0.12, 0.5
_DPI = 150
# Films hardly pack: the strongest compression takes three times as long for a few per cent.
_PACKING = {"compress_level": 3}


def overlay(film: npt.NDArray[np.uint8], heat: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """Blend a heat map over its film in the paper's colours: red has most influence, blue least.

    Args:
        film: (H, W) uint8 grey levels.
        heat: (H, W) influence, 0..1.

    Returns:
        (H, W, 3) uint8: `OPACITY` of the jet colour of the map, the rest the film.

    Raises:
        DataError: the film is no 2-D uint8 array, or the map has another shape or values outside 0..1.

    Example:
        >>> overlay(np.zeros((1, 2), np.uint8), np.array([[0.0, 1.0]])).tolist()
        [[[0, 0, 51], [51, 0, 0]]]
    """
    from matplotlib import colormaps

    _check(film, heat, "film")
    colours = colormaps["jet"](np.asarray(heat, dtype=np.float64))[..., :3] * 255.0
    blend = (1.0 - OPACITY) * film[..., None].astype(np.float64) + OPACITY * colours
    return np.rint(blend).astype(np.uint8)


def film_panels(
    films: Sequence[npt.NDArray[np.uint8]],
    maps: Sequence[npt.NDArray[np.floating]],
    titles: Sequence[str],
    columns: int = 5,
    caption: str = "",
) -> Figure:
    """Draw each film with its overlay to the right, row by row, with a colour bar and a caption below.

    Args:
        films: (H, W) uint8 grey levels, row 0 at the top; at least one. They may differ in size.
        maps: (H, W) influence 0..1, each of its film's shape.
        titles: one per film, such as its name and what it was called; each of its lines is wrapped
            above the pair and cut with dots after two, so that a long name does not push out what follows it.
        columns: films per row, at least 1.
        caption: what the reader must know, at the foot; wrapped to the sheet's width.

    Returns:
        A figure on an Agg canvas that knows nothing of pyplot; `save_figure` writes it.

    Raises:
        DataError: no film, lists of different lengths, less than one column, or arrays that `overlay` refuses.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not films or not len(films) == len(maps) == len(titles):
        raise DataError(
            f"a panel of {len(films)} films, {len(maps)} maps, {len(titles)} titles; give as many of each, at least 1"
        )
    if columns < 1:
        raise DataError(f"columns={columns}: a panel has at least 1 column")
    for at, (film, heat) in enumerate(zip(films, maps, strict=True)):
        _check(film, heat, f"film {at + 1} ({titles[at]})")

    columns = min(columns, len(films))
    rows = -(-len(films) // columns)
    pair = 2 * _CELL + _GAP
    width = 2 * _MARGIN + columns * pair + (columns - 1) * _BETWEEN
    figure = Figure(figsize=(width, width), dpi=_DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)

    texts = [_wrapped(title, pair, _TITLE_POINTS, canvas, _TITLE_LINES) for title in titles]
    title_heights = [
        max(len(lines) for lines in texts[row * columns : (row + 1) * columns]) * _line_height(_TITLE_POINTS)
        for row in range(rows)
    ]
    foot = _wrapped(caption, width - 2 * _MARGIN, _CAPTION_POINTS, canvas)
    foot_height = len(foot) * _line_height(_CAPTION_POINTS)
    height = 2 * _MARGIN + sum(title_heights) + rows * (_CELL + 0.12) + _BAR_SPACE + foot_height
    figure.set_size_inches(width, height)

    def place(left: float, top: float, wide: float, high: float) -> tuple[float, float, float, float]:
        return left / width, 1.0 - (top + high) / height, wide / width, high / height

    top = _MARGIN
    for row in range(rows):
        top += title_heights[row]
        for column, at in enumerate(range(row * columns, min((row + 1) * columns, len(films)))):
            left = _MARGIN + column * (pair + _BETWEEN)
            figure.text(
                left / width,
                1.0 - (top - 0.04) / height,
                "\n".join(texts[at]),
                fontsize=_TITLE_POINTS,
                linespacing=1.2,
                va="bottom",
                parse_math=False,  # a file name may hold two dollar signs
            )
            for image, x in ((films[at], left), (overlay(films[at], maps[at]), left + _CELL + _GAP)):
                axes = figure.add_axes(place(x, top, _CELL, _CELL))
                axes.imshow(image, cmap="gray", vmin=0, vmax=255, origin="upper", aspect="equal")
                axes.set_axis_off()
        top += _CELL + 0.12

    _draw_bar(figure, place(_MARGIN, top, min(_BAR_WIDTH, width - 2 * _MARGIN), _BAR_HEIGHT))
    figure.text(
        _MARGIN / width,
        (_MARGIN + foot_height) / height,
        "\n".join(foot),
        fontsize=_CAPTION_POINTS,
        linespacing=1.2,
        va="top",
        parse_math=False,
    )
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as a PNG, whole or not at all, with the same bytes for the same drawing.

    Args:
        figure: the figure.
        path: the file. Its folder must exist.

    Raises:
        WriteError: the file cannot be written; an old file stays whole.
    """
    buffer = BytesIO()
    # Without the Software entry the bytes do not depend on matplotlib's version string.
    figure.savefig(buffer, format="png", dpi=figure.dpi, metadata={"Software": None}, pil_kwargs=_PACKING)
    write_bytes(path, buffer.getvalue())


def _check(film: npt.NDArray[np.uint8], heat: npt.NDArray[np.floating], name: str) -> None:
    if film.ndim != 2 or film.dtype != np.uint8 or film.size == 0:
        raise DataError(f"{name}: {film.dtype} of shape {film.shape}; give (H, W) uint8 grey levels")
    if heat.shape != film.shape:
        raise DataError(f"{name}: heat map of shape {heat.shape} for {film.shape}; resize the map to its film")
    # Written so that NaN, which compares as neither, is refused too.
    if not bool(((heat >= 0.0) & (heat <= 1.0)).all()):
        raise DataError(f"{name}: the heat map has values outside 0..1 or NaN; scale it to 0..1")


def _draw_bar(figure: Figure, place: tuple[float, float, float, float]) -> None:
    axes = figure.add_axes(place, label="colour bar")
    axes.imshow(np.linspace(0.0, 1.0, 256)[None, :], cmap="jet", aspect="auto", extent=(0.0, 1.0, 0.0, 1.0))
    axes.set_yticks([])
    axes.set_xticks([0.0, 1.0], ["least influence", "most influence"], fontsize=_TITLE_POINTS)
    axes.tick_params(length=0, pad=3)
    least, most = axes.get_xticklabels()
    least.set_horizontalalignment("left")
    most.set_horizontalalignment("right")


def _line_height(points: float) -> float:
    return points * 1.4 / 72.0


def _wrapped(text: str, inches: float, points: float, canvas: FigureCanvasAgg, most: int | None = None) -> list[str]:
    """Break each line of a text into at most `most` that fit, measured in the font that draws them."""
    from matplotlib.font_manager import FontProperties

    renderer = canvas.get_renderer()
    font = FontProperties(size=points)

    def fits(line: str) -> bool:
        return renderer.get_text_width_height_descent(line, font, ismath=False)[0] <= inches * _DPI

    found: list[str] = []
    for paragraph in text.splitlines():
        lines = []
        line = ""
        for word in paragraph.split():
            if line and fits(f"{line} {word}"):
                line = f"{line} {word}"
                continue
            if line:
                lines.append(line)
            line = word
            while not fits(line) and (most is None or len(lines) <= most):
                # The widest beginning that fits, by bisection: measuring every one takes seconds for a long name.
                end = max(1, bisect_left(range(1, len(line)), True, key=lambda size: not fits(line[:size])))
                lines.append(line[:end])
                line = line[end:]
        lines.append(line)
        if most is not None and len(lines) > most:
            lines = [*lines[: most - 1], lines[most - 1][:-3] + "..."]
        found += lines
    return found
