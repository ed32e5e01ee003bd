"""Saliency: equal to independent computations, in the right place, in every autograd mode, without side effects."""

from __future__ import annotations

import contextlib
import copy
import gc
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import DenseNet

from covidnet.base.errors import SettingError
from covidnet.models.backbones import Backbone
from covidnet.models.classifier import Classifier, build_classifier
from covidnet.models.heads import AnomalyHead, LinearHead, MonteCarloHead
from covidnet.models.inputs import GREY_SPEC, IMAGENET_SPEC
from covidnet.models.saliency import METHODS, MapWarning, saliency
from tests.refusals import refused

SIDE = 96  # maps of 3 x 3
DEPTH = 64
EVERY = pytest.mark.parametrize("method", METHODS)
# One for each way through the code: with gradients of the maps, without, and with those of the image.
WAYS = pytest.mark.parametrize("method", ["gradcam", "eigencam", "gradient"])


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def classifier(images: Tensor) -> Classifier:
    """A network whose logits are near zero, so that every map has places for and against each class."""
    torch.manual_seed(0)
    return undecided(network().eval(), images)


def network(frozen: bool = True, dropout: float = 0.0) -> Classifier:
    """The default network with two layers a block, which is a tenth of the work."""
    backbone = Backbone(DenseNet(16, (2, 2, 2, 2), 32).features, DEPTH, IMAGENET_SPEC, "random", "small")
    return Classifier(backbone, LinearHead(DEPTH, 3, dropout=dropout), frozen=frozen)


def undecided(made: Classifier, images: Tensor) -> Classifier:
    mean = made.features(images).mean(0)
    with torch.no_grad():
        weight = torch.randn(3, len(mean))
        made.head.linear.weight.copy_(weight - torch.outer(weight @ mean, mean) / (mean @ mean))
    return made


def stretched(maps: Tensor, size: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    """Maps (N, h, w) to the size of the images and to 0..1."""
    large = functional.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
    assert (high > low).all(), "a constant map would compare nothing"
    return ((large - low) / (high - low)).detach().numpy()


def pooled_maps(classifier: Classifier, images: Tensor) -> Tensor:
    with torch.no_grad():
        return functional.relu(classifier.backbone.features(images))


def tiny(maps: int, head: nn.Module, channels: int = 3) -> Classifier:
    """A network of two convolutions with statistics and weights as after training, in eval mode."""
    features = nn.Sequential(
        nn.Conv2d(channels, 6, 3, stride=2, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, maps, 3, padding=1),
        nn.ReLU(),
    )
    generator = torch.Generator().manual_seed(4)
    norm = features[1]
    norm.running_mean.copy_(torch.randn(6, generator=generator) * 0.2)
    norm.running_var.copy_(torch.rand(6, generator=generator) + 0.3)
    return Classifier(Backbone(features, maps, IMAGENET_SPEC, "random", "tiny"), head, frozen=True).eval()


SQUARE = (slice(8, 16), slice(44, 52))


@pytest.fixture(scope="module")
def detector() -> tuple[Classifier, Tensor]:
    """A detector of brightness (class 1) and darkness (class 0), and a wide image with one bright square."""
    convolution = nn.Conv2d(1, 2, 4, stride=4)
    head = LinearHead(2, 3)
    with torch.no_grad():
        convolution.weight[0].fill_(1 / 16)
        convolution.weight[1].fill_(-1 / 16)
        convolution.bias.copy_(torch.tensor([-0.5, 0.5]))
        head.linear.weight.copy_(torch.tensor([[-0.5, 1.0], [2.0, -0.5], [0.1, 0.1]]))
        head.linear.bias.zero_()
    image = torch.zeros(1, 1, 32, 64)
    image[0, 0][SQUARE] = 1.0
    backbone = Backbone(nn.Sequential(OrderedDict(conv=convolution)), 2, GREY_SPEC, "random", "tiny")
    return Classifier(backbone, head).eval(), image


def hooks(classifier: Classifier) -> int:
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, name)) for module in classifier.modules() for name in names)


@pytest.mark.parametrize("make", [build_classifier, network], ids=["densenet121", "small"])
def test_gradcam_equals_the_class_activation_map_of_a_linear_head(
    make: Callable[[], Classifier], images: Tensor
) -> None:
    torch.manual_seed(0)
    classifier = undecided(make().eval(), images)
    target = [2, 0, 1]
    with torch.no_grad():
        maps = functional.relu(classifier.backbone.features(images))
        expected = torch.einsum("nk,nkhw->nhw", classifier.head.linear.weight[target], maps).clamp(min=0)
    # Zero is then the smallest value of each map, and stretching it to 0..1 is a change of scale alone.
    assert (expected.amin((1, 2)) == 0).all()
    got = saliency(classifier, images, target)
    assert got.dtype == np.float32
    assert got.shape == (3, SIDE, SIDE)
    np.testing.assert_allclose(got, stretched(expected), atol=1e-4)


def test_gradcam_equals_gradients_by_hand_for_a_head_that_is_not_linear(classifier: Classifier, images: Tensor) -> None:
    torch.manual_seed(3)
    head = nn.Sequential(copy.deepcopy(classifier.head.linear), nn.Tanh(), nn.Linear(3, 3))
    deep = Classifier(classifier.backbone, head).eval()
    with torch.no_grad():
        maps = functional.relu(classifier.backbone.features(images))
    maps.requires_grad_()
    (slopes,) = torch.autograd.grad(head(maps.mean((2, 3)))[:, 1].sum(), maps)
    expected = (slopes.mean((2, 3), keepdim=True) * maps).sum(1).clamp(min=0)
    np.testing.assert_allclose(saliency(deep, images, [1, 1, 1]), stretched(expected), atol=1e-4)


@EVERY
def test_each_map_has_its_maximum_in_the_square_that_is_detected(
    method: str, detector: tuple[Classifier, Tensor]
) -> None:
    classifier, image = detector
    (heat,) = saliency(classifier, image, [1], method)
    assert heat.shape == image.shape[2:]
    inside = np.zeros(heat.shape, dtype=bool)
    inside[SQUARE] = True
    assert heat[inside].max() == pytest.approx(1.0)
    assert heat[inside].mean() > 0.7
    assert heat[~inside].max() < 0.9
    assert heat[~inside].mean() < 0.3


@pytest.mark.parametrize("method", ["gradcam", "gradcam++", "cam", "gradient"])
def test_another_class_has_its_maximum_elsewhere(method: str, detector: tuple[Classifier, Tensor]) -> None:
    classifier, image = detector
    (heat,) = saliency(classifier, image, [0], method)
    middle = heat[10:14, 46:50]
    assert middle.max() < 0.6
    assert heat[:, :32].min() > 0.9


@pytest.mark.parametrize("kind", [LinearHead, AnomalyHead])
@pytest.mark.parametrize("standardise", [False, True])
def test_gradcam_and_cam_are_the_same_for_a_linear_head(
    kind: type[LinearHead], standardise: bool, classifier: Classifier, images: Tensor
) -> None:
    generator = torch.Generator().manual_seed(5)
    maps = pooled_maps(classifier, images)
    mean = maps.mean((0, 2, 3))
    head = kind(DEPTH, standardise=standardise).eval()
    # The fixture's weights, as they are once the head has divided: no map is all zero.
    weight = classifier.head.linear.weight.detach()
    with torch.no_grad():
        head.linear.weight.copy_(weight)
        if head.norm is not None:
            head.norm.running_mean.copy_(mean * (1 + 0.1 * torch.randn(DEPTH, generator=generator)))
            head.norm.running_var.copy_(10 ** (torch.rand(DEPTH, generator=generator) * 4 - 4))
            head.linear.weight.mul_((head.norm.running_var + head.norm.eps).sqrt())
    other = Classifier(classifier.backbone, head).eval()
    target = [0, 1, 2]
    features = maps.mean((2, 3)).requires_grad_()
    (slopes,) = torch.autograd.grad(head(features)[range(3), target].sum(), features)
    expected = stretched((slopes[:, :, None, None] * maps).sum(1).clamp(min=0))
    cam = saliency(other, images, target, "cam")
    np.testing.assert_allclose(cam, expected, atol=1e-4)
    np.testing.assert_allclose(saliency(other, images, target, "gradcam"), cam, atol=1e-4)
    if standardise:  # maps that forget to divide are others
        undivided = torch.einsum("nk,nkhw->nhw", head.linear.weight.detach(), maps)
        divided = torch.einsum("nk,nkhw->nhw", weight, maps)
        assert np.corrcoef(undivided.ravel(), divided.ravel())[0, 1] < 0.95


def test_cam_takes_a_bare_linear_layer(classifier: Classifier, images: Tensor) -> None:
    bare = Classifier(classifier.backbone, classifier.head.linear).eval()
    np.testing.assert_array_equal(saliency(bare, images, method="cam"), saliency(classifier, images, method="cam"))


@pytest.mark.parametrize(
    "head", [MonteCarloHead(DEPTH, dropout=0.5), nn.Sequential(nn.Linear(DEPTH, 3), nn.Tanh())], ids=["draws", "tanh"]
)
def test_cam_of_a_head_that_is_not_linear_is_refused(head: nn.Module, classifier: Classifier, images: Tensor) -> None:
    # Drawn here: a head of chance may find no evidence in the image, and its map is then empty.
    torch.manual_seed(3)
    for layer in head.modules():
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    other = Classifier(classifier.backbone, head).eval()
    with pytest.raises(SettingError, match=r"explain.method=cam: .*gradcam\+\+.*this head is not linear"):
        saliency(other, images, method="cam")
    for method in METHODS:
        if method != "cam":
            assert saliency(other, images[:1], method=method).max() == pytest.approx(1.0)


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_gradcam_plus_plus_equals_its_published_formula(scale: float) -> None:
    """Equations 6, 7 and 10 of Chattopadhay et al. with their Y = exp(logit), by derivatives of third order."""
    torch.manual_seed(6)
    net = tiny(8, LinearHead(8, 3)).double()
    with torch.no_grad():
        net.head.linear.weight.mul_(scale)
    image = torch.randn(1, 3, 8, 12, dtype=torch.float64)
    maps = pooled_maps(net, image)
    assert (maps > 0).any(3).any(2).all()

    def derivatives(place: tuple[int, int, int]) -> list[float]:
        value = maps[0][place].clone().requires_grad_()
        changed = maps.clone()
        changed[(0, *place)] = value
        found: list[float] = []
        current = net.head(changed.mean((2, 3)))[0, 2].exp()
        for _ in range(3):
            (current,) = torch.autograd.grad(current, value, create_graph=True)
            found.append(float(current.detach()))
        return found

    depth, height, width = maps.shape[1:]
    weights = torch.zeros(depth, dtype=torch.float64)
    for k in range(depth):
        for i in range(height):
            for j in range(width):
                first, second, third = derivatives((k, i, j))
                alpha = second / (2 * second + float(maps[0, k].sum()) * third)
                weights[k] += alpha * max(first, 0.0)
    assert 2 < int((weights > 0).sum()) < depth, "one weight alone would have a factor that does not matter"
    expected = stretched(torch.einsum("k,nkhw->nhw", weights, maps), (8, 12))
    np.testing.assert_allclose(saliency(net, image, [2], "gradcam++"), expected, atol=1e-4)


def test_eigencam_is_the_first_component_on_the_side_of_large_maps() -> None:
    torch.manual_seed(7)
    net = tiny(5, LinearHead(5, 3))
    images = torch.randn(12, 3, 16, 24)
    maps = pooled_maps(net, images).double()
    rows = maps.flatten(2).transpose(1, 2)
    rows = rows - rows.mean(1, keepdim=True)
    components = torch.linalg.eigh(rows.transpose(1, 2) @ rows)[1][:, :, -1]
    found = torch.einsum("npk,nk->np", rows, components)
    sums = rows.sum(2)
    signs = [np.sign(np.corrcoef(one, two)[0, 1]) for one, two in zip(found, sums, strict=True)]
    oriented = (found * torch.tensor(signs)[:, None]).reshape(12, *maps.shape[2:])
    got = saliency(net, images, method="eigencam")
    np.testing.assert_allclose(got, stretched(oriented.clamp(min=0), (16, 24)), atol=1e-4)
    large = functional.interpolate(maps.sum(1, keepdim=True), (16, 24), mode="bilinear")[:, 0]
    assert all(np.corrcoef(one.ravel(), two.ravel())[0, 1] > 0 for one, two in zip(got, large.numpy(), strict=True))


def test_eigencam_does_not_depend_on_the_class(classifier: Classifier, images: Tensor) -> None:
    one = saliency(classifier, images, [0, 1, 2], "eigencam")
    np.testing.assert_array_equal(one, saliency(classifier, images, [2, 2, 0], "eigencam"))


def test_eigencam_of_maps_without_spread_is_zero_and_warns() -> None:
    features = nn.Conv2d(3, 50, 1)
    net = Classifier(Backbone(features, 50, IMAGENET_SPEC, "random", "tiny"), LinearHead(50, 3)).eval()
    with pytest.warns(RuntimeWarning, match=r"eigencam: the maps of images \[0\] are constant"):
        assert not saliency(net, torch.full((1, 3, 7, 9), 0.37), method="eigencam").any()


@pytest.mark.parametrize("head", [LinearHead(4, 3), MonteCarloHead(4, 3)], ids=["linear", "draws"])
def test_gradient_equals_finite_differences(head: nn.Module) -> None:
    torch.manual_seed(8)
    net = tiny(4, head).double()
    image = torch.randn(1, 3, 8, 12, dtype=torch.float64)
    step = 1e-6
    moves = torch.eye(image.numel(), dtype=torch.float64).reshape(-1, *image.shape[1:]) * step
    with torch.no_grad():
        slopes = (net(image + moves) - net(image - moves))[:, 1] / (2 * step)
    expected = slopes.reshape(image.shape).abs().amax(1)
    got = saliency(net, image, [1], "gradient")
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, stretched(expected, (8, 12)), atol=1e-5)


@EVERY
def test_small_values_are_stretched_like_large_ones(method: str) -> None:
    torch.manual_seed(9)
    net = tiny(4, LinearHead(4, 3))
    images = torch.randn(2, 3, 16, 24)
    expected = saliency(net, images, [0, 1], method)
    faint = copy.deepcopy(net)
    with torch.no_grad():
        faint.head.linear.weight.mul_(1e-9)
    if method != "gradcam++":  # its factors change with the size of the logits
        np.testing.assert_allclose(saliency(faint, images, [0, 1], method), expected, atol=1e-4)
    assert saliency(faint, images, [0, 1], method).max((1, 2)) == pytest.approx(1.0)


@EVERY
@pytest.mark.parametrize("mode", [contextlib.nullcontext, torch.inference_mode], ids=["plain", "inference_mode"])
def test_known_maps_give_the_same_and_save_the_backbone(
    mode: type, method: str, classifier: Classifier, images: Tensor
) -> None:
    expected = saliency(classifier, images, [2, 0, 1], method)
    with mode(), torch.no_grad():
        maps = classifier.backbone.feature_maps(images)
    before = maps.clone()
    calls: list[int] = []
    handle = classifier.backbone.features.register_forward_hook(lambda *_: calls.append(1))
    try:
        got = saliency(classifier, images, [2, 0, 1], method, maps=maps)
    finally:
        handle.remove()
    np.testing.assert_array_equal(got, expected)
    assert len(calls) == (1 if method == "gradient" else 0)
    assert torch.equal(maps, before)
    assert not maps.requires_grad


def test_maps_of_other_images_are_refused(classifier: Classifier, images: Tensor) -> None:
    with pytest.raises(SettingError, match="maps="):
        saliency(classifier, images, maps=torch.zeros(2, DEPTH, 3, 3))


def test_an_unknown_method_is_refused(classifier: Classifier, images: Tensor) -> None:
    with refused("explain.method", "lime", METHODS):
        saliency(classifier, images, method="lime")


@WAYS
def test_without_a_target_the_predicted_class_is_explained(method: str, classifier: Classifier, images: Tensor) -> None:
    with torch.no_grad():
        predicted = classifier(images).argmax(1).tolist()
    np.testing.assert_array_equal(
        saliency(classifier, images, method=method), saliency(classifier, images, predicted, method)
    )


@WAYS
def test_images_of_one_batch_do_not_mix(method: str, classifier: Classifier, images: Tensor) -> None:
    alone = saliency(classifier, images[1:2], [2], method)
    np.testing.assert_allclose(saliency(classifier, images, [0, 2, 1], method)[1:2], alone, atol=1e-4)


@WAYS
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference_mode"])
def test_it_works_where_gradients_are_off(method: str, mode: type, classifier: Classifier, images: Tensor) -> None:
    expected = saliency(classifier, images, [0, 1, 2], method)
    with mode():
        got = saliency(classifier, images.clone(), [0, 1, 2], method)
        assert torch.is_grad_enabled() is False
    np.testing.assert_array_equal(got, expected)


@WAYS
def test_it_works_on_a_network_made_in_inference_mode(method: str, images: Tensor) -> None:
    with torch.inference_mode():
        made = network().eval()
        assert next(made.parameters()).is_inference()
        assert saliency(made, images, method=method).max() > 0.99


@EVERY
def test_it_works_in_reduced_precision(method: str, classifier: Classifier, images: Tensor) -> None:
    expected = saliency(classifier, images, [2, 0, 1], method)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_allclose(saliency(classifier, images, [2, 0, 1], method), expected, atol=1e-4)
    half = copy.deepcopy(classifier).to(torch.bfloat16)
    assert np.corrcoef(saliency(half, images, [2, 0, 1], method).ravel(), expected.ravel())[0, 1] > 0.9


@WAYS
@pytest.mark.parametrize("freeze", [True, False])
def test_it_leaves_the_classifier_as_it_was(method: str, freeze: bool, images: Tensor) -> None:
    classifier = network(freeze, dropout=0.5).train()
    trained = [value for value in classifier.parameters() if value.requires_grad]
    for value in trained:
        value.grad = torch.full_like(value, 7.0)
    modes = [module.training for module in classifier.modules()]
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    input_before = images.clone()
    for _ in range(2):
        saliency(classifier, images, method=method)
    assert hooks(classifier) == 0
    assert [module.training for module in classifier.modules()] == modes
    assert [value for value in classifier.parameters() if value.requires_grad] == trained
    assert all(bool((value.grad == 7).all()) for value in trained if value.grad is not None)
    assert all(value.grad is not None for value in trained)
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    assert torch.equal(images, input_before)
    assert not images.requires_grad


@WAYS
def test_it_keeps_no_hold_of_the_classifier(method: str, images: Tensor) -> None:
    # What is there already is not looked through: that takes longer than all else.
    gc.freeze()
    classifier = network()
    saliency(classifier, images[:1], method=method)
    seen = weakref.ref(classifier)
    del classifier
    gc.collect()
    gc.unfreeze()
    assert seen() is None


@WAYS
def test_the_mode_comes_back_after_an_error(method: str, classifier: Classifier) -> None:
    copied = copy.deepcopy(classifier).train()
    with contextlib.suppress(RuntimeError):
        saliency(copied, torch.zeros(1, 5, SIDE, SIDE), method=method)
    assert copied.training
    assert copied.head.training
    assert hooks(copied) == 0


def test_a_map_without_evidence_is_zero_and_warns(classifier: Classifier, images: Tensor) -> None:
    against = copy.deepcopy(classifier)
    with torch.no_grad():
        against.head.linear.weight[1].fill_(-1.0)
    with pytest.warns(MapWarning, match=r"images \[1\] are constant"):
        maps = saliency(against, images, [0, 1, 2])
    assert not maps[1].any()
    assert maps[0].max() > 0.99
    assert maps[2].max() > 0.99


@EVERY
def test_nan_becomes_zero_and_warns(method: str, classifier: Classifier, images: Tensor) -> None:
    broken = images.clone()
    broken[2, :, 10:20, 10:20] = torch.nan
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        maps = saliency(classifier, broken, [2, 0, 1], method)
    assert [str(item.message) for item in caught] == [f"{method}: NaN in the maps of images [2], set to 0"]
    (told,) = [item.message for item in caught]
    assert isinstance(told, MapWarning)
    assert (told.places, told.broken) == ([2], True)
    assert not maps[2].any()
    np.testing.assert_array_equal(maps[:2], saliency(classifier, images, [2, 0, 1], method)[:2])


@WAYS
@pytest.mark.parametrize("target", [[0, 1], [0, 1, 3], [0, 1, -1]])
def test_a_target_that_does_not_fit_is_refused(
    method: str, target: list[int], classifier: Classifier, images: Tensor
) -> None:
    with pytest.raises(SettingError, match="target="):
        saliency(classifier, images, target, method)


@WAYS
def test_no_images_give_no_maps(method: str, classifier: Classifier) -> None:
    assert saliency(classifier, torch.zeros(0, 3, SIDE, SIDE), method=method).shape == (0, SIDE, SIDE)
