"""Pictures for the browser."""

from __future__ import annotations

import base64
import io
import re
from importlib.resources import files

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from covidnet.data.loading.transforms import SquareFit
from covidnet.serving.web.pictures import HEAT_COLOURS, LONGEST, heat_url, jpeg_url, preview_of


def opened(url: str, kind: str) -> Image.Image:
    head, _, packed = url.partition(",")
    assert head == f"data:image/{kind};base64"
    return Image.open(io.BytesIO(base64.b64decode(packed)))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((100, 80), (100, 80)), ((768, 768), (768, 768)), ((2000, 1000), (768, 384)), ((64, 100_000), (1, 768))],
)
def test_a_preview_shrinks_and_never_enlarges(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    assert preview_of(np.zeros(shape, np.uint8)).shape == expected
    assert max(expected) <= LONGEST


def test_a_preview_is_a_grey_jpeg_close_to_the_image() -> None:
    image = np.add.outer(np.arange(100), np.arange(120)).astype(np.uint8)
    picture = opened(jpeg_url(image), "jpeg")
    assert picture.mode == "L"
    assert np.abs(np.asarray(picture).astype(int) - image).mean() < 2


def test_colours_are_inferno_and_their_lightness_increases() -> None:
    expected = np.rint(colormaps["inferno"](np.arange(256))[:, :3] * 255)
    assert np.abs(HEAT_COLOURS - expected).max() <= 1
    lightness = HEAT_COLOURS @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(lightness[::8]) > 0).all()


def test_a_heat_map_is_transparent_where_it_is_0_and_coloured_elsewhere() -> None:
    heat = np.zeros((32, 32), np.float32)
    heat[:, 16:] = 1
    picture = np.asarray(opened(heat_url(heat, SquareFit(32), (100, 200)), "png").convert("RGBA"))
    assert picture.shape == (100, 200, 4)
    assert (picture[:, :90, 3] == 0).all()
    assert (picture[:, 110:, 3] == 255).all()
    assert (picture[:, 110:, :3] == HEAT_COLOURS[255]).all()


def test_a_heat_map_is_placed_where_the_network_saw_it() -> None:
    heat = np.ones((32, 32), np.float32)
    cropped = np.asarray(opened(heat_url(heat, SquareFit(32, "crop"), (100, 200)), "png").convert("RGBA"))
    assert (cropped[:, :50, 3] == 0).all()
    assert (cropped[:, 50:150, 3] == 255).all()


def test_a_map_with_nan_or_values_out_of_range_is_drawn() -> None:
    heat = np.full((8, 8), np.nan, np.float32)
    heat[0] = 7
    picture = np.asarray(opened(heat_url(heat, SquareFit(8), (64, 64)), "png").convert("RGBA"))
    assert set(np.unique(picture[..., 3])) <= set(range(256))


def test_the_legend_of_the_page_has_these_colours() -> None:
    style = (files("covidnet.serving.web") / "page/style.css").read_text()
    stops = [[int(part) for part in stop] for stop in re.findall(r"rgb\((\d+) (\d+) (\d+) / (\d+)%\)", style)]
    places = np.linspace(0, 256, len(stops)).clip(0, 255).astype(int)
    assert len(stops) >= 9
    assert [stop[:3] for stop in stops] == HEAT_COLOURS[places].tolist()
    assert np.abs(np.array([stop[3] for stop in stops]) - places / 2.55).max() <= 1
