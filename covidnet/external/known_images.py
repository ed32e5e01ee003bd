"""The images of a model's training study, and which of them are in another data set."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from covidnet.base.errors import CovidnetError, SettingError
from covidnet.data.collection.image_table import ImageTable
from covidnet.data.collection.prepared import read_split
from covidnet.data.folds.splits import UNSEEN_FOLD
from covidnet.data.reading.thumbnails import SIDE
from covidnet.data.recognition.overlap import SAME_FILE, ImageSet, find_overlap
from covidnet.data.recognition.training_images import FILE, PARTS, SHAPING, TrainingImages, read_training_images
from covidnet.serving.checkpoint_path import ONNX, choose_runs

log = logging.getLogger(__name__)

OVERLAP_COLUMNS = ("path", "image_id", "label", "training_image_id", "part", "kind", "similarity")
"""Columns of overlap.csv. part: of the training study; images of ``train`` and ``val`` influenced the model."""

_DIGITS = 16  # of the sha256 in an image_id


@dataclass(frozen=True)
class KnownImages:
    """The images of the training study, from the run folders of some models.

    Args:
        images: images with stored pixels, each once. With several models, ``train`` or ``val`` of any model takes
            precedence as the part.
        files: the part of the images known only by file, by the first digits of their sha256.
        folders: the run folders; empty if the models are not in any.
        recognising: how many run folders store pixels of their images.
        listing: how many of the others list their images in a split.csv.
    """

    images: TrainingImages
    files: dict[str, str]
    folders: Sequence[Path]
    recognising: int
    listing: int

    @property
    def how(self) -> str:
        """How images are recognised.

        ``films``: by their pixels, even if changed; ``files``: for some models only identical files; ``no``: for some
        models the images are unknown.
        """
        if not self.folders or self.recognising + self.listing < len(self.folders):
            return "no"
        return "films" if self.recognising == len(self.folders) else "files"

    @property
    def problem(self) -> str:
        """Why the search is incomplete, and the remedy; empty if it is complete."""
        if self.how == "films":
            return ""
        if not self.folders:
            return (
                "The model is not in a run folder, so its training images are unknown: give the run folder or the "
                "sweep folder that it comes from."
            )
        lacking = len(self.folders) - self.recognising
        which = f"{lacking} of {len(self.folders)} run folders have" if len(self.folders) > 1 else "The run folder has"
        text = f"{which} no {FILE} (runs before this release have none): "
        if self.how == "files":
            return text + "only identical files were searched for. Train again for a complete search."
        return text + "training images cannot be searched for. Train again, or keep split.csv with the checkpoint."

    def within(self, images: ImageTable, *, progress: bool = True) -> pd.DataFrame:
        """The images of a data set that are also in the training study.

        Args:
            images: the data set.
            progress: whether to draw a progress bar.

        Returns:
            One row per image found, columns `OVERLAP_COLUMNS`, in the order of the data set.
        """
        rows: dict[str, tuple[str, str, str, float]] = {}
        shaping = np.isin(self.images.part, SHAPING)
        # An image that matches both kinds counts as one used for training or validation.
        for known in (shaping, ~shaping):
            if known.any():
                rows |= self._among(images, self.images.only(known), set(rows), progress)
        for image_id in images.images["image_id"]:
            part, digits = self.files.get(image_id[:_DIGITS]), image_id[:_DIGITS]
            if part is not None and (image_id not in rows or (part in SHAPING and rows[image_id][1] not in SHAPING)):
                rows[image_id] = (digits, part, SAME_FILE, 1.0)
        columns = [images.images[name] for name in ("path", "image_id", "label")]
        body = [(*image, *rows[image[1]]) for image in zip(*columns, strict=True) if image[1] in rows]
        return pd.DataFrame(body, columns=list(OVERLAP_COLUMNS))

    @staticmethod
    def _among(
        images: ImageTable, known: TrainingImages, found: set[str], progress: bool
    ) -> dict[str, tuple[str, str, str, float]]:
        left = [n for n, image_id in enumerate(images.thumbnails.image_id) if image_id not in found]
        ids = [images.thumbnails.image_id[n] for n in left]
        hashes = dict(zip(images.images["image_id"], images.images["sha256"], strict=True))
        here = ImageSet(np.array([hashes[image_id] for image_id in ids], dtype=np.str_), images.thumbnails.pixels[left])
        table = find_overlap(here, ImageSet(known.sha256, known.pixels), progress=progress)
        return {
            ids[image]: (str(known.image_id[other]), str(known.part[other]), str(kind), float(similarity))
            for image, other, kind, similarity in table.to_numpy().tolist()
        }


def known_images(models: Sequence[Path]) -> KnownImages:
    """The known images of the run folders of models.

    Args:
        models: checkpoints, or one exported model in its run or sweep folder.
    """
    folders = _run_folders(models)
    found, files, listing = [], dict[str, str](), 0
    for folder in folders:
        images = read_training_images(folder)
        if images is not None:
            found.append(images)
            continue
        listed = _listed(folder)
        listing += bool(listed)
        for digits, part in listed.items():
            files[digits] = min(part, files.get(digits, part), key=PARTS.index)
    return KnownImages(_together(found), files, folders, len(found), listing)


def _run_folders(models: Sequence[Path]) -> list[Path]:
    folders = []
    for model in models:
        home = model.resolve().parent
        if model.suffix == ONNX:
            runs = sorted(file.parents[1] for file in home.glob("fold=*/checkpoints/best.ckpt"))
            folders += _exported_runs(runs, model) or [home]
        else:
            folders.append(home.parent if home.name == "checkpoints" else home)
    known = any((folder / name).exists() for folder in folders for name in (FILE, "predictions.csv"))
    return folders if known else []


def _exported_runs(runs: list[Path], model: Path) -> list[Path]:
    """The runs of a sweep that an exported model contains: ``model-seed=1.onnx`` has only some of them."""
    try:
        return choose_runs(runs, model.stem.partition("-")[2] if model.stem.startswith("model-") else "", "")
    except SettingError:
        # A custom name: search the images of all runs, which misses none.
        return runs


def _together(found: Sequence[TrainingImages]) -> TrainingImages:
    if not found:
        empty = np.array([], dtype=np.str_)
        return TrainingImages(empty, empty, empty, np.zeros((0, SIDE, SIDE), np.uint8))
    image_id, part, sha256, pixels = (np.concatenate(column) for column in zip(*found, strict=True))
    rank = np.array([PARTS.index(one) if one in PARTS else len(PARTS) for one in part.tolist()])
    # For an image known to several models, train or val takes precedence.
    order = np.lexsort((np.arange(len(rank)), rank, image_id))
    first = np.concatenate([[True], image_id[order][1:] != image_id[order][:-1]])
    return TrainingImages(image_id, part, sha256, pixels).only(order[first])


def _listed(folder: Path) -> dict[str, str]:
    """The part of each image in a run's split.csv by the first digits of its file's hash."""
    try:
        split = read_split(folder / "split.csv")
    except (CovidnetError, OSError, ValueError):
        return {}
    fold = _fold(folder)
    found: dict[str, str] = {}
    for image_id, number in zip(split["image_id"], split["fold"], strict=True):
        if number >= 0:
            part = "unseen" if number == UNSEEN_FOLD else "test" if number == fold else "train"
            digits = str(image_id)[:_DIGITS]
            found[digits] = min(part, found.get(digits, part), key=PARTS.index)
    return found


def _fold(folder: Path) -> int | None:
    """The test fold of a run; None if unknown, and then no image counts as one of the test fold."""
    try:
        return int(json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["fold"])
    except (OSError, ValueError, KeyError, TypeError):
        match = re.match(r"fold=(\d+)", folder.name)
        return int(match[1]) if match else None
