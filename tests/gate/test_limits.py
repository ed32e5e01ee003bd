"""The share of images that exceeds a limit."""

from __future__ import annotations

import numpy as np
import pytest

from covidnet.gate.limits import tail_limit


@pytest.mark.parametrize("share", [0.003, 0.01, 0.05])
def test_fewer_new_images_than_the_share_exceed_the_limit(share: float) -> None:
    rng = np.random.default_rng(0)
    exceeding = [np.mean(rng.standard_normal(5000) > tail_limit(rng.standard_normal(1000), share)) for _ in range(40)]
    assert np.mean(exceeding) <= share
    assert np.mean(exceeding) >= share / 10


def test_a_rare_share_lies_beyond_the_largest_of_few_scores() -> None:
    scores = np.random.default_rng(1).exponential(size=100)
    assert tail_limit(scores, 0.0005) > scores.max()


def test_the_fewer_the_images_the_farther_the_limit() -> None:
    scores = -np.log(np.arange(1, 1001) / 1001)
    limits = [tail_limit(scores[::step], 0.01) for step in (1, 10, 50)]
    assert limits == sorted(limits)
    assert limits[2] > limits[0] + 1


def test_a_second_kind_of_image_above_the_share_is_let_through() -> None:
    scores = np.concatenate([np.random.default_rng(2).standard_normal(950), np.full(50, 40.0)])
    assert tail_limit(scores, 0.004) >= 40


def test_equal_scores_are_the_limit_and_no_scores_set_none() -> None:
    assert tail_limit(np.full(50, 2.5), 0.01) == 2.5
    assert tail_limit(np.zeros(0), 0.01) == np.inf
