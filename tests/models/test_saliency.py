"""Grad-CAM: equal to independent computations, in every mode of autograd, without traces."""

from __future__ import annotations

import contextlib
import copy
import gc
import warnings
import weakref

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from covidnet.errors import SettingError
from covidnet.models.classifier import Classifier, build_classifier
from covidnet.models.saliency import grad_cam

SIDE = 96  # maps of 3 x 3


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def classifier(images: Tensor) -> Classifier:
    """A network whose logits are near zero, so that every map has places for and against each class."""
    torch.manual_seed(0)
    made = build_classifier().eval()
    mean = made.features(images).mean(0)
    with torch.no_grad():
        weight = torch.randn(3, 1024)
        made.head.linear.weight.copy_(weight - torch.outer(weight @ mean, mean) / (mean @ mean))
    return made


def stretched(maps: Tensor) -> np.ndarray:
    """Maps (N, h, w) to the size of the images and to 0..1."""
    large = functional.interpolate(maps[:, None], (SIDE, SIDE), mode="bilinear", align_corners=False)[:, 0]
    low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
    assert (high > low).all(), "a constant map would compare nothing"
    return ((large - low) / (high - low)).detach().numpy()


def hooks(classifier: Classifier) -> int:
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, name)) for module in classifier.modules() for name in names)


def test_it_equals_the_class_activation_map_of_a_linear_head(classifier: Classifier, images: Tensor) -> None:
    target = [2, 0, 1]
    with torch.no_grad():
        maps = functional.relu(classifier.backbone.features(images))
        expected = torch.einsum("nk,nkhw->nhw", classifier.head.linear.weight[target], maps).clamp(min=0)
    # Zero is then the smallest value of each map, and stretching it to 0..1 is a change of scale alone.
    assert (expected.amin((1, 2)) == 0).all()
    got = grad_cam(classifier, images, target)
    assert got.dtype == np.float32
    assert got.shape == (3, SIDE, SIDE)
    np.testing.assert_allclose(got, stretched(expected), atol=1e-4)


def test_it_equals_gradients_by_hand_for_a_head_that_is_not_linear(classifier: Classifier, images: Tensor) -> None:
    torch.manual_seed(3)
    head = nn.Sequential(copy.deepcopy(classifier.head.linear), nn.Tanh(), nn.Linear(3, 3))
    deep = Classifier(classifier.backbone, head).eval()
    with torch.no_grad():
        maps = functional.relu(classifier.backbone.features(images))
    maps.requires_grad_()
    (slopes,) = torch.autograd.grad(head(maps.mean((2, 3)))[:, 1].sum(), maps)
    expected = (slopes.mean((2, 3), keepdim=True) * maps).sum(1).clamp(min=0)
    np.testing.assert_allclose(grad_cam(deep, images, [1, 1, 1]), stretched(expected), atol=1e-4)


def test_without_a_target_the_predicted_class_is_explained(classifier: Classifier, images: Tensor) -> None:
    with torch.no_grad():
        predicted = classifier(images).argmax(1).tolist()
    np.testing.assert_array_equal(grad_cam(classifier, images), grad_cam(classifier, images, predicted))


def test_images_of_one_batch_do_not_mix(classifier: Classifier, images: Tensor) -> None:
    alone = grad_cam(classifier, images[1:2], [2])
    np.testing.assert_allclose(grad_cam(classifier, images, [0, 2, 1])[1:2], alone, atol=1e-4)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference_mode"])
def test_it_works_where_gradients_are_off(mode: type, classifier: Classifier, images: Tensor) -> None:
    expected = grad_cam(classifier, images, [0, 1, 2])
    with mode():
        got = grad_cam(classifier, images.clone(), [0, 1, 2])
        assert torch.is_grad_enabled() is False
    np.testing.assert_array_equal(got, expected)


def test_it_works_on_a_network_made_in_inference_mode(images: Tensor) -> None:
    with torch.inference_mode():
        made = build_classifier().eval()
        assert next(made.parameters()).is_inference()
        assert grad_cam(made, images).max() > 0.99


def test_it_works_in_reduced_precision(classifier: Classifier, images: Tensor) -> None:
    expected = grad_cam(classifier, images, [2, 0, 1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_allclose(grad_cam(classifier, images, [2, 0, 1]), expected, atol=1e-4)
    half = copy.deepcopy(classifier).to(torch.bfloat16)
    assert np.corrcoef(grad_cam(half, images, [2, 0, 1]).ravel(), expected.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("freeze", [True, False])
def test_it_leaves_the_classifier_as_it_was(freeze: bool, images: Tensor) -> None:
    classifier = build_classifier(freeze=freeze, dropout=0.5).train()
    trained = [value for value in classifier.parameters() if value.requires_grad]
    for value in trained:
        value.grad = torch.full_like(value, 7.0)
    modes = [module.training for module in classifier.modules()]
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    input_before = images.clone()
    for _ in range(3):
        grad_cam(classifier, images)
    assert hooks(classifier) == 0
    assert [module.training for module in classifier.modules()] == modes
    assert [value for value in classifier.parameters() if value.requires_grad] == trained
    assert all(bool((value.grad == 7).all()) for value in trained if value.grad is not None)
    assert all(value.grad is not None for value in trained)
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    assert torch.equal(images, input_before)
    assert not images.requires_grad


def test_it_keeps_no_hold_of_the_classifier(images: Tensor) -> None:
    classifier = build_classifier()
    grad_cam(classifier, images[:1])
    seen = weakref.ref(classifier)
    del classifier
    gc.collect()
    assert seen() is None


def test_the_mode_comes_back_after_an_error(classifier: Classifier) -> None:
    copied = copy.deepcopy(classifier).train()
    with contextlib.suppress(RuntimeError):
        grad_cam(copied, torch.zeros(1, 5, SIDE, SIDE))
    assert copied.training
    assert copied.head.training
    assert hooks(copied) == 0


def test_a_map_without_evidence_is_zero_and_warns(classifier: Classifier, images: Tensor) -> None:
    against = copy.deepcopy(classifier)
    with torch.no_grad():
        against.head.linear.weight[1].fill_(-1.0)
    with pytest.warns(RuntimeWarning, match=r"images \[1\] are constant"):
        maps = grad_cam(against, images, [0, 1, 2])
    assert not maps[1].any()
    assert maps[0].max() > 0.99
    assert maps[2].max() > 0.99


def test_nan_becomes_zero_and_warns(classifier: Classifier, images: Tensor) -> None:
    broken = images.clone()
    broken[2, :, 10:20, 10:20] = torch.nan
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        maps = grad_cam(classifier, broken, [2, 0, 1])
    assert [str(item.message) for item in caught] == ["Grad-CAM: NaN in the maps of images [2], set to 0"]
    assert not maps[2].any()
    np.testing.assert_array_equal(maps[:2], grad_cam(classifier, images, [2, 0, 1])[:2])


@pytest.mark.parametrize("target", [[0, 1], [0, 1, 3], [0, 1, -1]])
def test_a_target_that_does_not_fit_is_refused(target: list[int], classifier: Classifier, images: Tensor) -> None:
    with pytest.raises(SettingError, match="target="):
        grad_cam(classifier, images, target)


def test_no_images_give_no_maps(classifier: Classifier) -> None:
    assert grad_cam(classifier, torch.zeros(0, 3, SIDE, SIDE)).shape == (0, SIDE, SIDE)
