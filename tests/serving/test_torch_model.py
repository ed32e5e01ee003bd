"""Predictions and heat maps of one checkpoint or several together."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax

import covidnet.learning.module
from covidnet.base.errors import SettingError, WeightsError
from covidnet.learning.module import ClassificationModule
from covidnet.serving.open_model import open_model
from covidnet.serving.torch_model import TorchModel


@pytest.fixture(scope="module")
def modules(sweep: Path) -> list[ClassificationModule]:
    return [ClassificationModule.from_checkpoint(sweep / f"fold={fold}/checkpoints/best.ckpt") for fold in (0, 1)]


def logits_of(module: ClassificationModule, model: TorchModel, squares: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return module(model.images(squares)).double().numpy()


def test_one_model_gives_the_softmax_of_its_logits_over_its_temperature(
    sweep: Path, modules: list[ClassificationModule], squares: np.ndarray
) -> None:
    model = open_model(sweep / "fold=1")
    temperature = modules[1].serving["temperature"]
    assert model.facts.temperatures == (temperature,)
    assert temperature != 1.0
    expected = softmax(logits_of(modules[1], model, squares) / temperature, axis=1)
    found = model.outputs(squares)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)
    np.testing.assert_array_equal(found.members[:, 0], found.probabilities)
    assert found.maps is None


def test_a_sweep_gives_the_mean_of_its_models(
    sweep: Path, modules: list[ClassificationModule], squares: np.ndarray
) -> None:
    model = open_model(sweep)
    assert model.facts.folds == (0, 1)
    found = model.outputs(squares)
    each = [softmax(logits_of(module, model, squares) / module.serving["temperature"], axis=1) for module in modules]
    np.testing.assert_allclose(found.members, np.stack(each, axis=1), atol=1e-6)
    np.testing.assert_allclose(found.probabilities, np.mean(each, axis=0), atol=1e-6)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1.0, atol=1e-9)


def test_models_of_different_weights_are_never_pooled(
    modules: list[ClassificationModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(modules[1].hparams["model"], "weights", "imagenet")
    with pytest.raises(WeightsError, match=r"its models differ in model\.weights and are never pooled"):
        TorchModel(modules, Path("sweep"))


def test_a_frozen_backbone_shared_by_all_models_is_built_once_and_runs_once(
    sweep: Path, squares: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []
    real = covidnet.learning.module.build_backbone
    monkeypatch.setattr(covidnet.learning.module, "build_backbone", lambda *a, **b: built.append(a[0]) or real(*a, **b))
    model = open_model(sweep)
    assert len(built) == 1
    assert model.shared
    backbone, calls = model.classifiers[0].backbone, []
    assert all(classifier.backbone is backbone for classifier in model.classifiers)
    hook = backbone.features.register_forward_hook(lambda *_: calls.append(1))
    model.outputs(squares)
    hook.remove()
    assert len(calls) == 1


def test_models_with_different_backbones_predict_together(sweep: Path, squares: np.ndarray) -> None:
    shared = open_model(sweep)
    modules = [ClassificationModule.from_checkpoint(sweep / f"fold={fold}/checkpoints/best.ckpt") for fold in (0, 1)]
    with torch.no_grad():
        next(modules[1].classifier.backbone.parameters()).mul_(1.1)
    expected = softmax(logits_of(modules[1], shared, squares) / modules[1].serving["temperature"], axis=1)
    model = TorchModel(modules, sweep)
    assert not model.shared
    outputs = model.outputs(squares, maps=True)
    np.testing.assert_allclose(outputs.members[:, 1], expected, atol=1e-6)
    np.testing.assert_allclose(outputs.members[:, 0], shared.outputs(squares).members[:, 0], atol=1e-6)
    heat = model.heat(squares, outputs, [n % 3 for n in range(len(squares))])
    assert heat.shape == squares.shape
    assert heat.min() >= 0.0
    assert heat.max() == 1.0


def test_heat_of_an_ensemble_is_the_class_activation_map_of_its_mean_weights(sweep: Path, squares: np.ndarray) -> None:
    model = open_model(sweep)
    outputs = model.outputs(squares, maps=True)
    target = [n % 3 for n in range(len(squares))]
    heat = model.heat(squares, outputs, target)
    _, (maps,) = outputs.maps
    heads = [classifier.head for classifier in model.classifiers]
    # Grad-CAM of a pooled linear layer is CAM: the sum weighted by weights over standard deviations, clipped at 0.
    weights = torch.stack([h.linear.weight / (h.norm.running_var + h.norm.eps).sqrt() for h in heads]).mean(0)
    small = torch.einsum("ndhw,nd->nhw", maps, weights[target].detach()).clamp_min(0).detach().numpy()
    for found, expected in zip(heat, small, strict=True):
        if expected.max() > 0:
            # Enlarging keeps the location of the maximum.
            row, column = np.unravel_index(expected.argmax(), expected.shape)
            side = found.shape[0] // expected.shape[0]
            block = found[row * side : (row + 1) * side, column * side : (column + 1) * side]
            assert block.max() == pytest.approx(1.0, abs=0.02)
        else:
            assert not found.any()


def test_an_older_checkpoint_predicts_without_a_temperature(sweep: Path, squares: np.ndarray, tmp_path: Path) -> None:
    content = torch.load(sweep / "fold=0/checkpoints/best.ckpt", weights_only=True)
    del content["serving"]
    torch.save(content, tmp_path / "old.ckpt")
    model = open_model(tmp_path / "old.ckpt")
    assert not model.gated
    assert not model.facts.calibrated
    assert any("not calibrated" in note for note in model.facts.notes())
    module = ClassificationModule.from_checkpoint(tmp_path / "old.ckpt")
    np.testing.assert_allclose(
        model.outputs(squares).probabilities, softmax(logits_of(module, model, squares), axis=1), atol=1e-6
    )


def test_models_with_different_input_sizes_are_not_combined(sweep: Path, tmp_path: Path) -> None:
    for fold in (0, 1):
        shutil.copytree(sweep / f"fold={fold}", tmp_path / f"fold={fold}")
    file = tmp_path / "fold=1/checkpoints/best.ckpt"
    content = torch.load(file, weights_only=True)
    content["hyper_parameters"]["preprocessing"]["image_size"] = 96
    del content["serving"]["sha256"]
    torch.save(content, file)
    with pytest.raises(WeightsError, match="different inputs"):
        open_model(tmp_path)


def test_an_unknown_engine_is_rejected(sweep: Path) -> None:
    with pytest.raises(SettingError, match="auto, torch, onnx"):
        open_model(sweep, "tensorrt")
    with pytest.raises(WeightsError, match=r"python -m covidnet.export"):
        open_model(sweep, "onnx")
