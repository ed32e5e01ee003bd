"""From settings to a loss and an optimizer: presets, classes of one's own, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from sklearn.utils.class_weight import compute_class_weight

from covidnet.base.caveats import Caveat
from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.errors import SettingError
from covidnet.base.former import current
from covidnet.data.loading.augment import Pipeline
from covidnet.fold.run import FoldRun
from covidnet.fold.setup import FoldSetup
from covidnet.launch.command import compose
from covidnet.launch.comparable import compared
from covidnet.learning.losses import FocalLoss
from covidnet.learning.module import ClassificationModule
from tests.conftest import quickly
from tests.refusals import refused

OWN = """
import torch

class Mine(torch.nn.Module):
    def __init__(self, weight, power=1.0):
        super().__init__()
        self.power = power
        self.register_buffer("weight", weight)

    def forward(self, logits, labels):
        return torch.nn.functional.cross_entropy(logits, labels, self.weight) ** self.power

class Sum(torch.nn.Module):
    def forward(self, logits, labels):
        return logits.sum(1)
"""


def settings(*words: str) -> dict[str, Any]:
    found: Any = OmegaConf.to_container(compose(["data.image_size=64", *words]), resolve=True)
    return found


def module(*words: str) -> ClassificationModule:
    return FoldSetup(settings(*words)).module()


@pytest.mark.parametrize(
    ("words", "kind", "values"),
    [
        ("", torch.nn.CrossEntropyLoss, {"label_smoothing": 0.0, "weight": None}),
        ("loss=weighted", torch.nn.CrossEntropyLoss, {"label_smoothing": 0.0, "weight": [1.0, 1.0, 1.0]}),
        ("loss=weighted loss.weight=[1,2,0.5]", torch.nn.CrossEntropyLoss, {"weight": [1.0, 2.0, 0.5]}),
        ("loss=smooth loss.label_smoothing=0.2", torch.nn.CrossEntropyLoss, {"label_smoothing": 0.2, "weight": None}),
        ("loss=focal loss.gamma=1", FocalLoss, {"gamma": 1, "weight": None}),
        ("loss._target_=torch.nn.MultiMarginLoss +loss.p=2", torch.nn.MultiMarginLoss, {"p": 2}),
    ],
)
def test_a_loss_is_what_its_settings_say(words: str, kind: type, values: dict[str, Any]) -> None:
    loss = module(*words.split()).loss
    assert type(loss) is kind
    found = {name: getattr(loss, name) for name in values}
    assert {n: v.tolist() if isinstance(v, torch.Tensor) else v for n, v in found.items()} == values


@pytest.mark.parametrize(
    ("words", "kind", "values"),
    [
        ("", torch.optim.Adam, {"lr": 1e-3, "weight_decay": 0.0, "fused": True}),
        ("optim=adamw", torch.optim.AdamW, {"lr": 1e-3, "weight_decay": 0.01, "fused": True}),
        ("optim=sgd optim.lr=0.5", torch.optim.SGD, {"lr": 0.5, "momentum": 0.9}),
        ("optim.optimizer={_target_:torch.optim.RAdam}", torch.optim.Adam, {}),
        ("~optim.optimizer.fused optim.optimizer._target_=torch.optim.NAdam", torch.optim.NAdam, {"lr": 1e-3}),
    ],
)
def test_an_optimizer_is_what_its_settings_say(words: str, kind: type, values: dict[str, Any]) -> None:
    if "RAdam" in words:  # Hydra merges: fused stays, which RAdam does not take
        with refused("optim.optimizer._target_", "torch.optim.RAdam", "an optimizer that takes lr", "fused"):
            module(*words.split())
        return
    optimizer = module(*words.split()).configure_optimizers()["optimizer"]
    assert type(optimizer) is kind
    assert values.items() <= optimizer.param_groups[0].items()


def test_what_cannot_be_a_loss_or_an_optimizer_is_refused_before_data_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_loss.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    for target in ("torch.nn.Linear", "own_loss.Sum", "own_loss.Mine"):
        with refused("loss._target_", target, "a loss of logits (N, classes) and labels (N)"):
            module(f"loss._target_={target}", "trust=[own_loss]")
    for weight in ("[1,2]", "[1,-1,1]", "[0,0,0]", "much"):
        with pytest.raises(SettingError, match=r"loss\.weight=.*must be null, balanced or a list of 3 numbers"):
            module("loss=weighted", f"loss.weight={weight}")
    with refused("loss.gamma", -1, "a number of at least 0"):
        module("loss=focal", "loss.gamma=-1")
    with refused("optim.optimizer._target_", "torch.optim.SGD", "an optimizer that takes lr", "momentum"):
        module("optim=sgd", "optim.optimizer.momentum=-1")


def test_a_pipeline_is_drawn_in_every_epoch_or_makes_fixed_copies_with_stored_features() -> None:
    flip = "augment.transforms=[{_target_:albumentations.HorizontalFlip,p:0.5}]"
    online = FoldSetup(settings("augment=custom", flip))
    assert isinstance(online.augmentation, Pipeline)
    assert (online.online, online.copies) == (True, None)
    assert online.why_no_features(online.module()) == "augment=custom changes the images in every epoch"
    fixed = FoldSetup(settings("augment=custom", flip, "augment.target_per_class=1070"))
    assert fixed.copies is not None
    assert (fixed.online, fixed.copies.operators) == (False, fixed.augmentation)
    assert fixed.why_no_features(fixed.module()) is None
    with refused("augment.transforms.0._target_", "os.system", remedy="trust=[os]"):
        FoldSetup(settings("augment=custom", "augment.transforms=[{_target_:os.system}]"))


def test_configurations_from_before_the_settings_existed_compare_as_equal() -> None:
    now = settings()
    before = {name: value for name, value in now.items() if name != "loss"}
    before["optim"] = {name: value for name, value in now["optim"].items() if name != "optimizer"}
    assert compared(current(before)) == compared(current(now))
    assert compared(current(before)) != compared(current(settings("loss=focal")))


def test_a_run_on_every_image_weighs_classes_and_says_that_its_folds_are_not_balanced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for label, count in (("COVID", 22), ("Normal", 44), ("Pneumonia", 66)):
        (tmp_path / "d" / label).mkdir(parents=True)
        for n in range(count):
            Image.fromarray(rng.integers(0, 256, (64, 64), np.uint8)).save(tmp_path / f"d/{label}/{n}.png")
    words = ["data=folder", f"data.root={tmp_path / 'd'}", "split.balance=false", "loss=weighted", "augment=none"]
    run: Any = OmegaConf.to_container(compose(quickly(*words, "explain=off", "logger=none")), resolve=True)
    (tmp_path / "run").mkdir()
    caplog.set_level("INFO")
    FoldRun(run, tmp_path / "run").run()
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["data"]["balance"] is False
    assert metrics["data"]["prevalence"] == {"Pneumonia": 0.5, "Normal": 0.3333, "COVID-19": 0.1667}
    counts = [metrics["data"]["counts"]["train"][label]["inputs"] for label in CLASSES]
    weights = compute_class_weight("balanced", classes=np.arange(3), y=np.repeat(np.arange(3), counts))
    expected = ", ".join(f"{label} {weight:.3f}" for label, weight in zip(CLASSES, weights, strict=True))
    assert f"loss: class weights {expected}" in caplog.text
    assert [metrics["splits"]["test"]["classes"][label]["support"] for label in CLASSES] == [2, 4, 6]
    assert " ".join(capsys.readouterr().out.split()).count(str(Caveat.UNBALANCED)) == 1
