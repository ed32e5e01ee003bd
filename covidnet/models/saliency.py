"""Saliency: where in a radiograph a network finds evidence for a class."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from covidnet.base.errors import SettingError
from covidnet.models.backbones import Backbone
from covidnet.models.classifier import Classifier
from covidnet.models.heads import LinearHead

METHODS = ("gradcam", "gradcam++", "cam", "gradient", "eigencam")
"""The setting ``explain.method``."""


class MapWarning(RuntimeWarning):
    """Warns of maps that show nothing.

    Args:
        text: what is wrong with them.
        places: indices of the images in their batch.
        broken: whether the maps had NaN; otherwise they are constant.
    """

    def __init__(self, text: str, places: Sequence[int], broken: bool) -> None:
        super().__init__(text)
        self.places = list(places)
        self.broken = broken


def saliency(
    classifier: Classifier,
    images: Tensor,
    target: Sequence[int] | None = None,
    method: str = "gradcam",
    maps: Tensor | None = None,
) -> np.ndarray:
    """Compute a heat map of the evidence for a class in each image.

    It works on a frozen backbone and inside ``torch.no_grad`` and ``torch.inference_mode``. It leaves the classifier
    unchanged: its mode and gradients, and no hooks. Each map is stretched to 0..1 separately, so the strength of maps
    of two images cannot be compared.

    - ``gradcam``: the pooled maps, weighted by the mean gradients of the class's logit (Selvaraju et al. 2017,
      https://doi.org/10.1109/ICCV.2017.74).
    - ``gradcam++``: weighted by positive gradients, each with its own factor (Chattopadhay et al. 2018,
      https://doi.org/10.1109/WACV.2018.00097).
    - ``cam``: weighted by the linear layer's weights, divided by the running standard deviation where the head
      standardises (Zhou et al. 2016, https://doi.org/10.1109/CVPR.2016.319); for such a head ``gradcam`` is the same.
    - ``eigencam``: the first principal component of the pooled maps, on the side where their sum is large (Muhammad and
      Yeasin 2020, https://doi.org/10.1109/IJCNN48605.2020.9206626). It depends on neither the class nor the head.
    - ``gradient``: the absolute gradient of the class's logit with respect to the image, the maximum over the channels
      (Simonyan et al. 2014, https://arxiv.org/abs/1312.6034). It needs as much memory as a training step.

    Negative values of a weighted sum or a component are set to zero. All maps but those of ``gradient`` have the size
    of the pooled maps and are enlarged linearly.

    Args:
        classifier: the network.
        images: network inputs, (N, C, H, W).
        target: for each image the class to explain, 0..classes-1; the predicted class if None.
        method: one of `METHODS`.
        maps: ``classifier.backbone.feature_maps(images)``, (N, D, h, w), if already known: the backbone is then not
            run. ``gradient`` ignores them.

    Returns:
        float32 (N, H, W), 0..1. A constant map (no evidence anywhere, or the same everywhere) is all zero, and a map
        with NaN is set to zero; both cause a `MapWarning`.

    Raises:
        SettingError: there is no such method or class, the method cannot explain this network (`check_method`), or
            target or maps differ in length from images.
    """
    if method not in METHODS:
        raise SettingError("explain.method", method, METHODS)
    check_method(classifier, method)
    count, _, height, width = images.shape
    if target is not None and len(target) != count:
        raise SettingError("target", list(target), f"one class for each of the {count} images")
    if maps is not None and len(maps) != count:
        raise SettingError("maps", tuple(maps.shape), f"those of the {count} images")
    if count == 0:
        return np.zeros((0, height, width), dtype=np.float32)
    # Switching the mode visits all layers, which costs as much as the maps of a few images, and is seldom needed.
    training = [module for module in classifier.modules() if module.training]
    device = next(classifier.parameters()).device
    try:
        if training:
            classifier.eval()
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
            np.errstate(invalid="ignore", over="ignore"),
        ):
            tail = _Tail(classifier, maps)
            if target is not None:
                classes = tail.logits(tail.anchor.new_zeros(1, classifier.backbone.features_dim)).shape[1]
                if not all(0 <= index < classes for index in target):
                    raise SettingError("target", list(target), f"0 to {classes - 1} for every image")
            if method == "gradient":
                found = _gradient(classifier, images, target)
            else:
                found = _activation_map(tail, images, target, method)
    finally:
        for module in training:
            module.training = True
    return _stretched(found, method)


def check_method(classifier: Classifier, method: str) -> None:
    """Refuse a method that cannot explain a network.

    Args:
        classifier: the network.
        method: one of `METHODS`.

    Raises:
        SettingError: the network has no maps with places, or ``cam`` is used on one that is not linear in their means.
    """
    if method == "gradient":
        return
    backbone = classifier.backbone
    if not backbone.spatial:
        raise SettingError("explain.method", method, "gradient, or explain=off", f"{backbone.name} has no spatial maps")
    if method == "cam" and not (backbone.averages and linear_weights(classifier.head) is not None):
        why = "this head is not linear" if backbone.averages else f"{backbone.name} does not average its maps"
        raise SettingError("explain.method", method, [name for name in METHODS if name != "cam"], why)


class _Pool(nn.Module):
    """The pooling of a backbone as a module, whose tensors can be replaced in a call."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, maps: Tensor) -> Tensor:
        return self.backbone.pool(maps)


class _Tail(nn.Module):
    """The network as pytorch-grad-cam needs it: gradients start at the pooled maps, and parameters get none."""

    def __init__(self, classifier: Classifier, known: Tensor | None) -> None:
        super().__init__()
        first = next(classifier.parameters())
        # Inside a tuple it is not a submodule. Otherwise the library would switch its mode and clear its gradients.
        self.held = (classifier, known, _Pool(classifier.backbone))
        self.maps = nn.Identity()
        # The library reads the device from the first parameter.
        self.anchor = nn.Parameter(first.new_empty(0, dtype=_wide(first.dtype)))
        self.dtype = first.dtype
        self.head_state = _plain_state(classifier.head)
        # A pooling with weights of its own must not get gradients either.
        self.pool_state = _plain_state(self.held[2]) if classifier.backbone.pools else {}

    def forward(self, images: Tensor) -> Tensor:
        classifier, known, pool = self.held
        with torch.no_grad():
            maps = classifier.backbone.feature_maps(images.to(self.dtype)) if known is None else known
        # A copy, because maps made in inference mode, or passed in by the caller, cannot start a graph.
        maps = maps.detach().to(self.anchor.device, self.anchor.dtype, copy=True)
        seen = self.maps(maps.requires_grad_())
        # A call with other tensors lists those of the whole backbone first, which takes longer than the map.
        return self.logits(functional_call(pool, self.pool_state, (seen,)) if self.pool_state else pool(seen))

    def logits(self, features: Tensor) -> Tensor:
        return functional_call(self.held[0].head, self.head_state, (features,))

    def linear_weights(self) -> np.ndarray | None:
        weights = linear_weights(self.held[0].head)
        return None if weights is None else weights.detach().cpu().numpy()


def _wide(dtype: torch.dtype) -> torch.dtype:
    # At least float32, because numpy has no bfloat16.
    return torch.promote_types(dtype, torch.float32)


def _plain_state(module: nn.Module) -> dict[str, Tensor]:
    """All tensors of a module as constants that can take part in a graph, at least in float32."""
    state = {}
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        # Tensors made in inference mode cannot be part of a graph.
        plain = value.clone() if value.is_inference() else value.detach()
        state[name] = plain.to(_wide(plain.dtype)) if plain.is_floating_point() else plain
    return state


def linear_weights(head: nn.Module) -> Tensor | None:
    """The change of the logits per feature, (classes, D); None if it depends on the features."""
    if isinstance(head, nn.Linear):
        return head.weight.to(_wide(head.weight.dtype))
    if not isinstance(head, LinearHead) or type(head).forward is not LinearHead.forward:
        return None
    weight = head.linear.weight.to(_wide(head.linear.weight.dtype))
    if head.norm is None or head.norm.running_var is None:
        return weight
    return weight / (head.norm.running_var.to(weight.dtype) + head.norm.eps).sqrt()


def _activation_map(tail: _Tail, images: Tensor, target: Sequence[int] | None, method: str) -> np.ndarray:
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    targets = None if target is None else [ClassifierOutputTarget(int(index)) for index in target]
    # Not as a context manager, which would print and swallow an IndexError.
    explainer = _explainers()[method](model=tail, target_layers=[tail.maps])
    try:
        return np.asarray(explainer(input_tensor=images, targets=targets))
    finally:
        explainer.activations_and_grads.release()


@functools.cache
def _explainers() -> dict[str, Any]:
    # pytorch-grad-cam imports matplotlib and OpenCV, which nothing else in models needs.
    from pytorch_grad_cam import EigenCAM, GradCAM, GradCAMPlusPlus
    from pytorch_grad_cam.base_cam import BaseCAM

    class Cam(BaseCAM):
        def __init__(self, model: _Tail, target_layers: list[nn.Module]) -> None:
            super().__init__(model, target_layers, uses_gradients=False)

        def get_cam_weights(self, input_tensor: Any, layer: Any, targets: Any, activations: Any, grads: Any) -> Any:
            return self.model.linear_weights()[[target.category for target in targets]]

    class PlusPlus(GradCAMPlusPlus):
        def get_cam_weights(self, input_tensor: Any, layer: Any, targets: Any, activations: Any, grads: Any) -> Any:
            # The library adds 1e-6 to a denominator of the order of a squared gradient. For pooled maps that is far
            # smaller (1e-7 at 7 x 7 places and weights of 0.02), so the 1e-6 would distort the channels' factors
            # unequally. Dividing the gradients and multiplying the maps by one number leaves the factors unchanged.
            size = np.abs(grads).max(axis=(1, 2, 3), keepdims=True)
            size = np.where(size > 0, size, 1).astype(grads.dtype)
            return super().get_cam_weights(input_tensor, layer, targets, activations * size, grads / size)

    class Eigen(EigenCAM):
        def get_cam_image(
            self, input_tensor: Any, layer: Any, targets: Any, activations: Any, grads: Any, eigen_smooth: bool
        ) -> Any:
            # The library silently replaces NaN by 0, and fails on infinity.
            sound = np.isfinite(activations).all(axis=(1, 2, 3))[:, None, None]
            kept = np.where(sound[..., None], activations, 0)
            found = super().get_cam_image(input_tensor, layer, targets, kept, grads, eigen_smooth)
            # The sign of a principal component is arbitrary.
            total = kept.sum(axis=1)
            total -= total.mean(axis=(1, 2), keepdims=True)
            found = np.where((found * total).sum(axis=(1, 2), keepdims=True) < 0, -found, found)
            # Maps without spread leave rounding errors, which stretching would amplify into a picture.
            noise = 1e-6 * np.sqrt(kept.shape[1]) * np.abs(kept).max(axis=(1, 2, 3))[:, None, None]
            found = np.where(np.abs(found).max(axis=(1, 2), keepdims=True) > noise, found, 0)
            return np.where(sound, found, np.nan)

    return {"gradcam": GradCAM, "gradcam++": PlusPlus, "cam": Cam, "eigencam": Eigen}


def _gradient(classifier: Classifier, images: Tensor, target: Sequence[int] | None) -> np.ndarray:
    first = next(classifier.parameters())
    seen = images.detach().to(first.device, _wide(first.dtype), copy=True).requires_grad_()
    logits = functional_call(classifier, _plain_state(classifier), (seen,))
    chosen = logits.argmax(1) if target is None else torch.tensor(list(target), device=logits.device)
    scores = logits.gather(1, chosen[:, None])
    (slopes,) = torch.autograd.grad(scores.sum(), seen)
    # After a ReLU the gradient of NaN is 0.
    slopes = slopes.abs().amax(1).where(scores.isfinite()[..., None], torch.nan)
    return slopes.cpu().numpy()


def _stretched(maps: np.ndarray, method: str) -> np.ndarray:
    # The library has already stretched its maps, before and after enlarging them, but adds 1e-7 to the divisor.
    broken = ~np.isfinite(maps).all(axis=(1, 2))
    if broken.any():
        places = np.flatnonzero(broken).tolist()
        text = f"{method}: NaN in the maps of images {places}, set to 0"
        warnings.warn(MapWarning(text, places, broken=True), stacklevel=3)
        maps = np.where(broken[:, None, None], 0, maps)
    maps = maps - maps.min(axis=(1, 2), keepdims=True)
    top = maps.max(axis=(1, 2), keepdims=True)
    empty = (top[:, 0, 0] == 0) & ~broken
    if empty.any():
        places = np.flatnonzero(empty).tolist()
        text = f"{method}: the maps of images {places} are constant: no place stands out"
        warnings.warn(MapWarning(text, places, broken=False), stacklevel=3)
    return (maps / np.where(top > 0, top, 1)).astype(np.float32)
