"""The LightningDataModule: selects images by fold and builds loaders, nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from covidnet.base.classes import DEFAULT_CLASSES, ClassList
from covidnet.base.errors import SettingError
from covidnet.base.progress import available_cores
from covidnet.data.folds.splits import Copies, Group, Validation, fold_roles
from covidnet.data.loading.augment import ORIGINAL, Augmentation, FixedCopies, Operators
from covidnet.data.loading.dataset import FeatureDataset, FeatureRows, ImageDataset, whole_batch
from covidnet.data.loading.sampler import EpochShuffle
from covidnet.data.loading.transforms import Normalise, SquareFit

PARTS = ("train", "val", "test", "unseen")

# Bytes of images that all readers of one part together may keep in memory: 20,000 images of 224 x 224 pixels.
_MEMORY = 1 << 30


class FoldDataModule(pl.LightningDataModule):
    """Training, validation, test and unseen images of one fold.

    Args:
        split: the table of split.csv, with the manifest's column sha256.
        root: the folder that paths are relative to.
        fold: the test fold, 0..9.
        group: ``split.group``, as the split was made.
        split_copies: ``near``, ``bytes`` or ``off``, as the split was made.
        validation: ``inner``, ``test`` or ``none``.
        validation_seed: seed of the inner validation draw.
        fit: makes an image square; 224 x 224 pixels by default.
        normalise: turns it into the network's input; with ImageNet's mean and standard deviation by default.
        copies: fixed copies of training images, or None.
        online: random augmentation of training images, or None.
        batch_size: images per batch.
        num_workers: worker processes that read images; None for one per spare core.
        seed: seed of the order of training images and of online augmentation.
        reading: keyword arguments of `covidnet.data.reading.images.read_image`.
        locked: whether the unseen fold is locked: its images are counted but never read.
        classes: of the labels, in the order of the logits.
    """

    def __init__(
        self,
        split: pd.DataFrame,
        *,
        root: str | Path,
        fold: int,
        group: Group = "patient+copies",
        split_copies: Copies = "near",
        validation: Validation = "inner",
        validation_seed: int = 0,
        fit: SquareFit | None = None,
        normalise: Normalise | None = None,
        copies: FixedCopies | None = None,
        online: Augmentation | None = None,
        batch_size: int = 32,
        num_workers: int | None = None,
        seed: int = 0,
        reading: dict[str, Any] | None = None,
        locked: bool = False,
        classes: ClassList = DEFAULT_CLASSES,
    ) -> None:
        super().__init__()
        _check_count("data.batch_size", batch_size, 1)
        if num_workers is not None:
            _check_count("data.num_workers", num_workers, 0)
        self.root = Path(root)
        self.fold = fold
        self.fit = fit or SquareFit()
        self.normalise = normalise or Normalise()
        self.copies = copies
        self.online = online
        self.batch_size = batch_size
        self.num_workers = max(available_cores() - 1, 0) if num_workers is None else num_workers
        self.seed = seed
        self.reading = reading or {}
        self.locked = locked
        self.classes = classes
        self.features: dict[str, torch.Tensor | FeatureRows] = {}
        # The epoch that the training loader starts with: workers request images before Lightning sets it.
        self.epoch = 0
        roles = fold_roles(
            split,
            fold=fold,
            validation=validation,
            seed=validation_seed,
            group=group,
            copies=split_copies,
            classes=classes,
        )
        self.rows = self._rows(split, roles)

    def _rows(self, split: pd.DataFrame, roles: pd.DataFrame) -> dict[str, pd.DataFrame]:
        rows = {part: split[roles[part].to_numpy()].assign(operator=ORIGINAL) for part in PARTS}
        if self.copies is not None:
            # Balanced folds have the same number of each class, so the test fold gives the size of the nine others;
            # for others it is the mean over the classes.
            size = 9 * int((split["fold"] == self.fold).sum()) // split["label"].nunique()
            rows["train"] = self.copies.plan(rows["train"], size, self.classes)
        return {part: table.reset_index(drop=True) for part, table in rows.items()}

    @property
    def read_parts(self) -> tuple[str, ...]:
        """The parts whose images are read: all, except the unseen fold if it is locked."""
        return tuple(part for part in PARTS if not (self.locked and part == "unseen"))

    @property
    def distinct_inputs(self) -> pd.DataFrame:
        """Every image and copy that this fold uses, once."""
        everything = pd.concat([self.rows[part] for part in self.read_parts], ignore_index=True)
        return everything.drop_duplicates(["sha256", "operator"], ignore_index=True)

    @property
    def counts(self) -> dict[str, dict[str, dict[str, int]]]:
        """The number of images, and of inputs (images and their copies), by part and class."""
        return {
            part: {
                label: {"films": int(of_class["image_id"].nunique()), "inputs": len(of_class)}
                for label in self.classes
                for of_class in [rows[rows["label"] == label]]
            }
            for part, rows in self.rows.items()
        }

    def drop(self, image_ids: set[str]) -> None:
        """Exclude some images, such as those that changed since prepare."""
        self.rows = {p: t[~t["image_id"].isin(image_ids)].reset_index(drop=True) for p, t in self.rows.items()}

    def use_features(self, features: Mapping[str, torch.Tensor | FeatureRows]) -> None:
        """Serve features instead of images.

        Args:
            features: (n, D) for each part, with one row per row of ``self.rows[part]``.
        """
        self.features = dict(features)

    def images(self, rows: pd.DataFrame, *, online: bool = False, memory: int = 0) -> ImageDataset:
        """A dataset of some rows, read from files; `memory` as in `ImageDataset`."""
        operators = self.copies.operators if self.copies else self.online or Operators()
        return ImageDataset(
            rows,
            self.root,
            fit=self.fit,
            normalise=self.normalise,
            operators=operators,
            online=self.online.random if online and self.online is not None else None,
            seed=self.seed,
            reading=self.reading,
            memory=memory,
            classes=self.classes,
        )

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Training images in an order that depends only on the seed and the epoch."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[dict[str, Any]] | list[Any]:
        """Validation images; an empty list if there are none (``split.validation=none``)."""
        return self._loader("val") if len(self.rows["val"]) else []

    def test_dataloader(self) -> list[DataLoader[dict[str, Any]]]:
        """The test fold and the unseen fold, in this order; only the test fold if the unseen fold is locked."""
        return [self._loader("test")] if self.locked else [self._loader("test"), self._loader("unseen")]

    def unseen_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The unseen fold.

        Raises:
            RuntimeError: it is locked.
        """
        if self.locked:
            raise RuntimeError("the unseen fold is locked")
        return self._loader("unseen")

    def _loader(self, part: str) -> DataLoader[dict[str, Any]]:
        rows = self.rows[part]
        sampler = None
        if part == "train":
            rank, processes = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
            sampler = EpochShuffle(len(rows), self.seed, rank, processes)
            sampler.set_epoch(self.epoch)
        if part in self.features:
            dataset: Dataset[dict[str, Any]] = FeatureDataset(self.features[part], rows, self.classes)
            return DataLoader(dataset, self.batch_size, sampler=sampler, collate_fn=whole_batch)
        workers = min(self.num_workers, max(len(rows) - 1, 0) // self.batch_size)
        # Test and unseen images are read only once or twice, so they are not kept in memory.
        memory = _MEMORY // max(workers, 1) if part in ("train", "val") else 0
        images = self.images(rows, online=part == "train", memory=memory)
        images.import_operators()
        return DataLoader(
            images,
            self.batch_size,
            sampler=sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
        )


def _check_count(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SettingError(name, value, f"an integer of at least {least}")
