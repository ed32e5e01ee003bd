"""Which networks there are: their layers, their input, where their weights are published, and their kind of head."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torchvision.models as published
from torch import Tensor, nn
from torchvision.models.inception import Inception3

from covidnet.base.errors import SettingError
from covidnet.models.cnn import cnn_features
from covidnet.models.covidnet_cxr import CovidNetCxr
from covidnet.models.inputs import GREY_SPEC, IMAGENET_SPEC, INCEPTION_SPEC, InputSpec
from covidnet.models.resnet8 import resnet8_features


@dataclass(frozen=True)
class Network:
    """A network without its classifier.

    Args:
        features: makes the layers from images (N, C, H, W) to maps (N, D, h, w), with random weights: those that the
            library draws, except for the Inception family.
        features_dim: D.
        spec: the input.
        imagenet: where weights trained on ImageNet are published; None where none are.
        least: the smallest side of an input in pixels.
    """

    features: Callable[[], nn.Module]
    features_dim: int
    spec: InputSpec = IMAGENET_SPEC
    imagenet: str | None = None
    least: int = 32


TIMM = "timm"
"""Stands for an address where timm knows it."""


def _densenet121() -> nn.Module:
    features: nn.Module = published.densenet121(weights=None).features
    return features


def _resnet(make: Callable[..., nn.Module]) -> Callable[[], nn.Module]:
    def features() -> nn.Module:
        network = make(weights=None)
        names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
        return nn.Sequential(OrderedDict((name, getattr(network, name)) for name in names))

    return features


def _inception_v3() -> nn.Module:
    network = Inception3(aux_logits=False, init_weights=False)
    # In the order in which they are declared, which is that of its forward pass; the rest is its classifier.
    layers = [(name, layer) for name, layer in network.named_children() if name not in ("avgpool", "dropout", "fc")]
    return _levelled(nn.Sequential(OrderedDict((name, layer) for name, layer in layers if layer is not None)))


def _levelled(features: nn.Module) -> nn.Module:
    """Draw the convolutions anew so that values keep their size from layer to layer (He et al. 2015, 1502.01852).

    A frozen network with random weights has batch normalisation that has seen nothing. Under the libraries' own draws
    the features of the Inception family are then of size 10^10 (torchvision), or differ by 10^-5 between images (timm).
    """
    for layer in features.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return features


class _Timm(nn.Module):
    """A network of timm up to its last maps, under the names of timm's own weights."""

    def __init__(self, name: str) -> None:
        super().__init__()
        try:
            import timm
        except ImportError:
            raise SettingError(
                "model.name", name, "a network of torchvision or our own", 'pip install "covidnet[timm]" for this one'
            ) from None
        network: Any = timm.create_model(name, pretrained=False, num_classes=0, global_pool="")
        for layer, module in network.named_children():
            self.add_module(layer, module)
        # In a tuple it is no submodule: its layers are ours already.
        self._network = (network,)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self._network[0].forward_features(images)
        return maps


NETWORKS: dict[str, Network] = {
    # Huang et al. 2017, https://doi.org/10.1109/CVPR.2017.243
    "densenet121": Network(_densenet121, 1024, imagenet=published.DenseNet121_Weights.IMAGENET1K_V1.url),
    # He et al. 2016, https://doi.org/10.1109/CVPR.2016.90
    "resnet18": Network(_resnet(published.resnet18), 512, imagenet=published.ResNet18_Weights.IMAGENET1K_V1.url),
    "resnet50": Network(_resnet(published.resnet50), 2048, imagenet=published.ResNet50_Weights.IMAGENET1K_V1.url),
    # Szegedy et al. 2016, https://doi.org/10.1109/CVPR.2016.308
    "inception_v3": Network(
        _inception_v3, 2048, INCEPTION_SPEC, published.Inception_V3_Weights.IMAGENET1K_V1.url, least=75
    ),
    # Szegedy et al. 2017, https://doi.org/10.1609/aaai.v31i1.11231
    "inception_resnet_v2": Network(
        lambda: _levelled(_Timm("inception_resnet_v2")), 1536, INCEPTION_SPEC, TIMM, least=75
    ),
    "cnn": Network(cnn_features, 128, GREY_SPEC, least=16),
    "resnet8": Network(resnet8_features, 64, GREY_SPEC, least=16),
    "covidnet_cxr": Network(CovidNetCxr, 2048, GREY_SPEC),
}
"""Networks by name."""

MODELS: dict[str, tuple[str, str]] = {
    **{name: (name, "linear") for name in NETWORKS},
    # Ghoshal and Tucker 2020, https://arxiv.org/abs/2003.10769
    "bayesian_cnn": ("resnet50", "monte_carlo"),
    # Zhang et al. 2020, https://arxiv.org/abs/2003.12338
    "anomaly_resnet": ("resnet18", "anomaly"),
}
"""Models by name (the setting ``model.name``): the network, and the head on it."""


def network_of(name: str) -> str:
    """The network that a model stands on.

    Raises:
        SettingError: there is no such model.

    Example:
        >>> network_of("bayesian_cnn"), network_of("cnn")
        ('resnet50', 'cnn')
    """
    if name not in MODELS:
        raise SettingError("model.name", name, MODELS)
    return MODELS[name][0]
