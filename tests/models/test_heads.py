"""Heads: linear, seeded from outside, with dropout only in training, except for Monte Carlo dropout."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

from covidnet.base.errors import SettingError
from covidnet.models.heads import AnomalyHead, LinearHead, MonteCarloHead


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


def test_a_batch_of_one_image_can_be_trained_on() -> None:
    head = LinearHead(5, standardise=True)
    before = head.norm.running_mean.clone()
    assert torch.isfinite(head(torch.randn(1, 5))).all()
    assert torch.equal(head.norm.running_mean, before)


def monte_carlo(**settings: float) -> MonteCarloHead:
    torch.manual_seed(0)
    head = MonteCarloHead(40, **{"dropout": 0.5, "samples": 30, **settings}).eval()  # type: ignore[arg-type]
    nn.init.normal_(head.linear.weight)
    return head


def test_the_mean_of_the_draws_is_that_of_masked_features() -> None:
    head, features = monte_carlo(), torch.randn(6, 40)
    with torch.no_grad():
        expected = torch.stack([head.linear(features * mask).softmax(1) for mask in head.masks]).mean(0)
        torch.testing.assert_close(head(features).softmax(1), expected)


def test_a_prediction_depends_neither_on_the_batch_nor_on_the_hour() -> None:
    head, features = monte_carlo(), torch.randn(6, 40)
    with torch.no_grad():
        together, again = head(features), head(features)
        assert torch.equal(together, again)
        torch.testing.assert_close(torch.cat([head(row[None]) for row in features]), together)
        assert not torch.equal(head.train()(features), head.train()(features))


def test_entropy_and_information_are_those_of_scipy() -> None:
    head, features = monte_carlo(), torch.randn(6, 40)
    with torch.no_grad():
        draws = torch.stack([head.linear(features * mask).softmax(1) for mask in head.masks]).double().numpy()
        told = head.extras(features)
    total = scipy.stats.entropy(draws.mean(0), axis=1)
    np.testing.assert_allclose(told["predictive_entropy"], total, atol=1e-5)
    np.testing.assert_allclose(
        told["mutual_information"], total - scipy.stats.entropy(draws, axis=2).mean(0), atol=1e-5
    )
    assert bool((told["mutual_information"] > 0).all())


@pytest.mark.parametrize("settings", [{"dropout": 0.0}, {"samples": 1}, {"samples": 2.5}])
def test_a_head_that_could_not_disagree_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(SettingError, match=r"model\.(dropout|samples)="):
        monte_carlo(**settings)


def test_the_anomaly_score_stands_beside_the_classes() -> None:
    torch.manual_seed(0)
    head = AnomalyHead(5, standardise=True)
    features = torch.randn(64, 5) * 3 + 7
    head.train()
    for _ in range(200):
        head(features)
    head.eval()
    with torch.no_grad():
        expected = head.anomaly(head.norm(features))[:, 0]  # type: ignore[misc]
        torch.testing.assert_close(head.scores(features), expected)
        assert head.extras(features).keys() == {"anomaly_score"}
        assert head(features).shape == (64, 3)
    assert LinearHead(5).extras(features) == {}
