"""Store the maps that a frozen backbone pools, for the few explained images, in the same way as features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from covidnet.data.loading.dataset import ImageDataset
from covidnet.feature_store.store import FeatureStore, feature_key
from covidnet.models.backbones import Backbone

# Images per backbone pass; 8 to 16 is best on a CPU.
_BATCH = 8

# All folds of a sweep need the same shape.
_SHAPES: dict[tuple[str, int, int], tuple[int, int, int]] = {}


class MapStore:
    """Feature maps on disk. Ten models with the same frozen backbone explain the unseen fold.

    Args:
        root: folder of all stores.
        description: what the maps depend on besides the image, see `covidnet.feature_store.extract.store_description`.
        shape: (D, h, w) of the maps of one image.
    """

    def __init__(self, root: Path, description: Mapping[str, Any], shape: Sequence[int]) -> None:
        self.shape = tuple(shape)
        self._store = FeatureStore(root, {**description, "output": "maps"}, int(np.prod(self.shape)))

    def maps(self, images: ImageDataset, indices: Sequence[int], backbone: Callable[[], Backbone]) -> Tensor:
        """The maps of some images; missing ones are computed and added.

        Args:
            images: the images.
            indices: which of them.
            backbone: returns the network in eval mode; called only if needed.

        Returns:
            float32 (n, D, h, w), on the CPU.

        Raises:
            ImageRefusedError: an image cannot be read.
            WriteError: the disk is full.
        """
        keys = [feature_key(images.sha256[index], images.operators_of_rows[index]) for index in indices]
        vectors, found = self._store.read(keys)
        if not found.all():
            # Jobs of one sweep explain the same images: the first computes, the others read.
            with self._store.lock():
                self._store.refresh()
                vectors, found = self._store.read(keys)
                lacking = [int(n) for n in np.flatnonzero(~found)]
                if lacking:
                    made = feature_maps(backbone(), images, [indices[n] for n in lacking]).flatten(1).numpy()
                    self._store.append([keys[n] for n in lacking], made)
                    vectors[lacking] = made
        return torch.from_numpy(vectors).reshape(len(keys), *self.shape)


def feature_maps(backbone: Backbone, images: ImageDataset, indices: Sequence[int]) -> Tensor:
    """The maps of some images, computed here: float32 (n, D, h, w), on the CPU.

    Args:
        backbone: the network, in eval mode.
        images: the images.
        indices: which of them; at least one.
    """
    device = next(backbone.parameters()).device
    parts = []
    with torch.no_grad():
        for start in range(0, len(indices), _BATCH):
            tensors = torch.stack([images[index]["image"] for index in indices[start : start + _BATCH]])
            tensors = tensors.to(device, memory_format=torch.channels_last)
            parts.append(backbone.feature_maps(tensors).float().cpu().contiguous())
    return torch.cat(parts)


def map_shape(backbone: Backbone, image_size: int) -> tuple[int, int, int]:
    """(D, h, w) of the maps of one image.

    Args:
        backbone: the network, in eval mode.
        image_size: side of its input in pixels.
    """
    key = (backbone.name, backbone.spec.channels, image_size)
    if key not in _SHAPES:
        # On meta tensors: a real pass through the network would cost more than everything else done with the maps.
        state = {name: value.to("meta") for name, value in backbone.features.state_dict().items()}
        blank = torch.zeros(1, backbone.spec.channels, image_size, image_size, device="meta")
        with torch.no_grad():
            if backbone.pools:  # a library's network may have tensors that are in no state
                _, depth, height, width = backbone.features(torch.zeros_like(blank, device="cpu")).shape
            else:
                _, depth, height, width = functional_call(backbone.features, state, (blank,)).shape
        _SHAPES[key] = depth, height, width
    return _SHAPES[key]
