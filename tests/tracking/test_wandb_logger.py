"""A run at W&B: offline, online at a server of this machine, and where the network is gone."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.errors import SettingError
from covidnet.tracking.fold_log import final_values, log_fold
from covidnet.tracking.loggers import finish, make_loggers
from covidnet.tracking.wandb_logger import tags_of, wandb_logger
from tests.commands import command
from tests.tracking.fakes import KEY, black_hole, run_files, wandb_server


@pytest.fixture(scope="module")
def silent(
    tmp_path_factory: pytest.TempPathFactory, metrics: dict[str, Any], predictions: pd.DataFrame
) -> Iterator[dict[str, tuple[Path, Future[Any]]]]:
    """Runs of other processes whose server does not answer, which they wait for while the tests go on."""
    home = tmp_path_factory.mktemp("silent")
    free = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    given = {**free, "HOME": str(home), "NETRC": str(home / "netrc"), "WANDB_ERROR_REPORTING": "false"}
    # The last one answers at first.
    (home / "falls").mkdir()
    (home / "falls/metrics.json").write_text(json.dumps(metrics))
    predictions.to_pickle(home / "falls/predictions.pkl")
    with black_hole() as hole, ThreadPoolExecutor(3) as pool:

        def run(name: str, address: str, module: str = "one_run") -> tuple[Path, Future[Any]]:
            env = {**given, "WANDB_API_KEY": KEY, "WANDB_BASE_URL": address}
            folder = home / name
            words = (f"tests.tracking.{module}", str(folder))
            return folder, pool.submit(command, *words, cwd=home, env=env, timeout=120)

        # The other one is of the block set aside for documentation: no route, no answer, or a router's refusal.
        addresses = {"hole": hole, "away": "http://192.0.2.1:9"}
        yield {name: run(name, address) for name, address in addresses.items()} | {
            "falls": run("falls", "", "silent_run")
        }


@pytest.mark.slow
@pytest.mark.usefixtures("silent")
def test_wandb_that_dies_stops_the_logging_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from wandb.sdk import wandb_setup

    logger = wandb_logger(tmp_path)
    process: Any = wandb_setup.singleton()._connection._proc._process  # type: ignore[union-attr]
    process.kill()
    process.wait(10)
    for step in range(3):
        logger.log_metrics({"val/loss": 1.0}, step)
        time.sleep(0.1)
    finish([logger])
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1
    next_one = wandb_logger(tmp_path / "next")
    next_one.log_metrics({"val/loss": 1.0}, 1)
    finish([next_one])
    assert run_files(tmp_path / "next")[0].exit_code == 0


def test_a_run_without_a_key_is_offline_and_says_so_in_one_line(
    tmp_path: Path, settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        loggers = make_loggers(settings, tmp_path / "fold=3")
        finish(loggers)

    (line,) = [record.getMessage() for record in caplog.records if "W&B" in record.getMessage()]
    (file,) = run_files(tmp_path / "fold=3")
    assert line == f"W&B: offline (there is no key); send the run later with: wandb sync {file.folder}"
    assert file.folder.name.startswith("offline-run-")
    assert file.exit_code == 0


def test_a_run_carries_name_group_tags_and_the_whole_configuration(tmp_path: Path, settings: dict[str, Any]) -> None:
    settings["logger"]["wandb"]["tags"] = ["pilot"]
    finish(make_loggers(settings, tmp_path / "fold=3"))

    (file,) = run_files(tmp_path / "fold=3")
    run = file.run
    assert (run.project, run.display_name, run.run_group, run.job_type) == (
        "covidnet", "fold=3", tmp_path.name, "fold",
    )  # fmt: skip
    assert list(run.tags) == ["pilot", "phantom", "densenet121"]
    config = {key: value for key, value in file.config.items() if key != "_wandb"}
    assert config == json.loads(json.dumps(settings))


def test_curves_are_drawn_over_the_step_of_the_trainer(tmp_path: Path) -> None:
    logger = wandb_logger(tmp_path)
    finish([logger])
    (file,) = run_files(tmp_path)
    assert {(m.name or m.glob_name, m.step_metric) for m in file.metrics} >= {
        ("trainer/global_step", ""),
        ("*", "trainer/global_step"),
    }


class Tiny(pl.LightningModule):
    """Logs under the names of the contract, as the real module does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 3)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = torch.nn.functional.cross_entropy(self.layer(batch[0]), batch[1])
        self.log_dict({"train/loss": loss, "lr": 0.1}, on_epoch=True, on_step=False)
        return loss

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        name = ("test", "unseen")[dataloader_idx]
        for key in ("accuracy", "COVID-19/f1"):
            self.log(f"{name}/{key}", 0.5, add_dataloader_idx=False)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(loggers: list[Any]) -> pl.Trainer:
    data = DataLoader(TensorDataset(torch.eye(2), torch.tensor([0, 1])))
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = pl.Trainer(max_epochs=2, accelerator="cpu", logger=loggers, log_every_n_steps=1, **quiet)
    module = Tiny()
    trainer.fit(module, data)
    trainer.test(module, [data, data], verbose=False)
    return trainer


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
def test_scalars_of_a_trainer_arrive_with_epoch_and_step(tmp_path: Path) -> None:
    loggers = [wandb_logger(tmp_path)]
    fit(loggers)
    finish(loggers)

    (file,) = run_files(tmp_path)
    assert {"train/loss", "lr", "test/accuracy", "unseen/COVID-19/f1"} <= file.names
    rows = [row for row in file.history if "train/loss" in row]
    assert [(row["epoch"], row["trainer/global_step"]) for row in rows] == [(0, 1), (1, 3)]


def test_the_end_of_a_fold_shows_matrices_predictions_panels_and_intervals(
    tmp_path: Path, metrics: dict[str, Any], predictions: pd.DataFrame, pictures: dict[str, Path]
) -> None:
    checkpoint = tmp_path / "best.ckpt"
    checkpoint.write_bytes(b"weights")
    logger = wandb_logger(tmp_path / "run", artifact=True)
    log_fold([logger], metrics, predictions, pictures, checkpoint)
    finish([logger])

    (file,) = run_files(tmp_path / "run")
    (row,) = file.history
    for split in ("val", "test", "unseen"):
        chart = json.loads((file.folder / "files" / row[f"confusion/{split}_table"]["path"]).read_text())
        counts = {(actual, called): number for actual, called, number in chart["data"]}
        rows = predictions[predictions["split"] == split]
        wanted = pd.crosstab(rows["label"], rows["prediction"])
        for actual in CLASSES:
            for called in CLASSES:
                assert counts[actual, called] == (wanted[called][actual] if called in wanted else 0)
    table = json.loads((file.folder / "files" / row["predictions"]["path"]).read_text())
    assert len(table["data"]) == 36
    assert table["columns"] == [c for c in predictions.columns if c not in ("path", "patient_id")]
    picture = row["panels/unseen-Normal"]
    assert (picture["width"], picture["height"]) == (6, 4)
    assert (file.folder / "files" / picture["path"]).read_bytes() == pictures["panels/unseen-Normal"].read_bytes()
    for name, value in final_values(metrics["splits"]).items():
        assert file.summary[name] == pytest.approx(value), name
    assert file.summary["test/accuracy_low"] == metrics["splits"]["test"]["accuracy_ci"][0]
    (model,) = [artifact for artifact in file.artifacts if artifact.type == "model"]
    assert model.name.startswith("checkpoint-")
    assert [entry.path for entry in model.manifest.contents] == ["best.ckpt"]


def test_no_patient_and_no_path_leaves_this_machine(
    tmp_path: Path, metrics: dict[str, Any], predictions: pd.DataFrame
) -> None:
    logger = wandb_logger(tmp_path)
    log_fold([logger], metrics, predictions, {})
    finish([logger])
    (file,) = run_files(tmp_path)
    sent = b"".join(path.read_bytes() for path in (file.folder / "files").rglob("*.json"))
    assert b"test5" in sent
    assert b"images/" not in sent
    assert b'"p5"' not in sent


def test_the_checkpoint_stays_where_it_is_unless_asked_for(
    tmp_path: Path, metrics: dict[str, Any], predictions: pd.DataFrame
) -> None:
    (tmp_path / "best.ckpt").write_bytes(b"weights")
    logger = wandb_logger(tmp_path)
    log_fold([logger], metrics, predictions, {}, tmp_path / "best.ckpt")
    finish([logger])
    assert not [artifact for artifact in run_files(tmp_path)[0].artifacts if artifact.type == "model"]


def test_every_fold_of_a_process_has_a_run_of_its_own_and_a_failed_one_says_so(tmp_path: Path) -> None:
    for fold, failed in ((0, False), (1, True)):
        logger = wandb_logger(tmp_path / f"fold={fold}")
        logger.log_metrics({"val/loss": float(fold)}, 7)
        finish([logger], failed=failed)
        finish([logger])

    one, other = run_files(tmp_path / "fold=0") + run_files(tmp_path / "fold=1")
    assert one.run.run_id != other.run.run_id
    assert [file.history[0]["val/loss"] for file in (one, other)] == [0, 1]
    assert [file.exit_code for file in (one, other)] == [0, 1]
    assert one.run.run_group == other.run.run_group == tmp_path.name


def test_a_run_that_is_gone_on_with_keeps_its_id_and_a_new_one_does_not(tmp_path: Path) -> None:
    ids = []
    for resume in (False, True, False):
        logger = wandb_logger(tmp_path, resume=resume)
        ids.append(logger.version)
        finish([logger])
    assert ids[0] == ids[1] != ids[2]


def test_disabled_writes_nothing(tmp_path: Path, metrics: dict[str, Any], predictions: pd.DataFrame) -> None:
    logger = wandb_logger(tmp_path, mode="disabled")
    logger.log_metrics({"val/loss": 1.0}, 1)
    log_fold([logger], metrics, predictions, {})
    finish([logger])
    assert not run_files(tmp_path)


def test_a_key_and_a_server_make_a_run_online(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metrics: dict[str, Any], predictions: pd.DataFrame,
    pictures: dict[str, Path], settings: dict[str, Any],
) -> None:  # fmt: skip
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        (logger,) = make_loggers(settings, tmp_path / "fold=3")
        logger.log_metrics({"val/loss": 0.5}, 1)
        log_fold([logger], metrics, predictions, pictures)
        finish([logger])
        given = [variables for name, variables in server.operations if name == "upsertBucket"]
        streamed = b"".join(body for path, body in server.uploads.items() if path.endswith("file_stream"))

    assert given[0]["displayName"] == "fold=3"
    assert given[0]["groupName"] == tmp_path.name
    assert given[0]["tags"] == ["phantom", "densenet121"]
    assert b"val/loss" in streamed
    assert b"confusion/unseen" in streamed
    assert not (tmp_path / "fold=3/wandb").is_symlink()
    assert not list(tmp_path.glob("fold=3/wandb/offline-*"))


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_one_line_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    with wandb_server(status) as server:
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        with pytest.raises(
            SettingError, match=rf"logger=wandb: .*refused \({status} .*wandb login.*WANDB_MODE=offline"
        ):
            wandb_logger(tmp_path)


@pytest.mark.parametrize(
    ("given", "tags"),
    [((), ["phantom"]), (("phantom", "x" * 80), ["phantom", "x" * 64])],
)
def test_tags_are_there_once_and_no_longer_than_allowed(given: tuple[str, ...], tags: list[str]) -> None:
    assert tags_of(given, {"data": {"name": "phantom"}}) == tags


@pytest.mark.slow
def test_a_network_that_swallows_everything_is_no_worse_than_none(silent: dict[str, tuple[Path, Future[Any]]]) -> None:
    for name in ("hole", "away"):
        folder, ended = silent[name]
        done = ended.result()
        assert done.returncode == 0
        assert float(done.stdout) < 20
        (file,) = run_files(folder)
        kept = [{key: row[key] for key in ("val/loss", "trainer/global_step")} for row in file.history]
        assert kept == [{"val/loss": 0.25, "trainer/global_step": 1}]
        (line,) = done.stderr.splitlines()
        assert line.startswith("W&B: offline (")
        assert "does not answer" in line


@pytest.mark.slow
def test_a_server_that_is_silent_in_the_middle_of_a_run_costs_the_patience_and_no_more(
    silent: dict[str, tuple[Path, Future[Any]]],
) -> None:
    folder, process = silent["falls"]
    done = process.result()
    assert done.returncode == 0, done.stderr
    seconds = json.loads(done.stdout)
    assert seconds["logged"] < 5
    assert seconds["ended"] < 27
    # What could not be sent lies there.
    (file,) = run_files(folder / "run")
    (line,) = done.stderr.splitlines()
    assert f"wandb sync {file.folder}" in line
    assert {"val/loss", "confusion/test_table", "predictions"} <= file.names
    assert len([row for row in file.history if "val/loss" in row]) == 200
    # And the next fold is not held up.
    assert seconds["following"] < 5
