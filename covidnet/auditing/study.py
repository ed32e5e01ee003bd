"""What the checks of an audit look at: a data set and, if there is one, a sweep on it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.base.classes import DEFAULT_CLASSES, ClassList, key_of
from covidnet.base.errors import CovidnetError
from covidnet.data.collection.image_table import ImageTable
from covidnet.data.recognition.overlap import ImageSet, find_copies
from covidnet.evaluation.bootstrap import RESAMPLES, cluster_codes
from covidnet.evaluation.intervals import proportion_interval
from covidnet.evaluation.results import Interval
from covidnet.sweep.folder import Sweep, read_sweep

# Pixels of a thumbnail that become one.
_SMALL = 4


class NotPossibleError(Exception):
    """A check cannot run; the text says why."""


@dataclass(frozen=True)
class Inputs:
    """What a closed-form classifier is fitted to.

    Args:
        features: (n, length) float32, one row for each image.
        rows: (n,) the row of `Study.images` of each.
        name: what they are, in words.
        stored: whether they are features of a backbone, from the feature store.
    """

    features: npt.NDArray[np.float32]
    rows: npt.NDArray[np.intp]
    name: str
    stored: bool


@dataclass(frozen=True)
class Study:
    """A data set and a sweep on it; a check takes what it needs.

    Args:
        table: the data set; None if it cannot be read.
        columns: further columns of the table that describes the images, such as sex and age, one row for each row of
            ``table.images``; unknown is NaN.
        sweep_dir: the folder of a sweep, or of a run; None without one.
        classes: of the data set.
        why_no_images: why `table` is None.
        masks: the folder of masks (``data.masks``); None for ``masks`` beside the images, if there is one.
        prevalences: shares of the positive class for which predictive values are computed.
        sensitivity: the sensitivity for which a threshold is chosen.
        published: a CSV file of published numbers; None without one.
        resamples: number of bootstrap resamples and of permutations.
        seed: of all that is random.
        progress: whether progress bars are drawn.
        cache_dir: the folder of the feature store; None for none.
    """

    table: ImageTable | None
    columns: pd.DataFrame = field(default_factory=pd.DataFrame)
    sweep_dir: Path | None = None
    classes: ClassList = DEFAULT_CLASSES
    why_no_images: str = ""
    masks: str | None = None
    prevalences: Sequence[float] = (0.01, 0.05, 0.2)
    sensitivity: float = 0.95
    published: Path | None = None
    resamples: int = RESAMPLES
    seed: int = 0
    progress: bool = False
    cache_dir: Path | None = None

    @property
    def data(self) -> ImageTable:
        """The data set.

        Raises:
            NotPossibleError: it cannot be read.
        """
        if self.table is None:
            raise NotPossibleError(f"the images cannot be read: {self.why_no_images}")
        return self.table

    @property
    def images(self) -> pd.DataFrame:
        """The manifest's rows; see `data`."""
        return self.data.images

    @cached_property
    def patients(self) -> npt.NDArray[np.intp]:
        """(N,) the patient of each image as an integer; an image of unknown patient is its own."""
        return cluster_codes(self.images)

    @cached_property
    def folds(self) -> npt.NDArray[np.float64]:
        """(N,) the fold of each image in the sweep's split; NaN without a sweep, and for images that it lacks."""
        try:
            split = self.sweep.runs[0].split
        except NotPossibleError:
            split = None
        known = {} if split is None else dict(zip(split["image_id"], split["fold"], strict=True))
        return np.array([known.get(image_id, np.nan) for image_id in self.images["image_id"]], np.float64)

    @cached_property
    def thumbnail_rows(self) -> npt.NDArray[np.intp]:
        """The row of `images` that each thumbnail shows."""
        row = {image_id: n for n, image_id in enumerate(self.images["image_id"])}
        return np.array([row[image_id] for image_id in self.data.thumbnails.image_id], np.intp)

    @cached_property
    def inputs(self) -> Inputs:
        """The images' features in the feature store if it has all of them, or else thumbnails of 16x16 pixels.

        Of several stores the one of the sweep's backbone is taken, or else the newest.

        Raises:
            NotPossibleError: the images cannot be read.
        """
        # `crossval` has checks that need no features, and runs where nothing of PyTorch is installed.
        from covidnet.feature_store.store import FeatureStore, feature_key

        keys = [feature_key(sha256) for sha256 in self.images["sha256"]]
        try:
            weights = self.sweep.runs[0].environment.get("weights_sha256")
        except NotPossibleError:
            weights = None
        found: list[tuple[bool, float, FeatureStore, dict[str, Any]]] = []
        for file in (self.cache_dir / "features").glob("*/store.json") if self.cache_dir else ():
            try:
                described = json.loads(file.read_text(encoding="utf-8"))
                store = FeatureStore.at(file.parent)
            except (CovidnetError, OSError, ValueError):
                continue
            # Maps have a store of their own, and are too long for a closed form.
            if "output" not in described and all(key in store for key in keys):
                found.append((described.get("weights") == weights, file.stat().st_mtime, store, described))
        for _, _, store, described in sorted(found, key=lambda one: one[:2], reverse=True):
            values, present = store.read(keys)
            if present.all():
                name = f"stored features of {described.get('backbone') or 'an unknown backbone'}"
                return Inputs(values, np.arange(len(keys)), name, True)
        pixels = self.data.thumbnails.pixels
        side, by = pixels.shape[1] // _SMALL, _SMALL
        small = pixels.reshape(len(pixels), side, by, side, by).mean((2, 4), dtype=np.float32)
        name = f"thumbnails of {side}x{side} pixels (the feature store lacks the images)"
        return Inputs(small.reshape(len(pixels), -1), self.thumbnail_rows, name, False)

    @cached_property
    def copies(self) -> pd.DataFrame:
        """Pairs of images that show the same: rows ``image`` and ``other`` of `images`, ``kind``, ``similarity``."""
        small, place = self.data.thumbnails, self.thumbnail_rows
        hashes = self.images["sha256"].to_numpy(dtype=str)[place]
        pairs = find_copies(ImageSet(hashes, small.pixels), progress=self.progress)
        return pairs.assign(image=place[pairs["image"]], other=place[pairs["other"]])

    @cached_property
    def sweep(self) -> Sweep:
        """The sweep.

        Raises:
            NotPossibleError: there is none, or it cannot be read.
        """
        folder = self._folder()
        try:
            return read_sweep(folder)
        except CovidnetError as error:
            raise NotPossibleError(str(error)) from None

    @cached_property
    def run_folders(self) -> list[Path]:
        """The folders of the sweep's finished runs, by name.

        Raises:
            NotPossibleError: there is no sweep, or it has none.
        """
        folder = self._folder()
        found = [folder] if (folder / "predictions.csv").is_file() else []
        found += sorted(file.parent for file in folder.glob("*/predictions.csv"))
        if not found:
            raise NotPossibleError(f"{folder} has no run with a predictions.csv")
        return found

    def share(self, hits: npt.ArrayLike) -> tuple[float | None, Interval | None]:
        """The share of images for which something is true, with its interval.

        Args:
            hits: (N,) bool.
        """
        of = np.asarray(hits, bool)
        return (float(of.mean()), proportion_interval(of, self.patients)) if len(of) else (None, None)

    def paths(self, rows: Sequence[int] | npt.NDArray[np.intp]) -> tuple[str, ...]:
        """The paths of some rows of `images`, each once, in the order given."""
        return tuple(dict.fromkeys(self.images["path"].iloc[list(rows)].tolist()))

    def column(self, *names: str) -> pd.Series | None:
        """The first column of the table with one of these names, ignoring case, spaces and punctuation.

        Args:
            names: lower-case letters and digits only.

        Returns:
            Text on the index of `images`, unknown is NaN; None if there is no such column.
        """
        for name in names:
            for column in self.columns:
                if key_of(str(column)) == name:
                    return self.columns[column].set_axis(self.images.index)
        return None

    def _folder(self) -> Path:
        if self.sweep_dir is None:
            raise NotPossibleError("there is no sweep; give sweep_dir=DIR")
        if not self.sweep_dir.is_dir():
            raise NotPossibleError(f"sweep_dir={self.sweep_dir}: no such folder")
        return self.sweep_dir
