"""training_images.npz of a run folder: fingerprints to recognise a model's training images in another data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.data.reading.thumbnails import SIDE, Thumbnails, read_arrays, write_arrays

FILE = "training_images.npz"
"""In the run folder. It has no paths or patients, but thumbnails: share it only as you would share the images."""

_FORMER_FILE = "training_films.npz"

PARTS = ("train", "val", "test", "unseen")
"""Parts of a run's images. ``train`` and ``val`` shaped the model: val selected its checkpoint."""

SHAPING = ("train", "val")
"""The parts that the model was fitted to or selected by."""


class TrainingImages(NamedTuple):
    """The images of one run, N of them, each once.

    Attributes:
        image_id: (N,) of the study's manifest.
        part: (N,) one of `PARTS`; the first of them if an image is in several.
        sha256: (N,) hash of the file's bytes, hexadecimal.
        pixels: (N, 64, 64) uint8 thumbnails.
    """

    image_id: npt.NDArray[np.str_]
    part: npt.NDArray[np.str_]
    sha256: npt.NDArray[np.str_]
    pixels: npt.NDArray[np.uint8]

    def only(self, chosen: npt.NDArray[Any]) -> TrainingImages:
        """Some of the images.

        Args:
            chosen: (N,) bool, or indices of images.
        """
        return TrainingImages(self.image_id[chosen], self.part[chosen], self.sha256[chosen], self.pixels[chosen])


def write_training_images(run_folder: Path, rows: Mapping[str, pd.DataFrame], thumbnails: Thumbnails) -> Path:
    """Write a run's training_images.npz, whole or not at all.

    Args:
        run_folder: of the run; it must exist.
        rows: the images of each of `PARTS`, with image_id and sha256; an image may have several rows (copies).
        thumbnails: of the study. An image without one is left out.

    Returns:
        The file.

    Raises:
        WriteError: the file cannot be written; an old file is unchanged.
    """
    tables = [rows[part][["image_id", "sha256"]].assign(part=part) for part in PARTS if part in rows]
    known = {image_id: n for n, image_id in enumerate(thumbnails.image_id)}
    images = pd.concat(tables).drop_duplicates("image_id")
    images = images[images["image_id"].isin(known)]
    file = run_folder / FILE
    write_arrays(
        file,
        **{name: np.array(images[name].tolist(), dtype=np.str_) for name in ("image_id", "part", "sha256")},
        pixels=thumbnails.pixels[[known[image_id] for image_id in images["image_id"]]],
    )
    return file


def read_training_images(run_folder: Path) -> TrainingImages | None:
    """A run's images; None if the run, as older ones, has no such file, or if it is damaged (logged).

    Args:
        run_folder: of the run.
    """
    file = run_folder / FILE
    arrays = read_arrays(file if file.is_file() else run_folder / _FORMER_FILE)
    if arrays is None or not set(TrainingImages._fields) <= set(arrays):
        return None
    found = TrainingImages(*(arrays[name] for name in TrainingImages._fields))
    count = len(found.image_id)
    fits = found.pixels.shape == (count, SIDE, SIDE) and found.pixels.dtype == np.uint8
    return found if fits and len(found.part) == len(found.sha256) == count else None
