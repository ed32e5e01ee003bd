import errno
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from covidnet.atomic import WriteError
from covidnet.errors import DataError
from covidnet.report.panel import film_panels, overlay, save_figure

KIT = Path(__file__).parents[2].parent / "shared/data/cxr-kit"


def _film(height: int = 40, width: int = 40, grey: int = 100) -> np.ndarray:
    return np.full((height, width), grey, np.uint8)


def _panel(n: int, **options: Any) -> Figure:
    films = [_film(40 + 3 * at, 50) for at in range(n)]
    return film_panels(films, [np.zeros(film.shape) for film in films], [f"film {at}" for at in range(n)], **options)


def _pixels(figure: Figure) -> np.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi)
    return np.asarray(Image.open(buffer).convert("RGB")).astype(int)


def _boxes(figure: Figure) -> list[Any]:
    """Where each text and picture lies on the sheet, in pixels."""
    assert isinstance(figure.canvas, FigureCanvasAgg)
    renderer = figure.canvas.get_renderer()
    texts = [text.get_window_extent(renderer) for text in figure.texts if text.get_text()]
    axes = [axes.get_tightbbox(renderer) for axes in figure.axes]
    return [*texts, *axes]


def test_red_is_most_and_blue_least_and_the_middle_green() -> None:
    most, middle, least = overlay(_film(1, 3), np.array([[1.0, 0.5, 0.0]]))[0].astype(int)
    assert most[0] > most[1]
    assert most[0] > most[2]
    assert middle[1] > middle[0]
    assert middle[1] > middle[2]
    assert least[2] > least[0]
    assert least[2] > least[1]


def test_the_film_stays_visible_below_the_map() -> None:
    grey = np.linspace(0, 255, 256).astype(np.uint8)[None, :]
    for level in (0.0, 0.3, 1.0):
        brightness = overlay(grey, np.full(grey.shape, level)).sum(axis=2).astype(int)[0]
        assert (np.diff(brightness) >= 0).all()
        assert brightness[-1] - brightness[0] > 300


@pytest.mark.parametrize("corner", [(0, 0), (0, -1), (-1, 0), (-1, -1)])
def test_a_film_and_its_map_are_drawn_upright_and_unmirrored(corner: tuple[int, int]) -> None:
    film, heat = _film(64, 64, 0), np.zeros((64, 64))
    rows, columns = (slice(0, 32) if at == 0 else slice(32, 64) for at in corner)
    film[rows, columns] = 255
    heat[rows, columns] = 1.0
    figure = film_panels([film], [heat], [""])
    pixels = _pixels(figure)
    height, width = pixels.shape[:2]
    for at, axes in enumerate(figure.axes[:2]):
        box = axes.get_window_extent()
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


def test_a_film_is_shown_without_stretching_its_grey_levels() -> None:
    figure = film_panels([_film(grey=100)], [np.zeros((40, 40))], ["flat"])
    box = figure.axes[0].get_window_extent()
    pixels = _pixels(figure)
    centre = pixels[pixels.shape[0] - int(box.y0 + box.height / 2), int(box.x0 + box.width / 2)]
    assert centre.tolist() == [100, 100, 100]


@pytest.mark.parametrize(("n", "columns"), [(1, 5), (4, 5), (5, 5), (7, 3), (15, 5), (3, 1)])
def test_nothing_is_cut_and_nothing_overlaps(n: int, columns: int) -> None:
    figure = _panel(n, columns=columns, caption="Made from synthetic phantoms; not for clinical use. " * 6)
    boxes = _boxes(figure)
    assert len(boxes) == n + 1 + 2 * n + 1
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
def test_any_title_fits_above_its_film(title: str) -> None:
    figure = film_panels([_film(), _film()], [np.zeros((40, 40))] * 2, [title, "other"], columns=2)
    boxes = _boxes(figure)
    for at, box in enumerate(boxes):
        for other in boxes[at + 1 :]:
            assert box.x1 <= other.x0 or other.x1 <= box.x0 or box.y1 <= other.y0 or other.y1 <= box.y0


def test_a_long_name_is_shortened_and_what_was_called_stays() -> None:
    figure = film_panels([_film()], [np.zeros((40, 40))], ["n" * 500 + "\nNormal, called Pneumonia"])
    lines = figure.texts[0].get_text().splitlines()
    assert lines[-1] == "Normal, called Pneumonia"
    assert len(lines) == 3
    assert lines[1].endswith("...")


def test_the_caption_is_whole_and_the_colours_are_explained() -> None:
    caption = "Grad-CAM of the class that was called. " * 20
    figure = _panel(5, caption=caption)
    assert figure.texts[-1].get_text().split() == caption.split()
    bar = figure.axes[-1]
    assert [label.get_text() for label in bar.get_xticklabels()] == ["least influence", "most influence"]
    colours = bar.images[0].to_rgba(bar.images[0].get_array())
    assert colours[0, 0, 2] > colours[0, 0, 0]
    assert colours[0, -1, 0] > colours[0, -1, 2]


@pytest.mark.parametrize(
    ("films", "maps", "titles", "told"),
    [
        ([], [], [], "a panel of 0 films"),
        ([_film()], [], ["a"], "1 films, 0 maps"),
        ([_film()], [np.zeros((40, 40))], [], "0 titles"),
        ([_film().astype(float)], [np.zeros((40, 40))], ["a"], r"film 1 \(a\): float64"),
        ([np.zeros((40, 40, 3), np.uint8)], [np.zeros((40, 40))], ["a"], r"shape \(40, 40, 3\)"),
        ([_film()], [np.zeros((7, 7))], ["a"], r"heat map of shape \(7, 7\) for \(40, 40\)"),
        ([_film()], [np.full((40, 40), 1.5)], ["a"], r"outside 0\.\.1"),
        ([_film()], [np.full((40, 40), np.nan)], ["a"], r"outside 0\.\.1 or NaN"),
    ],
)
def test_arrays_that_are_no_film_and_map_are_refused(films: Any, maps: Any, titles: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        film_panels(films, maps, titles)


def test_no_columns_are_refused() -> None:
    with pytest.raises(DataError, match="columns=0"):
        _panel(1, columns=0)


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
        "from covidnet.report.panel import film_panels\n"
        "assert 'matplotlib' not in sys.modules\n"
        "film_panels([np.zeros((9, 9), np.uint8)], [np.zeros((9, 9))], ['a'])\n"
        "assert 'matplotlib.figure' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not KIT.is_dir(), reason="no real radiographs here")
def test_real_films_of_any_shape_are_drawn_in_their_proportions() -> None:
    films = [np.asarray(Image.open(file).convert("L")) for file in sorted(KIT.glob("Data/test/*/*.jpg"))[:6]]
    figure = film_panels(films, [np.zeros(film.shape) for film in films], ["film"] * len(films), columns=3)
    figure.canvas.draw()
    for film, axes in zip(films, figure.axes[::2], strict=False):
        box = axes.get_window_extent()
        assert box.width / box.height == pytest.approx(film.shape[1] / film.shape[0], rel=0.02)
