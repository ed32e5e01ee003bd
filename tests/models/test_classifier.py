"""The classifier: a frozen backbone does not change by a bit, an unfrozen one does."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from covidnet.models.classifier import Classifier, build_classifier

LABELS = torch.tensor([0, 1, 2, 0])


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(4))


@pytest.fixture
def frozen() -> Classifier:
    torch.manual_seed(0)
    return build_classifier()


def step(classifier: Classifier, images: Tensor) -> None:
    """One training step on everything that could take one, with a decay that moves even parameters without use."""
    classifier.train()
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=1e-2, weight_decay=0.1)
    nn.functional.cross_entropy(classifier(images), LABELS).backward()
    optimizer.step()


def test_a_frozen_backbone_keeps_every_parameter_and_statistic(frozen: Classifier, images: Tensor) -> None:
    before, head = frozen.backbone_hash(), copy.deepcopy(frozen.head.state_dict())
    for _ in range(2):
        step(frozen, images)
    assert frozen.backbone_hash() == before
    assert not torch.equal(frozen.head.state_dict()["linear.weight"], head["linear.weight"])


def test_an_unfrozen_backbone_moves(images: Tensor) -> None:
    classifier = build_classifier(freeze=False)
    before = copy.deepcopy(classifier.backbone.state_dict())
    hashed = classifier.backbone_hash()
    step(classifier, images)
    assert classifier.backbone_hash() != hashed
    after = classifier.backbone.state_dict()
    for name in ("features.conv0.weight", "features.norm5.running_mean"):
        assert not torch.equal(after[name], before[name])


def test_only_the_head_is_trained_when_frozen(frozen: Classifier) -> None:
    trained = {name for name, value in frozen.named_parameters() if value.requires_grad}
    assert trained == {"head.linear.weight", "head.linear.bias"}
    assert all(value.requires_grad for value in build_classifier(freeze=False).parameters())


def test_train_keeps_a_frozen_backbone_in_eval_mode(frozen: Classifier) -> None:
    assert frozen.train() is frozen
    assert frozen.training
    assert frozen.head.training
    assert not any(module.training for module in frozen.backbone.modules())
    frozen.eval()
    assert not frozen.head.training
    unfrozen = build_classifier(freeze=False)
    assert all(module.training for module in unfrozen.train().modules())
    assert not any(module.training for module in unfrozen.eval().modules())


def test_train_freezes_again_what_somebody_thawed(frozen: Classifier, images: Tensor) -> None:
    frozen.requires_grad_(True)
    assert not frozen.features(images[:1]).requires_grad
    frozen.train()
    assert not any(value.requires_grad for value in frozen.backbone.parameters())


def test_a_frozen_network_gives_the_same_features_in_train_and_eval_mode(frozen: Classifier, images: Tensor) -> None:
    assert torch.equal(frozen.train().features(images), frozen.eval().features(images))


def test_forward_is_classify_of_features(frozen: Classifier, images: Tensor) -> None:
    features = frozen.features(images)
    logits = frozen(images)
    assert features.shape == (4, 1024)
    assert logits.shape == (4, 3)
    assert torch.equal(logits, frozen.classify(features))
    weight, bias = frozen.head.linear.weight, frozen.head.linear.bias
    torch.testing.assert_close(logits, frozen.backbone(images) @ weight.T + bias, atol=1e-4, rtol=1e-4)


def test_a_frozen_backbone_records_a_graph_only_for_images_that_ask(frozen: Classifier, images: Tensor) -> None:
    assert not frozen.features(images).requires_grad
    asking = images[:1].clone().requires_grad_()
    frozen(asking).sum().backward()
    assert asking.grad is not None
    assert asking.grad.abs().sum() > 0
    assert all(value.grad is None for value in frozen.backbone.parameters())


def test_build_passes_its_settings_on() -> None:
    torch.manual_seed(0)
    one = build_classifier(weights_seed=5, classes=2, dropout=0.25)
    assert one.head.linear.out_features == 2
    assert one.head.dropout.p == 0.25
    assert one.spec == one.backbone.spec
    torch.manual_seed(1)
    other = build_classifier(weights_seed=5, classes=2)
    assert one.backbone_hash() == other.backbone_hash() != build_classifier(weights_seed=6).backbone_hash()
    assert not torch.equal(one.head.linear.weight, other.head.linear.weight)
