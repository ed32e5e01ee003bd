"""The classifier: a backbone, frozen or trained, and a head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from covidnet.base.classes import DEFAULT_CLASSES
from covidnet.base.errors import SettingError
from covidnet.models.backbones import Backbone, InputSpec, build_backbone
from covidnet.models.heads import LinearHead, build_head
from covidnet.models.libraries import LIBRARIES
from covidnet.models.networks import head_of, network
from covidnet.models.weights import hash_state


class Classifier(nn.Module):
    """A network from radiographs to logits.

    A frozen backbone never changes: its parameters get no gradients, and its batch normalisation keeps its running
    statistics, because the backbone stays in eval mode after every ``train()``, as in Keras.

    Args:
        backbone: from images to feature vectors.
        head: from feature vectors to logits.
        frozen: whether only the head is trained.
    """

    def __init__(self, backbone: Backbone, head: nn.Module, frozen: bool = True) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.frozen = frozen
        self.train()

    @property
    def spec(self) -> InputSpec:
        """The input that the backbone's weights expect."""
        return self.backbone.spec

    def backbone_hash(self) -> str:
        """The sha256 of the backbone's parameters and buffers, see `hash_state`."""
        return hash_state(self.backbone)

    def description(self) -> dict[str, Any]:
        """The network as environment.json records it: its parameters, its input, the licence of its first weights."""
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in self.parameters()]
        return {
            "parameters": sum(size for size, _ in sizes),
            "trained": sum(size for size, moving in sizes if moving),
            "channels": self.spec.channels,
            "mean": list(self.spec.mean),
            "std": list(self.spec.std),
            "weights_licence": self.backbone.licence,
        }

    def train(self, mode: bool = True) -> Classifier:
        """Set train or eval mode; a frozen backbone stays in eval mode and gets no gradients."""
        super().train(mode)
        if self.frozen and "backbone" in self._modules:
            self.backbone.eval()
            self.backbone.requires_grad_(False)
        return self

    @contextmanager
    def head_alone(self) -> Iterator[dict[str, Tensor]]:
        """Leave the frozen backbone out of the module tree, so of ``parameters``, ``state_dict`` and ``train``.

        An epoch of a linear head takes less time than visiting the hundreds of modules of a backbone. `features` works
        as always.

        Returns:
            The backbone's part of the state dict.
        """
        modules = dict(self._modules)
        state = {f"backbone.{name}": value for name, value in self.backbone.state_dict().items()}
        self.__dict__["backbone"] = self._modules.pop("backbone")
        try:
            yield state
        finally:
            del self.__dict__["backbone"]
            # In their order, which is that of the state dict.
            self._modules.clear()
            self._modules.update(modules)

    def features(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to feature vectors (N, D).

        No graph is recorded through a frozen backbone, unless the images require gradients.
        """
        if self.frozen and not images.requires_grad:
            with torch.no_grad():
                return self.backbone(images)
        return self.backbone(images)

    def classify(self, features: Tensor) -> Tensor:
        """Feature vectors (N, D) to logits (N, classes)."""
        return self.head(features)

    def extras(self, features: Tensor) -> dict[str, Tensor]:
        """The head's outputs besides the logits, (N) each, by column of predictions.csv."""
        return self.head.extras(features) if isinstance(self.head, LinearHead) else {}

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to logits (N, classes)."""
        return self.classify(self.features(images))


def build_classifier(
    name: str = "densenet121",
    weights: str | Path = "random",
    freeze: bool = True,
    weights_seed: int = 0,
    classes: int = len(DEFAULT_CLASSES),
    dropout: float = 0.0,
    standardise: bool = False,
    samples: int = 50,
    anomaly_weight: float = 1.0,
    head: str | None = None,
    backbone: Backbone | None = None,
) -> Classifier:
    """Build a classifier on the CPU, in train mode.

    Args:
        name: a model of `covidnet.models.networks.MODELS`, ``timm/NAME`` or ``torchvision/NAME``.
        weights: the backbone's weights, see `build_backbone`.
        freeze: whether only the head is trained.
        weights_seed: the seed of random backbone weights. The head is initialised from PyTorch's global random state.
        classes: the number of logits.
        dropout: dropout before the linear layer, 0 <= dropout < 1.
        standardise: whether features are standardised before the linear layer, see `LinearHead`.
        samples: draws of a `MonteCarloHead`; other heads ignore it.
        head: the name of a head, see `covidnet.models.registry.register_head`; the model's own if None.
        backbone: of that name and weights, built already.
        anomaly_weight: of an `AnomalyHead`'s loss. Only training uses it; it is accepted because it is a model setting.

    Returns:
        The classifier.

    Raises:
        SettingError: there is no such network, it cannot be frozen, or a number is out of range.
        WeightsError: the weights are unavailable or do not fit.
    """
    if not isinstance(anomaly_weight, int | float) or not anomaly_weight >= 0.0:
        raise SettingError("model.anomaly_weight", anomaly_weight, "a number of at least 0")
    if backbone is None:
        backbone = build_backbone(name, weights, weights_seed)
    own = network(name).imagenet is None and not backbone.name.startswith(LIBRARIES)
    if freeze and own and weights == "random":
        raise SettingError("model.freeze", freeze, "false", f"{name} is trained from scratch")
    built = build_head(head or head_of(name), backbone.features_dim, classes, dropout, standardise, samples)
    return Classifier(backbone, built, frozen=freeze)
