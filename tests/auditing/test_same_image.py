"""Copies planted under another patient, in another class, in another published part and in another fold."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from covidnet.auditing.same_image import same_image
from covidnet.auditing.study import Study
from tests.auditing.conftest import edited

StudyOf = Callable[..., Study]


def test_clean_phantoms_have_nothing_above_information(clean: Study) -> None:
    assert not [one for one in same_image(clean).findings if one.level != "information"]


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "same": lambda image: image,
    "mirrored": lambda image: image[:, ::-1],
    "inverted": lambda image: 255 - image,
    "resized": lambda image: cv2.resize(image, None, fx=0.8, fy=0.8, interpolation=cv2.INTER_AREA),
    "brightened": lambda image: np.clip(image.astype(float) * 1.1 + 15, 0, 255).astype(np.uint8),
}


def test_a_changed_copy_under_another_patient_in_another_class_is_found(changed: Path, study_of: StudyOf) -> None:
    table = pd.read_csv(changed / "metadata.csv", dtype=str)
    normal = table[table["label"] == "Normal"].drop_duplicates("patient_id")["filename"].tolist()
    pneumonia = table[table["label"] == "Pneumonia"].drop_duplicates("patient_id")["filename"].tolist()
    planted = list(zip(normal, pneumonia, CHANGES.values(), strict=False))
    assert len(planted) == len(CHANGES)
    for source, target, change in planted:
        image = cv2.imread(str(changed / source), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(changed / target), np.ascontiguousarray(change(image)))
    answer = same_image(study_of(changed))
    (found,) = [one for one in answer.findings if one.level != "information"]
    assert found.level == "weakens"
    assert "under two patients, " in found.what
    pairs = {frozenset(pair) for pair in answer.tables["same_image"][["path", "other_path"]].to_numpy().tolist()}
    lost = [name for name, pair in zip(CHANGES, planted, strict=True) if frozenset(pair[:2]) not in pairs]
    assert not lost
    assert {path for source, target, _ in planted for path in (source, target)} <= set(found.images)


def test_a_copy_in_two_published_parts_is_found(phantoms: Path, tmp_path: Path, study_of: StudyOf) -> None:
    root = tmp_path / "set"
    for n, file in enumerate(sorted(phantoms.glob("*/*.png"))[::3]):
        place = root / ("test" if n % 5 == 0 else "train") / file.parent.name
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    first = next((root / "train/NORMAL").iterdir())
    shutil.copy(first, root / "test/NORMAL/again.png")
    answer = same_image(study_of(root))
    (found,) = [one for one in answer.findings if "published parts" in one.what]
    assert found.level == "weakens"
    assert {"test/NORMAL/again.png", f"train/NORMAL/{first.name}"} <= set(found.images)


def test_copies_in_two_folds_block_a_claim(study_of: StudyOf, changed: Path, sweep: Path, tmp_path: Path) -> None:
    # The split was drawn as if the copies did not exist.
    split = pd.read_csv(sweep / "fold=0/split.csv", dtype=str)
    label = split[split["label"] == "Normal"]
    a, b = (label.loc[label["fold"] == fold, "path"].iloc[0] for fold in ("1", "2"))
    cv2.imwrite(str(changed / b), cv2.imread(str(changed / a), cv2.IMREAD_GRAYSCALE)[:, ::-1])
    study = study_of(edited(changed, lambda table: table))
    ids = dict(zip(study.images["path"], study.images["image_id"], strict=True))
    folder = Path(shutil.copytree(sweep, tmp_path / "sweep"))
    old = split.loc[split["path"] == b, "image_id"].item()
    for file in folder.glob("*/*.csv"):
        file.write_text(file.read_text().replace(old, ids[b]))
    study = study_of(changed, sweep_dir=folder)
    # What the search finds is tested above.
    row = {path: n for n, path in enumerate(study.images["path"])}
    pair = {"image": [row[a]], "other": [row[b]], "kind": ["mirrored"], "similarity": [0.99]}
    vars(study)["copies"] = pd.DataFrame(pair)
    found = same_image(study).findings[0]
    assert found.level == "blocks"
    assert set(found.images) == {a, b}


def test_what_cannot_be_compared_is_said(study_of: StudyOf, phantoms: Path) -> None:
    notes = same_image(study_of(phantoms)).notes
    assert notes[1] == "Not possible: copies in two folds; no sweep on these images is given (sweep_dir=DIR)."
