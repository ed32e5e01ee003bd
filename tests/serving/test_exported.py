"""Exported models: the same outputs as PyTorch's, in a self-contained file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torchvision.models import DenseNet

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.errors import SettingError, WeightsError
from covidnet.data.loading.transforms import SquareFit
from covidnet.learning.module import ClassificationModule
from covidnet.models.heads import build_head
from covidnet.models.networks import NETWORKS
from covidnet.serving.exported import exported
from covidnet.serving.onnx_model import OnnxModel
from covidnet.serving.open_model import open_model
from covidnet.serving.torch_model import TorchModel

pytestmark = pytest.mark.usefixtures("exported_once")

CARD = "# Model card\n\nü | 98%\n"


@pytest.fixture(scope="module")
def file(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    path.write_bytes(exported(open_model(sweep), CARD))
    return path


@pytest.mark.parametrize("count", [1, 2, 6])
def test_an_ensemble_predicts_as_in_pytorch(sweep: Path, file: Path, squares: np.ndarray, count: int) -> None:
    ours, theirs = open_model(sweep).outputs(squares[:count]), open_model(file).outputs(squares[:count])
    np.testing.assert_allclose(theirs.members, ours.members, atol=1e-4)
    np.testing.assert_allclose(theirs.probabilities, ours.probabilities, atol=1e-4)
    np.testing.assert_allclose(theirs.features, ours.features, atol=1e-4 * max(1.0, np.abs(ours.features).max()))


@pytest.fixture(scope="module")
def small(train: Callable[..., Path]) -> Path:
    """A network with all its weights trained, in seconds."""
    return train("model=cnn", "explain=off", "trainer.max_epochs=1", "data.fit=pad")


@pytest.mark.slow
def test_models_with_different_backbones_are_exported_together(
    small: Path, squares: np.ndarray, tmp_path: Path
) -> None:
    modules = [ClassificationModule.from_checkpoint(small / "checkpoints/best.ckpt") for _ in range(2)]
    for module in modules:
        # After one epoch it has learned almost nothing, and its temperature makes all outputs alike.
        module.serving = {**module.serving, "temperature": 0.05}
    with torch.no_grad():
        next(modules[1].classifier.backbone.parameters()).mul_(1.5)
    model = TorchModel(modules, small)
    assert not model.shared
    (tmp_path / "two.onnx").write_bytes(exported(model))
    found, expected = open_model(tmp_path / "two.onnx"), model.outputs(squares).members
    np.testing.assert_allclose(found.outputs(squares).members, expected, atol=1e-4)
    assert np.abs(expected[:, 0] - expected[:, 1]).max() > 1e-3
    assert found.fit == model.fit == SquareFit(64, "pad")
    heats = [one.heat(squares, one.outputs(squares, maps=True), [1] * len(squares)) for one in (model, found)]
    np.testing.assert_allclose(heats[1], heats[0], atol=2e-3)


@pytest.mark.slow
def test_a_densenet_is_exported(squares: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default network with two layers in each block: the operations are the same, and there are fewer of them."""

    def small() -> torch.nn.Module:
        return DenseNet(32, (2, 2, 2, 2), 64).features

    monkeypatch.setitem(NETWORKS, "densenet121", replace(NETWORKS["densenet121"], features=small, features_dim=128))
    torch.manual_seed(0)
    module = ClassificationModule("densenet121", preprocessing={"image_size": 64}).eval()
    # The probabilities of a head that is not trained would be nearly alike.
    module.serving = {"temperature": 0.2}
    model = TorchModel([module], tmp_path)
    (tmp_path / "model.onnx").write_bytes(exported(model))
    found = open_model(tmp_path / "model.onnx")
    expected = model.outputs(squares).members
    np.testing.assert_allclose(found.outputs(squares).members, expected, atol=1e-4)
    assert expected.std(0).max() > 1e-3
    target = [n % 3 for n in range(len(squares))]
    heats = [one.heat(squares, one.outputs(squares, maps=True), target) for one in (model, found)]
    np.testing.assert_allclose(heats[1], heats[0], atol=2e-3)
    assert heats[0].std() > 0.05


@pytest.mark.parametrize("kind", ["monte_carlo", "anomaly"])
def test_other_heads_are_exported_too(kind: str, small: Path, squares: np.ndarray, tmp_path: Path) -> None:
    module = ClassificationModule.from_checkpoint(small / "checkpoints/best.ckpt")
    dimensions = module.classifier.backbone.features_dim
    module.classifier.head = build_head(kind, dimensions, len(CLASSES), 0.3, True, 20).eval()
    model = TorchModel([module], small)
    (tmp_path / "model.onnx").write_bytes(exported(model))
    found = OnnxModel(tmp_path / "model.onnx")
    np.testing.assert_allclose(found.outputs(squares).members, model.outputs(squares).members, atol=1e-4)
    assert found.facts == model.facts
    # If draws are averaged, the evidence is not a weighted sum of maps.
    assert found.explains == (kind == "anomaly")
    if not found.explains:
        with pytest.raises(SettingError, match="its head is not linear"):
            found.heat(squares, found.outputs(squares, maps=True), [0] * len(squares))


def test_the_file_describes_how_images_are_prepared(sweep: Path, file: Path) -> None:
    graph = onnx.load(file)
    told = {entry.key: entry.value for entry in graph.metadata_props}
    content = json.loads(told["covidnet"])
    assert content["classes"] == ["COVID-19", "Normal", "Pneumonia"]
    assert content["input"] == {"name": "squares", "shape": ["N", 64, 64], "type": "uint8"}
    assert content["facts"]["temperatures"] == list(open_model(sweep).facts.temperatures)
    assert "64 x 64 pixels whatever its aspect ratio" in told["preprocessing"]
    assert "MONOCHROME1" in told["preprocessing"]
    assert told["notice"] == "Research use only; not a medical device."
    (entry,) = graph.graph.input
    assert entry.name == "squares"
    assert entry.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [output.name for output in graph.graph.output] == ["probabilities", "members", "features", "evidence"]


def test_facts_fit_and_gate_travel_with_the_file(sweep: Path, file: Path) -> None:
    ours, theirs = open_model(sweep), open_model(file)
    assert theirs.facts == ours.facts
    assert theirs.fit == ours.fit == SquareFit(64)
    assert theirs.gated
    known, kept = ours.gate.arrays(), theirs.gate.arrays()
    assert set(known) == set(kept)
    for name in known:
        np.testing.assert_array_equal(kept[name], known[name])


def test_a_file_that_is_not_an_exported_model_is_rejected_in_one_line(sweep: Path, file: Path, tmp_path: Path) -> None:
    bad = tmp_path / "model.onnx"
    for content in (b"", b"<html>", file.read_bytes()[:5000]):
        bad.write_bytes(content)
        with pytest.raises(WeightsError, match="not an exported covidnet model") as told:
            open_model(bad)
        assert "\n" not in str(told.value)
    graph = onnx.load(file)
    for entry in graph.metadata_props:
        if entry.key == "covidnet":
            entry.value = json.dumps({**json.loads(entry.value), "format": 99})
    onnx.save(graph, bad)
    with pytest.raises(WeightsError, match="newer covidnet"):
        open_model(bad)
    with pytest.raises(SettingError, match="exported for ONNX Runtime"):
        open_model(file, "torch")


def test_the_file_contains_the_model_card(file: Path) -> None:
    assert open_model(file).card == CARD
