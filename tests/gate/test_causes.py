"""The flag given to each kind of unsuitable image."""

from __future__ import annotations

import numpy as np
import pytest

from covidnet.gate.causes import CT, LATERAL, NOT_FRONTAL, direction_flag, has_black_border
from covidnet.gate.flags import CODES
from tests.gate import planted


@pytest.mark.parametrize("way", range(1, 8))
def test_every_way_has_a_code_a_cause_and_a_remedy(way: int) -> None:
    flag = direction_flag(way)
    assert flag.code in CODES
    assert flag.refuses
    assert flag.text.count("; ") == 1
    assert ("invert" in flag.text) == (way >= 4)


def test_the_remedy_for_a_image_turned_clockwise_is_to_turn_it_anticlockwise() -> None:
    assert direction_flag(1).text.endswith("a quarter anticlockwise")  # numpy turns anticlockwise
    assert direction_flag(3).text.endswith("a quarter clockwise")
    assert direction_flag(2).code == "rotated_180"


def test_the_other_names_are_codes_too() -> None:
    assert {CT.code, LATERAL.code, NOT_FRONTAL.code} <= set(CODES)


def test_slices_have_black_all_round_them_and_images_have_not(thumbnails: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    assert all(has_black_border(planted.ct_slice(rng)[::8, ::8]) for _ in range(10))
    assert not any(has_black_border(one) for one in thumbnails)
    assert not has_black_border(np.zeros((64, 64), np.uint8))
