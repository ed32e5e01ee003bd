"""Datasets: films from files, or the features of films that a frozen backbone has seen already."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch.utils.data import Dataset

from covidnet.data.augment import ORIGINAL, Operators
from covidnet.data.images import read_image
from covidnet.data.transforms import Normalise, SquareFit
from covidnet.labels import CLASSES

Film = npt.NDArray[np.uint8]


class FilmDataset(Dataset[dict[str, Any]]):
    """Films read from files, made square, augmented and normalised.

    An item is a dict of ``image`` float32 (C, H, W), ``label`` int64, ``image_id`` str and ``row`` int64 (the place in
    `rows`).

    Images are decoded here and not by `covidnet.data.decoders`: bytes with the manifest's sha256 were decoded within
    the limits when the manifest was made, and others are refused before they are decoded.

    Args:
        rows: one per item: image_id, path, label, operator, sha256; without a hash an image is refused.
        root: the folder that path is relative to.
        fit: makes a film square.
        normalise: makes it the network's input.
        operators: what the names in the column operator mean.
        online: random augmentation of film and seed, on top; None for none.
        seed: of the random augmentation, which depends on it, the epoch and the place alone.
        reading: keyword arguments of `read_image`.
        memory: bytes of finished films that are kept in this process after their first reading. A network that is
            trained whole sees every film in every epoch, and reading one takes longer than a small network does.
    """

    def __init__(
        self,
        rows: pd.DataFrame,
        root: Path,
        *,
        fit: SquareFit,
        normalise: Normalise,
        operators: Operators | None = None,
        online: Callable[[Film, int], Film] | None = None,
        seed: int = 0,
        reading: dict[str, Any] | None = None,
        memory: int = 0,
    ) -> None:
        self.image_ids = list(rows["image_id"])
        self.paths = list(rows["path"])
        self.sha256 = [str(sha256) for sha256 in rows["sha256"]]
        self.operators_of_rows = list(rows["operator"]) if "operator" in rows else [ORIGINAL] * len(rows)
        self.labels = [CLASSES.index(label) for label in rows["label"]]
        self.root = root
        self.fit = fit
        self.normalise = normalise
        self.operators = operators or Operators()
        self.online = online
        self.seed = seed
        self.reading = reading or {}
        self.memory = memory
        self._kept: dict[tuple[str, str], Film] = {}
        self._last: tuple[str, Film] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        # Every key is allowed below, so that Python's own way of going through a sequence would not end.
        return (self[index] for index in range(len(self)))

    def __getitem__(self, key: int) -> dict[str, Any]:
        # See `EpochShuffle`: the epoch is in the key.
        epoch, index = divmod(int(key), len(self.paths))
        film = self._film(index)
        if self.online is not None:
            # From no generator: those of workers that live on are not what they would be in a run that was resumed.
            film = self.online(film, int(np.random.SeedSequence([self.seed, epoch, index]).generate_state(1)[0] >> 1))
        return {
            "image": torch.from_numpy(self.normalise(film)),
            "label": self.labels[index],
            "image_id": self.image_ids[index],
            "row": index,
        }

    def _film(self, index: int) -> Film:
        """The square film under its fixed operator, from memory where it is kept."""
        key = (self.sha256[index], self.operators_of_rows[index])
        if key in self._kept:
            return self._kept[key]
        film = self.operators.apply(key[1], self._square(index))
        # All films are of one size, so that their number tells the bytes.
        if (len(self._kept) + 1) * film.nbytes <= self.memory:
            self._kept[key] = film
        return film

    def _square(self, index: int) -> Film:
        # A film and its copies stand side by side in a feature pass: it is read and decoded once for all of them.
        sha256 = self.sha256[index]
        if self._last is None or self._last[0] != sha256:
            film = read_image(self.root / self.paths[index], sha256=sha256, **self.reading)
            self._last = (sha256, self.fit(film))
        return self._last[1]


class FeatureDataset(Dataset[dict[str, Any]]):
    """Features of films, kept in memory; a whole batch is one indexing operation.

    A batch is a dict of ``features`` float32 (N, D), ``label`` int64 (N) and ``image_id``, an array of str (N).

    Args:
        features: (n, D), a row per film.
        rows: image_id and label, in the same order.
    """

    def __init__(self, features: torch.Tensor, rows: pd.DataFrame) -> None:
        self.features = features
        self.labels = torch.tensor([CLASSES.index(label) for label in rows["label"]], dtype=torch.int64)
        self.image_ids = np.array(rows["image_id"], dtype=object)

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        """A whole batch; `whole_batch` keeps the loader from taking it apart."""
        chosen = torch.as_tensor(indices) % len(self.labels)
        return {
            "features": self.features[chosen],
            "label": self.labels[chosen],
            # No list: Lightning looks for tensors in every item of one, which takes a tenth of a head's training.
            "image_id": self.image_ids[chosen.numpy()],
        }


def whole_batch(batch: Any) -> Any:
    """The collate function of `FeatureDataset`: its batches are made already."""
    return batch
