"""What features.engine=auto becomes: once for a run or a sweep, recorded, and never mixed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from covidnet.base.errors import DataError, SettingError
from covidnet.base.trust import read_yaml
from covidnet.fold.engine import DECISIONS, engine_of_run, engine_of_sweep
from covidnet.fold.run import FoldRun
from covidnet.fold.setup import FoldSetup
from covidnet.launch.command import compose
from covidnet.models.networks import NETWORKS

pytestmark = pytest.mark.usefixtures("exported_once")

WORDS = ("model=resnet8", "model.freeze=true", "model.weights=random", "data.image_size=32", "trainer.accelerator=cpu")
QUICKER = (*WORDS, "data.images_per_class=22", "trainer.max_epochs=1", "explain=off", "logger=none", "progress=false")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that is exported in a moment stands for one that can be frozen."""
    published = NETWORKS["densenet121"].imagenet
    monkeypatch.setitem(NETWORKS, "resnet8", replace(NETWORKS["resnet8"], imagenet=published))


def settings(*words: str) -> dict[str, Any]:
    found: Any = OmegaConf.to_container(compose([*WORDS, *words]), resolve=True)
    return found


def settled(home: Path, *words: str, sweep: Path | None = None) -> dict[str, Any]:
    setup = FoldSetup(settings(f"cache_dir='{home}'", *words))
    setup.settle_engine(setup.module(), sweep)
    return dict(setup.settings["features"])


def test_auto_is_onnx_runtime_on_a_cpu_and_pytorch_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = settled(tmp_path)
    assert found["engine"] == "onnx"
    assert found["engine_from"] == (
        "auto, decided for this run: on a CPU, and ONNX Runtime agrees with PyTorch"
    )  # fmt: skip
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert settled(tmp_path, "trainer.accelerator=auto")["engine"] == "torch"
    assert settled(tmp_path, "trainer.accelerator=gpu")["engine"] == "torch"
    assert settled(tmp_path)["engine"] == "onnx"


def test_a_given_engine_is_kept_and_no_store_needs_none(tmp_path: Path) -> None:
    assert settled(tmp_path, "features.engine=torch")["engine_from"] is None
    found = settled(tmp_path, "features=off")
    assert (found["engine"], found["engine_from"]) == ("torch", "auto: no features are stored, since features=off")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_engines_that_disagree_leave_no_store_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("covidnet.feature_store.engines.TOLERANCE", -1.0)
    found = settled(tmp_path)
    assert found["engine"] == "torch"
    assert found["engine_from"].endswith("ONNX Runtime's features differ from PyTorch's")
    assert not list((tmp_path / "features").iterdir())


@pytest.mark.slow
def test_a_sweep_decides_once_and_its_jobs_follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = tmp_path / "sweep"
    first = settled(tmp_path, sweep=sweep)
    assert first["engine_from"].startswith("auto, decided for the sweep: ")
    # Another machine of the cluster has a GPU, which changes nothing.
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert settled(tmp_path, "trainer.accelerator=auto", "fold=3", sweep=sweep) == first
    assert list(json.loads((sweep / DECISIONS).read_text()).values()) == [
        {"engine": "onnx", "engine_from": first["engine_from"]}
    ]
    (sweep / DECISIONS).write_text('{"resnet8": {"engine": "/bin/sh", "engine_from": ""}}')
    with pytest.raises(DataError, match=r"engines\.json: damaged; restore it, or give features\.engine=torch or onnx"):
        settled(tmp_path, sweep=sweep)


def test_a_resumed_sweep_of_an_earlier_version_keeps_its_engine(tmp_path: Path) -> None:
    run = tmp_path / "fold=0"
    run.mkdir()
    (run / "config.yaml").write_text("fold: 0\nmodel:\n  name: resnet8\nfeatures:\n  mode: auto\n")
    assert (engine_of_run(run) or {})["engine"] == "torch"

    def decide(place: str) -> dict[str, str]:
        return {"engine": "onnx", "engine_from": place}

    def ask(name: str, resumed: bool) -> str:
        return engine_of_sweep(tmp_path, f"{name}{resumed}", decide, name=name, resumed=resumed)["engine"]

    assert ask("resnet8", True) == "torch"
    assert ask("resnet8", False) == ask("cnn", True) == "onnx"


@pytest.mark.slow
def test_a_run_records_its_engine_and_is_resumed_with_it(
    train: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = f"cache_dir='{tmp_path}'"
    folder = train(*QUICKER, own, defaults=())
    features = read_yaml(folder / "config.yaml")["features"]
    assert features["engine"] == "onnx"
    (store,) = (json.loads(file.read_text()) for file in tmp_path.glob("features/*/store.json"))
    assert store["engine"] == "onnx"
    monkeypatch.setattr("covidnet.fold.setup.best_engine", lambda *_: pytest.fail("decided again"))
    # The run ended before its results were written.
    (folder / "metrics.json").unlink()
    again = settings(*QUICKER, own, f"resume='{folder}'")
    FoldRun(again, folder).run()
    assert again["features"]["engine"] == "onnx"
    assert (folder / "metrics.json").is_file()
    other = settings(*QUICKER, own, f"resume='{folder}'", "features.engine=torch")
    with pytest.raises(SettingError, match=r"features\.engine was onnx, now torch"):
        FoldRun(other, folder).run()
