"""Heads together: runs that read the same features train their heads at once, as one batched matrix product.

`train_together` trains the heads of several runs, each with its own data order, optimizer, plateau schedule and early
stopping, and records the state of each after every epoch. Then each run fits as always, but takes a recorded state in
place of an epoch's steps: callbacks, loggers, checkpoints and resume points are its own.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, cross_entropy
from torch.utils.data import DataLoader, IterableDataset

from covidnet.base.quiet import quieten
from covidnet.data.loading.dataset import FeatureDataset, whole_batch
from covidnet.data.loading.sampler import EpochShuffle
from covidnet.fold.resume import Resumption
from covidnet.fold.setup import FoldSetup
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
    key: tuple[Any, ...]
    fit: RecordedFit
    sums: list[Tensor] = field(default_factory=list)
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

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        self.order.set_epoch(epoch)
        indices, train = list(self.order), self.parts["train"]
        for start in range(0, len(indices), self.batch_size):
            batch = train.__getitems__(indices[start : start + self.batch_size])
            yield batch["features"], batch["label"]

    def end_epoch(self) -> bool:
        """Record the epoch, step the schedule; return whether another one may be needed."""
        loss, right, images = torch.stack(self.sums).sum(0)
        self.fit.epochs.append(
            RecordedEpoch(
                {name: value.clone() for name, value in self.head.state_dict().items()},
                copy.deepcopy(self.optimizer.state_dict()),
                torch.stack([loss, right, images]),
            )
        )
        self.sums.clear()
        values = {"train/loss": loss / images, "train/accuracy": right / images}
        head, val = self.head.eval(), self.parts["val"]
        with torch.no_grad():
            logits = head(val.features)
            values["val/loss"] = cross_entropy(logits, val.labels)
            values["val/accuracy"] = (logits.argmax(1) == val.labels).float().mean()
        head.train()
        value = values[self.monitor]
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
    """The steps of an epoch: for batches of one size, the members, features (G, N, D) and labels (G, N)."""

    def __init__(self, heads: _Heads) -> None:
        self.heads = heads

    def __iter__(self) -> Iterator[list[tuple[list[int], Tensor, Tensor]]]:
        loaders = {n: self.heads.members[n].batches(self.heads.epoch) for n in self.heads.active}
        while loaders:
            sized = defaultdict(list)
            for n, loader in list(loaders.items()):
                batch = next(loader, None)
                if batch is None:
                    del loaders[n]
                else:
                    sized[len(batch[1])].append((n, *batch))
            if sized:
                yield [
                    (
                        [n for n, _, _ in found],
                        torch.stack([f for _, f, _ in found]),
                        torch.stack([y for *_, y in found]),
                    )
                    for found in sized.values()
                ]


class _Heads(pl.LightningModule):
    """K linear heads: one batched matrix product, and an optimizer and a schedule for each head."""

    def __init__(self, members: Sequence[_Member]) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.members = members
        self.heads = nn.ModuleList(member.head for member in members)
        self.active = list(range(len(members)))
        self.epoch = 0

    def logits(self, which: Sequence[int], features: Tensor) -> Tensor:
        """Features (G, N, D) to logits (G, N, C) of G heads in training."""
        heads = [self.members[n].head for n in which]
        norms = [head.norm for head in heads if head.norm is not None]
        groups, images, dim = features.shape
        if norms:
            # All heads as one batch norm over G x D features.
            flat = features.transpose(0, 1).reshape(images, groups * dim)
            means, variances = [
                torch.cat([getattr(n, name) for n in norms]) for name in ("running_mean", "running_var")
            ]
            several = images > 1
            flat = batch_norm(
                flat, means, variances, training=several, momentum=norms[0].momentum or 0.0, eps=norms[0].eps
            )
            features = flat.reshape(images, groups, dim).transpose(0, 1)
            if several:
                for norm, mean, variance in zip(norms, means.chunk(groups), variances.chunk(groups), strict=True):
                    norm.running_mean.copy_(mean)  # type: ignore[union-attr]  # it tracks them
                    norm.running_var.copy_(variance)  # type: ignore[union-attr]
                    norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        weights = torch.stack([head.linear.weight for head in heads])
        biases = torch.stack([head.linear.bias for head in heads])
        return torch.baddbmm(biases.unsqueeze(1), features, weights.transpose(1, 2))

    def training_step(self, batch: list[tuple[list[int], Tensor, Tensor]], batch_idx: int) -> None:
        """A step of every head that has a batch left in this epoch."""
        for which, features, labels in batch:
            members = [self.members[n] for n in which]
            logits = self.logits(which, features)
            losses = [
                cross_entropy(z, y) if member.module.loss is None else member.module.loss(z, y)
                for member, z, y in zip(members, logits, labels, strict=True)
            ]
            for member in members:
                member.optimizer.zero_grad()
            # The heads share nothing, so that the gradient of the sum is that of each: one that is NaN stays alone.
            self.manual_backward(torch.stack(losses).sum())
            with torch.no_grad():
                right = (logits.argmax(2) == labels).sum(1)
            for n, member in enumerate(members):
                member.optimizer.step()
                images = labels.shape[1]
                member.sums.append(torch.stack([losses[n].detach() * images, right[n], right.new_tensor(images)]))

    def on_train_epoch_end(self) -> None:
        """Record every head; those whose early stopping has come are left out from now on."""
        self.active = [n for n in self.active if self.members[n].end_epoch()]
        self.epoch += 1
        if not self.active:
            self.trainer.should_stop = True

    def train_dataloader(self) -> DataLoader[Any]:
        """The steps of an epoch."""
        return DataLoader(_Steps(self), batch_size=None, collate_fn=whole_batch)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """An optimizer for each head; `training_step` calls them."""
        return [member.optimizer for member in self.members]


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
    # Only the head trains, and a backbone for each would fill the memory.
    module.classifier.backbone = nn.Identity()  # type: ignore[assignment]
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
