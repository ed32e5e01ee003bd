"""Backbones: the convolutional part of a network, from a radiograph to a feature vector."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from covidnet.base.errors import SettingError, WeightsError
from covidnet.models.inputs import CHEST_SPEC, IMAGENET_SPEC, InputSpec
from covidnet.models.libraries import LIBRARIES
from covidnet.models.networks import network as network_named
from covidnet.models.networks import network_of
from covidnet.models.published import file_in, path_of
from covidnet.models.undrawn import Undrawn
from covidnet.models.weights import OTHER_CLASSES, State, chest_state, fit_state, load_state

# Where a published name is in the features of a `Backbone`: see `covidnet.models.libraries`.
_INNER = ("", "network.", "body.", "tail.")


class Backbone(nn.Module):
    """A network without its classifier.

    Args:
        features: the layers from images (N, C, H, W) to maps (N, D, h, w), and how they are pooled, see
            `covidnet.models.registry.Network`.
        features_dim: F, the length of a feature vector; found out by a blank image if None.
        spec: the input that the weights expect.
        weights: the name or path of the weights, as given by the user.
        name: the network's name.
        licence: of the weights, as their publisher states it.
    """

    def __init__(
        self,
        features: nn.Module,
        features_dim: int | None,
        spec: InputSpec,
        weights: str,
        name: str = "densenet121",
        licence: str | None = None,
    ) -> None:
        super().__init__()
        self.features = features
        self.spec = spec
        self.weights = weights
        self.name = name
        self.licence = licence
        # Whether the maps have a place in the image: those of transformers with class tokens have none.
        self.spatial = bool(getattr(features, "spatial", True))
        self.pools = callable(getattr(features, "pool_maps", None))
        # Whether a feature is the mean of a map, which class activation maps rest on.
        self.averages = bool(getattr(features, "averages", not self.pools))
        self.features_dim = features_dim if features_dim is not None else self._measured()

    def feature_maps(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to the maps that are pooled, (N, D, h, w); means are taken after a ReLU."""
        maps: Tensor = self.features(images)
        # Torchvision's DenseNet applies its last ReLU outside its features. It does not change other networks' maps.
        return maps if self.pools else functional.relu(maps)

    def pool(self, maps: Tensor) -> Tensor:
        """Maps (N, D, h, w) to feature vectors (N, F): their spatial means, unless the network pools them itself."""
        if self.pools:
            pool: Callable[[Tensor], Tensor] = self.features.pool_maps  # type: ignore[assignment]
            return pool(maps)
        return functional.adaptive_avg_pool2d(maps, 1).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to feature vectors (N, F)."""
        return self.pool(self.feature_maps(images))

    def _measured(self) -> int:
        training = self.training
        with torch.no_grad():
            features = self.eval()(torch.zeros(1, self.spec.channels, self.spec.size, self.spec.size))
        self.train(training)
        if features.ndim != 2:
            raise SettingError(
                "model.name", self.name, "a network whose pooled maps are (N, F)", f"its are {tuple(features.shape)}"
            )
        return int(features.shape[1])


def build_backbone(
    name: str = "densenet121",
    weights: str | Path = "random",
    seed: int = 0,
    read: Mapping[str, Tensor] | None = None,
) -> Backbone:
    """Build a backbone on the CPU, in train mode; the global random state is unchanged.

    Args:
        name: a model of `covidnet.models.networks.MODELS`, of which ``bayesian_cnn`` and ``anomaly_resnet`` stand for
            the networks that they use; ``timm/NAME`` or ``torchvision/NAME``.
        weights: ``random`` (see `covidnet.models.networks`), ``imagenet``, ``chest`` (torchxrayvision, for
            densenet121), the path of a file, see `covidnet.models.weights.load_state`, or of a folder that has the
            published one. A file for densenet121 whose first layer takes one channel gets the input of ``chest``.
        seed: seed of the random weights: the same seed gives the same weights, whatever was drawn before.
        read: the tensors of the file `weights`, named as in a `Backbone`; None reads it.

    Returns:
        The backbone, without in-place activations, which would overwrite the maps that saliency needs.

    Raises:
        SettingError: there is no such network, or no weights of that name are published for it.
        WeightsError: the weights are unavailable or do not fit.
    """
    network_name, network = network_of(name), network_named(name)
    # Somebody's own network may keep what it draws outside its state.
    known = network.features_dim is not None or network_name.startswith(LIBRARIES)
    undrawn = Undrawn() if known and (read is not None or str(weights) != "random") else nullcontext()
    with seeded_cpu(seed), undrawn:
        features = network.features()
        state = _state_of(network_name, str(weights), features) if read is None else dict(read)
        spec = network.spec
        if network_name == "densenet121" and state is not None and _channels(state) == 1:
            features.conv0 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
            spec = CHEST_SPEC
    for layer in features.modules():
        if getattr(layer, "inplace", False):
            layer.inplace = False  # type: ignore[assignment]
    licence = network.imagenet.licence if network.imagenet and weights == "imagenet" else None
    features_dim = network.features_dim or getattr(features, "features_dim", None)
    backbone = Backbone(features, features_dim, spec, str(weights), network_name, licence)
    if state is not None:
        fit_state(backbone, state, str(weights), network_name)
    return backbone


@contextmanager
def seeded_cpu(seed: int) -> Iterator[None]:
    """Draw on the CPU from a seed; the global random state is unchanged afterwards.

    Args:
        seed: of what is drawn in the block.
    """
    # A device as context makes each operation slower.
    on_cpu = nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")
    # torch.manual_seed would also seed the GPUs, which fork_rng(devices=[]) does not put back.
    with torch.random.fork_rng(devices=[]), on_cpu:
        torch.default_generator.manual_seed(seed)
        yield


def check_side(backbone: Backbone, side: object, name: str) -> None:
    """Refuse a size of images that a network does not take.

    Args:
        backbone: the network.
        side: of the images in pixels; what is no integer is not judged.
        name: the model's name, for the error.

    Raises:
        SettingError: naming a size that it takes.
    """
    found = network_named(name)
    if not isinstance(side, int):
        return
    if side < found.least:
        raise SettingError("data.image_size", side, f"{found.least} or more", f"{name} needs larger images")
    if side == found.spec.size:
        return
    if found.fixed:
        raise SettingError("data.image_size", side, str(found.spec.size), f"{name} takes no other; leave it out")
    if backbone.pools:
        training = backbone.training
        try:
            with torch.no_grad():
                backbone.eval()(torch.zeros(1, backbone.spec.channels, side, side))
        # Every library raises errors of its own.
        except Exception as error:
            cause = " ".join(str(error).split())[:100]
            raise SettingError(
                "data.image_size", side, f"a size that {name} takes, such as {found.spec.size}", cause
            ) from None
        finally:
            backbone.train(training)


def _state_of(name: str, weights: str, features: nn.Module) -> State | None:
    """The tensors of the weights, named as in a `Backbone` with these features; None for random ones."""
    if weights == "random":
        return None
    left_out = getattr(features, "left_out", OTHER_CLASSES)
    return _named(_loaded(name, weights, left_out), features)


def _loaded(name: str, weights: str, left_out: tuple[str, ...]) -> State:
    network = network_named(name)
    if weights == "chest":
        if name != "densenet121":
            raise WeightsError(f"model.weights=chest: only for densenet121, not {name}; use imagenet, random or a file")
        return chest_state()
    if weights != "imagenet":
        folder = Path(weights).expanduser()
        return load_state(file_in(folder, network.imagenet, name) if folder.is_dir() else weights, left_out)
    if network.imagenet is None:
        why = "" if name.startswith(LIBRARIES) else ", which is trained from scratch"
        raise SettingError("model.weights", weights, "random or a file", f"none are published for {name}{why}")
    return load_state(path_of(network.imagenet), left_out)


def _named(state: State, features: nn.Module) -> State:
    """Rename published tensors such as layer1.0.conv1.weight to their names in a `Backbone`."""
    own = features.state_dict()
    if "_conv_stem.weight" in state:
        # EfficientNet-Lite0 of ML Illustrated has timm's tensors in timm's order, under other names.
        kept = [value for name, value in state.items() if not name.startswith("_fc.")]
        state = dict(zip(own, kept, strict=True)) if len(own) == len(kept) else state
    places = {key: next((f"{inner}{key}" for inner in _INNER if f"{inner}{key}" in own), None) for key in state}
    return {f"features.{place}" if (place := places[key]) else key: value for key, value in state.items()}


def _channels(state: State) -> int | None:
    first = state.get("features.conv0.weight")
    return first.shape[1] if first is not None and first.ndim == 4 else None


__all__ = ["CHEST_SPEC", "IMAGENET_SPEC", "Backbone", "InputSpec", "build_backbone"]
