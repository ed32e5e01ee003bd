"""Sheets of images and their heat maps side by side, as in the paper's Figure 4."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from covidnet.base.atomic import write_bytes
from covidnet.base.classes import DEFAULT_CLASSES, ClassList
from covidnet.base.errors import DataError
from covidnet.base.names import shown

if TYPE_CHECKING:
    from matplotlib.artist import Artist
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
_LINE, _RIM = 1.0, 1.8
# In pixels of the sheet: how far an outline reaches beyond its picture. Outlines are drawn so many times finer.
_OUTSIDE, _FINE = 2, 4
# An image enlarged at least so much is shown as squares, otherwise smoothly.
_SQUARES = 3
# Images compress little: stronger compression takes up to four times as long for a tenth of the size.
_COMPRESSION = 2


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
    masks = [
        _outlined(mask, image, f"image {at + 1} ({titles[at]})")
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
    FigureCanvasAgg(figure)

    texts = [_wrapped(title, pair, _TITLE_POINTS, _TITLE_LINES) for title in titles]
    title_heights = [
        max(len(lines) for lines in texts[row * columns : (row + 1) * columns]) * _line_height(_TITLE_POINTS)
        for row in range(rows)
    ]
    foot = _wrapped(caption, width - 2 * _MARGIN, _CAPTION_POINTS)
    foot_height = len(foot) * _line_height(_CAPTION_POINTS)
    height = 2 * _MARGIN + sum(title_heights) + sum(talls) + rows * 0.12 + _BAR_SPACE + foot_height
    figure.set_size_inches(width, height)
    # One for all pictures: an Axes for each would take longer than the rest of the sheet.
    figure.add_axes((0.0, 0.0, 1.0, 1.0)).set_axis_off()

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
            blended = overlay(images[at], maps[at])
            for layer, x, y in ((images[at], left, top), (blended, left + right, top + down)):
                _draw_picture(figure, layer, (x, y, cell, highs[row]), masks[at])
        top += talls[row] + 0.12

    bar_width = min(_BAR_WIDTH, width - 2 * _MARGIN)
    if any(mask is not None for mask in masks):
        bar_width = bar_width if columns > 1 else _BAR_SHORT
        left = _MARGIN + bar_width + _BAR_GAP
        figure.text(
            left / width,
            1.0 - top / height,
            "\n".join(_wrapped(OUTLINED, width - _MARGIN - left, _TITLE_POINTS)),
            fontsize=_TITLE_POINTS,
            linespacing=1.2,
            va="top",
        )
    _draw_bar(figure, _MARGIN, top, bar_width)
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
    from PIL import Image

    canvas = cast("FigureCanvasAgg", figure.canvas)
    canvas.draw()
    buffer = BytesIO()
    # Nothing of a sheet is transparent, and a fourth channel would take a quarter of the time to compress.
    pixels = np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])
    Image.fromarray(pixels).save(buffer, "png", dpi=(figure.dpi, figure.dpi), compress_level=_COMPRESSION)
    write_bytes(path, buffer.getvalue())


def _check(image: npt.NDArray[np.uint8], heat: npt.NDArray[np.floating], name: str) -> None:
    if image.ndim != 2 or image.dtype != np.uint8 or image.size == 0:
        raise DataError(f"{name}: {image.dtype} of shape {image.shape}; give (H, W) uint8 grey levels")
    if heat.shape != image.shape:
        raise DataError(f"{name}: heat map of shape {heat.shape} for {image.shape}; resize the map to its image")
    # Written so that NaN fails too.
    if not bool(((heat >= 0.0) & (heat <= 1.0)).all()):
        raise DataError(f"{name}: the heat map has values outside 0..1 or NaN; scale it to 0..1")


def _outlined(mask: Mask | None, image: npt.NDArray[np.uint8], name: str) -> Mask | None:
    """The mask if it has a border to draw."""
    if mask is None:
        return None
    if mask.dtype != np.bool_ or mask.shape != image.shape:
        raise DataError(
            f"{name}: outline {mask.dtype} of shape {mask.shape} for {image.shape}; give bool of the image's shape"
        )
    return mask if mask.any() else None


def _draw_picture(
    figure: Figure, layer: npt.NDArray[np.uint8], cell: tuple[float, float, float, float], mask: Mask | None
) -> None:
    """Draw an image in its cell (left, top, width, height in inches), and the border of its mask."""
    import cv2

    left, top, wide, high = (round(inches * DPI) for inches in cell)
    rows, columns = layer.shape[:2]
    scale = min(wide / columns, high / rows)
    size = max(1, round(columns * scale)), max(1, round(rows * scale))
    left, top = left + (wide - size[0]) // 2, top + (high - size[1]) // 2
    # Where a pixel of the image covers several of the sheet it is seen as a square.
    enlarged = cv2.INTER_NEAREST_EXACT if scale >= _SQUARES else cv2.INTER_LINEAR
    pixels = np.asarray(cv2.resize(layer, size, interpolation=cv2.INTER_AREA if scale < 1 else enlarged), np.uint8)
    _paste(figure, pixels if pixels.ndim == 3 else np.dstack([pixels] * 3), left, top, "picture")
    if mask is not None:
        _paste(figure, _line(mask, size), left - _OUTSIDE, top - _OUTSIDE, "outline")


def _paste(figure: Figure, pixels: npt.NDArray[np.uint8], left: int, top: int, label: str) -> None:
    """Put RGB or RGBA pixels on a sheet, one on one at its own resolution."""
    (axes,) = figure.axes
    axes.add_artist(_pasted()(pixels, left, top, *(figure.get_size_inches() * DPI), label))


@cache
def _pasted() -> Callable[..., Artist]:
    # Made here, because matplotlib is loaded only to draw.
    import cv2
    from matplotlib.artist import Artist
    from matplotlib.backend_bases import RendererBase
    from matplotlib.transforms import Bbox

    class Pasted(Artist):
        """Pixels at a place of the sheet; an image of the library would be resampled, in several times the time."""

        def __init__(
            self, pixels: npt.NDArray[np.uint8], left: int, top: int, width: float, height: float, label: str
        ) -> None:
            super().__init__()
            high, wide = pixels.shape[:2]
            opaque = np.full((high, wide), 255, np.uint8)
            self.pixels = pixels if pixels.shape[2] == 4 else np.dstack([pixels, opaque])
            # As a share of the figure, whose resolution and margins a notebook or another format may change.
            self.place = Bbox([[left / width, 1 - (top + high) / height], [(left + wide) / width, 1 - top / height]])
            self.set_label(label)

        def get_window_extent(self, renderer: RendererBase | None = None) -> Bbox:
            figure = self.get_figure()
            return self.place.transformed(figure.transFigure) if figure else Bbox.null()

        def draw(self, renderer: RendererBase) -> None:
            box = self.get_window_extent()
            left, below = round(box.x0), round(box.y0)
            finer = renderer.get_image_magnification()
            size = max(1, round(box.width * finer)), max(1, round(box.height * finer))
            same = size == self.pixels.shape[1::-1]
            pixels = self.pixels if same else np.asarray(cv2.resize(self.pixels, size, interpolation=cv2.INTER_AREA))
            renderer.draw_image(renderer.new_gc(), left, below, pixels[::-1])

    return Pasted


def _line(mask: Mask, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """A mask's border as RGBA: a white line within a black rim, `_OUTSIDE` pixels wider than its picture on each side.

    Args:
        mask: (H, W).
        size: width and height of the picture.
    """
    import cv2

    # Drawn finer than the sheet and averaged, which smooths its edges.
    fine = np.asarray(
        cv2.resize(mask.astype(np.uint8), (size[0] * _FINE, size[1] * _FINE), interpolation=cv2.INTER_NEAREST_EXACT)
    )
    fine = np.pad(fine, _OUTSIDE * _FINE)
    whole = size[0] + 2 * _OUTSIDE, size[1] + 2 * _OUTSIDE
    covered = []
    for points in (_RIM, _LINE):
        # Everything within half a width of the border is in the dilated mask, but not in the eroded one.
        reach = round(points / 2 / 72 * DPI * _FINE)
        square = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
        band = cv2.morphologyEx(fine, cv2.MORPH_GRADIENT, square)
        covered.append(np.asarray(cv2.resize(band * np.uint8(255), whole, interpolation=cv2.INTER_AREA), np.float64))
    rim, line = covered
    grey = np.rint(255.0 * line / np.where(rim > 0, rim, 1.0))
    return np.dstack([grey, grey, grey, rim]).astype(np.uint8)


def _draw_bar(figure: Figure, left: float, top: float, wide: float) -> None:
    """Draw the colour bar, its places in inches, and its labels."""
    # As overlaid on middle grey.
    columns, rows = round(wide * DPI), round(_BAR_HEIGHT * DPI)
    influence = np.tile(np.linspace(0.0, 1.0, columns), (rows, 1))
    bar = overlay(np.full(influence.shape, 110, np.uint8), influence)
    bar[[0, -1]] = bar[:, [0, -1]] = 0
    _paste(figure, bar, round(left * DPI), round(top * DPI), "colour bar")
    width, height = figure.get_size_inches()
    for x, side, text in ((left, "left", "least influence"), (left + wide, "right", "most influence")):
        below = 1.0 - (top + _BAR_HEIGHT + 3.0 / 72.0) / height
        figure.text(x / width, below, text, fontsize=_TITLE_POINTS, ha=side, va="top")


def _line_height(points: float) -> float:
    return points * 1.4 / 72.0


@lru_cache(maxsize=1024)
def _width(line: str, points: float) -> float:
    """The width of a line in pixels, in the font that draws it. The sheets of a sweep repeat each other's words."""
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties

    return float(RendererAgg(1, 1, DPI).get_text_width_height_descent(line, FontProperties(size=points), False)[0])


def _wrapped(text: str, inches: float, points: float, most: int | None = None) -> list[str]:
    """Wrap each line of a text into at most `most` lines, measured in the font that draws them."""

    def fits(line: str) -> bool:
        return _width(line, points) <= inches * DPI

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
