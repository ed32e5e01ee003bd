"""The films that a model has seen, and which of them are in another data set."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from covidnet.checkpoint_path import ONNX, choose_runs
from covidnet.data.film_table import FilmTable
from covidnet.data.overlap import SAME_FILE, FilmSet, find_overlap
from covidnet.data.splits import UNSEEN_FOLD
from covidnet.data.study import read_split
from covidnet.data.thumbnails import SIDE
from covidnet.data.training_films import FILE, PARTS, SHAPING, TrainingFilms, read_training_films
from covidnet.errors import CovidnetError, SettingError

log = logging.getLogger(__name__)

OVERLAP_COLUMNS = ("path", "image_id", "label", "training_image_id", "part", "kind", "similarity")
"""Columns of overlap.csv. part: of the training study; a film of ``train`` or ``val`` shaped the model."""

_DIGITS = 16  # of sha256 in an image_id


@dataclass(frozen=True)
class KnownFilms:
    """What the run folders of some models tell of their films.

    Args:
        films: recognised by their pixels; each once. With several models the part is that of the model that it shaped.
        files: part of each film that is recognised by its file's bytes alone: the first digits of sha256.
        folders: of the models' runs; empty where the models lie outside of any.
        recognising: how many of them keep films that are recognised by their pixels.
        listing: how many of the others list their films in a split.csv.
    """

    films: TrainingFilms
    files: dict[str, str]
    folders: Sequence[Path]
    recognising: int
    listing: int

    @property
    def how(self) -> str:
        """How films are recognised.

        ``films``: in every guise; ``files``: those of some models by their bytes alone; ``no``: of some models no film
        is known.
        """
        if not self.folders or self.recognising + self.listing < len(self.folders):
            return "no"
        return "films" if self.recognising == len(self.folders) else "files"

    @property
    def problem(self) -> str:
        """Why not all could be looked for, and what to do; empty where it could."""
        if self.how == "films":
            return ""
        if not self.folders:
            return (
                "The model lies in no run folder, so that its training films are not known: give the run folder or the "
                "sweep folder that it comes from."
            )
        lacking = len(self.folders) - self.recognising
        told = f"{lacking} of {len(self.folders)} run folders hold" if len(self.folders) > 1 else "The run folder holds"
        text = f"{told} no {FILE} (runs before this release have none): "
        if self.how == "files":
            return text + "of their films the same files alone were looked for. Train again to have all of it."
        return text + "training films could not be looked for. Train again, or keep split.csv with the checkpoint."

    def within(self, films: FilmTable, *, progress: bool = True) -> pd.DataFrame:
        """Films of a data set that are films of the training study.

        Args:
            films: the data set.
            progress: whether a progress bar is drawn.

        Returns:
            One row per film that is found, columns `OVERLAP_COLUMNS`, in the order of the data set.
        """
        rows: dict[str, tuple[str, str, str, float]] = {}
        shaping = np.isin(self.films.part, SHAPING)
        # A film that is like one of each is told of as one that shaped the model.
        for known in (shaping, ~shaping):
            if known.any():
                rows |= self._among(films, self.films.only(known), set(rows), progress)
        for image_id in films.films["image_id"]:
            part, digits = self.files.get(image_id[:_DIGITS]), image_id[:_DIGITS]
            if part is not None and (image_id not in rows or (part in SHAPING and rows[image_id][1] not in SHAPING)):
                rows[image_id] = (digits, part, SAME_FILE, 1.0)
        columns = [films.films[name] for name in ("path", "image_id", "label")]
        body = [(*film, *rows[film[1]]) for film in zip(*columns, strict=True) if film[1] in rows]
        return pd.DataFrame(body, columns=list(OVERLAP_COLUMNS))

    @staticmethod
    def _among(
        films: FilmTable, known: TrainingFilms, found: set[str], progress: bool
    ) -> dict[str, tuple[str, str, str, float]]:
        left = [n for n, image_id in enumerate(films.thumbnails.image_id) if image_id not in found]
        ids = [films.thumbnails.image_id[n] for n in left]
        hashes = dict(zip(films.films["image_id"], films.films["sha256"], strict=True))
        here = FilmSet(np.array([hashes[image_id] for image_id in ids], dtype=np.str_), films.thumbnails.pixels[left])
        table = find_overlap(here, FilmSet(known.sha256, known.pixels), progress=progress)
        return {
            ids[film]: (str(known.image_id[other]), str(known.part[other]), str(kind), float(similarity))
            for film, other, kind, similarity in table.to_numpy().tolist()
        }


def known_films(models: Sequence[Path]) -> KnownFilms:
    """What lies in the run folders of models.

    Args:
        models: checkpoints, or one exported model that lies in its run or sweep folder.
    """
    folders = _run_folders(models)
    found, files, listing = [], dict[str, str](), 0
    for folder in folders:
        films = read_training_films(folder)
        if films is not None:
            found.append(films)
            continue
        listed = _listed(folder)
        listing += bool(listed)
        for digits, part in listed.items():
            files[digits] = min(part, files.get(digits, part), key=PARTS.index)
    return KnownFilms(_together(found), files, folders, len(found), listing)


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
    """Those of a sweep that an exported model is made of: ``model-seed=1.onnx`` has some of them."""
    try:
        return choose_runs(runs, model.stem.partition("-")[2] if model.stem.startswith("model-") else "", "")
    except SettingError:
        # A name of the user's own: to look among the films of all runs misses none.
        return runs


def _together(found: Sequence[TrainingFilms]) -> TrainingFilms:
    if not found:
        empty = np.array([], dtype=np.str_)
        return TrainingFilms(empty, empty, empty, np.zeros((0, SIDE, SIDE), np.uint8))
    image_id, part, sha256, pixels = (np.concatenate(column) for column in zip(*found, strict=True))
    rank = np.array([PARTS.index(one) if one in PARTS else len(PARTS) for one in part.tolist()])
    # Of a film that several models know that part comes first which shaped one of them.
    order = np.lexsort((np.arange(len(rank)), rank, image_id))
    first = np.concatenate([[True], image_id[order][1:] != image_id[order][:-1]])
    return TrainingFilms(image_id, part, sha256, pixels).only(order[first])


def _listed(folder: Path) -> dict[str, str]:
    """The part of each film in a run's split.csv by the first digits of its file's hash."""
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
    """The test fold of a run; None where nothing tells it, and then no film counts as one of the test fold."""
    try:
        return int(json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["fold"])
    except (OSError, ValueError, KeyError, TypeError):
        match = re.match(r"fold=(\d+)", folder.name)
        return int(match[1]) if match else None
