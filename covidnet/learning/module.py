"""The LightningModule: a classifier and its training. It does not plot or write files; callbacks do that."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from covidnet.base.classes import ClassList
from covidnet.base.errors import SettingError, WeightsError
from covidnet.learning.checkpoints import DamagedCheckpointError, check_finite, read_checkpoint
from covidnet.learning.losses import deviation_loss
from covidnet.learning.monitor import direction
from covidnet.models.backbones import Backbone, build_backbone, check_side
from covidnet.models.classifier import Classifier, build_classifier
from covidnet.models.heads import AnomalyHead
from covidnet.models.libraries import LIBRARIES
from covidnet.models.registry import HEADS, MODELS

OPTIM: dict[str, float] = {"lr": 1e-3, "weight_decay": 0.0, "plateau_factor": 0.5, "plateau_patience": 2}
"""The optimiser's settings, as in conf/optim/adam.yaml."""

PREPROCESSING: dict[str, Any] = {"fit": "squash", "image_size": 224}
"""How an image becomes the input, as in conf/reading/images.yaml."""

STAGES_OF_TEST = ("test", "unseen")
"""Names of the two test loaders, in their order."""

# What the names of a state dict start with.
_BACKBONE, _HEAD = "classifier.backbone.", "classifier.head."


@dataclass(frozen=True)
class RecordedEpoch:
    """An epoch of a head that has been trained already.

    Attributes:
        head: its state after the epoch.
        optimizer: the optimizer's state, before the plateau schedule's step.
        sums: of the training images: loss, right predictions, number.
        validation: what is logged of the validation images, such as ``val/loss``.
    """

    head: dict[str, Tensor]
    optimizer: dict[str, Any]
    sums: Tensor
    validation: dict[str, float]


@dataclass(frozen=True)
class RecordedFit:
    """The training of a head, to be taken by `ClassificationModule.recorded` epoch by epoch.

    Attributes:
        first: the head's state before it.
        steps: of an epoch.
        epochs: in their order.
        seconds: what its parts took.
    """

    first: dict[str, Tensor]
    steps: int
    epochs: list[RecordedEpoch] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


class ClassificationModule(pl.LightningModule):
    """Train a `Classifier`, with ReduceLROnPlateau.

    Batches have ``label`` (N) and ``image`` (N, C, H, W), or ``features`` (N, D) if the frozen backbone has already
    computed them. The module logs ``train/loss``, ``train/accuracy`` and the same for val, test and unseen. The loss of
    val, test and unseen is cross-entropy whatever the training loss is, so that methods can be compared.

    Args:
        model: arguments of `build_classifier`, or the name of a network, which then has random weights.
        optim: lr, weight_decay, plateau_factor, plateau_patience; defaults are in `OPTIM`. See `check_optim`.
        preprocessing: how an image becomes the input; stored in the checkpoint for prediction. Defaults are in
            `PREPROCESSING`.
        monitor: the logged value that the plateau scheduler watches.
        loss: the training loss, of logits (N, classes) and labels (N); cross-entropy if None.
        optimizer: makes the optimizer of parameters, lr and weight_decay, such as ``torch.optim.AdamW``; Adam if None.
            A checkpoint stores neither: prediction needs no loss, and nothing that a file names is called.
        classes: their names, in the order of the logits; COVID-19, Normal, Pneumonia if None.
        positive: the class that an `AnomalyHead` treats as the anomaly; the first if None.
        backbone: of that name and weights, built already; frozen ones can be shared.

    Raises:
        SettingError: a setting of `model` or `optim` is not allowed, or the network does not accept this image size.
        WeightsError: the weights are unavailable or do not fit.
    """

    def __init__(
        self,
        model: Mapping[str, Any] | str = "densenet121",
        optim: Mapping[str, Any] | None = None,
        preprocessing: Mapping[str, Any] | None = None,
        monitor: str = "val/loss",
        loss: nn.Module | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        classes: Sequence[str] | None = None,
        positive: str | None = None,
        backbone: Backbone | None = None,
    ) -> None:
        super().__init__()
        # Loading anything but plain values from a checkpoint would need to run code.
        model = {"weights": "random", **_plain({"name": model} if isinstance(model, str) else model)}
        optim = {**OPTIM, **_plain(optim or {})}
        preprocessing = {**PREPROCESSING, **_plain(preprocessing or {})}
        check_optim(optim)
        self.save_hyperparameters(ignore=["loss", "optimizer", "classes", "positive", "backbone"])
        self.classes = ClassList.of({"classes": classes, "positive": positive})
        # A checkpoint of the default classes has no names, as those of older versions.
        self.hparams.update(self.classes.record())
        # A checkpoint does not need the weights file, whose path is private: keep only its name.
        if "weights" in model:
            self.hparams["model"] = {**model, "weights": PurePath(str(model["weights"])).name}
        self.classifier: Classifier = build_classifier(**{**model, "classes": len(self.classes)}, backbone=backbone)
        check_side(self.classifier.backbone, preprocessing.get("image_size"), model["name"])
        self.optim = optim
        self.anomaly_weight = float(model.get("anomaly_weight", 1.0))
        self.monitor = monitor
        self.loss = loss
        self._anomaly = self.classes.index(self.classes.positive)
        # One fused operation instead of a dozen saves a fifth of a linear head's step.
        self.optimizer = optimizer or functools.partial(torch.optim.Adam, fused=True)
        # The checkpoint's record for prediction, see `covidnet.serving.record`.
        self.serving: dict[str, Any] = {}
        self._sums: dict[str, list[Tensor]] = {}
        # Where the head has been trained already: the loader then has one batch an epoch, which stands for all steps.
        self.recorded: RecordedFit | None = None

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        like: ClassificationModule | None = None,
        read: Mapping[str, Any] | None = None,
    ) -> ClassificationModule:
        """Load a module from just a checkpoint, without weights file, feature store or internet access.

        Args:
            path: the checkpoint.
            like: whose backbone is shared if this one's is the same.
            read: the checkpoint's content, see `read_checkpoint`; None reads it.

        Raises:
            WeightsError: the file is not a covidnet checkpoint, or is damaged. Code in it is never run.
        """
        try:
            checkpoint = read_checkpoint(path) if read is None else read
            settings = checkpoint["hyper_parameters"]
            # A default must not replace a setting that the model was trained with.
            for name, needed in (("optim", OPTIM), ("preprocessing", PREPROCESSING)):
                if missing := set(needed) - set(settings[name]):
                    raise KeyError(f"{name}.{min(missing)}")
            _check_named(path, settings["model"])
            weights = PurePath(str(settings["model"]["weights"])).name
            # Class weights of the loss are buffers of the module.
            state = {name: value for name, value in checkpoint["state_dict"].items() if not name.startswith("loss.")}
            own = {name.removeprefix(_BACKBONE): value for name, value in state.items() if name.startswith(_BACKBONE)}
            # The original weights file may be gone. The checkpoint replaces it: as in that file, the first layer shows
            # which input the network expects.
            model = {**settings["model"], "weights": str(Path(path).resolve())}
            if like is not None and like.hparams["model"]["name"] == model["name"] and _same(like, own):
                backbone = like.classifier.backbone
            else:
                backbone = build_backbone(model["name"], model["weights"], model.get("weights_seed", 0), own)
                backbone.weights = weights
            module = cls(**{**settings, "model": model}, backbone=backbone)
            # Strict, so a name that neither the backbone nor the head has is refused.
            module.classifier.head.load_state_dict(
                {name.removeprefix(_HEAD): value for name, value in state.items() if not name.startswith(_BACKBONE)}
            )
            module.hparams["model"]["weights"] = weights
            module.serving = dict(checkpoint.get("serving") or {})
        except (DamagedCheckpointError, UnknownNetworkError):
            raise
        except Exception as error:  # torch raises a different type for every way of being wrong
            cause = " ".join([type(error).__name__ + ":", *str(error).split()])
            raise WeightsError(
                f"{path}: not a covidnet checkpoint ({cause[:160]}); give the best.ckpt or last.ckpt of a run folder"
            ) from None
        return module.eval()

    def take_head(self, state: Mapping[str, Tensor], path: str | Path) -> None:
        """Take the head of a checkpoint of the run that this module was trained in, whose backbone is frozen.

        Args:
            state: the checkpoint's state dict.
            path: its file, for the error.

        Raises:
            DamagedCheckpointError: a weight is not finite.
        """
        head = {name: value for name, value in state.items() if name.startswith(_HEAD)}
        check_finite(head, path)
        self.classifier.head.load_state_dict({name.removeprefix(_HEAD): value for name, value in head.items()})
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to logits (N, classes)."""
        return self.classifier(images)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """One step on training images, or all steps of a recorded epoch."""
        if self.recorded is not None:
            epoch = self.recorded.epochs[self.current_epoch]
            self.classifier.head.load_state_dict(epoch.head)
            self.trainer.optimizers[0].load_state_dict(epoch.optimizer)
            self._sums["train"] = [epoch.sums]
            return torch.zeros((), requires_grad=True)
        return self._step(batch, "train")["loss"]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """One step on validation images."""
        return self._step(batch, "val")

    def test_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """One step on the test fold (loader 0) or the unseen fold (loader 1)."""
        return self._step(batch, STAGES_OF_TEST[dataloader_idx])

    def _step(self, batch: dict[str, Any], stage: str) -> dict[str, Any]:
        labels, features = batch["label"], batch.get("features")
        if features is None:
            features = self.classifier.features(batch["image"].to(memory_format=torch.channels_last))
        logits = self.classifier.classify(features)
        train_loss = self.loss if stage == "train" else None
        loss = cross_entropy(logits, labels) if train_loss is None else train_loss(logits, labels)
        if isinstance(self.classifier.head, AnomalyHead):
            scores = self.classifier.head.scores(features)
            loss = loss + self.anomaly_weight * deviation_loss(scores, labels == self._anomaly)
        with torch.no_grad():
            right = (logits.argmax(1) == labels).sum()
            # Summed here and logged once: logging costs more than a whole step of a linear head.
            self._sums.setdefault(stage, []).append(
                torch.stack([loss * len(labels), right, right.new_tensor(len(labels))])
            )
            extras = {} if stage == "train" else self.classifier.extras(features)
        return {"loss": loss, "logits": logits.detach(), "extras": extras}

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """A step of the optimizer; none in a recorded epoch, which holds what its steps led to."""
        if self.recorded is None:
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        elif optimizer_closure is not None:
            optimizer_closure()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count the steps of a recorded epoch, as if they had been made here."""
        if self.recorded is not None:
            steps, loop = (self.current_epoch + 1) * self.recorded.steps, self.trainer.fit_loop.epoch_loop
            loop.automatic_optimization.optim_progress.optimizer.step.total.completed = steps
            loop._batches_that_stepped = steps - 1

    def on_train_epoch_end(self) -> None:
        """Log ``train/loss`` and ``train/accuracy``; of a recorded epoch, also what validation gave."""
        if self.recorded is not None:
            validation, loop = self.recorded.epochs[self.current_epoch].validation, self.trainer.fit_loop.epoch_loop
            for logger in self.trainer.loggers:
                logger.log_metrics({**validation, "epoch": self.current_epoch}, loop._batches_that_stepped - 1)
            self.log_dict({name: validation[name] for name in ("val/loss", "val/accuracy")}, logger=False)
            if self.current_epoch + 1 >= len(self.recorded.epochs):
                self.trainer.should_stop = True
        self._log("train")

    def on_validation_epoch_end(self) -> None:
        """Log ``val/loss`` and ``val/accuracy``."""
        self._log("val")

    def on_test_epoch_end(self) -> None:
        """Log loss and accuracy of the test fold and the unseen fold."""
        for stage in STAGES_OF_TEST:
            self._log(stage)

    def _log(self, stage: str) -> None:
        sums = self._sums.pop(stage, [])
        if not sums:
            return
        loss, right, images = torch.stack(sums).sum(0)
        self.log_dict(
            {f"{stage}/loss": loss / images, f"{stage}/accuracy": right / images},
            prog_bar=stage in ("train", "val"),
            sync_dist=self.trainer.world_size > 1,
        )

    def configure_optimizers(self) -> Any:
        """The optimizer of the trainable parameters, and a plateau scheduler on the monitored value."""
        moving = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = self.optimizer(moving, lr=self.optim["lr"], weight_decay=self.optim["weight_decay"])
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer,
            mode=direction(self.monitor, classes=self.classes),
            factor=self.optim["plateau_factor"],
            patience=self.optim["plateau_patience"],
        )
        # LearningRateMonitor logs under this name.
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": self.monitor, "name": "lr"}}


class UnknownNetworkError(WeightsError):
    """A checkpoint has a network or a head that nothing here registers."""


def _check_named(path: str | Path, model: Mapping[str, Any]) -> None:
    """Refuse a network or head of somebody's own: a checkpoint must not import anything by itself."""
    name, head = str(model["name"]), model.get("head")
    kind = None
    if name not in MODELS and not name.startswith(LIBRARIES):
        kind = f"network {name}"
    elif head is not None and head not in HEADS:
        kind = f"head {head}"
    if kind is not None:
        remedy = "add imports=[FILE.py] with the file that registers it, if you trust that file"
        raise UnknownNetworkError(f"{path}: has the {kind}, which is not known here; {remedy}")


def _same(module: ClassificationModule, state: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of the module's backbone."""
    own = module.classifier.backbone.state_dict()
    return own.keys() == state.keys() and all(
        value.dtype == state[name].dtype and torch.equal(value, state[name]) for name, value in own.items()
    )


def check_optim(optim: Mapping[str, Any]) -> None:
    """Refuse early what the optimizer and ReduceLROnPlateau would refuse only when training starts, or silently accept.

    Args:
        optim: the group ``optim`` of the configuration.

    Raises:
        SettingError: a number is out of range.
    """
    for name, allowed, fits in (
        ("lr", "a number of at least 0", lambda value: 0 <= value < math.inf),
        ("weight_decay", "a number of at least 0", lambda value: 0 <= value < math.inf),
        ("plateau_factor", "a number between 0 and 1", lambda value: 0 < value < 1),
        ("plateau_patience", "an integer of at least 0", lambda value: isinstance(value, int) and value >= 0),
    ):
        value = optim[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not fits(value):
            raise SettingError(f"optim.{name}", value, allowed)


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Convert Hydra containers, tuples and paths to nested dicts, lists, numbers and text."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): plain(item) for key, item in value.items()}
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    return {str(key): plain(item) for key, item in settings.items()}
