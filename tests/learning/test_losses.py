"""Losses and class weights against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.utils.class_weight import compute_class_weight
from torch.nn.functional import cross_entropy

from covidnet.learning.losses import MARGIN, FocalLoss, balanced_weights, deviation_loss
from tests.refusals import refused

LOGITS = torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2] * 4)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("weight", [None, [3.0, 1.0, 0.5]])
def test_focal_loss_follows_its_formula(gamma: float, weight: list[float] | None) -> None:
    p = softmax(LOGITS.numpy(), axis=1)[np.arange(12), LABELS.numpy()]
    w = np.ones(12) if weight is None else np.array(weight)[LABELS.numpy()]
    loss = FocalLoss(gamma, None if weight is None else torch.tensor(weight, dtype=torch.float64))
    assert float(loss(LOGITS, LABELS)) == pytest.approx(np.sum(-w * (1 - p) ** gamma * np.log(p)) / w.sum(), abs=1e-12)


def test_focal_loss_without_focus_is_cross_entropy_and_has_finite_gradients_where_p_is_one() -> None:
    weight = torch.tensor([3.0, 1.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(FocalLoss(0, weight)(LOGITS, LABELS), cross_entropy(LOGITS, LABELS, weight))
    certain = torch.tensor([[1e4, 0.0, 0.0]], requires_grad=True)
    FocalLoss(0.5)(certain, torch.tensor([0])).backward()
    assert certain.grad is not None
    assert certain.grad.isfinite().all()
    with refused("loss.gamma", -1, "a number of at least 0"):
        FocalLoss(-1)


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    counts = [7, 20, 101]
    expected = compute_class_weight("balanced", classes=np.arange(3), y=np.repeat(np.arange(3), counts))
    np.testing.assert_allclose(balanced_weights(counts), expected, rtol=1e-6)


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
