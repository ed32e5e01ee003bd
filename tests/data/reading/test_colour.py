"""Which images count as coloured."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from covidnet.data.phantoms.phantom import draw_image
from covidnet.data.reading.colour import colour_of
from covidnet.gate.rules import MAX_COLOUR
from tests.gate import planted

IMAGE = draw_image("Normal", 0, 0, size=320).image


def small(picture: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA))


def jpeg(picture: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=60)
    return np.asarray(Image.open(file))


def test_grey_is_not_coloured() -> None:
    assert colour_of(np.stack([IMAGE] * 3, axis=2)) == 0


@pytest.mark.parametrize("tint", [(1.0, 0.95, 0.85), (0.8, 0.9, 1.0), (0.9, 1.0, 0.9), (1.0, 0.8, 0.6)])
def test_a_tint_does_not_count_as_colour_even_in_jpeg(tint: tuple[float, float, float]) -> None:
    tinted = np.clip(IMAGE[..., None] * np.array(tint) + 4, 0, 255).astype(np.uint8)
    assert colour_of(small(jpeg(tinted))) < 0.01


def test_coloured_marks_are_a_small_share_of_the_image() -> None:
    marked = np.ascontiguousarray(np.stack([IMAGE] * 3, axis=2))
    cv2.putText(marked, "R  AP PORTABLE", (10, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (255, 0, 0), 2)
    cv2.arrowedLine(marked, (150, 200), (110, 160), (255, 255, 0), 4)
    assert 0 < colour_of(small(jpeg(marked))) < MAX_COLOUR


def test_photographs_scenes_and_heat_maps_are_coloured() -> None:
    rng = np.random.default_rng(0)
    crops = planted.photographs(rng)
    pictures = [next(crops) for _ in range(9)] + [planted.scene(rng) for _ in range(9)]
    heat = cv2.applyColorMap(np.linspace(0, 255, IMAGE.size).reshape(IMAGE.shape).astype(np.uint8), cv2.COLORMAP_JET)
    pictures.append((0.5 * heat[..., ::-1] + 0.5 * IMAGE[..., None]).astype(np.uint8))
    assert min(colour_of(small(picture)) for picture in pictures) > MAX_COLOUR


def test_the_share_is_the_area_of_the_coloured_part() -> None:
    picture = np.full((64, 64, 3), 100, np.uint8)
    picture[:16] = (200, 40, 40)
    assert colour_of(picture) == 0.25
