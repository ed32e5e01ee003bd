"""Engines of the frozen backbone: ONNX Runtime agrees with PyTorch, or is not used."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from covidnet.base.errors import SettingError, StoreError
from covidnet.feature_store.engines import OnnxBackbone, best_engine, engine_of
from covidnet.models.backbones import Backbone, build_backbone
from tests.refusals import refused

SIZE = 64


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    """A network that is exported in two seconds."""
    return build_backbone("torchvision/squeezenet1_1").eval()


@pytest.fixture(scope="module")
def exported(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("engine")
    engine_of("onnx", backbone, SIZE, folder)
    return folder / "backbone.onnx"


def test_torch_is_the_backbone_itself(backbone: Backbone, tmp_path: Path) -> None:
    assert engine_of("torch", backbone, SIZE, tmp_path) is backbone
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", [1, 2, 5])
def test_onnx_runtime_agrees_with_pytorch_in_batches_of_any_size(
    backbone: Backbone, exported: Path, count: int
) -> None:
    images = torch.randn(count, 3, SIZE, SIZE).to(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = backbone(images)
    found = OnnxBackbone(backbone, SIZE, exported)(images)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.slow
def test_onnx_runtime_runs_another_network_too(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    # The default one is compared in tests/serving/test_exported.py.
    network = build_backbone("resnet18").eval()
    images = torch.randn(3, 3, SIZE, SIZE)
    with torch.no_grad():
        expected = network(images)
    found = engine_of("onnx", network, SIZE, tmp_path)(images)
    # Random weights give features of some hundreds: seven digits of float32 are less than 1e-4 there.
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_exported_network_is_written_once(backbone: Backbone, exported: Path) -> None:
    before = exported.stat().st_mtime_ns
    engine_of("onnx", backbone, SIZE, exported.parent)
    assert exported.stat().st_mtime_ns == before
    assert [path.name for path in exported.parent.iterdir()] == ["backbone.onnx"]


def test_features_of_other_weights_are_refused(exported: Path) -> None:
    other = build_backbone("torchvision/squeezenet1_1", seed=1).eval()
    with pytest.raises(StoreError, match=r"backbone\.onnx.*differ from PyTorch's"):
        OnnxBackbone(other, SIZE, exported)


def test_without_onnx_runtime_the_remedy_is_named(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SettingError, match="pip install onnxruntime"):
        engine_of("onnx", backbone, SIZE, tmp_path)
    chosen, why = best_engine(backbone, SIZE, tmp_path, {"accelerator": "cpu"})
    assert (chosen, why) == ("torch", "onnxruntime is not installed")


def test_a_network_that_cannot_be_exported_stays_with_pytorch(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> bytes:
        raise RuntimeError("unsupported operator")

    monkeypatch.setattr("covidnet.feature_store.engines.onnx_graph", fail)
    chosen, why = best_engine(backbone, SIZE, tmp_path, {"accelerator": "cpu"})
    assert (chosen, why) == ("torch", "ONNX Runtime cannot run the network (RuntimeError)")
    assert not list(tmp_path.iterdir())


def test_an_unknown_engine_is_refused(backbone: Backbone, tmp_path: Path) -> None:
    with refused("features.engine", "tensorrt", ("auto", "torch", "onnx")):
        engine_of("tensorrt", backbone, SIZE, tmp_path)
