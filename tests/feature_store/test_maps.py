"""Feature maps on disk: computed once, equal to those of the network, shared by models of one backbone."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from covidnet.data.loading.dataset import ImageDataset
from covidnet.data.loading.transforms import Normalise, SquareFit
from covidnet.feature_store.extract import store_description
from covidnet.feature_store.maps import MapStore, feature_maps, map_shape
from covidnet.models.backbones import Backbone, build_backbone

SIZE = 64


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return build_backbone("resnet18").eval().requires_grad_(False)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, backbone: Backbone) -> ImageDataset:
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(20):
        path = root / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (70, 80), np.uint8)).save(path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        rows.append((sha256[:16], path.name, "Normal", sha256))
    table = pd.DataFrame(rows, columns=["image_id", "path", "label", "sha256"])
    spec = backbone.spec
    return ImageDataset(table, root, fit=SquareFit(SIZE), normalise=Normalise(tuple(spec.mean), tuple(spec.std)))


def store(root: Path, images: ImageDataset, backbone: Backbone) -> MapStore:
    return MapStore(root, store_description(images, "resnet18", "hash"), map_shape(backbone, SIZE))


def never() -> Backbone:
    raise AssertionError("the network was asked for maps that are there")


def test_the_shape_is_that_of_the_maps(images: ImageDataset, backbone: Backbone) -> None:
    tensors = torch.stack([images[n]["image"] for n in range(2)])
    assert map_shape(backbone, SIZE) == tuple(backbone.feature_maps(tensors).shape[1:]) == (512, 2, 2)


def test_maps_are_those_of_the_network_in_any_order(images: ImageDataset, backbone: Backbone, tmp_path: Path) -> None:
    chosen = [7, 0, 19, 3, 11, 4, 5, 6, 2]
    tensors = torch.stack([images[n]["image"] for n in chosen])
    with torch.no_grad():
        expected = torch.relu(backbone.features(tensors))
    torch.testing.assert_close(feature_maps(backbone, images, chosen), expected, atol=1e-4, rtol=1e-4)
    kept = store(tmp_path, images, backbone)
    torch.testing.assert_close(kept.maps(images, chosen, lambda: backbone), expected, atol=1e-4, rtol=1e-4)


def test_what_is_there_is_read_and_the_rest_is_added(images: ImageDataset, backbone: Backbone, tmp_path: Path) -> None:
    first = store(tmp_path, images, backbone).maps(images, [0, 1, 2], lambda: backbone)
    again = store(tmp_path, images, backbone)
    assert torch.equal(again.maps(images, [2, 0], never), first[[2, 0]])
    asked: list[int] = []
    both = again.maps(images, [1, 5], lambda: asked.append(1) or backbone)  # type: ignore[func-returns-value]
    assert asked == [1]
    assert torch.equal(both[0], first[1])
    assert torch.equal(store(tmp_path, images, backbone).maps(images, [5], never), both[1:])


def test_maps_and_features_of_one_backbone_do_not_meet(
    images: ImageDataset, backbone: Backbone, tmp_path: Path
) -> None:
    from covidnet.feature_store.store import FeatureStore

    description = store_description(images, "resnet18", "hash")
    features = FeatureStore(tmp_path, description, 512)
    maps = MapStore(tmp_path, description, (512, 1, 1))
    maps.maps(images, [0], lambda: build_small(backbone))
    features.refresh()
    assert len(features) == 0


def build_small(backbone: Backbone) -> Backbone:
    """A network whose maps have one place, so that they are as long as its features."""
    layers = torch.nn.Sequential(backbone.features, torch.nn.AdaptiveAvgPool2d(1))
    return Backbone(layers, 512, backbone.spec, "random", "resnet18").eval()
