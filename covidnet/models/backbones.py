"""Backbones: the convolutional part of a network, from a radiograph to a feature vector."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from covidnet.base.errors import SettingError, WeightsError
from covidnet.models.inputs import CHEST_SPEC, IMAGENET_SPEC, InputSpec
from covidnet.models.networks import NETWORKS, network_of
from covidnet.models.published import file_in, path_of
from covidnet.models.weights import State, chest_state, fit_state, load_state


class Backbone(nn.Module):
    """A convolutional network without its classifier.

    Args:
        features: the layers from images (N, C, H, W) to maps (N, D, h, w); the last ReLU may be missing.
        features_dim: D, the number of maps.
        spec: the input that the weights expect.
        weights: the name or path of the weights, as given by the user.
        name: the network's name.
        licence: of the weights, as their publisher states it.
    """

    def __init__(
        self,
        features: nn.Module,
        features_dim: int,
        spec: InputSpec,
        weights: str,
        name: str = "densenet121",
        licence: str | None = None,
    ) -> None:
        super().__init__()
        self.features = features
        self.features_dim = features_dim
        self.spec = spec
        self.weights = weights
        self.name = name
        self.licence = licence

    def feature_maps(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to the maps that are pooled, after the last ReLU: (N, D, h, w)."""
        # Torchvision's DenseNet applies its last ReLU outside its features. It does not change other networks' maps.
        return functional.relu(self.features(images))

    def pool(self, maps: Tensor) -> Tensor:
        """Maps (N, D, h, w) to their spatial means: (N, D)."""
        return functional.adaptive_avg_pool2d(maps, 1).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to feature vectors (N, D)."""
        return self.pool(self.feature_maps(images))


def build_backbone(name: str = "densenet121", weights: str | Path = "random", seed: int = 0) -> Backbone:
    """Build a backbone on the CPU, in train mode; the global random state is unchanged.

    Args:
        name: a model of `covidnet.models.networks.MODELS`; ``bayesian_cnn`` and ``anomaly_resnet`` stand for the
            networks that they use.
        weights: ``random`` (see `covidnet.models.networks`), ``imagenet``, ``chest`` (torchxrayvision, for
            densenet121), the path of a file, see `covidnet.models.weights.load_state`, or of a folder that has the
            published one. A file for densenet121 whose first layer takes one channel gets the input of ``chest``.
        seed: seed of the random weights: the same seed gives the same weights, whatever was drawn before.

    Returns:
        The backbone, without in-place ReLUs, which would overwrite the maps that saliency needs.

    Raises:
        SettingError: there is no such network, or no weights of that name are published for it.
        WeightsError: the weights are unavailable or do not fit.
    """
    network_name = network_of(name)
    network = NETWORKS[network_name]
    # torch.manual_seed would also seed the GPUs, which fork_rng(devices=[]) does not put back.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        features = network.features()
        state = _state_of(network_name, str(weights))
        if state is not None:
            state = _named(state, features)
        spec = network.spec
        if network_name == "densenet121" and state is not None and _channels(state) == 1:
            features.conv0 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
            spec = CHEST_SPEC
    for layer in features.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
    licence = network.imagenet.licence if network.imagenet and weights == "imagenet" else None
    backbone = Backbone(features, network.features_dim, spec, str(weights), network_name, licence)
    if state is not None:
        fit_state(backbone, state, str(weights), network_name)
    return backbone


def _state_of(name: str, weights: str) -> State | None:
    network = NETWORKS[name]
    if weights == "random":
        return None
    if weights == "chest":
        if name != "densenet121":
            raise WeightsError(f"model.weights=chest: only for densenet121, not {name}; use imagenet, random or a file")
        return chest_state()
    if weights != "imagenet":
        folder = Path(weights).expanduser()
        return load_state(file_in(folder, network.imagenet, name) if folder.is_dir() else weights)
    if network.imagenet is None:
        raise SettingError(
            "model.weights",
            weights,
            "random or a file",
            f"none are published for {name}, which is trained from scratch",
        )
    return load_state(path_of(network.imagenet))


def _named(state: State, features: nn.Module) -> State:
    """Rename published tensors such as layer1.0.conv1.weight to their names in a `Backbone`."""
    own = features.state_dict()
    if "_conv_stem.weight" in state:
        # EfficientNet-Lite0 of ML Illustrated has timm's tensors in timm's order, under other names.
        kept = [value for name, value in state.items() if not name.startswith("_fc.")]
        state = dict(zip(own, kept, strict=True)) if len(own) == len(kept) else state
    return {f"features.{key}" if key in own else key: value for key, value in state.items()}


def _channels(state: State) -> int | None:
    first = state.get("features.conv0.weight")
    return first.shape[1] if first is not None and first.ndim == 4 else None


__all__ = ["CHEST_SPEC", "IMAGENET_SPEC", "Backbone", "InputSpec", "build_backbone"]
