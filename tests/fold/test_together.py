"""Heads that train together predict as those that train alone, and one that fails harms no other."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from covidnet.base.errors import CovidnetError
from covidnet.fold import setup, together
from covidnet.fold.run import FoldRun
from covidnet.fold.together import train_together, why_alone
from covidnet.launch.command import compose
from covidnet.launch.launchers import default_launcher
from covidnet.learning.module import ClassificationModule
from covidnet.models.networks import NETWORKS

WORDS = (
    "model=resnet8", "model.freeze=true", "model.weights=random", "model.standardise=true", "data.image_size=32",
    "data.images_per_class=22", "data.phantom_size=96", "trainer.accelerator=cpu", "trainer.max_epochs=6",
    "optim.plateau_patience=0", "callbacks.early_stopping.patience=2", "explain=off", "progress=false",
    "features.engine=torch", "split.copies=bytes",
)  # fmt: skip


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that runs in a moment stands for one that can be frozen."""
    published = NETWORKS["densenet121"].imagenet
    monkeypatch.setitem(NETWORKS, "resnet8", replace(NETWORKS["resnet8"], imagenet=published))
    monkeypatch.setattr("covidnet.fold.together.RECORDED", {})


def settings(*words: str) -> dict[str, Any]:
    found: Any = OmegaConf.to_container(compose([*WORDS, *words]), resolve=True)
    return found


def run(folder: Path, *words: str) -> Path:
    folder.mkdir(exist_ok=True)
    FoldRun(settings(*words), folder).run()
    return folder


def ended(folder: Path, *words: str) -> str | None:
    """The error of a run without its folder; None if it ended well."""
    try:
        run(folder, *words)
    except (CovidnetError, ValueError) as error:
        return str(error).replace(str(folder), "FOLDER")
    return None


def same(one: Path, other: Path) -> None:
    tables = [pd.read_csv(folder / "predictions.csv") for folder in (one, other)]
    probabilities = [table.filter(like="p_").to_numpy() for table in tables]
    np.testing.assert_allclose(*probabilities, atol=1e-4)
    assert tables[0]["image_id"].tolist() == tables[1]["image_id"].tolist()
    curves = [pd.read_csv(folder / "curves/metrics.csv") for folder in (one, other)]
    pd.testing.assert_frame_equal(*curves, atol=1e-4)


def test_heads_together_are_those_of_runs_alone_and_one_that_diverges_is_the_only_one(tmp_path: Path) -> None:
    jobs = {
        "fold=0": ("fold=0",),
        # A last batch of another size, and an early stop.
        "fold=3": ("fold=3", "seed=1", "data.batch_size=40", "augment=none", "optim.lr=0.1"),
        "diverged": ("fold=5", "optim.lr=3e38", "optim=sgd"),
        # No group of its own has two heads.
        "plain": ("fold=1", "model.standardise=false"),
    }
    count = train_together([(settings(*words), tmp_path / name) for name, words in jobs.items()], tmp_path)
    assert count == 3
    assert not together.RECORDED[tmp_path / "diverged"].epochs[-1].sums.isfinite().all()
    assert set(together.RECORDED) == {tmp_path / name for name in ("fold=0", "fold=3", "diverged")}
    for name in ("fold=0", "fold=3"):
        same(run(tmp_path / name, *jobs[name]), run(tmp_path / f"{name} alone", *jobs[name]))
    assert ended(tmp_path / "diverged", *jobs["diverged"]) == ended(tmp_path / "diverged alone", *jobs["diverged"])
    assert not together.RECORDED


@pytest.mark.slow
@pytest.mark.parametrize("alone", [True, False])
def test_a_run_that_is_stopped_resumes(alone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = {n: (f"fold={n}", "callbacks.early_stopping.patience=9") for n in (0, 3)}
    jobs = [(settings(*words[n]), tmp_path / f"fold={n}") for n in words]
    assert train_together(jobs, tmp_path) == 2
    if alone:
        together.RECORDED.clear()
    end = ClassificationModule.on_train_epoch_end

    def stop(self: ClassificationModule) -> None:
        end(self)
        if self.current_epoch == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ClassificationModule, "on_train_epoch_end", stop)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "fold=0", *words[0])
    together.RECORDED.clear()
    folder = tmp_path / "fold=0"
    resumed = (*words[0], f"resume='{folder}'")
    # A run with a resume point goes on from it; one that was taking what had been trained starts over.
    assert (folder / "checkpoints/resume.ckpt").is_file() == alone
    assert train_together([(settings(*resumed), folder), jobs[1]], tmp_path) == (0 if alone else 2)
    same(run(folder, *resumed), run(tmp_path / "alone", *words[0]))


def test_what_jobs_have_in_common_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, int] = defaultdict(int)

    def counted(name: str) -> None:
        make = getattr(setup, name)

        def count(*arguments: Any, **more: Any) -> Any:
            made[name] += 1
            return make(*arguments, **more)

        monkeypatch.setattr(setup, name, count)

    for name in ("prepare_dataset", "check_files", "build_backbone", "FeatureMatrix"):
        counted(name)
    with setup.shared():
        jobs = [(settings(f"fold={n}"), tmp_path / f"fold={n}") for n in (0, 3)]
        assert train_together(jobs, tmp_path) == 2
        for n in (0, 3):
            run(tmp_path / f"fold={n}", f"fold={n}")
        # Another split is other data, on the same backbone and in the same matrix.
        run(tmp_path / "other", "fold=0", "split.seed=1")
    assert made == {"prepare_dataset": 2, "check_files": 2, "build_backbone": 1, "FeatureMatrix": 1}


def test_a_loss_that_raises_leaves_every_run_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, *arguments: object) -> None:
        raise ValueError("not like this")

    monkeypatch.setattr("covidnet.fold.together._Heads.training_step", fail)
    assert train_together([(settings(f"fold={n}"), tmp_path / str(n)) for n in (0, 3)], tmp_path) == 0
    assert not together.RECORDED


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((), None),
        (("monitor=train/accuracy",), None),
        (("model.freeze=false",), "model.freeze=false"),
        (("features=off",), "features=off"),
        (("imports=[own.py]",), "imports"),
        (("augment=online",), "augment=online"),
        (("model.dropout=0.5",), "model.dropout is not 0"),
        (("trainer.accelerator=gpu",), "it does not train on the CPU"),
        (("trainer.gradient_clip_val=1",), "settings of the trainer"),
        (("+trainer.accumulate_grad_batches=2",), "settings of the trainer"),
        (("monitor=val/COVID-19/f1",), "monitor=val/COVID-19/f1"),
        (("split.validation=none",), "split.validation=none"),
        (("callbacks.early_stopping=null",), "its callbacks"),
    ],
)
def test_only_what_is_the_same_alone_trains_together(words: tuple[str, ...], reason: str | None) -> None:
    assert why_alone(settings(*words)) == reason


def test_together_is_the_default_of_a_sweep() -> None:
    assert default_launcher(["-m", "fold=0,1"]) == ["hydra/launcher=together"]
    assert default_launcher(["fold=0"]) == default_launcher(["-m", "fold=0,1", "hydra/launcher=local"]) == []
    assert default_launcher(["-m", "optim.lr=interval(0,1)", "hydra/sweeper=search"]) == []
