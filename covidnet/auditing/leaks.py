"""Leaks of the split, from split.csv and predictions.csv alone.

Nothing here is shared with the code that draws folds or writes these files: the files are read as text.
"""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from covidnet.auditing.finding import Answer, Finding
from covidnet.auditing.study import NotPossibleError, Study
from covidnet.base.names import counted
from covidnet.evaluation.intervals import proportion_interval

NAME = "leaks"

_UNSEEN, _TESTS = 10, range(10)

Rows = list[dict[str, str]]


def leaks(study: Study) -> Answer:
    """Verify every rule of the folds.

    An image is in one fold. So are the images of a patient, files with the same bytes, and detected copies. A run is
    tested on its test fold and scored on the unseen fold, whole and nothing else, with the labels of the split. It is
    validated on images of the other folds, none of whose patients is among its training images. All runs have the same
    split, and no image is tested twice.

    Raises:
        NotPossibleError: there is no sweep, or no run of it has a split.csv.
    """
    broken = _Broken()
    splits: dict[bytes, Rows] = {}
    tested: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    runs = [folder for folder in study.run_folders if (folder / "split.csv").is_file()]
    if not runs:
        raise NotPossibleError(f"no run of {study.sweep_dir} has a split.csv")
    for folder in runs:
        content = (folder / "split.csv").read_bytes()
        if content not in splits:
            splits[content] = _read(folder / "split.csv")
            _check_split(splits[content], broken)
        rows = _read(folder / "predictions.csv") + _read(folder / "unseen.csv")
        _check_run(folder, splits[content], rows, broken)
        # Runs that differ in more than the fold, such as its seed, test the same images.
        group = re.sub(r"fold=\d+,?", "", folder.name).strip(",")
        for image in {row["image_id"] for row in rows if row["split"] == "test"}:
            tested[group][image].append(folder.name)
    for names_of in tested.values():
        twice = sorted(image for image, names in names_of.items() if len(names) > 1)
        broken.add("twice", twice, names_of)
    if len(splits) > 1:
        broken.add("splits", [folder.name for folder in runs], [folder.name for folder in runs])
    rows = [row for split in splits.values() for row in split]
    notes = [
        f"{counted(len(runs), 'run')} with {counted(len(rows), 'row')} of split.csv verified against "
        f"{len(_RULES)} rules; {counted(len(broken.images), 'rule is', 'rules are')} broken."
    ]
    skipped = len(study.run_folders) - len(runs)
    if skipped:
        notes.append(f"{counted(skipped, 'run has', 'runs have')} no split.csv: not possible to verify.")
    return Answer(broken.findings(rows), {"leaks": broken.table()} if broken.images else {}, notes)


# Level, what was found, what it means, and what to do.
_SCORE = (
    "Images that resemble training images are scored as if they were new: every number of the sweep may be too high."
)
_AGAIN = "Draw the split again with covidnet prepare (split.group=patient+copies), and train again."
_REDO = "Run the folds concerned again; do not edit split.csv or predictions.csv."
_RULES: Mapping[str, tuple[str, str, str]] = {
    "fold": ("images have a fold other than -1 to 10", "It is unknown what these images were used for.", _REDO),
    "repeated": ("images are in split.csv more than once", _SCORE, _AGAIN),
    "patients": ("images belong to a patient who is in more than one fold", _SCORE, _AGAIN),
    "bytes": ("images have the same bytes as an image in another fold", _SCORE, _AGAIN),
    "copies": ("images are copies of an image in another fold", _SCORE, _AGAIN),
    "test": ("predictions of test images are of another fold", _SCORE, _REDO),
    "unseen": ("predictions of unseen images are not of fold 10", _SCORE, _REDO),
    "lacking": ("images of a test or unseen fold have no prediction", "Images were left out of the numbers.", _REDO),
    "labels": ("predictions have another label or patient than split.csv", "The numbers are of other labels.", _REDO),
    "validation": ("validation images are of the unseen fold or of no fold", _SCORE, _REDO),
    "inner": (
        "validation images belong to a patient who is also among the training images of the run",
        "Early stopping looked at images like those of training, so that it may have stopped too late.",
        _AGAIN,
    ),
    "selected": (
        "validation images are test images of the same run",
        "The test fold decided when training stopped: its numbers are of selected models and too high.",
        "Train with split.validation=inner.",
    ),
    "twice": ("images are tested by more than one run", "They count twice in the pooled numbers.", _REDO),
    "rows": ("images have more than one row for one split of a run", "They count twice in its numbers.", _REDO),
    "splits": ("runs do not share one split", "Their numbers are of different studies and must not be pooled.", _REDO),
}
_WEAKENS = ("inner", "lacking")


class _Broken:
    """The images that break each rule, and how many they are of."""

    def __init__(self) -> None:
        self.images: dict[str, dict[str, None]] = {}
        self.of: dict[str, dict[str, None]] = defaultdict(dict)

    def add(self, rule: str, images: Iterable[str], of: Iterable[str]) -> None:
        """Note images that break a rule, and all that it was verified for."""
        self.of[rule] |= dict.fromkeys(of)
        if found := dict.fromkeys(images):
            self.images[rule] = self.images.get(rule, {}) | found

    def findings(self, rows: Rows) -> list[Finding]:
        """A finding for each rule that is broken."""
        path = {row["image_id"]: row["path"] for row in rows}
        patient = {row["image_id"]: row["patient_id"] or f"image {row['image_id']}" for row in rows}
        found = []
        for rule, images in self.images.items():
            what, meaning, remedy = _RULES[rule]
            of = list(self.of[rule])
            hits = [image in images for image in of]
            interval = proportion_interval(hits, [patient.get(image, image) for image in of])
            where = tuple(path[image] for image in sorted(images) if image in path)
            text = f"{len(images):,} of {len(of):,} {what}."
            level = "weakens" if rule in _WEAKENS else "blocks"
            number = len(images) / len(of)
            found.append(Finding(NAME, level, text, number, interval, where, meaning, remedy))  # type: ignore[arg-type]
        return found

    def table(self) -> pd.DataFrame:
        """The rules and the images that break them."""
        rows = [(rule, _RULES[rule][0], image) for rule, images in self.images.items() for image in images]
        return pd.DataFrame(rows, columns=["rule", "what", "image_id"])


def _check_split(split: Rows, broken: _Broken) -> None:
    ids = [row["image_id"] for row in split]
    broken.add("fold", [row["image_id"] for row in split if _fold(row) not in range(-1, 11)], ids)
    broken.add(
        "repeated", [image for image in set(ids) if ids.count(image) > 1] if len(set(ids)) < len(ids) else [], ids
    )
    used = [row for row in split if _fold(row) >= 0]
    keys: dict[str, Callable[[dict[str, str]], str]] = {
        "patients": lambda row: row["patient_id"],
        # An image id starts with 16 digits of the file's hash; -2, -3 mark further files with the same bytes.
        "bytes": lambda row: row["image_id"].split("-")[0],
        "copies": lambda row: row.get("copy_of") or "",
    }
    for rule, key in keys.items():
        folds = defaultdict(set)
        for row in used:
            folds[key(row)].add(_fold(row))
        apart = [row["image_id"] for row in used if key(row) and len(folds[key(row)]) > 1]
        broken.add(rule, apart, [row["image_id"] for row in used])


def _check_run(folder: Path, split: Rows, rows: Rows, broken: _Broken) -> None:
    parts = {name: {row["image_id"]: row for row in rows if row["split"] == name} for name in ("val", "test", "unseen")}
    times = Counter((row["split"], row["image_id"]) for row in rows)
    broken.add("rows", [image for (_, image), n in times.items() if n > 1], [image for _, image in times])
    own = {_fold(row) for row in rows}
    fold = own.pop() if len(own) == 1 else -1
    of = {row["image_id"]: row for row in split}
    place = {image: _fold(row) for image, row in of.items()}
    wanted = {
        "test": {i for i, n in place.items() if n == fold},
        "unseen": {i for i, n in place.items() if n == _UNSEEN},
    }
    for name, images in wanted.items():
        broken.add(name, parts[name].keys() - images, parts[name])
        if name == "test" or parts[name]:  # a locked unseen fold has no predictions
            broken.add("lacking", images - parts[name].keys(), images)
    wrong = [
        row["image_id"]
        for row in rows
        if row["image_id"] in of and any(row[c] != of[row["image_id"]][c] for c in ("label", "patient_id"))
    ]
    broken.add("labels", wrong, [row["image_id"] for row in rows])
    val = parts["val"]
    selected = val.keys() & parts["test"].keys()
    broken.add("selected", selected, val)
    broken.add("validation", [image for image in val if place.get(image, -1) not in _TESTS], val)
    training = {image for image, n in place.items() if n in _TESTS and n != fold} - val.keys()
    trained = {of[image]["patient_id"] for image in training} - {""}
    inner = [image for image in val.keys() - selected if image in of and of[image]["patient_id"] in trained]
    broken.add("inner", inner, val)


def _fold(row: Mapping[str, str]) -> int:
    try:
        return int(row["fold"])
    except ValueError:
        return -2


def _read(file: Path) -> Rows:
    if not file.is_file():
        return []
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        rows = list(csv.DictReader(stream))
    needed: Sequence[str] = ("image_id", "path", "label", "patient_id", "fold", *(["split"] * (file.stem != "split")))
    if lacking := [name for name in needed if rows and name not in rows[0]]:
        raise NotPossibleError(f"{file}: no column {', '.join(lacking)}")
    return rows
