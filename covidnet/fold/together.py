"""Heads together: runs that read the same features train their heads at once, as one batched matrix product.

`train_together` trains the heads of several runs, each with its own data order, optimizer, plateau schedule and early
stopping, and records the state of each after every epoch. Then each run fits as always, but takes a recorded state in
place of an epoch's steps: callbacks, loggers, checkpoints and resume points are its own.
"""

from __future__ import annotations

import copy
import logging
import math
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, cross_entropy
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, IterableDataset

from covidnet.base.quiet import quieten
from covidnet.data.loading.dataset import FeatureDataset, FeatureMatrix, FeatureRows, whole_batch
from covidnet.data.loading.sampler import EpochShuffle
from covidnet.fold.full_batch import validation_of
from covidnet.fold.resume import Resumption
from covidnet.fold.setup import FoldSetup, shared
from covidnet.fold.starting_weights import settle_weights
from covidnet.learning.module import ClassificationModule, RecordedEpoch, RecordedFit
from covidnet.learning.monitor import direction
from covidnet.models.heads import LinearHead

log = logging.getLogger(__name__)

RECORDED: dict[Path, RecordedFit] = {}
"""What was trained together in this process, by run folder."""

CALLBACKS = {
    "covidnet.callbacks.class_metrics.ClassMetrics", "covidnet.callbacks.prediction_writer.PredictionWriter",
    "covidnet.callbacks.gradcam_panels.GradCamPanels", "pytorch_lightning.callbacks.ModelCheckpoint",
    "pytorch_lightning.callbacks.EarlyStopping", "pytorch_lightning.callbacks.LearningRateMonitor",
}  # fmt: skip
_EARLY_STOPPING = {"_target_", "monitor", "mode", "patience"}
_TRAINER = {
    "_target_", "max_epochs", "accelerator", "devices", "deterministic", "num_sanity_val_steps", "log_every_n_steps",
    "gradient_clip_val", "fast_dev_run",
}  # fmt: skip
_MONITORS = ("val/loss", "val/accuracy", "train/loss", "train/accuracy")

# One step of these for many heads is that of each: they treat every number by itself.
_ELEMENTWISE: set[type[torch.optim.Optimizer]] = {torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD}

# Rounding differs between one matrix product and many, so a run may need some epochs more than were foreseen.
_MARGIN = 2


def why_alone(settings: Mapping[str, Any]) -> str | None:
    """Why a run's head cannot train together with others; None if it can.

    Args:
        settings: the resolved configuration.
    """
    trainer, model = settings["trainer"], settings["model"]
    callbacks = [callback for callback in settings["callbacks"].values() if callback]
    stopping = [callback for callback in callbacks if callback["_target_"].endswith("EarlyStopping")]
    accelerator = trainer.get("accelerator")
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())
    reasons = {
        "model.freeze=false": not model["freeze"],
        "imports": bool(settings.get("imports")),
        "optim.solver=lbfgs": bool(settings["optim"].get("solver")),
        "features=off": settings["features"]["mode"] == "off",
        f"augment={settings['augment']['mode']}": settings["augment"]["mode"] in ("online", "custom"),
        "model.dropout is not 0": bool(model.get("dropout")),
        "it does not train on the CPU": not on_cpu or trainer.get("devices") not in (1, "auto"),
        "settings of the trainer": bool(set(trainer) - _TRAINER)
        or bool(trainer.get("fast_dev_run") or trainer.get("gradient_clip_val"))
        or trainer["_target_"] != "pytorch_lightning.Trainer"
        or int(trainer.get("max_epochs") or -1) < 1,
        f"monitor={settings['monitor']}": settings["monitor"] not in _MONITORS,
        "split.validation=none": settings["split"]["validation"] == "none",
        "its callbacks": any(callback["_target_"] not in CALLBACKS for callback in callbacks)
        or len(stopping) != 1
        or bool(set(stopping[0]) - _EARLY_STOPPING)
        or stopping[0]["monitor"] != settings["monitor"],
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


@dataclass
class _Member:
    """One run: its head, its data and its training so far."""

    folder: Path
    module: ClassificationModule
    parts: dict[str, FeatureDataset]
    order: EpochShuffle
    batch_size: int
    max_epochs: int
    patience: int
    monitor: str
    logs_classes: bool
    key: tuple[Any, ...]
    fit: RecordedFit
    best: float = math.nan
    waited: int = 0

    def __post_init__(self) -> None:
        found = self.module.configure_optimizers()
        self.optimizer, self.scheduler = found["optimizer"], found["lr_scheduler"]["scheduler"]
        self.lower = direction(self.monitor, classes=self.module.classes) == "min"

    @property
    def head(self) -> LinearHead:
        head = self.module.classifier.head
        assert isinstance(head, LinearHead)
        return head

    @property
    def matrix(self) -> FeatureMatrix:
        features = self.parts["train"].features
        assert isinstance(features, FeatureRows)
        return features.matrix

    def rows(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Rows of the matrix and labels of the training inputs, in the order of an epoch."""
        self.order.set_epoch(epoch)
        train = self.parts["train"]
        assert isinstance(train.features, FeatureRows)
        order = torch.tensor(list(self.order)) % len(train)
        return train.features.rows[order], train.labels[order]

    def end_epoch(self, sums: Tensor) -> bool:
        """Record the epoch, step the schedule; return whether another one may be needed.

        Args:
            sums: of the training images: loss, right predictions, number.
        """
        loss, right, images = sums
        head, val = self.head.eval(), self.parts["val"]
        state = {name: value.clone() for name, value in head.state_dict().items()}
        optimizer = copy.deepcopy(self.optimizer.state_dict())
        validation = validation_of(self.module, val, classes=self.logs_classes)
        head.train()
        value = {"train/loss": loss / images, "train/accuracy": right / images, **validation}[self.monitor]
        self.fit.epochs.append(RecordedEpoch(state, optimizer, sums, validation))
        self.scheduler.step(value)
        number = float(value)
        if not math.isfinite(number):
            # Early stopping ends such a run, and the run itself says so.
            return False
        if math.isnan(self.best) or (number < self.best if self.lower else number > self.best):
            self.best, self.waited = number, 0
        else:
            self.waited += 1
        return self.waited < self.patience + _MARGIN and len(self.fit.epochs) < self.max_epochs


class _Steps(IterableDataset[list[tuple[list[int], Tensor, Tensor]]]):
    """The steps of an epoch: for batches of one size, the members, rows of the matrix (G, N) and labels (G, N)."""

    def __init__(self, heads: _Heads) -> None:
        self.heads = heads

    def __iter__(self) -> Iterator[list[tuple[list[int], Tensor, Tensor]]]:
        of_size = defaultdict(list)
        for n in self.heads.active:
            of_size[self.heads.members[n].batch_size].append(n)
        groups = []
        for size, numbers in of_size.items():
            found = [self.heads.members[n].rows(self.heads.epoch) for n in numbers]
            rows, labels = (pad_sequence(list(part), batch_first=True) for part in zip(*found, strict=True))
            groups.append((size, torch.tensor(numbers), torch.tensor([len(y) for _, y in found]), rows, labels))
        for step in range(max(math.ceil(int(lengths.max()) / size) for size, _, lengths, *_ in groups)):
            batches = []
            for size, which, lengths, rows, labels in groups:
                start = step * size
                left = (lengths - start).clamp(0, size)
                # The last batches of an epoch have other sizes.
                for images in left.unique().tolist():
                    if images:
                        part = (left == images).nonzero()[:, 0]
                        end = start + images
                        batches.append((which[part].tolist(), rows[part, start:end], labels[part, start:end]))
            yield batches


class _Heads(pl.LightningModule):
    """K linear heads: one batched matrix product, and an optimizer and a schedule for each head."""

    def __init__(self, members: Sequence[_Member]) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.members = members
        self.heads = nn.ModuleList(member.head for member in members)
        self.active = list(range(len(members)))
        self.epoch = 0
        self.sums = torch.zeros(len(members), 3)
        self.linear = [member.head.linear for member in members]
        self.moving = [parameter for member in members for parameter in member.head.parameters()]
        self.norms = [member.head.norm for member in members if member.head.norm is not None]
        if self.norms:
            # The statistics of all heads are one tensor, of which each head has its part.
            names = ("running_mean", "running_var", "num_batches_tracked")
            self.statistics = [torch.stack([getattr(norm, name) for norm in self.norms]) for name in names]
            for n, norm in enumerate(self.norms):
                for name, whole in zip(names, self.statistics, strict=True):
                    setattr(norm, name, whole[n])
        losses = [member.module.loss for member in members]
        plain = all(type(loss) is nn.CrossEntropyLoss and _plain(loss) for loss in losses)
        smoothing = {loss.label_smoothing for loss in losses if isinstance(loss, nn.CrossEntropyLoss)}
        self.smoothing = smoothing.pop() if plain and len(smoothing) == 1 else None
        self.joint: torch.optim.Optimizer | None = None
        if len(kinds := {type(member.optimizer) for member in members}) == 1 and kinds <= _ELEMENTWISE:
            # A step of each head's own optimizer costs as much as one of all of them.
            first = members[0].module
            self.joint = first.optimizer(self.moving, lr=first.optim["lr"], weight_decay=first.optim["weight_decay"])

    def logits(self, which: Sequence[int], features: Tensor) -> Tensor:
        """Features (N, G, D) to logits (G, C, N) of G heads in training."""
        heads = [self.linear[n] for n in which]
        images, groups, dim = features.shape
        if self.norms:
            # All heads as one batch norm over G x D features.
            whole = len(which) == len(self.members)
            means, variances = (part if whole else part[which] for part in self.statistics[:2])
            several, norm = images > 1, self.norms[0]
            features = batch_norm(
                features.view(images, -1), means.view(-1), variances.view(-1),
                training=several, momentum=norm.momentum or 0.0, eps=norm.eps,
            ).view(images, groups, dim)  # fmt: skip
            if several:
                self.statistics[2][which] += 1
                if not whole:
                    self.statistics[0][which], self.statistics[1][which] = means, variances
        weights, biases = torch.stack([head.weight for head in heads]), torch.stack([head.bias for head in heads])
        # The gradient of the weights is then a product of few rows, not of few columns: a third of the time.
        return torch.baddbmm(biases.unsqueeze(2), weights, features.permute(1, 2, 0))

    def training_step(self, batch: list[tuple[list[int], Tensor, Tensor]], batch_idx: int) -> None:
        """A step of every head that has a batch left in this epoch."""
        matrix = self.members[0].matrix
        for parameter in self.moving:
            parameter.grad = None
        for which, rows, labels in batch:
            logits = self.logits(which, matrix.vectors[rows.t().contiguous()])
            images = labels.shape[1]
            if self.smoothing is not None:
                losses = cross_entropy(logits, labels, reduction="none", label_smoothing=self.smoothing).mean(1)
            else:
                losses = torch.stack([self._loss(n, z.t(), y) for n, z, y in zip(which, logits, labels, strict=True)])
            # The heads share nothing, so that the gradient of the sum is that of each: one that is NaN stays alone.
            self.manual_backward(losses.sum())
            with torch.no_grad():
                right = (logits.argmax(1) == labels).sum(1)
                self.sums[which] += torch.stack([losses * images, right, torch.full_like(right, images)], 1)
        if self.joint is not None:
            self.joint.step()
        else:
            for which, *_ in batch:
                for n in which:
                    self.members[n].optimizer.step()

    def _loss(self, number: int, logits: Tensor, labels: Tensor) -> Tensor:
        loss = self.members[number].module.loss
        found: Tensor = cross_entropy(logits, labels) if loss is None else loss(logits, labels)
        return found

    def on_train_epoch_start(self) -> None:
        """Group the heads whose optimizers have the same settings: one step does them at once."""
        self.sums.zero_()
        if self.joint is None:
            return
        groups: dict[str, dict[str, Any]] = {}
        for n in self.active:
            (group,) = self.members[n].optimizer.param_groups
            settings = {name: value for name, value in group.items() if name != "params"}
            groups.setdefault(repr(settings), {**settings, "params": []})["params"] += group["params"]
        self.joint.param_groups = list(groups.values())

    def on_train_epoch_end(self) -> None:
        """Record every head; those whose early stopping has come are left out from now on."""
        if self.joint is not None:
            for n in self.active:
                own = self.members[n].optimizer
                own.state.update((p, self.joint.state[p]) for p in own.param_groups[0]["params"])
        self.active = [n for n in self.active if self.members[n].end_epoch(self.sums[n].clone())]
        self.epoch += 1
        if not self.active:
            self.trainer.should_stop = True

    def train_dataloader(self) -> DataLoader[Any]:
        """The steps of an epoch."""
        return DataLoader(_Steps(self), batch_size=None, collate_fn=whole_batch)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """An optimizer for each head; `training_step` calls them, or one for all."""
        return [member.optimizer for member in self.members]


def _plain(loss: nn.CrossEntropyLoss) -> bool:
    return loss.weight is None and loss.reduction == "mean" and loss.ignore_index < 0


def train_together(jobs: Sequence[tuple[dict[str, Any], Path]], sweep: Path) -> int:
    """Train the heads of those jobs that can train together; `RECORDED` has the result for their runs.

    A job that cannot be prepared is left out: it fails in its own run, where it is named.

    Args:
        jobs: the resolved configuration and the run folder of each job.
        sweep: the sweep folder.

    Returns:
        How many heads trained together; those left over train alone.
    """
    chosen = [(copy.deepcopy(settings), folder) for settings, folder in jobs if why_alone(settings) is None]
    if len(chosen) < 2:
        return 0
    quieten()
    if chosen[0][0].get("progress"):
        # The jobs say nothing before this has ended.
        sys.stderr.write(f"training the heads of {len(chosen)} jobs together, before the first job\n")
    with shared():
        return _train(chosen, sweep)


def _train(chosen: Sequence[tuple[dict[str, Any], Path]], sweep: Path) -> int:
    groups: dict[tuple[Any, ...], list[_Member]] = defaultdict(list)
    for settings, folder in chosen:
        try:
            member = _member(settings, folder, sweep)
        except Exception as error:  # of any type, as of a class of the user's; the job's own run raises and names it
            log.info("%s does not train together with others: %s", folder.name, error)
            continue
        if member is not None:
            groups[member.key].append(member)
    count = 0
    for members in groups.values():
        if len(members) > 1 and _trained(members):
            count += len(members)
    return count


def _member(settings: dict[str, Any], folder: Path, sweep: Path) -> _Member | None:
    start = time.perf_counter()
    setup, resumption = FoldSetup(settings), Resumption(folder, settings)
    if resumption.finished or resumption.point is not None:
        return None
    settle_weights(settings, folder, sweep, resumed=resumption.wanted)
    setup.keep_engine(folder, resumed=resumption.wanted)
    seed = setup.seed(settings["fold"])
    pl.seed_everything(seed, workers=True, verbose=False)
    module = setup.module()
    head = module.classifier.head
    if type(head) is not LinearHead or setup.why_no_features(module):
        return None
    prepared = setup.prepared()
    setup.settle_engine(module, sweep, resumed=resumption.wanted)
    datamodule = setup.datamodule(prepared, module, settings["fold"], setup.changed_images(prepared))
    if not len(datamodule.rows["val"]):
        return None
    setup.weigh(module, datamodule)
    setup.take_features(datamodule, module)
    store = setup.store(module).folder
    parts = {
        part: FeatureDataset(datamodule.features[part], datamodule.rows[part], setup.classes)
        for part in ("train", "val")
    }
    steps = math.ceil(len(parts["train"]) / datamodule.batch_size)
    first = {name: value.clone() for name, value in head.state_dict().items()}
    (stopping,) = (c for c in settings["callbacks"].values() if c and c["_target_"].endswith("EarlyStopping"))
    return _Member(
        folder=folder,
        module=module.train(),
        parts=parts,
        order=EpochShuffle(len(parts["train"]), datamodule.seed),
        batch_size=datamodule.batch_size,
        max_epochs=int(settings["trainer"]["max_epochs"]),
        patience=int(stopping.get("patience", 3)),
        monitor=settings["monitor"],
        logs_classes=any(c and c["_target_"].endswith("ClassMetrics") for c in settings["callbacks"].values()),
        key=(str(store), head.linear.weight.shape, head.norm is None, settings["trainer"].get("deterministic")),
        fit=RecordedFit(first, steps, seconds={"features": time.perf_counter() - start}),
    )


def _trained(members: Sequence[_Member]) -> bool:
    """Train a group; return whether its runs can take what was recorded."""
    start, threads = time.perf_counter(), torch.get_num_threads()
    try:
        # As in a run of one head, two threads wait for each other longer than they work.
        torch.set_num_threads(1)
        trainer = pl.Trainer(
            max_epochs=max(member.max_epochs for member in members),
            accelerator="cpu",
            devices=1,
            deterministic=members[0].key[-1],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(_Heads(members))
    except Exception as error:  # whatever a loss or an optimizer of the user's raises: its own run names it
        log.warning("heads train one by one: %s", " ".join(f"{type(error).__name__}: {error}".split())[:200])
        return False
    finally:
        torch.set_num_threads(threads)
    for member in members:
        member.fit.seconds["fit"] = (time.perf_counter() - start) / len(members)
        RECORDED[member.folder] = member.fit
    return True


def recorded_fit(folder: Path, module: ClassificationModule) -> RecordedFit | None:
    """What was trained together for a run; None if nothing was, or from another start.

    Args:
        folder: the run folder.
        module: with the head as it starts.
    """
    fit, now = RECORDED.pop(folder, None), module.classifier.head.state_dict()
    if fit is None or set(fit.first) != set(now) or not all(torch.equal(fit.first[name], now[name]) for name in now):
        return None
    return fit


__all__ = ["RECORDED", "recorded_fit", "train_together", "why_alone"]
