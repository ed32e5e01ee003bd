"""The report that a sweep ends with."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)

_ended: list[Path] = []


class SweepReport(Callback):
    """Remember the folder of a sweep, so that its report can be written when it has ended.

    Hydra tells callbacks of a sweep's end only where no job failed, and swallows what they raise. So
    `report_ended_sweeps` does the work, when Hydra is done.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Remember the sweep folder of a training sweep."""
        if config.hydra.job.name == "train":
            _ended.append(Path(config.hydra.sweep.dir).absolute())


def report_ended_sweeps() -> None:
    """Write ``report/`` of the sweep that ended, also where some of its folds failed; nothing after a single run.

    Raises:
        DataError: no run can be reported.
        WriteError: the report cannot be written.
    """
    from covidnet.crossval import report_sweeps

    while _ended:
        folder = _ended.pop()
        # Before any job began there is nothing to say that Hydra has not said.
        if folder.is_dir():
            report_sweeps([folder])
