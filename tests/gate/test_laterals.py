"""The drawn laterals."""

from __future__ import annotations

import numpy as np

from covidnet.gate.laterals import draw_laterals


def test_the_same_seed_draws_the_same_images_and_another_seed_others() -> None:
    first = draw_laterals(5)
    assert first.shape == (5, 64, 64)
    assert first.dtype == np.uint8
    assert np.array_equal(first, draw_laterals(5))
    assert not np.array_equal(first, draw_laterals(5, seed=1))
    assert len({image.tobytes() for image in first}) == 5


def test_a_lateral_has_one_lung_field_before_the_spine_and_brightness_below() -> None:
    images = draw_laterals(200).astype(float)
    lung, belly = images[:, 22:32, 26:40].mean(axis=(1, 2)), images[:, 56:62, 24:40].mean(axis=(1, 2))
    assert (belly > lung).mean() > 0.95
