"""Datasets: images from files, or features that a frozen backbone has already computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch.utils.data import Dataset

from covidnet.base.classes import DEFAULT_CLASSES, ClassList
from covidnet.data.loading.augment import ORIGINAL, Augmentation, Operators
from covidnet.data.loading.transforms import Normalise, SquareFit
from covidnet.data.reading.images import read_image

Radiograph = npt.NDArray[np.uint8]


class ImageDataset(Dataset[dict[str, Any]]):
    """Images read from files, made square, augmented and normalised.

    An item is a dict of ``image`` float32 (C, H, W), ``label`` int64, ``image_id`` str and ``row`` int64 (the position
    in `rows`).

    Images are decoded in this process, not by `covidnet.data.reading.decoders`. That is safe: files with the manifest's
    sha256 were decoded within the limits when the manifest was made, and all others are refused before decoding.

    Args:
        rows: one per item: image_id, path, label, operator, sha256; an image without a hash is refused.
        root: the folder that path is relative to.
        fit: makes an image square.
        normalise: turns it into the network's input.
        operators: what the names in the column operator mean.
        online: additional random augmentation, a function of image and seed; None for none.
        seed: of the random augmentation, which depends only on it, the epoch and the position.
        reading: keyword arguments of `read_image`.
        memory: bytes of transformed images to keep in this process after the first read. Training a whole network needs
            every image in every epoch, and reading an image takes longer than a small network takes to process it.
        classes: of the labels, in the order of the logits.
    """

    def __init__(
        self,
        rows: pd.DataFrame,
        root: Path,
        *,
        fit: SquareFit,
        normalise: Normalise,
        operators: Augmentation | None = None,
        online: Callable[[Radiograph, int], Radiograph] | None = None,
        seed: int = 0,
        reading: dict[str, Any] | None = None,
        memory: int = 0,
        classes: ClassList = DEFAULT_CLASSES,
    ) -> None:
        self.image_ids = list(rows["image_id"])
        self.paths = list(rows["path"])
        self.sha256 = [str(sha256) for sha256 in rows["sha256"]]
        self.operators_of_rows = list(rows["operator"]) if "operator" in rows else [ORIGINAL] * len(rows)
        self.labels = _numbers(rows["label"], classes)
        self.classes = classes
        self.root = root
        self.fit = fit
        self.normalise = normalise
        self.operators = operators or Operators()
        self.online = online
        self.seed = seed
        self.reading = reading or {}
        self.memory = memory
        self._kept: dict[tuple[str, str], Radiograph] = {}
        self._last: tuple[str, Radiograph] | None = None

    def import_operators(self) -> None:
        """Import what augmented images need before worker processes do: W&B's hooks on imports fail in a fork."""
        if self.online is not None or any(operator != ORIGINAL for operator in self.operators_of_rows):
            import albumentations  # noqa: F401

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        # __getitem__ accepts any key, so Python's default iteration over a sequence would never end.
        return (self[index] for index in range(len(self)))

    def __getitem__(self, key: int) -> dict[str, Any]:
        # See `EpochShuffle`: the epoch is in the key.
        epoch, index = divmod(int(key), len(self.paths))
        image = self._image(index)
        if self.online is not None:
            # Not from a generator: in persistent workers its state would differ from that of a resumed run.
            image = self.online(image, int(np.random.SeedSequence([self.seed, epoch, index]).generate_state(1)[0] >> 1))
        return {
            "image": torch.from_numpy(self.normalise(image)),
            "label": self.labels[index],
            "image_id": self.image_ids[index],
            "row": index,
        }

    def _image(self, index: int) -> Radiograph:
        """The square image after its fixed operator, from memory if it was kept."""
        key = (self.sha256[index], self.operators_of_rows[index])
        if key in self._kept:
            return self._kept[key]
        image = self.operators.apply(key[1], self._square(index))
        # All images have the same size, so their number gives the bytes.
        if (len(self._kept) + 1) * image.nbytes <= self.memory:
            self._kept[key] = image
        return image

    def _square(self, index: int) -> Radiograph:
        # In a feature pass an image and its copies are adjacent: it is read and decoded once for all of them.
        sha256 = self.sha256[index]
        if self._last is None or self._last[0] != sha256:
            image = read_image(self.root / self.paths[index], sha256=sha256, **self.reading)
            self._last = (sha256, self.fit(image))
        return self._last[1]


class FeatureMatrix:
    """Features by key, each once, for all parts of all folds that use them.

    Args:
        dim: D, the length of a vector.
    """

    def __init__(self, dim: int) -> None:
        self.vectors = torch.zeros(0, dim)
        self._rows: dict[bytes, int] = {}

    def lacking(self, keys: Iterable[bytes]) -> list[bytes]:
        """Those of some keys that have no vector yet, each once."""
        return [key for key in dict.fromkeys(keys) if key not in self._rows]

    def add(self, keys: Sequence[bytes], vectors: npt.NDArray[np.float32], room: int = 0) -> None:
        """Add the vectors (n, D) of n keys that have none.

        Args:
            keys: n keys.
            vectors: (n, D).
            room: how many vectors there will be in the end, if known: so many need no second copy.
        """
        before, after = len(self._rows), len(self._rows) + len(keys)
        if after > len(self.vectors):
            if not before and room <= after:
                self.vectors = torch.from_numpy(vectors)
            else:
                # The system gives memory only to what is written.
                larger = torch.from_numpy(np.empty((max(after, room), self.vectors.shape[1]), np.float32))
                larger[:before] = self.vectors[:before]
                self.vectors = larger
        self.vectors[before:after] = torch.from_numpy(vectors)
        self._rows.update((key, before + n) for n, key in enumerate(keys))

    def rows(self, keys: Iterable[bytes]) -> FeatureRows:
        """The features of some keys in their order, not copied."""
        return FeatureRows(self, torch.tensor([self._rows[key] for key in keys], dtype=torch.int64))


class FeatureRows:
    """Features (n, D) that are rows of a shared matrix; indexing copies.

    Args:
        matrix: has them.
        rows: (n) int64, which of its rows.
    """

    def __init__(self, matrix: FeatureMatrix, rows: torch.Tensor) -> None:
        self.matrix = matrix
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chosen: Any) -> torch.Tensor:
        return self.matrix.vectors[self.rows[chosen]]


class FeatureDataset(Dataset[dict[str, Any]]):
    """Features of images, kept in memory; a whole batch is one indexing operation.

    A batch is a dict of ``features`` float32 (N, D), ``label`` int64 (N) and ``image_id``, an array of str (N).

    Args:
        features: (n, D), one row per image.
        rows: image_id and label, in the same order.
        classes: of the labels, in the order of the logits.
    """

    def __init__(
        self, features: torch.Tensor | FeatureRows, rows: pd.DataFrame, classes: ClassList = DEFAULT_CLASSES
    ) -> None:
        self.features = features
        self.labels = torch.tensor(_numbers(rows["label"], classes), dtype=torch.int64)
        self.image_ids = np.array(rows["image_id"], dtype=object)

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        """A whole batch; `whole_batch` keeps the loader from collating it again."""
        chosen = torch.as_tensor(indices) % len(self.labels)
        return {
            "features": self.features[chosen],
            "label": self.labels[chosen],
            # Not a list: Lightning searches every item of one for tensors, which takes a tenth of a head's training.
            "image_id": self.image_ids[chosen.numpy()],
        }


def whole_batch(batch: Any) -> Any:
    """The collate function of `FeatureDataset`, whose batches are already collated."""
    return batch


def _numbers(labels: Iterable[str], classes: ClassList) -> list[int]:
    number = {label: at for at, label in enumerate(classes)}
    return [number[label] for label in labels]
