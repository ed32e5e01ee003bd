"""training_films.npz of a run folder: by what the films that a model has seen are recognised in another data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.data.thumbnails import SIDE, Thumbnails, read_arrays, write_arrays

FILE = "training_films.npz"
"""Lies in the run folder. It holds no path and no patient, but small pictures of films: it is shared as those are."""

PARTS = ("train", "val", "test", "unseen")
"""Parts of a run's films. Those of ``train`` and ``val`` shaped the model: val chose its checkpoint."""

SHAPING = ("train", "val")
"""What the model was fitted to or chosen by."""


class TrainingFilms(NamedTuple):
    """The films of one run, N of them, each once.

    Attributes:
        image_id: (N,) of the study's manifest.
        part: (N,) the part of the run's films, one of `PARTS`; the first of them where a film is in several.
        sha256: (N,) hash of the file's bytes, hexadecimal.
        pixels: (N, 64, 64) uint8 thumbnails.
    """

    image_id: npt.NDArray[np.str_]
    part: npt.NDArray[np.str_]
    sha256: npt.NDArray[np.str_]
    pixels: npt.NDArray[np.uint8]

    def only(self, chosen: npt.NDArray[Any]) -> TrainingFilms:
        """Some of the films.

        Args:
            chosen: (N,) bool, or numbers of films.
        """
        return TrainingFilms(self.image_id[chosen], self.part[chosen], self.sha256[chosen], self.pixels[chosen])


def write_training_films(run_folder: Path, rows: Mapping[str, pd.DataFrame], thumbnails: Thumbnails) -> Path:
    """Write a run's training_films.npz, whole or not at all.

    Args:
        run_folder: of the run; it must exist.
        rows: for each of `PARTS` its films with image_id and sha256; a film may have several rows (copies).
        thumbnails: of the study. A film without one is left out.

    Returns:
        The file.

    Raises:
        WriteError: the system refused; an old file is unchanged.
    """
    tables = [rows[part][["image_id", "sha256"]].assign(part=part) for part in PARTS if part in rows]
    known = {image_id: n for n, image_id in enumerate(thumbnails.image_id)}
    films = pd.concat(tables).drop_duplicates("image_id")
    films = films[films["image_id"].isin(known)]
    file = run_folder / FILE
    write_arrays(
        file,
        **{name: np.array(films[name].tolist(), dtype=np.str_) for name in ("image_id", "part", "sha256")},
        pixels=thumbnails.pixels[[known[image_id] for image_id in films["image_id"]]],
    )
    return file


def read_training_films(run_folder: Path) -> TrainingFilms | None:
    """A run's films; None where the run kept none, as before there was this file, or it is damaged (logged).

    Args:
        run_folder: of the run.
    """
    arrays = read_arrays(run_folder / FILE)
    if arrays is None or not set(TrainingFilms._fields) <= set(arrays):
        return None
    found = TrainingFilms(*(arrays[name] for name in TrainingFilms._fields))
    count = len(found.image_id)
    fits = found.pixels.shape == (count, SIDE, SIDE) and found.pixels.dtype == np.uint8
    return found if fits and len(found.part) == len(found.sha256) == count else None
