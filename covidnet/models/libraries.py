"""Any network of timm or torchvision: its maps, its pooling, its published input and weights."""

from __future__ import annotations

import difflib
import functools
import re
import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torchvision.models
from torch import Tensor, fx, nn

from covidnet.base.errors import SettingError
from covidnet.models.inputs import InputSpec
from covidnet.models.published import HubFile, WebFile
from covidnet.models.registry import Network

LIBRARIES = ("timm/", "torchvision/")
"""What the names of networks of libraries start with."""

_IMAGENET_TAG = re.compile(r"in(1|12|21|22)k")
# Networks of torchvision that take images of one size alone.
_ONE_SIZE = ("vit_", "maxvit_")


@functools.cache
def library_network(name: str) -> Network:
    """A network of a library.

    Args:
        name: ``timm/NAME`` or ``torchvision/NAME``.

    Raises:
        SettingError: the library has no such network, or it cannot be divided into maps and pooling.
    """
    library, _, backbone = name.partition("/")
    return _timm(backbone) if library == "timm" else _torchvision(backbone)


class LibraryFeatures(nn.Module):
    """A network without its classifier, divided at the maps that it pools.

    Its maps are (N, D, h, w); tokens of a transformer are (N, D, L, 1), with L the number of tokens.

    Args:
        own: the module whose state has the published names.

    Attributes:
        spatial: whether the maps have a place in the image. Those of transformers with class tokens have none.
        averages: whether the feature vector is the spatial mean of the maps.
        features_dim: the length of a feature vector.
        left_out: what the published names of the classifier start with.
    """

    spatial = True
    averages = False
    features_dim = 0
    left_out: tuple[str, ...] = ()

    def pool_maps(self, maps: Tensor) -> Tensor:
        """Maps to feature vectors (N, F), as the network itself pools them."""
        raise NotImplementedError

    def probe(self, shape: Sequence[int]) -> None:
        """Find out how the network pools.

        Args:
            shape: of the maps of an image, (1, D, h, w).
        """
        if len(shape) != 4:
            raise ValueError("it does not pool its maps into one vector")
        training = self.training
        # Of either sign: the mean of their positive part is not what class activation maps rest on.
        maps = torch.randn((2, *shape[1:]), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            means, features = maps.mean((2, 3)), self.eval().pool_maps(maps)
        self.train(training)
        if features.ndim != 2:
            raise ValueError("it does not pool its maps into one vector")
        self.features_dim = features.shape[1]
        same = means.shape == features.shape and bool(torch.allclose(means, features, 1e-4, 1e-6))
        self.averages = self.spatial and same


class TimmFeatures(LibraryFeatures):
    """A network of timm.

    Args:
        name: as in timm.
        spec: its input.
    """

    def __init__(self, name: str, spec: InputSpec) -> None:
        super().__init__()
        import timm

        self.network: Any
        self.network = timm.create_model(name, pretrained=False, num_classes=0)
        self.last = getattr(self.network, "output_fmt", None) == "NHWC"
        self.tokens = False
        named = self.network.pretrained_cfg.get("classifier")
        self.left_out = tuple(f"{one}." for one in ([named] if isinstance(named, str) else named or ()))
        with torch.no_grad():
            found: Any = self.network.eval().forward_features(torch.zeros(1, spec.channels, spec.size, spec.size))
        self.network.train()
        if not isinstance(found, Tensor):
            raise ValueError("its features are several tensors")
        self.tokens = found.ndim == 3
        self.spatial = not self.tokens
        self.probe(self._maps(found).shape)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to maps."""
        return self._maps(self.network.forward_features(images))

    def _maps(self, found: Tensor) -> Tensor:
        if self.tokens:
            return found.transpose(1, 2).unsqueeze(-1)
        return found.permute(0, 3, 1, 2) if self.last else found

    def pool_maps(self, maps: Tensor) -> Tensor:
        """Maps to feature vectors."""
        own = maps.squeeze(-1).transpose(1, 2) if self.tokens else maps.permute(0, 2, 3, 1) if self.last else maps
        features: Tensor = self.network.forward_head(own, pre_logits=True)
        return features


class TorchvisionFeatures(LibraryFeatures):
    """A network of torchvision.

    Args:
        name: as in torchvision.
        spec: its input.
    """

    def __init__(self, name: str, spec: InputSpec) -> None:
        super().__init__()
        more = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
        network = torchvision.models.get_model(name, weights=None, **more)
        classifier = [key for key, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)][-1]
        network.set_submodule(classifier, nn.Identity())
        self.left_out = (f"{classifier}.", "AuxLogits.", "aux1.", "aux2.")
        self.body, self.tail, shape = _divided(network, torch.zeros(1, spec.channels, spec.size, spec.size))
        self.tokens = len(shape) == 3
        self.spatial = not self.tokens
        self.probe((1, shape[2], shape[1], 1) if self.tokens else shape)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to maps."""
        found: Tensor = self.body(images)
        return found.transpose(1, 2).unsqueeze(-1) if self.tokens else found

    def pool_maps(self, maps: Tensor) -> Tensor:
        """Maps to feature vectors."""
        features: Tensor = self.tail(maps.squeeze(-1).transpose(1, 2) if self.tokens else maps)
        return features


class _Children(fx.Tracer):
    """Record which children of a network are called in which order, without looking into any but sequences."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # SqueezeNet's classifier is a sequence with the ReLU before the mean. The maps are those after it: the gradient
        # of a ReLU would take part in Grad-CAM.
        return not isinstance(m, nn.Sequential)


class _Shapes(fx.Interpreter):
    """Run a graph and keep the shape of each tensor."""

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        super().__init__(module, graph=graph)
        self.shapes: dict[fx.Node, torch.Size] = {}

    def run_node(self, n: fx.Node) -> Any:
        found = super().run_node(n)
        if isinstance(found, Tensor) and n.op not in ("output", "placeholder", "get_attr"):
            self.shapes[n] = found.shape
        return found


def _divided(network: nn.Module, image: Tensor) -> tuple[fx.GraphModule, fx.GraphModule, torch.Size]:
    """A network up to the last tensor with places, the rest of it, and the shape of that tensor."""
    training = network.training
    network.eval()
    runner = _Shapes(network, graph=_Children().trace(network))
    with torch.no_grad():
        runner.run(image)
    network.train(training)
    # (N, C, h, w), or tokens (N, L, C).
    placed = [n for n, shape in runner.shapes.items() if len(shape) in (3, 4) and shape[len(shape) - 2] > 1]
    if not placed:
        raise ValueError("it has no maps")
    last = placed[-1]
    body, tail = fx.Graph(), fx.Graph()
    before: dict[fx.Node, fx.Node] = {}
    after = {last: tail.placeholder("maps")}
    reached = False
    for node in runner.graph.nodes:
        if node.op == "output":
            tail.output(after[node.args[0]])
        elif reached:
            after[node] = tail.node_copy(node, after.__getitem__)
        else:
            before[node] = body.node_copy(node, before.__getitem__)
        if node is last:
            body.output(before[node])
            reached = True
    return fx.GraphModule(network, body), fx.GraphModule(network, tail), runner.shapes[last]


def _timm(backbone: str) -> Network:
    import timm
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(backbone) if timm.is_model(backbone) else None
    if config is None:
        raise _unknown(backbone, "timm", timm.list_models())
    channels, size, _ = config.input_size
    spec = InputSpec(channels, tuple(config.mean), tuple(config.std), size)
    published = HubFile(backbone) if config.hf_hub_id and _IMAGENET_TAG.search(config.tag or "") else None
    return Network(
        lambda: _built(TimmFeatures, backbone, spec, "timm"), None, spec, published, fixed=bool(config.fixed_input_size)
    )


def _torchvision(backbone: str) -> Network:
    known = torchvision.models.list_models(module=torchvision.models)
    if backbone not in known:
        raise _unknown(backbone, "torchvision", known)
    weights = torchvision.models.get_model_weights(backbone)
    chosen: Any = getattr(weights, "IMAGENET1K_V1", None) or next(iter(weights))
    transforms = chosen.transforms()
    spec = InputSpec(3, tuple(transforms.mean), tuple(transforms.std), transforms.crop_size[0])
    return Network(
        lambda: _built(TorchvisionFeatures, backbone, spec, "torchvision"),
        None,
        spec,
        WebFile(chosen.url),
        fixed=backbone.startswith(_ONE_SIZE),
    )


def _built(kind: Any, backbone: str, spec: InputSpec, library: str) -> nn.Module:
    try:
        with warnings.catch_warnings():
            # Libraries warn of their own slow initialisation.
            warnings.simplefilter("ignore")
            features: nn.Module = kind(backbone, spec)
    # A network of another kind fails anywhere: its forward pass takes other arguments or gives other things.
    except Exception as error:
        cause = " ".join(str(error).split())[:120]
        allowed = f"a network of {library} with global pooling"
        raise SettingError("model.backbone", backbone, allowed, f"this one cannot be used: {cause}") from None
    return features


def _unknown(backbone: str, library: str, known: list[str]) -> SettingError:
    if backbone in ("", "None"):
        return SettingError("model.backbone", None, f"a network of {library}", "say model.backbone=NAME")
    near = ", ".join(difflib.get_close_matches(str(backbone), known, 5, 0.0))
    return SettingError("model.backbone", backbone, f"a network of {library}", f"the nearest names are {near}")
