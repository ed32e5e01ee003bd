"""Backbones: equal to torchvision's network, reproducible, and compatible with hooks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import densenet121

from covidnet.base.errors import SettingError
from covidnet.models.backbones import CHEST_SPEC, IMAGENET_SPEC, Backbone, build_backbone
from covidnet.models.weights import hash_state


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="module")
def reference() -> nn.Module:
    """Torchvision's own network with batch statistics unlike the initial ones."""
    torch.manual_seed(9)
    network = densenet121(weights=None)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for value in (layer.weight.data, layer.running_var):
                value.uniform_(0.5, 1.5)
            for value in (layer.bias.data, layer.running_mean):
                value.normal_(0, 0.1)
    return network.eval()


@pytest.fixture(scope="module")
def backbone(reference: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    path = tmp_path_factory.mktemp("weights") / "densenet121.pth"
    torch.save(reference.state_dict(), path)
    return build_backbone(weights=path).eval()


def test_features_equal_those_of_torchvision(backbone: Backbone, reference: nn.Module, images: Tensor) -> None:
    classifier, reference.classifier = reference.classifier, nn.Identity()
    with torch.no_grad():
        expected = reference(images)
    reference.classifier = classifier
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), expected, atol=1e-5, rtol=1e-5)
    assert expected.shape == (2, backbone.features_dim)
    assert expected.std() > 0.01


def test_training_statistics_move_as_in_torchvision(images: Tensor) -> None:
    torch.manual_seed(0)
    expected = densenet121(weights=None).train()
    backbone = build_backbone(seed=0).train()
    expected(images)
    backbone(images)
    name = "features.denseblock2.denselayer1.norm1.running_var"
    torch.testing.assert_close(backbone.state_dict()[name], expected.state_dict()[name], atol=1e-5, rtol=1e-5)


def test_feature_maps_are_what_is_pooled(backbone: Backbone, reference: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        maps = backbone.feature_maps(images)
        expected = reference.features(images).clamp(min=0)
    assert maps.shape == (2, 1024, 2, 2)
    torch.testing.assert_close(maps, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(maps.mean(dim=(2, 3)), backbone(images).detach(), atol=1e-5, rtol=1e-5)


def test_no_layer_overwrites_what_a_hook_has_seen(backbone: Backbone, images: Tensor) -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    layers = [layer for layer in backbone.modules() if isinstance(layer, nn.BatchNorm2d)]
    handles = [layer.register_forward_hook(lambda _, __, out: seen.append((out, out.clone()))) for layer in layers]
    with torch.no_grad():
        backbone(images)
    for handle in handles:
        handle.remove()
    assert len(seen) == len(layers) == 121
    assert all(torch.equal(now, then) for now, then in seen)


def test_random_weights_are_those_of_torchvision_with_that_seed() -> None:
    torch.manual_seed(7)
    expected = {name: value for name, value in densenet121(weights=None).state_dict().items() if "features" in name}
    got = build_backbone(weights="random", seed=7).state_dict()
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], value) for name, value in expected.items())


def test_random_weights_ignore_the_global_state_and_leave_it_alone() -> None:
    hashes = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        hashes.append(hash_state(build_backbone(seed=3)))
        assert torch.equal(torch.get_rng_state(), before)
    assert hashes[0] == hashes[1]
    assert hash_state(build_backbone(seed=4)) != hashes[0]


def test_a_file_leaves_the_global_state_alone(reference: nn.Module, tmp_path: Path) -> None:
    torch.save(reference.state_dict(), tmp_path / "densenet121.pth")
    before = torch.get_rng_state()
    build_backbone(weights=tmp_path / "densenet121.pth")
    assert torch.equal(torch.get_rng_state(), before)


def test_channels_last_gives_the_same_features(images: Tensor) -> None:
    backbone = build_backbone().eval()
    with torch.no_grad():
        expected = backbone(images)
        backbone.to(memory_format=torch.channels_last)
        got = backbone(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_specs_give_the_input_that_the_weights_were_trained_on() -> None:
    (mean,), (std,) = CHEST_SPEC.mean, CHEST_SPEC.std
    assert ((0.0 - mean) / std, (1.0 - mean) / std) == (-1024.0, 1024.0)
    assert CHEST_SPEC.channels == 1
    from torchvision.models import DenseNet121_Weights

    published = DenseNet121_Weights.IMAGENET1K_V1.transforms()
    assert (list(IMAGENET_SPEC.mean), list(IMAGENET_SPEC.std)) == (published.mean, published.std)
    assert [IMAGENET_SPEC.size] == published.crop_size
    assert build_backbone().spec == IMAGENET_SPEC


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(
        SettingError,
        match=r"^model\.name=vgg16: must be one of densenet121, .*, bayesian_cnn, anomaly_resnet; or timm/NAME, .*$",
    ):
        build_backbone("vgg16")
