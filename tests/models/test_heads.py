"""Heads: linear, seeded from outside, with dropout in training alone."""

from __future__ import annotations

import pytest
import torch

from covidnet.errors import SettingError
from covidnet.models.heads import LinearHead


def test_logits_are_one_linear_map() -> None:
    torch.manual_seed(0)
    head, features = LinearHead(5), torch.randn(4, 5)
    expected = features @ head.linear.weight.T + head.linear.bias
    torch.testing.assert_close(head(features), expected)
    assert expected.shape == (4, 3)


def test_the_global_seed_decides_the_weights() -> None:
    made = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        made.append(LinearHead(5).linear.weight.detach())
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_dropout_acts_in_training_alone() -> None:
    torch.manual_seed(0)
    head, features = LinearHead(200, dropout=0.5), torch.ones(1, 200)
    assert not torch.equal(head(features), head(features))
    head.eval()
    assert torch.equal(head(features), head(features))


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_dropout_out_of_range_is_refused(dropout: float) -> None:
    with pytest.raises(SettingError, match=r"model\.dropout="):
        LinearHead(5, dropout=dropout)


def test_standardised_logits_equal_the_linear_layer_on_standardised_features() -> None:
    torch.manual_seed(0)
    head, features = LinearHead(5, standardise=True), torch.randn(64, 5) * 3 + 7
    scaled = (features - features.mean(0)) / torch.sqrt(features.var(0, unbiased=False) + 1e-5)
    torch.testing.assert_close(head(features), scaled @ head.linear.weight.T + head.linear.bias)


def test_a_trained_standardised_head_is_one_affine_map() -> None:
    torch.manual_seed(0)
    head = LinearHead(5, standardise=True)
    for _ in range(20):
        head(torch.randn(16, 5) * 3 + 7)
    head.eval()
    a, b = torch.randn(2, 8, 5)
    torch.testing.assert_close(head(0.3 * a + 0.7 * b), 0.3 * head(a) + 0.7 * head(b))


def test_a_batch_of_one_film_can_be_trained_on() -> None:
    head = LinearHead(5, standardise=True)
    before = head.norm.running_mean.clone()
    assert torch.isfinite(head(torch.randn(1, 5))).all()
    assert torch.equal(head.norm.running_mean, before)
