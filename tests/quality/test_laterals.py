"""The drawn laterals."""

from __future__ import annotations

import numpy as np

from covidnet.quality.laterals import draw_laterals


def test_the_same_seed_draws_the_same_films_and_another_seed_others() -> None:
    first = draw_laterals(5)
    assert first.shape == (5, 64, 64)
    assert first.dtype == np.uint8
    assert np.array_equal(first, draw_laterals(5))
    assert not np.array_equal(first, draw_laterals(5, seed=1))
    assert len({film.tobytes() for film in first}) == 5


def test_a_lateral_has_one_lung_field_before_the_spine_and_brightness_below() -> None:
    films = draw_laterals(200).astype(float)
    lung, belly = films[:, 22:32, 26:40].mean(axis=(1, 2)), films[:, 56:62, 24:40].mean(axis=(1, 2))
    assert (belly > lung).mean() > 0.95
