import errno
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from IPython.core.pylabtools import print_figure
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image

from covidnet.base.atomic import WriteError
from covidnet.base.errors import DataError
from covidnet.report.plots.sheet import OPACITY, OUTLINED, image_panels, overlay, save_figure
from tests.conftest import PROJECT

KIT = PROJECT.parent / "shared/data/cxr-kit"


def _image(height: int = 40, width: int = 40, grey: int = 100) -> np.ndarray:
    return np.full((height, width), grey, np.uint8)


def _panel(n: int, **options: Any) -> Figure:
    images = [_image(40 + 3 * at, 50) for at in range(n)]
    return image_panels(
        images, [np.zeros(image.shape) for image in images], [f"image {at}" for at in range(n)], **options
    )


def _pixels(figure: Figure) -> np.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi)
    return np.asarray(Image.open(buffer).convert("RGB")).astype(int)


def _boxes(figure: Figure) -> list[Any]:
    """Where each text and picture lies on the sheet, in pixels."""
    assert isinstance(figure.canvas, FigureCanvasAgg)
    renderer = figure.canvas.get_renderer()
    texts = [text.get_window_extent(renderer) for text in figure.texts if text.get_text()]
    return [*texts, *(_box(image) for image in figure.axes[0].artists if image.get_label() != "outline")]


def _box(image: Artist) -> Bbox:
    return Bbox(np.round(image.get_window_extent().get_points()))


def _pictures(figure: Figure) -> list[Artist]:
    """Images and overlays in turn."""
    return [image for image in figure.axes[0].artists if image.get_label() == "picture"]


def test_the_colours_are_those_of_the_page_and_no_influence_is_the_bare_image() -> None:
    from covidnet.serving.web.pictures import HEAT_COLOURS

    image = np.zeros((1, 3), np.uint8)
    most, middle, least = overlay(image, np.array([[1.0, 0.5, 0.0]]))[0].astype(float)
    np.testing.assert_allclose(most / OPACITY, HEAT_COLOURS[255], atol=2)
    np.testing.assert_allclose(middle / (OPACITY / 2), HEAT_COLOURS[128], atol=4)
    assert not least.any()
    # Bright yellow: more influence is lighter all the way.
    assert most[0] > most[2]
    assert most[1] > most[2]
    lightness = overlay(np.full((1, 256), 60, np.uint8), np.linspace(0, 1, 256)[None])[0] @ (0.299, 0.587, 0.114)
    assert lightness[-1] == lightness.max() > lightness[0]


def test_the_image_stays_visible_below_the_map() -> None:
    grey = np.linspace(0, 255, 256).astype(np.uint8)[None, :]
    for level in (0.0, 0.3, 1.0):
        brightness = overlay(grey, np.full(grey.shape, level)).sum(axis=2).astype(int)[0]
        assert (np.diff(brightness) >= 0).all()
        assert brightness[-1] - brightness[0] > 300


@pytest.mark.parametrize("corner", [(0, 0), (0, -1), (-1, 0), (-1, -1)])
def test_a_image_and_its_map_are_drawn_upright_and_unmirrored(corner: tuple[int, int]) -> None:
    image, heat = _image(64, 64, 0), np.zeros((64, 64))
    rows, columns = (slice(0, 32) if at == 0 else slice(32, 64) for at in corner)
    image[rows, columns] = 255
    heat[rows, columns] = 1.0
    figure = image_panels([image], [heat], [""])
    pixels = _pixels(figure)
    height, width = pixels.shape[:2]
    for at, picture in enumerate(_pictures(figure)):
        box = _box(picture)
        sheet = pixels[int(height - box.y1) : int(height - box.y0), int(box.x0) : int(box.x1)]
        score = sheet.sum(axis=2) if at == 0 else sheet[..., 0] - sheet[..., 2]
        high, wide = score.shape
        quarters = {
            (y, x): score[(0 if y == 0 else high // 2) :, (0 if x == 0 else wide // 2) :][
                : high // 2, : wide // 2
            ].mean()
            for y in (0, -1)
            for x in (0, -1)
        }
        assert max(quarters, key=quarters.__getitem__) == corner
    assert width == pixels.shape[1]


def test_a_image_is_shown_without_stretching_its_grey_levels() -> None:
    figure = image_panels([_image(grey=100)], [np.zeros((40, 40))], ["flat"])
    box = _box(_pictures(figure)[0])
    pixels = _pixels(figure)
    centre = pixels[pixels.shape[0] - int(box.y0 + box.height / 2), int(box.x0 + box.width / 2)]
    assert centre.tolist() == [100, 100, 100]


@pytest.mark.parametrize(("n", "columns"), [(1, 5), (4, 5), (5, 5), (7, 3), (15, 5), (3, 1)])
@pytest.mark.parametrize("stacked", [False, True])
def test_nothing_is_cut_and_nothing_overlaps(n: int, columns: int, stacked: bool) -> None:
    figure = _panel(
        n, columns=columns, stacked=stacked, caption="Made from synthetic phantoms; not for clinical use. " * 6
    )
    boxes = _boxes(figure)
    assert len(boxes) == n + 1 + 2 + 2 * n + 1
    width, height = figure.canvas.get_width_height()
    for at, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height
        for other in boxes[at + 1 :]:
            apart = box.x1 <= other.x0 or other.x1 <= box.x0 or box.y1 <= other.y0 or other.y1 <= box.y0
            assert apart, (box, other)


@pytest.mark.parametrize(
    "title",
    ["W" * 300 + ".png\nPneumonia, called Normal (0.51)", "word " * 60, "cost $\\frac$.png", "a\n\nb", ""],
)
def test_any_title_fits_above_its_image(title: str) -> None:
    figure = image_panels([_image(), _image()], [np.zeros((40, 40))] * 2, [title, "other"], columns=2)
    boxes = _boxes(figure)
    for at, box in enumerate(boxes):
        for other in boxes[at + 1 :]:
            assert box.x1 <= other.x0 or other.x1 <= box.x0 or box.y1 <= other.y0 or other.y1 <= box.y0


def test_a_stacked_map_stands_below_its_image() -> None:
    figure = image_panels([_image(grey=100)], [np.zeros((40, 40))], [""], stacked=True)
    image, heat = map(_box, _pictures(figure))
    assert (image.x0, image.x1) == pytest.approx((heat.x0, heat.x1))
    assert image.y0 > heat.y1


def test_a_long_name_is_shortened_and_what_was_called_stays() -> None:
    figure = image_panels([_image()], [np.zeros((40, 40))], ["n" * 500 + "\nNormal, called Pneumonia"])
    lines = figure.texts[0].get_text().splitlines()
    assert lines[-1] == "Normal, called Pneumonia"
    assert len(lines) == 3
    assert lines[1].endswith("...")


def test_a_name_that_no_font_can_draw_is_escaped() -> None:
    figure = image_panels([_image()], [np.zeros((40, 40))], ["bad\udcff\x1b[31m.png\ncalled Normal 70%"], columns=1)
    assert figure.texts[0].get_text().splitlines() == [r"bad\xff\x1b[31m.png", "called Normal 70%"]


def test_a_notebook_and_another_resolution_show_the_same_sheet() -> None:
    image, heat = _image(64, 64, 0), np.zeros((64, 64))
    image[:32, :32], heat[:32, 32:] = 255, 1.0
    figure = image_panels([image], [heat], ["a corner"], caption="at the foot")
    plain = _pixels(figure)
    for settings in ({"dpi": 2 * figure.dpi}, {"dpi": figure.dpi, "bbox_inches": "tight", "pad_inches": 0}):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", **settings)
        found = Image.open(buffer).convert("RGB").resize(plain.shape[1::-1])
        # Pictures that are misplaced by a tenth of an inch differ by much more.
        assert np.abs(np.asarray(found) - plain).mean() < 4
    # What a notebook calls; it shows nothing of a figure without axes.
    assert print_figure(figure) is not None


def test_the_caption_is_whole_and_the_colours_are_explained() -> None:
    caption = "Grad-CAM of the predicted class. " * 20
    figure = _panel(5, caption=caption)
    assert figure.texts[-1].get_text().split() == caption.split()
    bar = figure.axes[0].artists[-1]
    assert bar.get_label() == "colour bar"
    least, most = figure.texts[-3:-1]
    assert (least.get_text(), most.get_text()) == ("least influence", "most influence")
    assert least.get_window_extent().x0 == pytest.approx(_box(bar).x0, abs=1)
    assert most.get_window_extent().x1 == pytest.approx(_box(bar).x1, abs=1)
    colours = bar.pixels[5, 1:-1].astype(int)
    # From the bare image to bright yellow.
    assert colours[0, 2] == colours[0, 0]
    assert colours[-1, 0] > colours[-1, 2]


def test_a_title_of_three_lines_is_whole() -> None:
    title = "true Pneumonia\ncalled COVID-19 97%\nmap: Pneumonia"
    assert image_panels([_image()], [np.zeros((40, 40))], [title]).texts[0].get_text() == title


def _edges(mask: np.ndarray) -> np.ndarray:
    """The (row, column) of every end of an edge between a pixel of the mask and one outside, in pixels of the image."""
    ends = set()
    for row, column in zip(*np.nonzero(mask), strict=True):
        for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            y, x = row + down, column + right
            if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x]:
                continue
            for side in (-0.5, 0.5):
                ends.add((row + down / 2 + side * abs(right), column + right / 2 + side * abs(down)))
    return np.array(sorted(ends))


def _drawn(with_line: Figure, without: Figure) -> list[np.ndarray]:
    """For image and overlay the (row, column) of each pixel that the outline changed, in pixels of the image."""
    changed = (_pixels(with_line) != _pixels(without)).any(axis=2)
    found = []
    for picture in _pictures(with_line):
        box, shape = _box(picture), (40, 40)
        rows, columns = np.nonzero(changed)
        y = (rows + 0.5 - (changed.shape[0] - box.y1)) / box.height * shape[0] - 0.5
        x = (columns + 0.5 - box.x0) / box.width * shape[1] - 0.5
        # As far as the middle of the gap between the two.
        near = (x > -1) & (x < shape[1]) & (y < shape[0])
        found.append(np.stack([y[near], x[near]], axis=1))
    return found


@pytest.mark.parametrize(
    "place", [(slice(5, 20), slice(12, 30)), (slice(0, 9), slice(31, 40)), (slice(7, 8), slice(3, 4))]
)
def test_an_outline_lies_on_the_border_of_its_mask(place: tuple[slice, slice]) -> None:
    mask = np.zeros((40, 40), bool)
    mask[place] = True
    mask[30:38, 10:14] = mask[34:38, 10:30] = True
    images = ([_image()], [np.full((40, 40), 0.5)], [""])
    edges = _edges(mask)
    for drawn in _drawn(
        image_panels(*images, outlines=[mask]), image_panels(*images, outlines=[np.zeros((40, 40), bool)])
    ):
        assert len(drawn)
        apart = np.abs(drawn[:, None, :] - edges[None, :, :]).max(axis=2)
        # A pixel of the image is 6 of the sheet, and the line with its rim 4 wide: half of that, and one for smoothing.
        # Between the two ends of an edge a pixel may be as far as half an edge from both.
        assert apart.min(axis=1).max() <= 0.5 + 1 / 6
        assert apart.min(axis=0).max() <= 1.5 / 6
        # On straight edges the middle line is exact.
        left = drawn[:, 1].min(), drawn[:, 1].max()
        assert np.mean(left) == pytest.approx((edges[:, 1].min() + edges[:, 1].max()) / 2, abs=1 / 6)


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_an_outline_is_seen_on_dark_and_bright_images(grey: int) -> None:
    mask = np.zeros((40, 40), bool)
    mask[10:30, 10:30] = True
    figure = image_panels([_image(grey=grey)], [np.zeros((40, 40))], [""], outlines=[mask])
    pixels = _pixels(figure)
    for picture in _pictures(figure):
        box = _box(picture)
        top = pixels.shape[0] - box.y1
        # Across the upper edge of the mask, which lies between the rows 9 and 10.
        at = int(top + 10 / 40 * box.height)
        across = pixels[at - 4 : at + 5, int(box.x0 + box.width / 2)].sum(axis=1)
        assert across.max() > 3 * 200
        assert across.min() < 3 * 60


@pytest.mark.parametrize(("n", "columns"), [(1, 1), (2, 2), (3, 1)])
@pytest.mark.parametrize("stacked", [False, True])
def test_a_word_beside_the_bar_explains_outlines_where_one_is_drawn(n: int, columns: int, stacked: bool) -> None:
    mask = np.zeros((40, 40), bool)
    mask[:7, :9] = True
    images = ([_image()] * n, [np.zeros((40, 40))] * n, ["a"] * n)

    def words(figure: Figure) -> list[str]:
        return [" ".join(text.get_text().split()) for text in figure.texts]

    outlined = image_panels(
        *images, columns=columns, stacked=stacked, outlines=[*[None] * (n - 1), mask], caption="c " * 99
    )
    assert OUTLINED in words(outlined)
    # An outline at the edge of its image is as wide as elsewhere, and touches no other thing.
    boxes = _boxes(outlined)
    width, height = outlined.canvas.get_width_height()
    for at, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.x1 <= width
        assert box.y0 >= 0
        assert box.y1 <= height
        for other in boxes[at + 1 :]:
            assert box.x1 <= other.x0 or other.x1 <= box.x0 or box.y1 <= other.y0 or other.y1 <= box.y0
    for nothing in ((), [None] * n, [np.zeros((40, 40), bool)] * n):
        plain = image_panels(*images, columns=columns, outlines=nothing)
        assert OUTLINED not in words(plain)
        np.testing.assert_array_equal(_pixels(plain), _pixels(image_panels(*images, columns=columns)))


@pytest.mark.parametrize(
    ("outlines", "told"),
    [
        ([None, None], "1 images and 2 outlines"),
        ([np.zeros((7, 7), bool)], r"image 1 \(a\): outline bool of shape \(7, 7\) for \(40, 40\)"),
        ([np.zeros((40, 40), np.uint8)], "outline uint8"),
    ],
)
def test_outlines_of_another_number_shape_or_kind_are_refused(outlines: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        image_panels([_image()], [np.zeros((40, 40))], ["a"], outlines=outlines)


@pytest.mark.parametrize(
    ("images", "maps", "titles", "told"),
    [
        ([], [], [], "0 images, 0 maps, 0 titles"),
        ([_image()], [], ["a"], "1 images, 0 maps"),
        ([_image()], [np.zeros((40, 40))], [], "0 titles"),
        ([_image().astype(float)], [np.zeros((40, 40))], ["a"], r"image 1 \(a\): float64"),
        ([np.zeros((40, 40, 3), np.uint8)], [np.zeros((40, 40))], ["a"], r"shape \(40, 40, 3\)"),
        ([_image()], [np.zeros((7, 7))], ["a"], r"heat map of shape \(7, 7\) for \(40, 40\)"),
        ([_image()], [np.full((40, 40), 1.5)], ["a"], r"outside 0\.\.1"),
        ([_image()], [np.full((40, 40), np.nan)], ["a"], r"outside 0\.\.1 or NaN"),
    ],
)
def test_arrays_that_are_no_image_and_map_are_refused(images: Any, maps: Any, titles: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        image_panels(images, maps, titles)


def test_no_columns_and_no_width_are_refused() -> None:
    with pytest.raises(DataError, match="columns=0"):
        _panel(1, columns=0)
    with pytest.raises(DataError, match="cell=0"):
        _panel(1, cell=0)


@pytest.mark.parametrize(("shape", "cell"), [((40, 40), 4.0), ((300, 2000), 8.0), ((2000, 1100), 4.0), ((50, 60), 1.6)])
@pytest.mark.parametrize("stacked", [False, True])
def test_a_image_is_as_wide_as_its_cell(shape: tuple[int, int], cell: float, stacked: bool) -> None:
    figure = image_panels([_image(*shape)], [np.zeros(shape)], [""], cell=cell, stacked=stacked, caption="c " * 200)
    for picture in _pictures(figure):
        box = _box(picture)
        assert box.width == pytest.approx(cell * figure.dpi, abs=1)
        assert box.height == pytest.approx(box.width * shape[0] / shape[1], abs=1)
    boxes = _boxes(figure)
    for at, box in enumerate(boxes):
        for other in boxes[at + 1 :]:
            assert box.x1 <= other.x0 or other.x1 <= box.x0 or box.y1 <= other.y0 or other.y1 <= box.y0


def test_a_very_long_image_is_narrower_and_not_longer_than_twice_the_width() -> None:
    figure = image_panels([_image(900, 100)], [np.zeros((900, 100))], [""], cell=2.0)
    box = _box(_pictures(figure)[0])
    assert box.height == pytest.approx(2 * 2.0 * figure.dpi, abs=1)
    assert box.width == pytest.approx(box.height / 9, abs=1)


def test_a_saved_figure_is_a_png_of_the_sheet_with_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save_figure(_panel(3), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"
        assert image.size == _panel(3).canvas.get_width_height()


def test_a_full_disk_keeps_the_old_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match=r"a\.png: not written, .*ENOSPC"):
        save_figure(_panel(1), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == b"old"


def test_matplotlib_is_loaded_only_to_draw_and_pyplot_never() -> None:
    code = (
        "import sys, numpy as np\n"
        "from covidnet.report.plots.sheet import image_panels\n"
        "assert 'matplotlib' not in sys.modules\n"
        "image_panels([np.zeros((9, 9), np.uint8)], [np.zeros((9, 9))], ['a'])\n"
        "assert 'matplotlib.figure' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not KIT.is_dir(), reason="no real radiographs here")
def test_real_images_of_any_shape_are_drawn_in_their_proportions() -> None:
    images = [np.asarray(Image.open(file).convert("L")) for file in sorted(KIT.glob("Data/test/*/*.jpg"))[:6]]
    figure = image_panels(images, [np.zeros(image.shape) for image in images], ["image"] * len(images), columns=3)
    for image, picture in zip(images, _pictures(figure)[::2], strict=True):
        box = _box(picture)
        assert box.width / box.height == pytest.approx(image.shape[1] / image.shape[0], rel=0.02)
