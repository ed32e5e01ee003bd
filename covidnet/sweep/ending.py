"""The end of a sweep: the report of its folds, or the best settings of a search."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback

from covidnet.base.errors import CovidnetError
from covidnet.base.names import shown
from covidnet.base.trust import check_links, read_yaml
from covidnet.launch.command import models_of_jobs
from covidnet.launch.launchers import check_sweep
from covidnet.launch.own_modules import import_own

if TYPE_CHECKING:
    from collections.abc import Callable

    from omegaconf import DictConfig

    from covidnet.report.summary import SweepAudit
    from covidnet.sweep.folder import Sweep

log = logging.getLogger(__name__)

_ended: list[tuple[Path, str | None]] = []


class SweepReport(Callback):
    """Check folders before Hydra writes to them, and remember the sweep folder for `report_ended_sweeps`.

    Hydra calls the callback for a sweep's end only if no job failed, and swallows its exceptions. So the report is
    written by `report_ended_sweeps`, after Hydra has returned. Both run only in the first process of a sweep.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Reject a run folder with links that lead out of it: Hydra writes there before the run starts."""
        if config.hydra.job.name == "train":
            _refuse_links(config.hydra.run.dir)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check a training sweep, say where its jobs run, and remember its folder."""
        hydra = config.hydra
        if hydra.job.name != "train":
            return
        try:
            check_sweep(hydra, config, list(hydra.overrides.task))
        except CovidnetError as error:
            # Hydra turns any other exception into a warning.
            raise SystemExit(f"error: {error}") from None
        _refuse_links(hydra.sweep.dir)
        folder = Path(hydra.sweep.dir).absolute()
        _settle_weights(config, folder)
        launcher = hydra.runtime.choices["hydra/launcher"]
        if launcher.startswith("slurm"):
            sys.stderr.write(f"{launcher}: what the jobs print is in {folder / '.submitit'}\n")
        _ended.append((folder, config.monitor if hydra.runtime.choices["hydra/sweeper"] == "search" else None))


def _settle_weights(config: DictConfig, folder: Path) -> None:
    """Decide ``model.weights=auto`` for all jobs before the first one starts."""
    models = models_of_jobs(config, list(config.hydra.overrides.task))
    if all(model.get("weights") != "auto" for model in models):
        return
    from covidnet.fold.starting_weights import settle_sweep

    try:
        import_own(config.get("imports"))
        for line in settle_sweep(models, folder, bool(config.progress), bool(config.get("resume"))):
            sys.stderr.write(f"{shown(line)}\n")
    except CovidnetError as error:
        raise SystemExit(f"error: {shown(error)}") from None


def _refuse_links(folder: str) -> None:
    try:
        check_links(Path(folder))
    except CovidnetError as error:
        raise SystemExit(f"error: {shown(error)}") from None


def report_ended_sweeps(audit: Callable[[Sweep], SweepAudit] | None = None) -> None:
    """Write ``report/`` of the sweep that ended, even if folds failed; do nothing after a single run.

    A hyperparameter search has no report, because its runs have different settings: its best trial is printed.

    Args:
        audit: as in `covidnet.sweep.reports.report_sweeps`.

    Raises:
        DataError: no run can be reported.
        WriteError: the report cannot be written.
    """
    while _ended:
        folder, searched = _ended.pop()
        # Without a folder no job has started, and Hydra has said why.
        if not folder.is_dir():
            continue
        if searched is not None:
            _print_best(folder, searched)
            continue
        from covidnet.sweep.reports import report_sweeps
        from covidnet.tracking.sweep_run import log_nested, log_sweep

        summaries = report_sweeps([folder], audit=audit)
        if len(summaries) == 1:
            log_sweep(summaries[0], folder)
        elif not summaries:
            log_nested(folder)


def _print_best(folder: Path, monitor: str) -> None:
    """Print the settings of the best trial as arguments; nothing if the search did not finish."""
    from rich.console import Console

    file = folder / "optimization_results.yaml"
    if not file.is_file():
        return
    found: Any = read_yaml(file)
    trials = sorted(folder.glob("trial=*/.hydra/overrides.yaml"))
    settings = [f"{name}={value}" for name, value in found["best_params"].items()]
    own = [trial.parents[1].name for trial in trials if set(settings) <= {str(word) for word in read_yaml(trial)}]
    where = folder / own[0] if own else folder
    text = f"Best of {len(trials)} trials: {' '.join(settings)} ({monitor} {found['best_value']:.6g}; {where})"
    Console(soft_wrap=True, highlight=False).print(text, markup=False, emoji=False)
