"""Networks of timm and torchvision: features as the libraries give them, published input, maps, clear refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from covidnet.base.errors import SettingError, WeightsError
from covidnet.fold.setup import FoldSetup
from covidnet.launch.command import compose
from covidnet.learning.module import ClassificationModule
from covidnet.models.backbones import Backbone, build_backbone
from covidnet.models.classifier import Classifier, build_classifier
from covidnet.models.libraries import library_network
from covidnet.models.randomisation import randomised, stages
from covidnet.models.saliency import saliency
from covidnet.models.weights import hash_state

# Pooled by a mean, by a layer after the mean, by a convolution after it; maps with their depth last; tokens.
TIMM = ("test_resnet", "test_convnext", "mobilenetv3_small_050", "test_mambaout", "test_vit")
TORCHVISION = ("shufflenet_v2_x0_5", "mobilenet_v3_small", "squeezenet1_1")


def noise(backbone: Backbone) -> Tensor:
    size = backbone.spec.size
    return torch.rand(2, backbone.spec.channels, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", TIMM)
def test_features_are_those_of_timm(name: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    reference = timm.create_model(name).eval()
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    backbone = build_backbone(f"timm/{name}", tmp_path / "weights.pth").eval()
    images = noise(backbone)
    with torch.no_grad():
        expected = reference.forward_head(reference.forward_features(images), pre_logits=True)
        maps = backbone.feature_maps(images)
        torch.testing.assert_close(backbone.pool(maps), expected)
    assert expected.shape == (2, backbone.features_dim)
    assert backbone.averages is (name in ("test_resnet",))
    assert maps.ndim == 4
    config = timm.get_pretrained_cfg(name)
    spec = backbone.spec
    assert (spec.channels, spec.size, spec.size) == config.input_size
    assert (spec.mean, spec.std) == (config.mean, config.std)
    assert not backbone.features.network.training
    assert backbone.train().features.network.training


@pytest.mark.parametrize("name", TORCHVISION)
def test_features_are_those_of_torchvision(name: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    reference = torchvision.models.get_model(name, weights=None).eval()
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    backbone = build_backbone(f"torchvision/{name}", tmp_path / "weights.pth").eval()
    last = [key for key, layer in reference.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)][-1]
    reference.set_submodule(last, nn.Identity())
    images = noise(backbone)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), reference(images).flatten(1))
    published = torchvision.models.get_model_weights(name).IMAGENET1K_V1.transforms()
    assert (list(backbone.spec.mean), list(backbone.spec.std)) == (published.mean, published.std)
    assert [backbone.spec.size] == published.crop_size


def test_grad_cam_of_a_network_that_averages_its_maps_is_their_class_activation_map() -> None:
    """Also where a ReLU stands between the last convolution and the mean, as in SqueezeNet."""
    classifier = build_classifier("torchvision/squeezenet1_1").eval()
    assert classifier.backbone.averages
    images = noise(classifier.backbone)[:, :, :96, :96]
    gradcam, cam = (saliency(classifier, images, [0, 1], method) for method in ("gradcam", "cam"))
    assert gradcam.std() > 0.05
    np.testing.assert_allclose(gradcam, cam, atol=1e-4)


@pytest.mark.slow
def test_a_transformer_of_torchvision_is_divided_at_its_tokens() -> None:
    features = library_network("torchvision/vit_b_16").features()
    assert not features.spatial
    # The encoder is before its tokens, and taking the class token after them.
    assert sum(p.numel() for p in features.body.parameters()) > 80e6
    assert not list(features.tail.parameters())


@pytest.mark.parametrize("name", ["timm/test_convnext", "torchvision/squeezenet1_1"])
def test_maps_explain_through_the_networks_own_pooling(name: str) -> None:
    classifier = build_classifier(name, freeze=False).eval()
    images = noise(classifier.backbone)
    before = hash_state(classifier)
    for method in ("gradcam", "gradcam++", "eigencam", "gradient"):
        heat = saliency(classifier, images, [0, 1], method)
        assert heat.shape == (2, *images.shape[2:])
        assert heat.max() == 1.0
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert hash_state(classifier) == before
    if name == "timm/test_convnext":
        with pytest.raises(
            SettingError, match=r"^explain\.method=cam: .*timm/test_convnext does not average its maps$"
        ):
            saliency(classifier, images, method="cam")
    # Independent of the code that is tested: the mean gradient of the logit weighs the maps.
    maps = classifier.backbone.feature_maps(images).detach().requires_grad_()
    logit = classifier.classify(classifier.backbone.pool(maps))[:, 0].sum()
    (slopes,) = torch.autograd.grad(logit, maps)
    cam = (slopes.mean((2, 3), keepdim=True) * maps).sum(1).clamp(min=0).detach().numpy()
    found = saliency(classifier, images, [0, 0])
    top = [np.unravel_index(one.argmax(), one.shape) for one in cam]
    scale = images.shape[2] / cam.shape[1]
    for (row, column), heat in zip(top, found, strict=True):
        assert heat[int((row + 0.5) * scale), int((column + 0.5) * scale)] > 0.9


def test_a_transformer_has_gradients_and_no_spatial_maps() -> None:
    classifier = build_classifier("timm/test_vit").eval()
    images = noise(classifier.backbone)
    with pytest.raises(SettingError, match=r"^explain\.method=gradcam: must be gradient, or explain=off; .*no spatial"):
        saliency(classifier, images)
    assert saliency(classifier, images, method="gradient").shape == (2, 160, 160)


@pytest.mark.parametrize("name", ["timm/test_vit", "timm/test_convnext", "torchvision/shufflenet_v2_x0_5"])
def test_every_tensor_is_re_initialised_in_the_last_stage(name: str) -> None:
    classifier = build_classifier(name).eval()
    known = stages(classifier)
    assert len(known) > 2
    drawn = randomised(classifier, known[-1], seed=1)
    moved = [key for key, value in drawn.named_parameters() if value.ndim > 1]
    own = dict(classifier.named_parameters())
    assert all(not torch.equal(value, own[key]) for key, value in drawn.named_parameters() if key in moved)


def test_random_weights_come_from_the_seed_and_leave_the_global_state_alone() -> None:
    before = torch.get_rng_state()
    one, same, other = (hash_state(build_backbone("timm/test_resnet", seed=seed)) for seed in (1, 1, 2))
    assert one == same != other
    assert torch.equal(torch.get_rng_state(), before)


def test_an_unknown_backbone_names_the_five_nearest() -> None:
    with pytest.raises(SettingError, match=r"^model\.backbone=convnext_tny: must be a network of timm; ") as caught:
        build_backbone("timm/convnext_tny")
    near = str(caught.value).rpartition("are ")[2].split(", ")
    assert len(near) == 5
    assert near[0] == "convnext_tiny"
    with pytest.raises(SettingError, match=r"^model\.backbone=resnet19: must be a network of torchvision; .*resnet18"):
        build_backbone("torchvision/resnet19")
    with pytest.raises(SettingError, match=r"^model\.backbone=null: .*; say model\.backbone=NAME$"):
        FoldSetup(resolved("model=timm"))


@pytest.mark.parametrize("name", ["coatnet_nano_cc_224", "vit_small_patch14_dinov2"])
def test_imagenet_is_refused_where_no_such_weights_are_published(name: str) -> None:
    """One has none, the other was trained on other images."""
    assert library_network(f"timm/{name}").imagenet is None
    message = rf"^model\.weights=imagenet: must be random or a file; none are published for timm/{name}$"
    from covidnet.models.backbones import _loaded

    with pytest.raises(SettingError, match=message):
        _loaded(f"timm/{name}", "imagenet", ())


def test_published_files_are_named_after_the_network(tmp_path: Path) -> None:
    published = library_network("timm/test_vit").imagenet
    assert published is not None
    assert published.names[0] == "test_vit.r160_in1k.safetensors"
    with pytest.raises(WeightsError, match=r"has no test_vit\.r160_in1k\.safetensors for timm/test_vit"):
        build_backbone("timm/test_vit", tmp_path)
    from safetensors.torch import save_file

    reference = timm.create_model("test_vit")
    save_file(reference.state_dict(), tmp_path / published.names[0])
    backbone = build_backbone("timm/test_vit", tmp_path)
    torch.testing.assert_close(backbone.features.network.cls_token, reference.cls_token)


def resolved(*words: str) -> dict:
    from omegaconf import OmegaConf

    found = OmegaConf.to_container(compose([*words, "model.weights=random"]), resolve=True)
    assert isinstance(found, dict)
    return found


def test_a_network_gives_images_its_own_size_unless_it_is_set() -> None:
    def size(*words: str) -> int:
        return int(FoldSetup(resolved(*words)).fit.size)

    assert size() == 224
    assert size("model=inception_v3") == 299
    assert size("model=timm", "model.backbone=test_vit") == 160
    assert size("model=timm", "model.backbone=test_resnet", "data.image_size=96") == 96
    with pytest.raises(SettingError, match=r"^data\.image_size=96: must be 160; timm/test_vit takes no other"):
        FoldSetup(resolved("model=timm", "model.backbone=test_vit", "data.image_size=96")).module()
    with pytest.raises(SettingError, match=r"^data\.image_size=32: must be a size that torchvision/alexnet takes"):
        ClassificationModule("torchvision/alexnet", preprocessing={"image_size": 32})


def test_a_checkpoint_needs_its_library_and_nothing_else(tmp_path: Path) -> None:
    from covidnet.learning.checkpoints import write_checkpoint

    module = ClassificationModule("timm/test_convnext", preprocessing={"image_size": 160}).eval()
    state = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    write_checkpoint(state, tmp_path / "best.ckpt")
    loaded = ClassificationModule.from_checkpoint(tmp_path / "best.ckpt")
    images = noise(module.classifier.backbone)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), module(images))
    state["hyper_parameters"]["model"] = {"name": "mine", "weights": "random"}
    write_checkpoint(state, tmp_path / "mine.ckpt")
    with pytest.raises(WeightsError, match=r"has the network mine, which is not known here; add imports=\[FILE\.py\]"):
        ClassificationModule.from_checkpoint(tmp_path / "mine.ckpt")


def test_a_frozen_network_of_a_library_stays_frozen() -> None:
    classifier: Classifier = build_classifier("timm/mobilenetv3_small_050")
    before = classifier.backbone_hash()
    classifier.train()(noise(classifier.backbone)).sum().backward()
    assert classifier.backbone_hash() == before
    assert all(parameter.grad is None for parameter in classifier.backbone.parameters())
    whole = build_classifier("timm/mobilenetv3_small_050", freeze=False).train()
    whole(noise(whole.backbone)).sum().backward()
    assert all(parameter.grad is not None for parameter in whole.parameters())
