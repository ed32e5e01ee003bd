"""Sheets of images and their heat maps side by side, as in the paper's Figure 4."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from covidnet.base.atomic import write_bytes
from covidnet.base.classes import DEFAULT_CLASSES, ClassList
from covidnet.base.errors import DataError
from covidnet.base.names import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

Mask = npt.NDArray[np.bool_]

COLOURS = "inferno"
"""The colour map of influence, here and on the web page; perceptually uniform."""

OPACITY = 0.6
"""The opacity of the heat map at its maximum; places without influence show the bare image."""

OUTLINED = "white outline: known lesion"
"""Printed next to the colour bar if a lesion is outlined."""

DPI = 150
"""Pixels of a sheet per inch."""

MAX_HEIGHT = 2.0
"""The largest ratio of image height to cell width; taller images are drawn narrower."""

# In inches, so that nothing overlaps for any number of images.
_CELL, _GAP, _BETWEEN, _MARGIN = 1.6, 0.04, 0.22, 0.2
_TITLE_POINTS, _CAPTION_POINTS = 8.0, 9.0
_TITLE_LINES = 2
_BAR_WIDTH, _BAR_HEIGHT, _BAR_SPACE = 2.4, 0.12, 0.5
# With a note on outlines next to it, the bar of a narrow sheet is only as wide as its labels.
_BAR_SHORT, _BAR_GAP = 2.1, 0.15
# In points. A dark rim makes the line visible on bright lungs and on yellow.
_LINE, _RIM = 0.8, 1.8
# Images compress little: the strongest compression takes three times as long for a few per cent.
_COMPRESSION = {"compress_level": 3}


def overlay(image: npt.NDArray[np.uint8], heat: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """Blend a heat map over its image: bright yellow has the most influence; without influence the image is bare.

    Args:
        image: (H, W) uint8 grey levels.
        heat: (H, W) influence, 0..1.

    Returns:
        (H, W, 3) uint8: the colour map `COLOURS` with opacity `OPACITY` times the influence, over the image.

    Raises:
        DataError: the image is not a 2-D uint8 array, or the map has another shape or values outside 0..1.

    Example:
        >>> overlay(np.full((1, 2), 100, np.uint8), np.array([[0.0, 1.0]])).tolist()
        [[[100, 100, 100], [191, 193, 139]]]
    """
    from matplotlib import colormaps

    _check(image, heat, "image")
    colours = colormaps[COLOURS](np.asarray(heat, dtype=np.float64))[..., :3] * 255.0
    shares = OPACITY * np.asarray(heat, dtype=np.float64)[..., None]
    blend = (1.0 - shares) * image[..., None].astype(np.float64) + shares * colours
    return np.rint(blend).astype(np.uint8)


def image_panels(
    images: Sequence[npt.NDArray[np.uint8]],
    maps: Sequence[npt.NDArray[np.floating]],
    titles: Sequence[str],
    columns: int = 5,
    caption: str = "",
    outlines: Sequence[Mask | None] = (),
    stacked: bool = False,
    cell: float = _CELL,
) -> Figure:
    """Draw each image next to its overlay, row by row, with a colour bar and a caption below.

    An image is as wide as its cell, and a row as high as its highest image. Images more than `MAX_HEIGHT` times as high
    as wide are narrower.

    Args:
        images: (H, W) uint8 grey levels, row 0 at the top; at least one. They may differ in size.
        maps: (H, W) influence 0..1, each of its image's shape.
        titles: one per image, such as its class, its prediction and its name. Each line of a title is wrapped and,
            after two lines, cut off with dots, so that a long name does not displace the rest.
        columns: images per row, at least 1.
        caption: text at the bottom, wrapped to the sheet's width.
        outlines: one per image, or empty: (H, W) bool, True inside a known lesion, or None. Its border is drawn as a
            white line on the image and on the overlay, with a note next to the colour bar. An empty mask has no border.
        stacked: draw the overlay below its image instead of to its right: five images then fit the width of a page.
        cell: width of an image in inches, above 0; a sheet has `DPI` pixels per inch.

    Returns:
        A figure on an Agg canvas, independent of pyplot; `save_figure` writes it.

    Raises:
        DataError: no images, lists of different lengths, fewer than one column, no width, invalid arrays (see
            `overlay`), or an outline that is not a bool array of its image's shape.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not images or not len(images) == len(maps) == len(titles):
        raise DataError(
            f"{len(images)} images, {len(maps)} maps, {len(titles)} titles; give the same number of each, at least 1"
        )
    if len(outlines) not in (0, len(images)):
        raise DataError(
            f"{len(images)} images and {len(outlines)} outlines; give one per image (None: unknown) or none"
        )
    if columns < 1:
        raise DataError(f"columns={columns}: must be at least 1")
    if not cell > 0:
        raise DataError(f"cell={cell}: must be above 0")
    for at, (image, heat) in enumerate(zip(images, maps, strict=True)):
        _check(image, heat, f"image {at + 1} ({titles[at]})")
    borders = [
        _border(mask, image, f"image {at + 1} ({titles[at]})")
        for at, (image, mask) in enumerate(zip(images, outlines or [None] * len(images), strict=True))
    ]

    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    pair = cell if stacked else 2 * cell + _GAP
    highs = [
        cell
        * min(max(image.shape[0] / image.shape[1] for image in images[row * columns : (row + 1) * columns]), MAX_HEIGHT)
        for row in range(rows)
    ]
    talls = [2 * high + _GAP if stacked else high for high in highs]
    # At least as wide as an image next to its map: the colour bar and its labels need that room.
    width = 2 * _MARGIN + max(columns * pair + (columns - 1) * _BETWEEN, 2 * _CELL + _GAP)
    figure = Figure(figsize=(width, width), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)

    texts = [_wrapped(title, pair, _TITLE_POINTS, canvas, _TITLE_LINES) for title in titles]
    title_heights = [
        max(len(lines) for lines in texts[row * columns : (row + 1) * columns]) * _line_height(_TITLE_POINTS)
        for row in range(rows)
    ]
    foot = _wrapped(caption, width - 2 * _MARGIN, _CAPTION_POINTS, canvas)
    foot_height = len(foot) * _line_height(_CAPTION_POINTS)
    height = 2 * _MARGIN + sum(title_heights) + sum(talls) + rows * 0.12 + _BAR_SPACE + foot_height
    figure.set_size_inches(width, height)

    def place(left: float, top: float, wide: float, high: float) -> tuple[float, float, float, float]:
        return left / width, 1.0 - (top + high) / height, wide / width, high / height

    top = _MARGIN
    for row in range(rows):
        top += title_heights[row]
        for column, at in enumerate(range(row * columns, min((row + 1) * columns, len(images)))):
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
            right, down = (0.0, highs[row] + _GAP) if stacked else (cell + _GAP, 0.0)
            for layer, x, y in (
                (images[at], left, top),
                (overlay(images[at], maps[at]), left + right, top + down),
            ):
                axes = figure.add_axes(place(x, y, cell, highs[row]))
                axes.imshow(layer, cmap="gray", vmin=0, vmax=255, origin="upper", aspect="equal")
                axes.set_axis_off()
                _draw_border(axes, borders[at])
        top += talls[row] + 0.12

    bar_width = min(_BAR_WIDTH, width - 2 * _MARGIN)
    if any(border is not None for border in borders):
        bar_width = bar_width if columns > 1 else _BAR_SHORT
        left = _MARGIN + bar_width + _BAR_GAP
        figure.text(
            left / width,
            1.0 - top / height,
            "\n".join(_wrapped(OUTLINED, width - _MARGIN - left, _TITLE_POINTS, canvas)),
            fontsize=_TITLE_POINTS,
            linespacing=1.2,
            va="top",
        )
    _draw_bar(figure, place(_MARGIN, top, bar_width, _BAR_HEIGHT))
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


def title(
    label: str | None,
    probabilities: npt.NDArray[np.floating],
    heat: npt.NDArray[np.floating] | None = None,
    classes: ClassList = DEFAULT_CLASSES,
) -> str:
    r"""The title of an image: its class if known, the prediction, and whether its map is constant.

    Args:
        label: the true class, or None.
        probabilities: (classes,).
        heat: its map (H, W), 0..1; None to say nothing about it.
        classes: of the study.

    Example:
        >>> title("Normal", np.array([0.1, 0.7, 0.2]))
        'true Normal\npredicted Normal (70%)'
        >>> title(None, np.array([0.1, 0.7, 0.2]), np.zeros((2, 2)))
        'predicted Normal (70%)\nno place stands out'
    """
    predicted = int(probabilities.argmax())
    first = f"true {label}\n" if label else ""
    # A constant map leaves the image bare, which could be mistaken for a map with little heat.
    last = "\nno place stands out" if heat is not None and heat.min() == heat.max() else ""
    return f"{first}predicted {classes[predicted]} ({probabilities[predicted]:.0%}){last}"


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as a PNG atomically; the same drawing gives the same bytes.

    Args:
        figure: the figure.
        path: the file, in an existing folder.

    Raises:
        WriteError: the file cannot be written; an existing file stays as it was.
    """
    buffer = BytesIO()
    # Without the Software entry the bytes do not depend on matplotlib's version string.
    figure.savefig(buffer, format="png", dpi=figure.dpi, metadata={"Software": None}, pil_kwargs=_COMPRESSION)
    write_bytes(path, buffer.getvalue())


def _check(image: npt.NDArray[np.uint8], heat: npt.NDArray[np.floating], name: str) -> None:
    if image.ndim != 2 or image.dtype != np.uint8 or image.size == 0:
        raise DataError(f"{name}: {image.dtype} of shape {image.shape}; give (H, W) uint8 grey levels")
    if heat.shape != image.shape:
        raise DataError(f"{name}: heat map of shape {heat.shape} for {image.shape}; resize the map to its image")
    # Written so that NaN fails too.
    if not bool(((heat >= 0.0) & (heat <= 1.0)).all()):
        raise DataError(f"{name}: the heat map has values outside 0..1 or NaN; scale it to 0..1")


def _border(mask: Mask | None, image: npt.NDArray[np.uint8], name: str) -> npt.NDArray[np.float64] | None:
    """The edges between pixels inside and outside a mask, (N, 2 ends, x and y), in pixels of the image."""
    if mask is None:
        return None
    if mask.dtype != np.bool_ or mask.shape != image.shape:
        raise DataError(
            f"{name}: outline {mask.dtype} of shape {mask.shape} for {image.shape}; give bool of the image's shape"
        )
    whole = np.pad(mask, 1)
    # Pixel i spans i - 0.5 to i + 0.5; the padding shifts indices by 1.
    rows, columns = np.nonzero(whole[1:] != whole[:-1])
    level = [np.stack([columns - 1.5 + end, rows - 0.5], axis=1) for end in (0, 1)]
    rows, columns = np.nonzero(whole[:, 1:] != whole[:, :-1])
    upright = [np.stack([columns - 0.5, rows - 1.5 + end], axis=1) for end in (0, 1)]
    edges = np.concatenate([np.stack(level, axis=1), np.stack(upright, axis=1)])
    return edges if len(edges) else None


def _draw_border(axes: Axes, border: npt.NDArray[np.float64] | None) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Line

    if border is None:
        return
    # One path for all edges: a line each would take longer than the rest of the sheet.
    line = Line(border.reshape(-1, 2), np.tile([Line.MOVETO, Line.LINETO], len(border)))
    for width, colour in ((_RIM, "black"), (_LINE, "white")):
        # Not clipped: at the image's edge the line would lose half of its width.
        style = {"linewidth": width, "edgecolor": colour, "capstyle": "projecting", "clip_on": False}
        axes.add_artist(PathPatch(line, facecolor="none", **style))


def _draw_bar(figure: Figure, place: tuple[float, float, float, float]) -> None:
    axes = figure.add_axes(place, label="colour bar")
    # As overlaid on middle grey.
    bar = overlay(np.full((1, 256), 110, np.uint8), np.linspace(0.0, 1.0, 256)[None, :])
    axes.imshow(bar, aspect="auto", extent=(0.0, 1.0, 0.0, 1.0))
    axes.set_yticks([])
    axes.set_xticks([0.0, 1.0], ["least influence", "most influence"], fontsize=_TITLE_POINTS)
    axes.tick_params(length=0, pad=3)
    least, most = axes.get_xticklabels()
    least.set_horizontalalignment("left")
    most.set_horizontalalignment("right")


def _line_height(points: float) -> float:
    return points * 1.4 / 72.0


def _wrapped(text: str, inches: float, points: float, canvas: FigureCanvasAgg, most: int | None = None) -> list[str]:
    """Wrap each line of a text into at most `most` lines, measured in the font that draws them."""
    from matplotlib.font_manager import FontProperties

    renderer = canvas.get_renderer()
    font = FontProperties(size=points)

    def fits(line: str) -> bool:
        return renderer.get_text_width_height_descent(line, font, ismath=False)[0] <= inches * DPI

    wrapped: list[str] = []
    # Control characters in a name are made visible, because no font can draw them.
    for paragraph in map(shown, text.split("\n") if text else []):
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
                # The longest prefix that fits, by bisection: measuring each one takes seconds for a long name.
                end = max(1, bisect_left(range(1, len(line)), True, key=lambda size: not fits(line[:size])))
                lines.append(line[:end])
                line = line[end:]
        lines.append(line)
        if most is not None and len(lines) > most:
            lines = [*lines[: most - 1], lines[most - 1][:-3] + "..."]
        wrapped += lines
    return wrapped
