"""Windows of thumbnails: what is compared, and how a window is moved to the best fit."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from covidnet.data.reading.thumbnails import SIDE
from covidnet.data.recognition.alignment import (
    COARSE,
    FINE,
    MIDDLE,
    Level,
    coarse_windows,
    refine,
    window_matrices,
    windows,
)


def pictures(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = [cv2.GaussianBlur(rng.normal(size=(256, 256)).astype(np.float32), (0, 0), 9) for _ in range(count)]
    return np.stack([cv2.normalize(n, None, 30, 220, cv2.NORM_MINMAX) for n in noise]).astype(np.uint8)


def small(pictures: np.ndarray) -> np.ndarray:
    return np.stack([cv2.resize(p, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for p in pictures])


@pytest.mark.parametrize("side", [16, 32, 64])
def test_the_whole_is_what_opencv_makes_of_it(side: int) -> None:
    picture = small(pictures(1))[0].astype(np.float32)
    matrix = window_matrices([0.0], [64.0], side)[0]
    expected = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(matrix @ picture @ matrix.T, expected, atol=1e-3)


@pytest.mark.parametrize(("start", "length"), [(0.0, 44.0), (3.7, 51.3), (20.0, 44.0)])
def test_each_pixel_of_a_window_is_a_mean(start: float, length: float) -> None:
    matrix = window_matrices([start], [length], 16)[0]
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-5)
    # The mean of a ramp is its value in the middle; a pixel is one step of it.
    ramp = np.arange(SIDE) + 0.5
    np.testing.assert_allclose(matrix @ ramp, start + length * (np.arange(16) + 0.5) / 16, atol=0.06)


@pytest.mark.parametrize("level", [COARSE, MIDDLE, FINE])
def test_brightness_and_contrast_change_nothing_and_a_negative_changes_the_sign(level: Level) -> None:
    picture = small(pictures(3)).astype(np.float32)
    one = level.of(picture)
    np.testing.assert_allclose(one.mean((1, 2)), 0.0, atol=1e-5)
    np.testing.assert_allclose((one**2).sum((1, 2)), 1.0, atol=1e-4)
    np.testing.assert_allclose(level.of(255.0 - picture), -one, atol=1e-4)
    other = level.of(0.7 * picture + 40.0)
    assert ((one * other).sum((1, 2)) > 0.98).all()


def test_the_first_window_is_the_whole_and_all_lie_within() -> None:
    found = windows()
    assert found[0].tolist() == [0.0, 64.0, 0.0, 64.0]
    assert (found[:, [0, 2]] >= 0).all()
    assert (found[:, 0] + found[:, 1] <= SIDE).all()
    assert (found[:, 2] + found[:, 3] <= SIDE).all()


def test_coarse_windows_are_those_of_the_table_of_windows() -> None:
    picture = small(pictures(2))
    found = coarse_windows(picture)
    for at in (0, 7, 60, len(windows()) - 1):
        top, height, left, width = windows()[at]
        rows, columns = (window_matrices([s], [n], COARSE.side) for s, n in ((top, height), (left, width)))
        expected = COARSE.of(picture.astype(np.float32), rows, columns).reshape(2, -1)
        np.testing.assert_allclose(found[:, at], expected, atol=1e-4)


def test_a_window_is_moved_to_what_was_cut_out() -> None:
    whole = pictures(8, seed=1)
    top, height, left, width = 20, 200, 30, 215  # of 256
    cut = whole[:, top : top + height, left : left + width]
    expected = np.array([top, height, left, width]) / 4
    start = np.tile(expected + np.array([1.5, -2.0, -1.5, 2.0]), (8, 1))
    similarity, found = refine(small(cut), small(whole), start, [(COARSE, 3), (MIDDLE, 3), (FINE, 4)])
    assert (similarity > 0.93).all()
    np.testing.assert_allclose(found, np.tile(expected, (8, 1)), atol=0.5)
    assert (refine(small(cut), small(whole), start, [(FINE, 0)])[0] < similarity).all()


def test_pictures_without_structure_leave_no_nan() -> None:
    flat = np.full((2, SIDE, SIDE), 9, np.uint8)
    similarity, found = refine(flat, small(pictures(2)), np.tile(windows()[0], (2, 1)), [(MIDDLE, 3), (FINE, 3)])
    assert np.isfinite(similarity).all()
    assert np.isfinite(found).all()
    assert (similarity < 0.1).all()


def test_nothing_is_refined_to_nothing() -> None:
    none = np.zeros((0, SIDE, SIDE), np.uint8)
    similarity, found = refine(none, none, np.zeros((0, 4)), [(FINE, 2)])
    assert similarity.shape == (0,)
    assert found.shape == (0, 4)
