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
from covidnet.data.augment import ORIGINAL, Operators
from covidnet.data.datamodule import FoldDataModule
from covidnet.data.dataset import FilmDataset
from covidnet.data.images import READING
from covidnet.data.transforms import Normalise, SquareFit
from covidnet.errors import StoreError
from covidnet.features.store import FeatureStore, feature_key
from covidnet.progress import available_cores, progress_bar, rate

log = logging.getLogger(__name__)

# Inputs per segment of the store: a killed job loses at most this much work.
SEGMENT = 256

# Between two lines of the log where no bar is drawn.
_TELL_SECONDS = 60.0


def store_description(films: FilmDataset, backbone: str, weights_hash: str, engine: str = "torch") -> dict[str, Any]:
    """Everything a feature depends on beside the image's bytes and its operator.

    Args:
        films: a dataset, for its transforms.
        backbone: the network's name.
        weights_hash: hash of its parameters and buffers.
        engine: what runs it: engines agree to 1e-4, and a number must not depend on which of them was first.
    """
    return description_of(films.fit, films.normalise, backbone, weights_hash, engine)


def description_of(
    fit: SquareFit, normalise: Normalise, backbone: str, weights_hash: str, engine: str
) -> dict[str, Any]:
    """As `store_description`, from the transforms themselves."""
    return {
        # Our own versions too: a release may read films in another way.
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


def input_keys(rows: pd.DataFrame, operators: Operators) -> list[bytes]:
    """The store's key of every row: its file's hash and the operator with the operator's parameters."""
    # An original does not depend on the operators' magnitudes: every augmentation shares it.
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
) -> dict[str, Tensor]:
    """The features of every row of a fold; what the store does not hold is computed and added to it.

    Args:
        datamodule: the fold.
        engine: gives what maps images (N, C, H, W) to features (N, D), in eval mode; asked only if it is needed.
        store: where features are kept.
        batch_size: films per backbone pass; 8 to 16 is best on a CPU.
        progress: whether a progress bar is drawn.
        trainer: accelerator, devices, num_nodes and strategy of the pass; other settings of a trainer are passed over.

    Returns:
        For each part of the fold that is read a float32 tensor (n, D), a row per row of ``datamodule.rows[part]``.

    Raises:
        ImageRefusedError: a film cannot be read.
        StoreError: the store cannot be written, or does not give back what was written to it.
        WriteError: the disk is full; what was computed before is kept.
    """
    inputs = datamodule.distinct_inputs
    operators = datamodule.films(inputs).operators
    keys = input_keys(inputs, operators)
    vectors, found = store.read(keys)
    if not found.all():
        fill_store(inputs, datamodule.films, engine, store, batch_size=batch_size, progress=progress, trainer=trainer)
        vectors, _ = store.read(keys)
    place = {key: n for n, key in enumerate(keys)}
    return {
        part: torch.from_numpy(vectors[[place[key] for key in input_keys(rows, operators)]])
        for part, rows in datamodule.rows.items()
        if part in datamodule.read_parts
    }


def fill_store(
    inputs: pd.DataFrame,
    films: Callable[[pd.DataFrame], FilmDataset],
    engine: Callable[[], nn.Module],
    store: FeatureStore,
    *,
    batch_size: int = 16,
    progress: bool = True,
    trainer: Mapping[str, Any] | None = None,
) -> int:
    """Compute the features that the store does not hold. Memory does not grow with the number of inputs.

    Args:
        inputs: distinct inputs: image_id, path, label, sha256, operator.
        films: the dataset of some of these rows.
        engine: as in `fold_features`.
        store: where features are kept.
        batch_size: as in `fold_features`.
        progress: as in `fold_features`.
        trainer: as in `fold_features`.

    Returns:
        How many were computed here; another job may have computed the others.

    Raises:
        ImageRefusedError, StoreError, WriteError: as in `fold_features`.
    """
    # A film and its copies stand side by side, so that it is read once.
    inputs = inputs.sort_values(["sha256", "operator"], ignore_index=True)
    keys = input_keys(inputs, films(inputs.head(0)).operators)
    if store.holds(keys).all():
        # A store that is complete may be another user's.
        return 0
    # Of the processes of one job the first alone takes the lock: the others work beside it, each on its own share.
    with store.lock() if getattr(rank_zero_only, "rank", 0) == 0 else nullcontext():
        # Another job may have computed them while this one waited.
        store.refresh()
        lacking = np.flatnonzero(~store.holds(keys))
        if len(lacking):
            log.info("features: %d of %d distinct inputs to compute", len(lacking), len(keys))
            todo = films(inputs.iloc[lacking].reset_index(drop=True))
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
    films: FilmDataset,
    keys: Sequence[bytes],
    backbone: nn.Module,
    *,
    batch_size: int,
    progress: bool,
    trainer: Mapping[str, Any],
) -> None:
    workers = min(max(available_cores() - 1, 0), (len(films) - 1) // (4 * batch_size))
    loader = DataLoader(films, batch_size, num_workers=workers)
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
    # A process that is done early would not find what the others still write.
    runner.strategy.barrier()


@contextmanager
def _waiting_threads() -> Iterator[None]:
    """Where jobs side by side share out the cores: take those of the jobs that wait for this one."""
    before = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("COVIDNET_CORES_ALONE") or before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _exact() -> Iterator[None]:
    """True float32: graphics cards round convolutions to 10 bits unless they are told not to."""
    rounded = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = rounded


class _Extractor(pl.LightningModule):
    """The backbone as Lightning's predict loop wants it; channels last, which is the CPU's fast layout."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        images = batch["image"].to(memory_format=torch.channels_last)
        return self.backbone(images).float().cpu()


class _StoreWriter(pl.Callback):
    """Hands features to the store, a segment at a time, and draws the bar."""

    def __init__(self, store: FeatureStore, keys: Sequence[bytes], progress: bool) -> None:
        self.store = store
        self.keys = keys
        self.bar = progress_bar(progress, unit="images")
        self.started = self.told = time.monotonic()
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
        self._tell()
        if len(self.rows) >= SEGMENT:
            self._flush()

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._flush()
        self.bar.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.bar.stop()

    def _tell(self) -> None:
        """Where no bar is drawn, a line in the log each minute."""
        now = time.monotonic()
        if not self.bar.disable or now - self.told < _TELL_SECONDS or self.done >= len(self.keys):
            return
        self.told = now
        speed = self.done / max(now - self.started, 1e-9)
        left = (len(self.keys) - self.done) / speed / 60
        log.info(
            "features: %d of %d images, %s images/s, about %.0f min left", self.done, len(self.keys), rate(speed), left
        )

    def _flush(self) -> None:
        if self.rows:
            self.store.append([self.keys[row] for row in self.rows], np.concatenate(self.vectors))
        self.rows, self.vectors = [], []
