"""Networks with re-initialised last layers, which the sanity test of saliency maps compares with."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from covidnet.base.errors import SettingError
from covidnet.models.backbones import Backbone, seeded_cpu
from covidnet.models.classifier import Classifier
from covidnet.models.libraries import LIBRARIES
from covidnet.models.networks import MODELS, network

HEAD = "head"
"""The first stage."""

State = dict[str, Tensor]


def stages(classifier: Classifier) -> tuple[str, ...]:
    """The parts of a network in the order in which `randomised` re-initialises them: from the logits to the image.

    The head is first, then the children of ``backbone.features`` from last to first. Children in a list are separate
    stages, those without parameters are skipped, and normalisation belongs to the convolutions before it. Every
    parameter and buffer of the network belongs to one stage.

    Args:
        classifier: a network whose layers are declared in the order of its forward pass, as all built-in ones are.

    Returns:
        ``head`` and the names of the others, such as ``denseblock4``.
    """
    return (HEAD, *reversed(_groups(classifier.backbone.features)))


def randomised(classifier: Classifier, stage: str, seed: int = 0) -> Classifier:
    """A copy of a network in which the head and all stages down to a given one are re-initialised.

    New values come from the function that builds the network. Layers that differ from what it builds (the first layer
    of single-channel weights, or all layers of an unnamed network) use their ``reset_parameters``. Running
    statistics are those of a new layer. A stage gets the same values however far the cascade goes.

    Args:
        classifier: the network; it is unchanged, and so is the global random state.
        stage: the last stage to re-initialise, one of `stages`.
        seed: of the new values, at least 0. They differ from those of a backbone with random weights and this seed.

    Returns:
        The copy, in eval mode, on the same device.

    Raises:
        SettingError: there is no such stage, or there is no way to re-initialise a layer.

    Source: the cascading randomisation of Adebayo et al. 2018, https://arxiv.org/abs/1810.03292
    """
    return Cascade(classifier, seed).down_to(stage)


class Cascade:
    """Re-initialise a network stage by stage, as `randomised` does, with one copy and one draw for all stages.

    Args:
        classifier: the network; it is unchanged, and so is the global random state. Nothing is copied or drawn yet.
        seed: as in `randomised`.
    """

    def __init__(self, classifier: Classifier, seed: int = 0) -> None:
        self.classifier = classifier
        self.seed = seed
        self._made: Classifier | None = None
        self._drawn: State = {}
        self._reached = 0

    def down_to(self, stage: str) -> Classifier:
        """The network in which all stages down to a given one are re-initialised.

        Args:
            stage: as in `randomised`; stages are asked for in their order.

        Returns:
            The copy, in eval mode, on the same device. The next call changes it.

        Raises:
            SettingError: as in `randomised`.
            ValueError: an earlier stage than before.
        """
        known = stages(self.classifier)
        if stage not in known:
            raise SettingError("stage", stage, known)
        place = known.index(stage)
        if self._made is not None and place < self._reached:
            raise ValueError(f"stage {stage} comes before {known[self._reached]}, which is already re-initialised")
        with torch.inference_mode(False), torch.no_grad():
            if self._made is None:
                self._made = copy.deepcopy(self.classifier).eval()
                _fill(self._made.head, _reset(self._made.head, _seed(self.seed, 0)))
            features = self._made.backbone.features
            groups = _groups(features)
            if place and not self._drawn:
                self._drawn = _drawn(self._made.backbone, _seed(self.seed, 1))
            wanted = [name for one in known[self._reached + 1 : place + 1] for name in groups[one]]
            _fill(features, {name: self._drawn[name] for name in wanted})
            self._reached = place
        return self._made


def with_random_head(classifier: Classifier, seed: int = 0) -> Classifier:
    """The same backbone (not a copy) with the head that `randomised` draws, for use with stored maps.

    Args:
        classifier: a network in eval mode.
        seed: as in `randomised`.

    Returns:
        The network, in eval mode.
    """
    with torch.inference_mode(False), torch.no_grad():
        head = copy.deepcopy(classifier.head)
        _fill(head, _reset(head, _seed(seed, 0)))
        return Classifier(classifier.backbone, head, classifier.frozen).eval()


def _groups(features: nn.Module) -> dict[str, list[str]]:
    """The names of the tensors of each stage, in forward order."""
    left = list(_tensors(features))
    groups: dict[str, list[str]] = {}
    waiting: list[str] = []
    for name, child in _children(features):
        own = [key for key in left if key.startswith(f"{name}.")]
        left = [key for key in left if not key.startswith(f"{name}.")]
        # Scale and shift of a normalisation are vectors, and its statistics are buffers.
        if any(value.ndim > 1 for value in child.parameters()):
            last = name if name != HEAD else f"features.{name}"
            groups[last], waiting = [*waiting, *own], []
        elif groups:
            groups[last] += own
        else:
            waiting += own
    # Tensors of no child, or of no child with weights, belong to the stage nearest to the image.
    left += waiting
    if left:
        first = next(iter(groups), "features")
        groups[first] = [*left, *groups.get(first, [])]
    return groups


def _children(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    children = list(module.named_children())
    # A network of torchvision is a graph that may end in layers without tensors, which are no stage.
    counted = [child for _, child in children if not isinstance(module, GraphModule) or _tensors(child)]
    for name, child in children:
        alone = counted == [child] and any(True for _ in child.children())
        if alone or isinstance(child, nn.ModuleList | GraphModule):
            yield from _children(child, f"{prefix}{name}.")
        else:
            yield prefix + name, child


def _tensors(module: nn.Module) -> State:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _seed(seed: int, part: int) -> int:
    # Not the seed itself: a backbone with random weights was drawn from such a seed, often 0, and would not change.
    return int(np.random.SeedSequence([seed, part]).generate_state(1, np.uint64)[0] >> 1)


def _drawn(backbone: Backbone, seed: int) -> State:
    """New values of every tensor of a backbone's features."""
    if backbone.name not in MODELS and not backbone.name.startswith(LIBRARIES):
        return _reset(backbone.features, seed)
    with seeded_cpu(seed):
        made = _tensors(network(backbone.name).features())
    return _reset(backbone.features, seed, made)


def _reset(module: nn.Module, seed: int, made: State | None = None) -> State:
    """New values of every tensor of a module: from `made` if all tensors of a layer fit, else from its reset."""
    if made and all(name in made and made[name].shape == value.shape for name, value in _tensors(module).items()):
        return made
    # On the CPU and in float32, so that the draw depends on neither device nor precision.
    fresh = copy.deepcopy(module).cpu().float()
    with seeded_cpu(seed):
        for name, layer in fresh.named_modules():
            own = {
                f"{name}.{key}" if name else key: value
                for key, value in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]
            }
            if made and all(key in made and made[key].shape == value.shape for key, value in own.items()):
                for key, value in own.items():
                    value.copy_(made[key])
            elif callable(reset := getattr(layer, "reset_parameters", None)):
                reset()
            elif any(True for _ in layer.parameters(recurse=False)):
                allowed = "a network whose layers have reset_parameters"
                raise SettingError("stage", name or type(layer).__name__, allowed, "it cannot be re-initialised")
    return _tensors(fresh)


def _fill(module: nn.Module, values: State) -> None:
    own = _tensors(module)
    for name, value in values.items():
        own[name].copy_(value)
