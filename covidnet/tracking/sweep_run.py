"""The summary run of a sweep at W&B: pooled metrics, the paper's tables, the report."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from covidnet.base.trust import read_yaml
from covidnet.evaluation.results import Estimate, from_json, to_json
from covidnet.evaluation.scores import SplitScores
from covidnet.report.paper.tables import table4, table5, table6, table7
from covidnet.report.summary import SweepSummary

if TYPE_CHECKING:
    from covidnet.tracking.wandb_logger import FoldLogger

log = logging.getLogger(__name__)

TARGET = "covidnet.tracking.wandb_logger.wandb_logger"
"""The ``_target_`` of the W&B logger in the settings of a run."""

NAME = "summary"
"""Name and job type of the summary run."""


def log_sweep(summary: SweepSummary, folder: Path, report: Path | None = None) -> bool:
    """Log the summary run of a sweep in the group of its folds, if these were logged to W&B.

    Args:
        summary: of the sweep.
        folder: the sweep folder.
        report: the folder of the report; ``report`` in the sweep folder if None.

    Returns:
        Whether a run was logged.

    Raises:
        SettingError: W&B refuses the key.
    """
    config = {
        "folds": summary.folds,
        "data": to_json(summary.data),
        "model": summary.model,
        "augment": summary.augment,
        "training": summary.training,
        "bootstrap": to_json(summary.bootstrap),
    }
    tables = {
        "table4": table4(summary),
        "table5": table5(summary),
        "table6": table6([summary]),
        "table7": table7([summary]),
    }
    return _log(folder, _settings(folder), config, pooled_values(summary), tables, report)


def log_nested(folder: Path) -> bool:
    """Log the summary run of a sweep over ``split.unseen_fold``, from its written report; see `log_sweep`.

    Args:
        folder: the sweep folder.

    Returns:
        Whether a run was logged.

    Raises:
        SettingError: W&B refuses the key.
    """
    studies = json.loads((folder / "report/nested.json").read_text(encoding="utf-8"))["studies"]
    values: dict[str, float] = {}
    for name, study in studies.items():
        found = {f"estimates/{row['key']}": row["accuracy"]["value"] for row in study["estimates"]}
        for part in ("selected", "ensemble"):
            found |= _values(part, from_json(SplitScores, study[part]))
        values |= {f"{name}/{key}" if name else key: value for key, value in found.items()}
    settings = _settings(folder)
    config = {key: settings.get(key) for key in ("data", "model", "augment", "seed", "loss", "optim", "trainer")}
    return _log(folder, settings, config, values, {"nested": pd.read_csv(folder / "report/nested.csv")}, None)


def _log(
    folder: Path,
    settings: Mapping[str, Any],
    config: Mapping[str, Any],
    values: Mapping[str, float],
    tables: Mapping[str, pd.DataFrame],
    report: Path | None,
) -> bool:
    node = wandb_settings(settings)
    if node is None:
        return False
    # Lightning and PyTorch, which take seconds, are loaded only for a sweep that is at W&B.
    from covidnet.tracking.wandb_logger import wandb_logger

    own = ("project", "entity", "mode", "patience")
    logger = wandb_logger(
        folder,
        group=node.get("group") or folder.absolute().name,
        name=NAME,
        tags=node.get("tags") or (),
        config=config,
        job_type=NAME,
        # A rewritten report belongs to the same run.
        resume=True,
        **{key: node[key] for key in own if node.get(key) is not None},
    )
    try:
        logger.attempt(lambda: _upload(logger, values, tables, report or folder / "report"))
    except BaseException:
        logger.close(1)
        raise
    logger.close()
    return True


def wandb_settings(settings: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The settings of a run's W&B logger; None without one.

    Args:
        settings: the content of a config.yaml.

    Example:
        >>> wandb_settings({"logger": {"csv": {"_target_": "other"}}}) is None
        True
    """
    for node in (settings.get("logger") or {}).values():
        if isinstance(node, Mapping) and node.get("_target_") == TARGET:
            return node
    return None


def pooled_values(summary: SweepSummary) -> dict[str, float]:
    """The metrics of a sweep by name: ``pooled/accuracy``, ``ensemble/COVID-19/f1_low`` and so on.

    Args:
        summary: of the sweep.
    """
    parts: dict[str, SplitScores | None] = {"pooled": summary.pooled}
    if summary.unseen is not None:
        parts |= {"ensemble": summary.unseen.ensemble, "selected": summary.unseen.selected}
    return {key: value for part, scores in parts.items() if scores for key, value in _values(part, scores).items()}


def _values(part: str, scores: SplitScores) -> dict[str, float]:
    found: dict[str, float] = {}
    named: list[tuple[str, Any]] = [(part, scores)]
    named += [(f"{part}/{label}", of_class) for label, of_class in scores.classes.items()]
    for prefix, numbers in named:
        for key, estimate in vars(numbers).items():
            if isinstance(estimate, Estimate) and estimate.value is not None:
                found[f"{prefix}/{key}"] = float(estimate.value)
                if estimate.ci:
                    found |= {f"{prefix}/{key}_low": estimate.ci[0], f"{prefix}/{key}_high": estimate.ci[1]}
    if scores.n:
        found[f"{part}/n"] = scores.n
    return found


def _settings(folder: Path) -> dict[str, Any]:
    """The settings of the first run with a config.yaml."""
    for file in [folder / "config.yaml", *sorted(folder.glob("*/config.yaml"))]:
        if file.is_file():
            found = read_yaml(file)
            return found if isinstance(found, dict) else {}
    return {}


def _upload(logger: FoldLogger, values: Mapping[str, float], tables: Mapping[str, pd.DataFrame], report: Path) -> None:
    import wandb

    from covidnet.tracking.fold_log import wandb_table

    run: Any = logger.experiment
    run.log({f"tables/{name}": wandb_table(frame) for name, frame in tables.items()})
    run.summary.update(dict(values))
    if report.is_dir():
        artifact = wandb.Artifact(f"report-{run.id}", type="report")
        artifact.add_dir(str(report))
        run.log_artifact(artifact)
