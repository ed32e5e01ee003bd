"""Faults that are found without training images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from covidnet.data.phantoms.phantom import draw_image
from covidnet.data.reading.colour import colour_of
from covidnet.gate.rules import rule_flags
from tests.gate import planted
from tests.gate.conftest import as_radiograph


def codes(grey: np.ndarray, colour: float = 0.0, view: str | None = None) -> list[str]:
    return [flag.code for flag in rule_flags(as_radiograph(grey, colour, view))]


@pytest.mark.parametrize("size", [64, 96, 320])
def test_phantoms_of_all_sizes_pass(size: int) -> None:
    assert [codes(draw_image("Normal", n, 0, size=size).image) for n in range(8)] == [[]] * 8


@pytest.mark.parametrize(("draw", "code"), [(planted.text_page, "page"), (planted.noise, "noise")])
def test_pages_and_noise_are_named(draw: Callable[[np.random.Generator], np.ndarray], code: str) -> None:
    rng = np.random.default_rng(0)
    found = [codes(draw(rng)) for _ in range(20)]
    # Salt and pepper is half white, as a page is.
    assert all(one in ([code], ["page"]) for one in found)
    assert sum(one == [code] for one in found) >= 12


def test_charts_are_refused() -> None:
    rng = np.random.default_rng(0)
    assert all(codes(planted.chart(rng)) for _ in range(20))


def test_colour_photographs_are_refused_and_their_grey_is_left_to_the_model() -> None:
    crops = planted.photographs(np.random.default_rng(0))
    for picture in (next(crops) for _ in range(9)):
        grey = planted.luma(picture)
        assert "colour" in codes(grey, colour_of(picture[:64, :64]) + colour_of(picture))
        assert "colour" not in codes(grey)


def test_header_shape_and_size_are_told() -> None:
    image = draw_image("Normal", 0, 0, size=128).image
    assert codes(image, view="L") == ["lateral"]
    assert codes(image, view="PA") == []
    assert codes(np.tile(image, (1, 4))) == ["shape"]
    assert codes(image[:60]) == ["small"]


def test_a_flat_or_constant_picture_is_left_to_the_exposure() -> None:
    image = draw_image("Normal", 0, 0, size=128).image
    assert codes((120 + image // 20).astype(np.uint8)) == []
    assert "page" not in codes(np.full((128, 128), 100, np.uint8))


def test_a_image_of_which_little_is_left_is_dark_or_bright_and_no_page() -> None:
    image = draw_image("Normal", 0, 0, size=320).image.astype(float)
    assert codes(np.clip(4.0 * image, 0, 255).astype(np.uint8)) in (["bright"], [])
    black = np.where(np.arange(len(image))[:, None] < 0.92 * len(image), 0, image)
    assert codes(black.astype(np.uint8)) == ["dark"]
