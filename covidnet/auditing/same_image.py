"""The same image again: in another fold, another published part, or under another patient."""

from __future__ import annotations

from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from covidnet.auditing.finding import Answer, Finding, Level
from covidnet.auditing.study import Study
from covidnet.base.names import counted
from covidnet.data.recognition.overlap import named_copies

NAME = "same_image"

_PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("val", "valid", "validation"), "val"
)


def same_image(study: Study) -> Answer:
    """Find images that occur more than once, however changed, and say what the copies connect.

    Raises:
        NotPossibleError: the images cannot be read.
    """
    images, pairs = study.images, study.copies
    a, b = (pairs[name].to_numpy(np.intp) for name in ("image", "other"))
    patient = images["patient_id"].to_numpy(object)
    known = images["patient_id"].notna().to_numpy(bool)
    part = np.array([part_of(path) for path in images["path"]], dtype=str)
    label = images["label"].to_numpy(str)
    folds = study.folds[a], study.folds[b]
    across_folds = (folds[0] >= 0) & (folds[1] >= 0) & (folds[0] != folds[1])
    across_parts = (part[a] != "") & (part[b] != "") & (part[a] != part[b])
    across_patients = known[a] & known[b] & (patient[a] != patient[b])
    kinds: list[tuple[Level, npt.NDArray[np.bool_], str, str, str]] = [
        (
            "blocks", across_folds, "in two folds of the sweep",
            "The same image is in training and test: every number of the sweep may be too high.",
            "Draw the split again with split.group=patient+copies, and train again.",
        ),
        (
            "weakens", across_parts, "in two of the published parts (train, val, test)",
            "A score on the published test images is partly one on training images.",
            "Leave the copies out of the test images, or use the folds of covidnet prepare.",
        ),
        (
            "weakens", across_patients, "under two patients",
            "There are fewer patients than ids, and intervals that take ids for patients are too narrow.",
            "Look at the pairs; delete one of each, or give both the same patient_id.",
        ),
    ]  # fmt: skip
    rest = ~(across_folds | across_parts | across_patients)
    kinds.append((
        "information", rest, "within one patient, or of unknown patients",
        "Copies are not new evidence. covidnet prepare keeps them in one fold (split.group=patient+copies). "
        "Two exposures of one patient taken shortly after each other can look the same and are listed too.",
        "Delete all but one of each.",
    ))  # fmt: skip
    findings = []
    for level, chosen, where, meaning, remedy in kinds:
        if not chosen.any():
            continue
        worst = np.flatnonzero(chosen)[np.argsort(-pairs["similarity"].to_numpy()[chosen], kind="stable")]
        rows = np.stack([a[worst], b[worst]], 1).ravel()
        number, interval = study.share(np.isin(np.arange(len(images)), rows))
        classes = int((label[a] != label[b])[chosen].sum())
        mixed = f", {classes:,} of them in two classes" if classes else ""
        concerned = counted(len(set(rows.tolist())), "image")
        what = f"{counted(int(chosen.sum()), 'pair')} of copies {where}{mixed}; {concerned} concerned."
        findings.append(Finding(NAME, level, what, number, interval, study.paths(rows), meaning, remedy))
    table = named_copies(pairs, images)
    for name, values in (("patient_id", patient), ("fold", study.folds), ("part", part)):
        table[name], table[f"other_{name}"] = values[a], values[b]
    missing = len(images) - len(study.data.thumbnails.image_id)
    notes = [
        f"{counted(len(images) - missing, 'image')} compared: the same file, and images saved again, resized, "
        "brightened, mirrored, inverted, turned by 90, 180 or 270 degrees, tilted by up to 10 degrees, given a "
        "border of one grey, or cropped by up to a fifth of a side."
    ]
    if missing:
        notes.append(f"Not possible: comparing {counted(missing, 'image')} that changed since they were read.")
    if np.isnan(study.folds).all():
        notes.append("Not possible: copies in two folds; no sweep on these images is given (sweep_dir=DIR).")
    return Answer(findings, {"same_image": table} if len(table) else {}, notes)


def part_of(path: str) -> str:
    """The published part that the folders of a path name: train, val or test; empty if none.

    Example:
        >>> part_of("Data/train/COVID19/1.png"), part_of("COVID19/test.png")
        ('train', '')
    """
    folders = (part.casefold() for part in PurePosixPath(path).parts[:-1])
    return next((_PARTS[part] for part in folders if part in _PARTS), "")
