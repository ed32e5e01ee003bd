"""Saliency: where in a radiograph the evidence for a class lies."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from covidnet.errors import SettingError
from covidnet.models.classifier import Classifier


class _Tail(nn.Module):
    """The network as Grad-CAM needs it: the gradients begin at the pooled maps, and no parameter takes one."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        first = next(classifier.parameters())
        # In a tuple it is no submodule: the library would switch its mode and clear its gradients.
        self.held = (classifier,)
        self.maps = nn.Identity()
        # The library reads the device from the first parameter.
        self.anchor = nn.Parameter(first.new_empty(0))
        self.dtype = first.dtype
        # Clones, because tensors made in inference mode cannot take part in a graph; float32, because numpy knows no
        # bfloat16.
        self.head_state = {
            name: value.detach().clone().float() if value.is_floating_point() else value.detach().clone()
            for name, value in [*classifier.head.named_parameters(), *classifier.head.named_buffers()]
        }

    def forward(self, images: Tensor) -> Tensor:
        (classifier,) = self.held
        with torch.no_grad():
            maps = classifier.backbone.feature_maps(images.to(self.dtype)).float()
        return self.logits(classifier.backbone.pool(self.maps(maps.requires_grad_())))

    def logits(self, features: Tensor) -> Tensor:
        return functional_call(self.held[0].head, self.head_state, (features,))


def grad_cam(classifier: Classifier, images: Tensor, target: Sequence[int] | None = None) -> np.ndarray:
    """Grad-CAM of the maps that the backbone pools, with pytorch-grad-cam.

    It works on a frozen backbone, inside ``torch.no_grad`` and ``torch.inference_mode``, and leaves the classifier as
    it was: its mode, its gradients, no hooks. For a linear head the map is the class activation map of Zhou et al.
    2016. Each map is stretched to 0..1 by itself, so that maps of two images cannot be compared in strength.

    Args:
        classifier: the network.
        images: network inputs, (N, C, H, W).
        target: for each image the class to explain, 0..classes-1; the predicted class where None.

    Returns:
        float32 (N, H, W), 0..1. A map that is constant (no evidence in any place, or the same in all) is all zero, and
        NaN is set to zero; both come with a RuntimeWarning.

    Raises:
        SettingError: target has another length than images, or names a class that does not exist.

    Source: Selvaraju et al. 2017, https://doi.org/10.1109/ICCV.2017.74; for a linear head Zhou et al. 2016,
    https://doi.org/10.1109/CVPR.2016.319
    """
    # pytorch-grad-cam brings matplotlib and OpenCV, which no other part of the models needs.
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    count, _, height, width = images.shape
    if target is not None and len(target) != count:
        raise SettingError("target", list(target), f"one class for each of the {count} images")
    if count == 0:
        return np.zeros((0, height, width), dtype=np.float32)
    modes = [(module, module.training) for module in classifier.modules()]
    device = next(classifier.parameters()).device
    try:
        classifier.eval()
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
            np.errstate(invalid="ignore", over="ignore"),
        ):
            tail = _Tail(classifier)
            if target is not None:
                classes = tail.logits(torch.zeros(1, classifier.backbone.features_dim, device=device)).shape[1]
                if not all(0 <= index < classes for index in target):
                    raise SettingError("target", list(target), f"0..{classes - 1} for every image")
            targets = None if target is None else [ClassifierOutputTarget(int(index)) for index in target]
            # Not as a context manager: that one prints and swallows an IndexError.
            cam = GradCAM(model=tail, target_layers=[tail.maps])
            try:
                maps = cam(input_tensor=images, targets=targets)
            finally:
                cam.activations_and_grads.release()
    finally:
        for module, mode in modes:
            module.training = mode
    return _clean(np.asarray(maps, dtype=np.float32))


def _clean(maps: np.ndarray) -> np.ndarray:
    broken = np.flatnonzero(~np.isfinite(maps).all(axis=(1, 2)))
    if broken.size:
        warnings.warn(f"Grad-CAM: NaN in the maps of images {broken.tolist()}, set to 0", RuntimeWarning, stacklevel=3)
        maps = np.nan_to_num(maps, nan=0.0, posinf=0.0, neginf=0.0)
    empty = np.setdiff1d(np.flatnonzero(~maps.any(axis=(1, 2))), broken)
    if empty.size:
        text = f"Grad-CAM: the maps of images {empty.tolist()} are constant: no place speaks for the class"
        warnings.warn(text, RuntimeWarning, stacklevel=3)
    return np.clip(maps, 0.0, 1.0)
