"""``python -m covidnet.train fold=3``: one fold, from images to a run folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from covidnet.base.classes import ClassList
from covidnet.base.errors import CovidnetError
from covidnet.base.names import real_path
from covidnet.launch.arguments import DATA_PATHS, quoted
from covidnet.launch.command import config_dir, launch
from covidnet.learning.monitor import direction
from covidnet.sweep.ending import report_ended_sweeps
from covidnet.sweep.together import register

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from covidnet.report.summary import SweepAudit
    from covidnet.sweep.folder import Sweep


def main(cfg: DictConfig) -> float | None:
    """Train one fold, test the best checkpoint on the test fold and the unseen fold, write the run folder.

    Args:
        cfg: the composed configuration ``config``.

    Returns:
        The monitored value of the best checkpoint, for sweepers; None if nothing was monitored.
    """
    # Before the heavy imports, so that a typing error is reported at once.
    direction(cfg.monitor, classes=ClassList.declared(cfg.data))
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from covidnet.fold import engine, starting_weights
    from covidnet.fold.run import FoldRun

    settings, started = OmegaConf.to_container(cfg, resolve=True), HydraConfig.get()
    many, folder = started.mode == RunMode.MULTIRUN, Path(started.runtime.output_dir)
    search = many and started.runtime.choices["hydra/sweeper"] == "search"
    # A single run of a sweep that is resumed alone.
    decided = (engine.DECISIONS, starting_weights.DECISIONS)
    alone = folder.parent if any((folder.parent / name).is_file() for name in decided) else None
    sweep = Path(started.sweep.dir).absolute() if many else alone
    return FoldRun(cast("dict[str, Any]", settings), folder, search=search, sweep=sweep).run()


def _arguments(given: list[str]) -> list[str]:
    """The command line with ``resume=`` expanded, paths quoted, and the configuration folder of a run found first."""
    if any(word.startswith("resume=") for word in given):
        from covidnet.fold.resume import resumed_arguments

        given = resumed_arguments(given)
    given = quoted(given, DATA_PATHS)
    for flag in ("-m", "--multirun"):
        if flag in given:
            # Hydra's parser rejects settings on both sides of a flag.
            given = [flag, *(word for word in given if word != flag)]
    at = next((n for n, word in enumerate(given) if word.split("=")[0] in ("--config-dir", "-cd")), None)
    if at is not None:
        flag, _, value = given[at].partition("=")
        after = at + 1
        if not value and after < len(given):
            value, after = given[after], after + 1
        folder = real_path(Path(value).expanduser())
        # Otherwise Hydra finds our own config.yaml, of the same name, first.
        if value and (folder / "config.yaml").is_file():
            given = [*given[:at], "--config-path", str(folder), flag, str(config_dir()), *given[after:]]
    return given


def _report() -> None:
    def audited(sweep: Sweep) -> SweepAudit:
        from covidnet.auditing.short import audited_sweep

        return audited_sweep(sweep)

    report_ended_sweeps(audited)


if __name__ == "__main__":
    try:
        sys.argv[1:] = _arguments(sys.argv[1:])
    except (CovidnetError, OSError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    register()
    launch(main, after=_report)
