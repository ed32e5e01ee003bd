"""The deviation loss against its formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from covidnet.learning.losses import MARGIN, deviation_loss


def test_it_follows_its_formula() -> None:
    scores = torch.tensor([0.3, -2.0, 1.0, 7.0], dtype=torch.float64)
    anomalous = torch.tensor([False, False, True, True])
    # 5,000 draws of a standard normal: a mean of 0 and a deviation of 1, both to some hundredths.
    by_hand = np.mean([0.3, 2.0, MARGIN - 1.0, 0.0])
    assert float(deviation_loss(scores, anomalous)) == pytest.approx(by_hand, abs=0.06)


def test_it_draws_common_images_to_the_mean_and_pushes_anomalies_out() -> None:
    scores = torch.tensor([2.0, -2.0, 2.0], requires_grad=True)
    deviation_loss(scores, torch.tensor([False, False, True])).backward()
    assert scores.grad is not None
    assert [float(np.sign(g)) for g in scores.grad] == [1.0, -1.0, -1.0]


def test_it_leaves_the_global_random_state_alone_and_repeats() -> None:
    before = torch.get_rng_state()
    scores, anomalous = torch.randn(5, generator=torch.Generator().manual_seed(0)), torch.ones(5, dtype=torch.bool)
    assert float(deviation_loss(scores, anomalous)) == float(deviation_loss(scores, anomalous))
    assert torch.equal(torch.get_rng_state(), before)
