"""The curves of a resumed run: what was logged before the resume point is kept."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from pytorch_lightning.loggers import CSVLogger, Logger
from pytorch_lightning.utilities import rank_zero_only


def curves_so_far(loggers: Iterable[Logger]) -> str:
    """The content of the first metrics.csv, after writing pending rows; empty if no logger has one.

    Args:
        loggers: of a trainer.
    """
    # With several processes, only the first has the file.
    for logger in loggers if getattr(rank_zero_only, "rank", 0) == 0 else ():
        if isinstance(logger, CSVLogger):
            logger.save()
            file = Path(logger.experiment.metrics_file_path)
            return file.read_text(encoding="utf-8") if file.is_file() else ""
    return ""


def restore_curves(curves: str, loggers: Iterable[Logger]) -> None:
    """Give CSV loggers the earlier rows back, since they delete the files that they find.

    Args:
        curves: from `curves_so_far`.
        loggers: of a trainer that has logged nothing yet; loggers of other kinds are skipped.
    """
    rows = [{name: cell for name, cell in row.items() if cell} for row in csv.DictReader(io.StringIO(curves))]
    for logger in loggers:
        if isinstance(logger, CSVLogger):
            logger.experiment.metrics = list(rows)
