"""The curves of a run that is gone on with: what was logged before the point where it goes on stays."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from pytorch_lightning.loggers import CSVLogger, Logger


class CurvesSoFar:
    """The rows of a metrics.csv, read before a logger deletes it.

    Args:
        file: metrics.csv; it need not be there.
    """

    def __init__(self, file: Path) -> None:
        self.rows: list[dict[str, str]] = []
        if file.is_file():
            with file.open(newline="", encoding="utf-8", errors="replace") as stream:
                self.rows = [{k: v for k, v in row.items() if k and v} for row in csv.DictReader(stream)]

    def hand_on(self, loggers: Iterable[Logger], step: int) -> None:
        """Give loggers of CSV files the rows that were logged before a step.

        Args:
            loggers: of a trainer that has logged nothing yet; others are passed over.
            step: where the run goes on; later rows are logged again.
        """
        # A process that was killed while it wrote may have left half a row.
        before = [row for row in self.rows if row.get("step", "").isdigit() and int(row["step"]) < step]
        for logger in loggers:
            if isinstance(logger, CSVLogger):
                logger.experiment.metrics = list(before)
