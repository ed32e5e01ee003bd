"""A whole fold with all loggers, offline, and what it left read back: every name of the contract is there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from tests.conftest import quickly
from tests.tracking.fakes import RunFile, run_files

CONTRACT = {
    "train/loss", "val/loss", "lr",
    *(f"{split}/{name}" for split in ("val", "test", "unseen") for name in ("loss", "accuracy")),
    *(
        f"{split}/{label}/{score}"
        for split in ("val", "test", "unseen")
        for label in CLASSES
        for score in ("sensitivity", "specificity", "f1")
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The run folder."""
    from omegaconf import OmegaConf

    from covidnet.fold.run import FoldRun
    from covidnet.launch.command import compose

    home = tmp_path_factory.mktemp("wandb")
    folder = tmp_path_factory.mktemp("sweep") / "fold=3"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        for name in ("DATA", "CACHE", "CONFIG"):
            patch.setenv(f"WANDB_{name}_DIR", str(home))
        patch.setenv("NETRC", str(home / "netrc"))
        cfg = compose(quickly("fold=3", "logger=many", "logger.wandb.artifact=true", "logger.wandb.tags=[pilot]"))
        settings: Any = OmegaConf.to_container(cfg, resolve=True)
        FoldRun(settings, folder).run()
        yield folder


@pytest.fixture(scope="module")
def run(folder: Path) -> RunFile:
    """The run as W&B would get it."""
    (found,) = run_files(folder)
    return found


def test_every_name_of_the_contract_is_in_the_offline_run(run: RunFile) -> None:
    assert run.names >= CONTRACT
    assert run.exit_code == 0


def test_curves_have_a_row_for_each_epoch(run: RunFile) -> None:
    rows = [row for row in run.history if "train/loss" in row]
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert all("trainer/global_step" in row for row in rows)


def test_the_final_numbers_are_those_of_metrics_json(run: RunFile, folder: Path) -> None:
    splits = json.loads((folder / "metrics.json").read_text())["splits"]
    for split in ("val", "test", "unseen"):
        assert run.summary[f"{split}/accuracy"] == splits[split]["accuracy"]
        assert run.summary[f"{split}/accuracy_high"] == splits[split]["accuracy_ci"][1]
        for label in CLASSES:
            assert run.summary.get(f"{split}/{label}/f1") == splits[split]["classes"][label]["f1"]


def test_panels_matrices_predictions_and_checkpoint_are_there(run: RunFile, folder: Path) -> None:
    panels = {f"panels/{path.stem}" for path in (folder / "panels").glob("*.png")}
    assert panels
    assert panels <= run.names
    (row,) = [row for row in run.history if "predictions" in row]
    table = json.loads((run.folder / "files" / row["predictions"]["path"]).read_text())
    assert len(table["data"]) == len(pd.read_csv(folder / "predictions.csv"))
    assert {f"confusion/{split}_table" for split in ("val", "test", "unseen")} <= run.names
    (model,) = [artifact for artifact in run.artifacts if artifact.type == "model"]
    (entry,) = model.manifest.contents
    assert entry.size == (folder / "checkpoints/best.ckpt").stat().st_size


def test_it_is_found_by_group_name_and_tags(run: RunFile, folder: Path) -> None:
    assert (run.run.run_group, run.run.display_name) == (folder.parent.name, "fold=3")
    assert list(run.run.tags) == ["pilot", "phantom", "torchvision/squeezenet1_1"]
    assert run.config["optim"]["lr"] > 0


def test_csv_and_tensorboard_have_the_same_names(folder: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard")).Reload().Tags()
    assert set(events["scalars"]) >= CONTRACT
    assert set(pd.read_csv(folder / "curves/metrics.csv").columns) >= CONTRACT
    assert {f"panels/{path.stem}" for path in (folder / "panels").glob("*.png")} <= set(events["images"])


def test_what_is_computed_does_not_depend_on_who_watches(folder: Path, train: Callable[..., Path]) -> None:
    alone = train("fold=3", "logger=csv")
    pd.testing.assert_frame_equal(pd.read_csv(alone / "predictions.csv"), pd.read_csv(folder / "predictions.csv"))


def test_a_run_that_fails_is_marked_as_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from omegaconf import OmegaConf

    from covidnet.fold.run import FoldRun
    from covidnet.launch.command import compose

    def fail(*_: object) -> None:
        raise RuntimeError("no test today")

    monkeypatch.setattr(FoldRun, "_test", fail)
    settings: Any = OmegaConf.to_container(compose(quickly("fold=3", "logger=wandb")), resolve=True)
    with pytest.raises(RuntimeError, match="no test today"):
        FoldRun(settings, tmp_path / "fold=3").run()
    assert run_files(tmp_path / "fold=3")[0].exit_code == 1
