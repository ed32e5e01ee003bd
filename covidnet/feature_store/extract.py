"""One pass of the frozen backbone over the distinct inputs of a fold, through Lightning's predict loop."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pandas as pd
import PIL
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor, nn
from torch.utils.data import DataLoader

from covidnet import __version__
from covidnet.base.errors import StoreError
from covidnet.base.progress import available_cores, progress_bar, rate
from covidnet.data.loading.augment import ORIGINAL, Augmentation
from covidnet.data.loading.datamodule import FoldDataModule
from covidnet.data.loading.dataset import FeatureMatrix, FeatureRows, ImageDataset
from covidnet.data.loading.transforms import Normalise, SquareFit
from covidnet.data.reading.images import READING
from covidnet.feature_store.store import FeatureStore, feature_key

log = logging.getLogger(__name__)

# Inputs per segment of the store: a killed job loses at most this much work.
SEGMENT = 256

# Seconds between two log lines if no progress bar is drawn.
_LOG_SECONDS = 60.0


def store_description(images: ImageDataset, backbone: str, weights_hash: str, engine: str = "torch") -> dict[str, Any]:
    """Everything a feature depends on besides the image's bytes and its operator.

    Args:
        images: a dataset, for its transforms.
        backbone: the network's name.
        weights_hash: hash of its parameters and buffers.
        engine: what runs it. Engines agree only to 1e-4, and results must not depend on which one ran first.
    """
    return description_of(images.fit, images.normalise, backbone, weights_hash, engine)


def description_of(
    fit: SquareFit, normalise: Normalise, backbone: str, weights_hash: str, engine: str
) -> dict[str, Any]:
    """Like `store_description`, from the transforms themselves."""
    return {
        # Our own versions too: a release may read images differently.
        "reading": {
            "name": "read_image",
            "covidnet": __version__,
            "version": READING,
            "pillow": PIL.__version__,
        },
        "transforms": [fit.describe(), normalise.describe()],
        "backbone": backbone,
        "weights": weights_hash,
        "precision": "float32",
        "engine": engine,
    }


def input_keys(rows: pd.DataFrame, operators: Augmentation) -> list[bytes]:
    """The store's key of every row: its file's hash and the operator with the operator's parameters."""
    # An original does not depend on the operators' magnitudes, so all augmentations share it.
    described = {name: str({"operator": name, **operators.describe()}) for name in set(rows["operator"]) - {ORIGINAL}}
    described[ORIGINAL] = ORIGINAL
    pairs = zip(rows["sha256"], rows["operator"], strict=True)
    return [feature_key(sha256, described[operator]) for sha256, operator in pairs]


def fold_features(
    datamodule: FoldDataModule,
    engine: Callable[[], nn.Module],
    store: FeatureStore,
    *,
    batch_size: int = 16,
    progress: bool = True,
    trainer: Mapping[str, Any] | None = None,
    matrix: FeatureMatrix | None = None,
) -> dict[str, FeatureRows]:
    """The features of every row of a fold; missing ones are computed and added to the store.

    Args:
        datamodule: the fold.
        engine: returns a module from images (N, C, H, W) to features (N, D), in eval mode; called only if needed.
        store: where features are kept.
        batch_size: images per backbone pass; 8 to 16 is best on a CPU.
        progress: whether a progress bar is drawn.
        trainer: accelerator, devices, num_nodes and strategy of the pass; other trainer settings are ignored.
        matrix: what other folds have read from this store, to which this one adds; None for a fold alone.

    Returns:
        float32 (n, D) for each part of the fold that is read, with one row per row of ``datamodule.rows[part]``.

    Raises:
        ImageRefusedError: an image cannot be read.
        StoreError: the store cannot be written, or what was written cannot be read back.
        WriteError: the disk is full; features computed before are kept.
    """
    inputs = datamodule.distinct_inputs
    operators = datamodule.images(inputs).operators
    keys = input_keys(inputs, operators)
    shared, matrix = matrix is not None, matrix or FeatureMatrix(store.dim)
    lacking = matrix.lacking(keys)
    vectors, found = store.read(lacking)
    if not found.all():
        fill_store(inputs, datamodule.images, engine, store, batch_size=batch_size, progress=progress, trainer=trainer)
        vectors, _ = store.read(lacking)
    matrix.add(lacking, vectors, room=len(store) if shared else 0)
    return {
        part: matrix.rows(input_keys(rows, operators))
        for part, rows in datamodule.rows.items()
        if part in datamodule.read_parts
    }


def fill_store(
    inputs: pd.DataFrame,
    images: Callable[[pd.DataFrame], ImageDataset],
    engine: Callable[[], nn.Module],
    store: FeatureStore,
    *,
    batch_size: int = 16,
    progress: bool = True,
    trainer: Mapping[str, Any] | None = None,
) -> int:
    """Compute the features missing from the store. Memory does not grow with the number of inputs.

    Args:
        inputs: distinct inputs: image_id, path, label, sha256, operator.
        images: returns the dataset of some of these rows.
        engine: as in `fold_features`.
        store: where features are kept.
        batch_size: as in `fold_features`.
        progress: as in `fold_features`.
        trainer: as in `fold_features`.

    Returns:
        How many features were computed here; another job may have computed the others.

    Raises:
        ImageRefusedError, StoreError, WriteError: as in `fold_features`.
    """
    # An image and its copies are adjacent, so that it is read once.
    inputs = inputs.sort_values(["sha256", "operator"], ignore_index=True)
    keys = input_keys(inputs, images(inputs.head(0)).operators)
    if store.holds(keys).all():
        # A complete store may belong to another user and be read-only, so it is not locked.
        return 0
    # Only the first process of a job takes the lock; the others work alongside it, each on its own share.
    with store.lock() if getattr(rank_zero_only, "rank", 0) == 0 else nullcontext():
        # Another job may have computed them while this one waited.
        store.refresh()
        lacking = np.flatnonzero(~store.holds(keys))
        if len(lacking):
            log.info("features: %d of %d distinct inputs to compute", len(lacking), len(keys))
            todo = images(inputs.iloc[lacking].reset_index(drop=True))
            with _waiting_threads():
                _compute(
                    store,
                    todo,
                    [keys[n] for n in lacking],
                    engine(),
                    batch_size=batch_size,
                    progress=progress,
                    trainer=trainer or {},
                )
    store.refresh()
    lost = np.count_nonzero(~store.holds(keys))
    if lost:
        raise StoreError(
            f"{store.folder}: {lost} of {len(keys)} features just written cannot be read back; "
            "check the disk, or give another cache_dir"
        )
    return len(lacking)


def _compute(
    store: FeatureStore,
    images: ImageDataset,
    keys: Sequence[bytes],
    backbone: nn.Module,
    *,
    batch_size: int,
    progress: bool,
    trainer: Mapping[str, Any],
) -> None:
    workers = min(max(available_cores() - 1, 0), (len(images) - 1) // (4 * batch_size))
    images.import_operators()
    loader = DataLoader(images, batch_size, num_workers=workers)
    runner = pl.Trainer(
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[_StoreWriter(store, keys, progress)],
        **{k: trainer[k] for k in ("accelerator", "devices", "num_nodes", "strategy") if k in trainer},
    )
    with _exact():
        runner.predict(_Extractor(backbone), loader, return_predictions=False)
    # Without it, a process that finishes early would miss what the others are still writing.
    runner.strategy.barrier()


@contextmanager
def _waiting_threads() -> Iterator[None]:
    """If parallel jobs share the cores, also use the cores of the jobs that wait for this one."""
    before = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("COVIDNET_CORES_ALONE") or before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _exact() -> Iterator[None]:
    """True float32: unless disabled, TF32 rounds convolutions on GPUs to 10 bits of mantissa."""
    rounded = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = rounded


class _Extractor(pl.LightningModule):
    """The backbone as Lightning's predict loop needs it; channels last, the faster layout on a CPU."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        images = batch["image"].to(memory_format=torch.channels_last)
        return self.backbone(images).float().cpu()


class _StoreWriter(pl.Callback):
    """Writes features to the store, segment by segment, and draws the progress bar."""

    def __init__(self, store: FeatureStore, keys: Sequence[bytes], progress: bool) -> None:
        self.store = store
        self.keys = keys
        self.bar = progress_bar(progress, unit="images")
        self.started = self.logged = time.monotonic()
        self.done = 0
        self.rows: list[int] = []
        self.vectors: list[np.ndarray] = []

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.bar.start()
        self.task = self.bar.add_task("features", total=len(self.keys))

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        self.rows += batch["row"].tolist()
        self.vectors.append(outputs.numpy())
        self.bar.update(self.task, advance=len(outputs))
        self.done += len(outputs)
        self._log_progress()
        if len(self.rows) >= SEGMENT:
            self._flush()

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._flush()
        self.bar.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.bar.stop()

    def _log_progress(self) -> None:
        """Log a line each minute if no progress bar is drawn."""
        now = time.monotonic()
        if not self.bar.disable or now - self.logged < _LOG_SECONDS or self.done >= len(self.keys):
            return
        self.logged = now
        speed = self.done / max(now - self.started, 1e-9)
        left = (len(self.keys) - self.done) / speed / 60
        log.info(
            "features: %d of %d images, %s images/s, about %.0f min left", self.done, len(self.keys), rate(speed), left
        )

    def _flush(self) -> None:
        if self.rows:
            self.store.append([self.keys[row] for row in self.rows], np.concatenate(self.vectors))
        self.rows, self.vectors = [], []
