"""``python -m covidnet.crossval sweep_dir=DIR unseen=open``: score the models of a sweep on a locked unseen fold."""

from __future__ import annotations

import json
import logging
import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl

from covidnet.base.atomic import WriteError, locked, write_text
from covidnet.base.errors import DataError, WeightsError
from covidnet.base.names import real_path
from covidnet.base.provenance import file_sha256
from covidnet.base.quiet import quieten
from covidnet.base.trust import check_links
from covidnet.callbacks.prediction_writer import PredictionWriter
from covidnet.data.folds.unseen_ledger import UnseenLedger
from covidnet.evaluation.predictions import write_predictions
from covidnet.fold.folder import UNSEEN
from covidnet.fold.setup import FoldSetup
from covidnet.learning.module import ClassificationModule
from covidnet.report.words import count
from covidnet.sweep.folder import OPENINGS, Run, Sweep

log = logging.getLogger(__name__)


def open_unseen(sweep: Sweep, cache_dir: Path) -> bool:
    """Score the models of a sweep on its locked unseen fold, and record that.

    The predictions go to ``unseen.csv`` in each run folder. Before that, the opening is recorded in ``unseen.json`` of
    the sweep folder and in the ledger of the cache. A repeated opening is recorded too, but only models without
    predictions are run.

    Args:
        sweep: the sweep.
        cache_dir: the cache with the features and the ledger. The path in the runs' settings is not used, because a
            sweep folder may come from somebody else.

    Returns:
        Whether there was anything to open; False if the runs scored the fold themselves.

    Raises:
        DataError: the data are missing, their split has changed, or a link leads out of the sweep folder.
        WeightsError: a run has no checkpoint.
        WriteError: a folder cannot be written.
    """
    locked_runs = [run for run in sweep.runs if run.locked]
    if not locked_runs:
        log.warning("unseen=open: nothing to open in %s, whose runs scored the unseen fold themselves", sweep.folder)
        return False
    # Predictions are written into the run folders, any of which may be a link.
    check_links(sweep.folder)
    quieten()
    with locked(sweep.folder / f".{OPENINGS}.lock") as unwritable:
        if unwritable is not None:
            raise WriteError(sweep.folder, unwritable.errno or 0, unwritable.strerror or str(unwritable))
        before = sweep.openings
        if before:
            log.warning(
                "unseen=open: the unseen fold was opened before, first on %s; this is opening %d",
                before[0][:10],
                len(before) + 1,
            )
        tables = {run.folder: _predicted(run, cache_dir) for run in locked_runs if not (run.folder / UNSEEN).is_file()}
        _record(sweep, locked_runs, before, cache_dir)
        for folder, table in tables.items():
            write_predictions(table, folder / UNSEEN, sweep.classes)
    log.info("unseen=open: %s scored on the unseen fold of %s", count(len(tables), "model"), sweep.folder)
    return True


def _record(sweep: Sweep, runs: list[Run], before: list[str], cache_dir: Path) -> None:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    write_text(sweep.folder / OPENINGS, json.dumps({"openings": [*before, now]}, indent=2) + "\n")
    opening = secrets.token_hex(8)
    for run in runs:
        ledger = UnseenLedger.of(cache_dir, str(run.split_sha256))
        ledger.add("opening", opening, {"sweep": str(real_path(sweep.folder)), "time": now})
        run_id = str((run.environment.get("unseen") or {}).get("run_id"))
        facts = {"folder": str(real_path(run.folder)), "fold": run.fold, "seed": run.settings.get("seed")}
        # The id becomes a file name. Without a valid one, the hash of the predictions identifies the run.
        known = re.fullmatch("[0-9a-f]{16}", run_id)
        ledger.add("run", run_id if known else file_sha256(run.folder / "predictions.csv")[:16], facts)


def _predicted(run: Run, cache_dir: Path) -> pd.DataFrame:
    """The predictions of one model on the unseen fold, as the run would have made them."""
    checkpoint = run.folder / "checkpoints/best.ckpt"
    if not checkpoint.is_file():
        raise WeightsError(f"{checkpoint}: no such file; train fold {run.fold} again")
    settings: Mapping[str, Any] = run.settings
    # Images of this fold are never augmented, and nothing that a run folder names is called.
    own = {"unseen": "scored", "selection": "inner", "cache_dir": str(cache_dir), "augment": {"mode": "none"}}
    setup = FoldSetup({**settings, **own})
    prepared = setup.prepared()
    if run.split_sha256 != prepared.split_sha256:
        raise DataError(
            f"{run.folder / 'split.csv'}: no longer the split of {prepared.root}; restore the original data"
        )
    module = ClassificationModule.from_checkpoint(checkpoint)
    datamodule = setup.datamodule(prepared, module, run.fold, setup.changed_images(prepared))
    # Only the unseen fold is read.
    datamodule.rows = {part: rows if part == "unseen" else rows.head(0) for part, rows in datamodule.rows.items()}
    setup.take_features(datamodule, module)
    writer = PredictionWriter(stages=("unseen",))
    trainer = pl.Trainer(
        accelerator=settings["trainer"].get("accelerator") or "auto",
        devices=1,
        callbacks=[writer],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        default_root_dir=run.folder,
    )
    trainer.test(module, dataloaders=[datamodule.unseen_dataloader()], verbose=False)
    return writer.table(datamodule.rows, run.fold)
