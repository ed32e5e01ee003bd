"""Log sensitivity, specificity and F1 of every class, for every split, under fixed names."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassF1Score, MulticlassRecall, MulticlassSpecificity
from torchmetrics.functional.classification import multiclass_f1_score, multiclass_recall, multiclass_specificity

from covidnet.base.classes import DEFAULT_CLASSES, ClassList
from covidnet.learning.module import STAGES_OF_TEST


class ClassMetrics(pl.Callback):
    """Log metrics such as ``test/COVID-19/sensitivity`` for val, test and unseen, over all images of a split.

    The classes are those of the module.
    """

    def __init__(self) -> None:
        self.classes = DEFAULT_CLASSES
        self.metrics = _metrics(self.classes)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Count the module's classes."""
        classes = getattr(pl_module, "classes", DEFAULT_CLASSES)
        if classes != self.classes:
            self.classes, self.metrics = classes, _metrics(classes)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reset the counts."""
        self._reset("val", pl_module)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Count a batch."""
        self._collection("val").update(outputs["logits"], batch["label"])

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the split."""
        if not trainer.sanity_checking:
            self._log("val", pl_module)

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reset the counts."""
        for stage in STAGES_OF_TEST:
            self._reset(stage, pl_module)

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Count a batch."""
        self._collection(STAGES_OF_TEST[dataloader_idx]).update(outputs["logits"], batch["label"])

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the splits that were tested."""
        for stage in STAGES_OF_TEST:
            # A test may have only the first loader.
            if self._collection(stage)["sensitivity"].update_called:
                self._log(stage, pl_module)

    def _collection(self, stage: str) -> MetricCollection:
        collection = self.metrics[stage]
        assert isinstance(collection, MetricCollection)  # nn.ModuleDict forgets the type
        return collection

    def _reset(self, stage: str, pl_module: pl.LightningModule) -> None:
        self._collection(stage).to(pl_module.device).reset()

    def _log(self, stage: str, pl_module: pl.LightningModule) -> None:
        for name, values in self._collection(stage).compute().items():
            for label, value in zip(self.classes, values, strict=True):
                pl_module.log(f"{stage}/{label}/{name}", value)


def class_metrics(logits: Tensor, labels: Tensor, classes: ClassList, stage: str = "val") -> dict[str, float]:
    """What `ClassMetrics` logs of a split that is there as a whole.

    Args:
        logits: (N, classes).
        labels: (N).
        classes: in the order of the logits.
        stage: the split.
    """
    per_class: dict[str, Any] = {"num_classes": len(classes), "average": None, "validate_args": False}
    found = {
        "sensitivity": multiclass_recall(logits, labels, **per_class),
        "specificity": multiclass_specificity(logits, labels, **per_class),
        "f1": multiclass_f1_score(logits, labels, **per_class),
    }
    return {
        f"{stage}/{label}/{name}": value
        for name, values in found.items()
        for label, value in zip(classes, values.tolist(), strict=True)
    }


def _metrics(classes: ClassList) -> nn.ModuleDict:
    return nn.ModuleDict({stage: _collection(len(classes)) for stage in ("val", *STAGES_OF_TEST)})


def _collection(classes: int) -> MetricCollection:
    per_class: dict[str, Any] = {"num_classes": classes, "average": None}
    return MetricCollection(
        {
            "sensitivity": MulticlassRecall(**per_class),
            "specificity": MulticlassSpecificity(**per_class),
            "f1": MulticlassF1Score(**per_class),
        }
    )
