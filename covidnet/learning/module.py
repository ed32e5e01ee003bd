"""The LightningModule: a classifier and how it is trained. It draws nothing and writes no file; callbacks do that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from covidnet.errors import WeightsError
from covidnet.models.classifier import Classifier, build_classifier

STAGES_OF_TEST = ("test", "unseen")
"""Names of the two test loaders, in their order."""


class ClassificationModule(pl.LightningModule):
    """Train a `Classifier` with cross-entropy, Adam and ReduceLROnPlateau.

    Batches hold ``image`` (N, C, H, W) or, where the frozen backbone has seen them already, ``features`` (N, D), and
    ``label`` (N). Logged are ``train/loss``, ``train/accuracy`` and the same for val, test and unseen.

    Args:
        model: arguments of `build_classifier`.
        optim: lr, weight_decay, plateau_factor, plateau_patience.
        preprocessing: how a film becomes the input; kept in the checkpoint for those who predict with it.
        monitor: the logged value that the plateau scheduler watches.
    """

    def __init__(
        self, model: Mapping[str, Any], optim: Mapping[str, Any], preprocessing: Mapping[str, Any], monitor: str
    ) -> None:
        super().__init__()
        # Anything that is not plain would need code to be loaded from a checkpoint.
        model, optim, preprocessing = _plain(model), _plain(optim), _plain(preprocessing)
        self.save_hyperparameters()
        self.classifier: Classifier = build_classifier(**model)
        self.optim = optim
        self.monitor = monitor

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> ClassificationModule:
        """Load a module from a checkpoint alone: no weights file, no feature store, no network.

        Raises:
            WeightsError: where the file is no checkpoint of ours; code in it is never run.
        """
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            settings = checkpoint["hyper_parameters"]
            weights = settings["model"]["weights"]
            # The file that the weights once came from may be gone. The checkpoint stands in for it, and tells by its
            # first layer, as that file did, which input the network expects.
            module = cls(**{**settings, "model": {**settings["model"], "weights": str(Path(path).resolve())}})
            module.load_state_dict(checkpoint["state_dict"])
            module.hparams["model"]["weights"] = module.classifier.backbone.weights = weights
        except Exception as error:  # torch raises a different type for every way of being wrong
            cause = " ".join([type(error).__name__ + ":", *str(error).split()])
            raise WeightsError(
                f"{path}: not a covidnet checkpoint ({cause[:160]}); give the best.ckpt or last.ckpt of a run folder"
            ) from None
        return module.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to logits (N, 3)."""
        return self.classifier(images)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """One step on training films."""
        return self._step(batch, "train")["loss"]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """One step on validation films."""
        return self._step(batch, "val")

    def test_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """One step on the test fold (loader 0) or the unseen fold (loader 1)."""
        return self._step(batch, STAGES_OF_TEST[dataloader_idx])

    def _step(self, batch: dict[str, Any], stage: str) -> dict[str, Tensor]:
        labels = batch["label"]
        if "features" in batch:
            logits = self.classifier.classify(batch["features"])
        else:
            logits = self(batch["image"].to(memory_format=torch.channels_last))
        loss = cross_entropy(logits, labels)
        accuracy = (logits.argmax(1) == labels).float().mean()
        self.log_dict(
            {f"{stage}/loss": loss, f"{stage}/accuracy": accuracy},
            on_step=False,
            on_epoch=True,
            prog_bar=stage in ("train", "val"),
            batch_size=len(labels),
            add_dataloader_idx=False,
        )
        return {"loss": loss, "logits": logits.detach()}

    def configure_optimizers(self) -> Any:
        """Adam on what may move, and a plateau scheduler on the monitored value."""
        moving = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(moving, lr=self.optim["lr"], weight_decay=self.optim["weight_decay"])
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=self.optim["plateau_factor"], patience=self.optim["plateau_patience"]
        )
        # The name is what LearningRateMonitor logs.
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": self.monitor, "name": "lr"}}


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts, lists, numbers and text, in place of Hydra's containers, tuples and paths."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): plain(item) for key, item in value.items()}
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    return {str(key): plain(item) for key, item in settings.items()}
