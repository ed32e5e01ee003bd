"""The summary run of a sweep, and the file of a W&B sweep."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from covidnet.launch.command import compose, config_dir
from covidnet.report.summary import SweepSummary
from covidnet.sweep.reports import report_sweeps
from covidnet.tracking.sweep_run import log_nested, log_sweep, pooled_values
from tests.sweeps import write_nested, write_sweep
from tests.tracking.fakes import run_files

# They start W&B's own process.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SweepSummary]:
    """A sweep folder with its report, and its summary."""
    folder = tmp_path_factory.mktemp("sweep") / "strict"
    write_sweep(folder, folds=range(3))
    (summary,) = report_sweeps([folder], resamples=100)
    return folder, summary


@pytest.fixture
def sweep(reported: tuple[Path, SweepSummary], tmp_path: Path) -> tuple[Path, SweepSummary]:
    """A copy of it."""
    folder, summary = reported
    return Path(shutil.copytree(folder, tmp_path / "strict")), summary


def log_to_wandb(folder: Path, **settings: Any) -> None:
    """Let the runs of a sweep have been logged to W&B."""
    for file in folder.glob("fold=*/config.yaml"):
        found = OmegaConf.load(file)
        found.logger = {"wandb": {"_target_": "covidnet.tracking.wandb_logger.wandb_logger", **settings}}
        OmegaConf.save(found, file)


def test_a_sweep_has_one_summary_run_with_tables_numbers_and_report(sweep: tuple[Path, SweepSummary]) -> None:
    folder, summary = sweep
    log_to_wandb(folder, project="images", tags=["pilot"])
    assert log_sweep(summary, folder)

    (file,) = run_files(folder)
    run = file.run
    assert (run.project, run.run_group, run.display_name, run.job_type) == ("images", "strict", "summary", "summary")
    assert "pilot" in run.tags
    for number in (4, 5, 6, 7):
        (row,) = [row for row in file.history if f"tables/table{number}" in row]
        table = json.loads((file.folder / "files" / row[f"tables/table{number}"]["path"]).read_text())
        lines = (folder / f"report/table{number}.csv").read_text().splitlines()
        assert table["columns"] == lines[0].split(",")
        assert len(table["data"]) == len(lines) - 1
    pooled = summary.pooled
    assert file.summary["pooled/accuracy"] == pooled.accuracy.value
    assert [file.summary[f"pooled/COVID-19/f1_{end}"] for end in ("low", "high")] == list(
        pooled.classes["COVID-19"].f1.ci or ()
    )
    (report,) = [artifact for artifact in file.artifacts if artifact.type == "report"]
    assert {"report.html", "table4.csv", "summary.json"} <= {entry.path for entry in report.manifest.contents}


def test_a_second_report_goes_into_the_same_run(sweep: tuple[Path, SweepSummary]) -> None:
    folder, summary = sweep
    log_to_wandb(folder)
    for _ in range(2):
        log_sweep(summary, folder)
    assert len({file.run.run_id for file in run_files(folder)}) == 1


def test_nested_selection_has_one_summary_run(tmp_path: Path) -> None:
    folder = write_nested(tmp_path / "nested", outer=(0, 4))
    assert report_sweeps([folder], resamples=100) == []
    assert not log_nested(folder)
    log_to_wandb(folder)
    assert log_nested(folder)
    (file,) = run_files(folder)
    assert (file.run.run_group, file.run.display_name) == ("nested", "summary")
    (study,) = json.loads((folder / "report/nested.json").read_text())["studies"].values()
    for part in ("selected", "ensemble"):
        accuracy = study[part]["accuracy"]
        assert file.summary[f"{part}/accuracy"] == accuracy["value"]
        assert [file.summary[f"{part}/accuracy_{end}"] for end in ("low", "high")] == accuracy["ci"]
    assert {row["key"]: file.summary[f"estimates/{row['key']}"] for row in study["estimates"]} == {
        row["key"]: row["accuracy"]["value"] for row in study["estimates"]
    }
    assert any("tables/nested" in row for row in file.history)
    (report,) = [artifact for artifact in file.artifacts if artifact.type == "report"]
    assert "nested.html" in {entry.path for entry in report.manifest.contents}


def test_a_sweep_that_was_not_logged_to_wandb_is_left_alone(sweep: tuple[Path, SweepSummary]) -> None:
    folder, summary = sweep
    assert not log_sweep(summary, folder)
    assert not (folder / "wandb").exists()


def test_every_pooled_number_has_a_name(sweep: tuple[Path, SweepSummary]) -> None:
    _, summary = sweep
    values = pooled_values(summary)
    for part, scores in (("pooled", summary.pooled), ("ensemble", summary.unseen.ensemble)):
        assert values[f"{part}/accuracy"] == scores.accuracy.value
        for label, numbers in scores.classes.items():
            for key in ("sensitivity", "specificity", "f1"):
                assert values[f"{part}/{label}/{key}"] == getattr(numbers, key).value


@pytest.mark.slow
def test_the_command_of_a_wandb_sweep_composes_for_drawn_settings() -> None:
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    file = OmegaConf.to_container(OmegaConf.load(config_dir() / "wandb/sweep.yaml"))
    assert isinstance(file, dict)
    drawn = {"optim.lr": 3.7e-05, "optim.weight_decay": 1e-6, "model.dropout": 0.2, "fold": 0}
    assert set(file["parameters"]) == set(drawn)
    macros = create_sweep_command_args({"args": {name: {"value": value} for name, value in drawn.items()}})
    command = []
    for word in file["command"]:
        if word == "${args_no_hyphens}":
            command += macros["args_no_hyphens"]
        else:
            command.append(word.replace("${program}", file["program"]))
    assert command[:4] == ["${env}", "python", "-m", "covidnet.train"]
    cfg = compose(command[4:])
    assert (cfg.optim.lr, cfg.optim.weight_decay, cfg.model.dropout, cfg.fold) == (3.7e-05, 1e-6, 0.2, 0)
    assert "wandb" in cfg.logger


def test_a_wandb_sweep_looks_at_the_inner_validation_alone() -> None:
    file = OmegaConf.load(config_dir() / "wandb/sweep.yaml")
    assert file.metric.name == compose().monitor == "val/loss"
    assert file.metric.goal == "minimize"
    assert not any(name.startswith(("split", "seed")) for name in file.parameters)
