"""Write predictions.csv: one row per predicted image of the validation, test and unseen splits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn

from covidnet.base.classes import DEFAULT_CLASSES
from covidnet.evaluation.predictions import predictions_table, write_predictions
from covidnet.learning.module import STAGES_OF_TEST


class PredictionWriter(pl.Callback):
    """Collect probabilities during ``trainer.validate`` and ``trainer.test``; `write` writes them to a file.

    Validation during ``fit`` is not collected: predictions are only of the selected model.

    Args:
        stages: the splits of the test loaders, in their order.
    """

    def __init__(self, stages: Sequence[str] = STAGES_OF_TEST) -> None:
        self.stages = stages
        self.collected: dict[str, dict[str, np.ndarray]] = {}
        self.extras: dict[str, dict[str, dict[str, float]]] = {}
        self.classes = DEFAULT_CLASSES

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take the module's classes."""
        self.classes = getattr(pl_module, "classes", DEFAULT_CLASSES)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Discard predictions of an earlier model."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._forget("val")

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Discard predictions of an earlier model."""
        for stage in self.stages:
            self._forget(stage)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Keep a batch of the selected model."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._keep("val", outputs, batch)

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Keep a batch of the test fold or the unseen fold."""
        self._keep(self.stages[dataloader_idx], outputs, batch)

    def _forget(self, stage: str) -> None:
        self.collected.pop(stage, None)
        self.extras.pop(stage, None)

    def _keep(self, stage: str, outputs: Any, batch: Any) -> None:
        probabilities = outputs["logits"].float().softmax(1).cpu().numpy()
        self.collected.setdefault(stage, {}).update(zip(batch["image_id"], probabilities, strict=True))
        for name, values in outputs.get("extras", {}).items():
            found = self.extras.setdefault(stage, {}).setdefault(name, {})
            found.update(zip(batch["image_id"], values.float().cpu().tolist(), strict=True))

    def table(self, rows: dict[str, pd.DataFrame], fold: int) -> pd.DataFrame:
        """The predictions table.

        Args:
            rows: the images of each split: image_id, path, patient_id, label.
            fold: the test fold of the run.

        Returns:
            A row for every predicted image, with the columns of predictions.csv.
        """
        parts = []
        for stage, found in self.collected.items():
            images = rows[stage][rows[stage]["image_id"].isin(found)]
            parts.append(
                predictions_table(
                    image_id=list(images["image_id"]),
                    path=list(images["path"]),
                    patient_id=list(images["patient_id"]),
                    label=list(images["label"]),
                    split=stage,
                    fold=fold,
                    probabilities=np.array([found[image_id] for image_id in images["image_id"]]),
                    extras={
                        name: np.array([values[image_id] for image_id in images["image_id"]])
                        for name, values in self.extras.get(stage, {}).items()
                    },
                    classes=self.classes,
                )
            )
        return pd.concat(parts, ignore_index=True)

    def write(self, path: Path, rows: dict[str, pd.DataFrame], fold: int) -> pd.DataFrame:
        """Write the table to `path` and return it; arguments as in `table`."""
        table = self.table(rows, fold)
        write_predictions(table, path, self.classes)
        return table
