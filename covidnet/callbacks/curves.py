"""The curves of a run that is gone on with: what was logged before the point where it goes on stays."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from pytorch_lightning.loggers import CSVLogger, Logger
from pytorch_lightning.utilities import rank_zero_only


def curves_so_far(loggers: Iterable[Logger]) -> str:
    """The content of the first metrics.csv, whose rows are written first; empty where no logger has one.

    Args:
        loggers: of a trainer.
    """
    # Of several processes the first alone has the file.
    for logger in loggers if getattr(rank_zero_only, "rank", 0) == 0 else ():
        if isinstance(logger, CSVLogger):
            logger.save()
            file = Path(logger.experiment.metrics_file_path)
            return file.read_text(encoding="utf-8") if file.is_file() else ""
    return ""


def hand_on(curves: str, loggers: Iterable[Logger]) -> None:
    """Give loggers of CSV files, which delete those that they find, the rows of before.

    Args:
        curves: of `curves_so_far`.
        loggers: of a trainer that has logged nothing yet; others are passed over.
    """
    rows = [{name: cell for name, cell in row.items() if cell} for row in csv.DictReader(io.StringIO(curves))]
    for logger in loggers:
        if isinstance(logger, CSVLogger):
            logger.experiment.metrics = list(rows)
