"""The networks and heads that have a name: built-in ones, and those that your own file adds with a decorator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from covidnet.base.errors import SettingError
from covidnet.models.inputs import IMAGENET_SPEC, InputSpec
from covidnet.models.published import Published


@dataclass(frozen=True)
class Network:
    """A network without its classifier.

    Args:
        features: builds the layers from images (N, C, H, W) to maps (N, D, h, w) with random weights. The maps get a
            ReLU and their spatial means are the feature vector; if the module has a method ``pool_maps(maps)``, its
            result (N, F) is the feature vector, and the maps stay as they are.
        features_dim: the length of a feature vector; found out when the network is built if None.
        spec: the input.
        imagenet: the published weights trained on ImageNet; None if there are none.
        least: the smallest side of an input in pixels.
        fixed: whether ``spec.size`` is the only side.
    """

    features: Callable[[], nn.Module]
    features_dim: int | None
    spec: InputSpec = IMAGENET_SPEC
    imagenet: Published | None = None
    least: int = 32
    fixed: bool = False


NETWORKS: dict[str, Network] = {}
"""Networks by name."""

MODELS: dict[str, tuple[str, str]] = {}
"""Models by name (the setting ``model.name``): the network, and the head on it."""

HEADS: dict[str, Callable[..., nn.Module]] = {}
"""Heads by name (the setting ``model.head``)."""

_Build = TypeVar("_Build", bound=Callable[..., Any])


def register_network(
    name: str, spec: InputSpec, *, least: int = 32, fixed: bool = False, imagenet: Published | None = None
) -> Callable[[_Build], _Build]:
    """Give a network a name for ``model.name``.

    Args:
        name: not one that another network, model or head has.
        spec: the input.
        least: the smallest side of an input in pixels.
        fixed: whether ``spec.size`` is the only side.
        imagenet: published weights for ``model.weights=imagenet``, such as a `covidnet.models.published.WebFile`.

    Returns:
        A decorator of a function or class that builds the layers, see `Network.features`.

    Raises:
        SettingError: there is such a name.
    """

    def keep(build: _Build) -> _Build:
        known = {model: NETWORKS[model].features if model in NETWORKS else None for model in {**MODELS, **NETWORKS}}
        _check(name, known, build, "network")
        NETWORKS[name] = Network(build, None, spec, imagenet, least, fixed)
        MODELS[name] = (name, "linear")
        return build

    return keep


def register_head(name: str) -> Callable[[_Build], _Build]:
    """Give a head a name for ``model.head``.

    Args:
        name: not one that another network, model or head has.

    Returns:
        A decorator of a class or function that takes ``features_dim`` and ``classes``, and of ``dropout``,
        ``standardise`` and ``samples`` those that it needs, and builds a module from feature vectors (N, features_dim)
        to logits (N, classes).

    Raises:
        SettingError: there is such a name.
    """

    def keep(build: _Build) -> _Build:
        _check(name, HEADS, build, "head")
        HEADS[name] = build
        return build

    return keep


def _check(name: str, known: dict[str, Any], build: Any, what: str) -> None:
    # A notebook's cell that runs again defines the same thing again.
    places = [(getattr(of, "__module__", of), getattr(of, "__qualname__", of)) for of in (known.get(name), build)]
    if "/" in name or (name in known and places[0] != places[1]):
        taken = f"taken: {', '.join(known)}"
        raise SettingError(f"register_{what}", name, f"a new name without / for a {what}", taken)
