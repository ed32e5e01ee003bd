"""TensorBoard: what it shows of a fold, and where it is not installed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pytorch_lightning.loggers import CSVLogger

from covidnet.base.errors import SettingError
from covidnet.tracking.fold_log import final_values, log_fold
from covidnet.tracking.loggers import finish, make_loggers
from covidnet.tracking.tensorboard_logger import tensorboard_logger


def test_a_fold_leaves_curves_panels_matrices_and_final_numbers(
    tmp_path: Path, metrics: dict[str, Any], predictions: pd.DataFrame, pictures: dict[str, Path]
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = tensorboard_logger(tmp_path)
    logger.log_metrics({"val/loss": 0.5}, 3)
    log_fold([logger], metrics, predictions, pictures, step=7)
    finish([logger])

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    tags = events.Tags()
    assert set(tags["images"]) == {"panels/unseen-Normal", *(f"confusion/{s}" for s in ("val", "test", "unseen"))}
    assert [(e.step, e.value) for e in events.Scalars("val/loss")] == [(3, 0.5)]
    wanted = {f"final/{name}": value for name, value in final_values(metrics["splits"]).items()}
    assert {name: events.Scalars(name)[-1].value for name in wanted} == pytest.approx(wanted)
    assert events.Images("panels/unseen-Normal")[0].step == 7


def test_where_it_is_not_installed_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(SettingError, match=r'logger=tensorboard: .*pip install "covidnet\[tensorboard\]"'):
        tensorboard_logger(tmp_path)


@pytest.mark.parametrize(
    ("choice", "kinds"),
    [
        ("csv", ["CSVLogger"]),
        ("none", []),
        ("wandb", ["CSVLogger", "FoldLogger"]),
        ("tensorboard", ["CSVLogger", "TensorBoardLogger"]),
        ("many", ["CSVLogger", "FoldLogger", "TensorBoardLogger"]),
    ],
)
def test_every_choice_of_loggers_can_be_made(tmp_path: Path, choice: str, kinds: list[str]) -> None:
    from omegaconf import OmegaConf

    from covidnet.launch.command import compose

    settings: Any = OmegaConf.to_container(compose([f"logger={choice}"]), resolve=True)
    loggers = make_loggers(settings, tmp_path / "fold=0")
    finish(loggers)
    assert sorted(type(logger).__name__ for logger in loggers) == kinds


def test_a_logger_that_fails_closes_those_before_it(tmp_path: Path) -> None:
    from tests.tracking.fakes import run_files

    nodes = {
        "wandb": {"_target_": "covidnet.tracking.wandb_logger.wandb_logger", "_partial_": True},
        "again": {"_target_": "covidnet.tracking.wandb_logger.wandb_logger", "_partial_": True, "mode": "sideways"},
    }
    with pytest.raises(SettingError, match="mode=sideways"):
        make_loggers({"logger": nodes, "fold": 0}, tmp_path)
    assert run_files(tmp_path)[0].exit_code == 1


def test_other_loggers_are_passed_over(tmp_path: Path, metrics: dict[str, Any], predictions: pd.DataFrame) -> None:
    loggers = [CSVLogger(str(tmp_path), name="", version="curves")]
    log_fold(loggers, metrics, predictions, {})
    finish(loggers)
    assert not list(tmp_path.rglob("*.csv"))
