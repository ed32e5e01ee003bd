"""Backbones: the convolutional part of a network, from a radiograph to a feature vector."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import densenet121

from covidnet.errors import SettingError
from covidnet.models.weights import State, chest_state, fit_state, imagenet_state, load_state


@dataclass(frozen=True)
class InputSpec:
    """How an 8-bit grey film becomes the input of a network.

    The grey values are scaled to 0..1, repeated over the channels, then ``(value - mean) / std``.

    Args:
        channels: 1 or 3.
        mean: one value per channel, on the scale 0..1.
        std: one value per channel, on the same scale.
        size: height and width of the input in pixels.
    """

    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int


IMAGENET_SPEC = InputSpec(3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224)
"""What torchvision's weights expect, and what networks with random weights get."""

CHEST_SPEC = InputSpec(1, (0.5,), (0.5 / 1024,), 224)
"""What torchxrayvision's weights expect: one channel, black at -1024 and white at 1024."""

_DENSENET121_FEATURES = 1024


class Backbone(nn.Module):
    """A convolutional network without its classifier.

    Args:
        features: the layers from images (N, C, H, W) to maps (N, D, h, w), before the last ReLU.
        features_dim: D, the number of maps.
        spec: the input that the weights expect.
        weights: the name or the path of the weights, as the user gave it.
    """

    def __init__(self, features: nn.Module, features_dim: int, spec: InputSpec, weights: str) -> None:
        super().__init__()
        self.features = features
        self.features_dim = features_dim
        self.spec = spec
        self.weights = weights

    def feature_maps(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to the maps that are pooled, after the last ReLU: (N, D, h, w)."""
        return functional.relu(self.features(images))

    def pool(self, maps: Tensor) -> Tensor:
        """Maps (N, D, h, w) to their spatial means: (N, D)."""
        return functional.adaptive_avg_pool2d(maps, 1).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to feature vectors (N, D)."""
        return self.pool(self.feature_maps(images))


def build_backbone(name: str = "densenet121", weights: str | Path = "random", seed: int = 0) -> Backbone:
    """Build a backbone on the CPU, in train mode; the global random state is left as it was.

    Args:
        name: ``densenet121``.
        weights: ``random`` (torchvision's initialisation), ``imagenet``, ``chest`` (torchxrayvision), or the path of a
            file, see `covidnet.models.weights.load_state`. A file whose first layer takes one channel gets the input
            of ``chest``, any other that of ``imagenet``.
        seed: seed of the random weights: the same seed gives the same weights, whatever was drawn before.

    Returns:
        The backbone, without in-place ReLUs, which would overwrite the maps that saliency looks at.

    Raises:
        SettingError: no such network.
        WeightsError: the weights cannot be had, or do not fit.

    Source: Huang et al. 2017, Densely connected convolutional networks, https://doi.org/10.1109/CVPR.2017.243
    """
    if name != "densenet121":
        raise SettingError("model.name", name, ["densenet121"])
    # torch.manual_seed would also seed the GPUs, which fork_rng(devices=[]) does not put back.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        features = densenet121(weights=None).features
        state = _state_of(str(weights))
        if state is not None and _channels(state) == 1:
            features.conv0 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    for layer in features.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
    spec = CHEST_SPEC if features.conv0.in_channels == 1 else IMAGENET_SPEC
    backbone = Backbone(features, _DENSENET121_FEATURES, spec, str(weights))
    if state is not None:
        fit_state(backbone, state, str(weights))
    return backbone


def _state_of(weights: str) -> State | None:
    if weights == "random":
        return None
    if weights == "imagenet":
        return imagenet_state()
    if weights == "chest":
        return chest_state()
    return load_state(weights)


def _channels(state: State) -> int | None:
    first = state.get("features.conv0.weight")
    return first.shape[1] if first is not None and first.ndim == 4 else None
