"""What a run adds to its chosen model for prediction: a temperature and an input gate."""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from covidnet.base.classes import ClassList
from covidnet.base.progress import progress_bar
from covidnet.data.loading.augment import ORIGINAL
from covidnet.data.loading.datamodule import FoldDataModule
from covidnet.data.reading.thumbnails import Thumbnails
from covidnet.evaluation.temperature import fit_temperature
from covidnet.gate.gate import InputGate
from covidnet.learning.module import ClassificationModule

log = logging.getLogger(__name__)

LEAST_IMAGES = 30
"""With fewer training images the gate applies only its fixed rules."""

# Images per backbone pass; 8 to 16 is best on a CPU.
_BATCH = 8


def temperature_of(predictions: pd.DataFrame, classes: ClassList) -> tuple[float | None, int]:
    """The temperature of a run, and the number of validation images that it was fitted on.

    Args:
        predictions: the table of predictions.csv.
        classes: of the run.
    """
    rows = predictions[predictions["split"] == "val"].reset_index(drop=True)
    return fit_temperature(rows, classes), len(rows)


def gate_of(
    module: ClassificationModule,
    datamodule: FoldDataModule,
    thumbnails: Thumbnails,
    *,
    seed: int = 0,
    progress: bool = True,
) -> InputGate | None:
    """The input gate of a run: fitted on its training images, its limits set by its validation images.

    Args:
        module: the chosen model.
        datamodule: its images. Stored features are used if the run used them.
        thumbnails: of the data set.
        seed: of the random samples.
        progress: whether a progress bar is drawn where features have to be computed.

    Returns:
        None with fewer than `LEAST_IMAGES` training images.
    """
    train = _part(module, datamodule, thumbnails, "train", progress)
    if len(train[0]) < LEAST_IMAGES:
        log.info("input gate: %d training images are too few to learn from; its rules alone apply", len(train[0]))
        return None
    held_out = _part(module, datamodule, thumbnails, "val", progress)
    pixels, features, aspects = train
    return InputGate.fit(
        pixels, features, held_out=held_out[:2] if len(held_out[0]) else None, aspects=aspects, seed=seed
    )


def _part(
    module: ClassificationModule, datamodule: FoldDataModule, thumbnails: Thumbnails, part: str, progress: bool
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Thumbnails, features and aspects of the images of a part, each once and without its copies."""
    rows = datamodule.rows[part]
    place = {image_id: n for n, image_id in enumerate(thumbnails.image_id)}
    plain = rows["image_id"].where((rows["operator"] == ORIGINAL) & rows["image_id"].isin(place))
    at = np.flatnonzero((plain.notna() & ~plain.duplicated()).to_numpy())
    small = [place[image_id] for image_id in rows["image_id"].iloc[at]]
    if part in datamodule.features:
        features = datamodule.features[part][at].numpy()
    else:
        features = _features(module, datamodule, rows.iloc[at].reset_index(drop=True), progress)
    return thumbnails.pixels[small], features.astype(np.float32), thumbnails.aspects[small]


def _features(
    module: ClassificationModule, datamodule: FoldDataModule, rows: pd.DataFrame, progress: bool
) -> npt.NDArray[np.float32]:
    images, classifier, device = datamodule.images(rows), module.classifier.eval(), module.device
    found = [torch.zeros(0, classifier.backbone.features_dim)]
    with progress_bar(progress) as bar, torch.no_grad():
        for start in bar.track(range(0, len(images), _BATCH), description="images of the input gate"):
            batch = [images[n]["image"] for n in range(start, min(start + _BATCH, len(images)))]
            tensors = torch.stack(batch).to(device, memory_format=torch.channels_last)
            found.append(classifier.features(tensors).float().cpu())
    return np.asarray(torch.cat(found).numpy(), np.float32)
