"""A stopped run resumes at the start of an epoch, whose random numbers depend only on seed, fold and epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from covidnet.base.errors import WeightsError
from covidnet.callbacks.curves import curves_so_far

NAME = "resume.ckpt"
"""The checkpoint from the start of the last epoch, in a run's ``checkpoints/``; deleted when the run finishes."""

_KEY = "covidnet_resume"


class ResumePoint(pl.Callback):
    """Seed every epoch from (seed, fold, epoch), and save the state at its start.

    So an epoch is the same whether the run reached it or was resumed there. Lightning's own loop state is not used: a
    checkpoint that it writes after validation lacks that epoch's step of the plateau scheduler.

    Args:
        folder: of the checkpoints.
        seed: of the run and fold.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.path = folder / NAME
        self.seed = seed
        self._saving = False
        self._resumed: dict[str, Any] = {}

    @staticmethod
    def read(path: Path) -> tuple[int, str]:
        """The epoch at which a resume point resumes, and the curves before it, see `covidnet.callbacks.curves`.

        Args:
            path: the file.

        Raises:
            WeightsError: the file is not a resume point. Code in it is never run.
        """
        try:
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)[_KEY]
            return int(found["epoch"]), str(found["curves"])
        except Exception as error:  # torch raises a different type for every way of being wrong
            cause = " ".join([type(error).__name__ + ":", *str(error).split()])[:160]
            raise WeightsError(f"{path}: not a resume point ({cause}); delete it to start the run over") from None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Continue counting from the saved epoch."""
        if not self._resumed:
            return
        epoch, steps = self._resumed["epoch"], self._resumed["steps"]
        fit, epochs = trainer.fit_loop, trainer.fit_loop.epoch_progress
        for counted in (epochs.current, epochs.total):
            counted.ready = counted.completed = epoch
            counted.started = counted.processed = epoch  # type: ignore[attr-defined]  # Lightning's wider kind of it
        fit.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = steps
        fit.epoch_loop._batches_that_stepped = self._resumed["batches"]
        self._resumed = {}

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed the epoch and save the state at its start."""
        state = np.random.SeedSequence([self.seed, trainer.current_epoch]).generate_state(1)
        pl.seed_everything(int(state[0]), workers=True, verbose=False)
        if getattr(pl_module, "recorded", None) is not None:
            # Taking what was trained with other heads takes no time: a run that is stopped meanwhile starts over.
            return
        self._saving = True
        try:
            trainer.save_checkpoint(self.path, weights_only=False)
        finally:
            self._saving = False

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Drop Lightning's loop state from a resume point and add what `on_fit_start` needs."""
        if self._saving:
            checkpoint.pop("loops", None)
            checkpoint[_KEY] = {
                "epoch": trainer.current_epoch,
                "steps": trainer.global_step,
                "batches": trainer.fit_loop.epoch_loop._batches_that_stepped,
                # When the run stops, the file itself may be ahead of this point, or cut off.
                "curves": curves_so_far(trainer.loggers),
            }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember where to resume."""
        self._resumed = dict(checkpoint.get(_KEY) or {})
