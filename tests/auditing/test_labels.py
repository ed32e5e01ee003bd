"""Contradictory labels, and labels flipped behind the back of good models."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from covidnet.auditing.labels import labels
from covidnet.auditing.study import NotPossibleError, Study
from covidnet.data.recognition.overlap import same_files
from tests.sweeps import split_table, write_sweep

StudyOf = Callable[..., Study]


def test_clean_phantoms_have_nothing_above_information(clean: Study) -> None:
    assert not [one for one in labels(clean).findings if one.level != "information"]


def test_an_image_in_two_classes_is_found(changed: Path, study_of: StudyOf, monkeypatch: pytest.MonkeyPatch) -> None:
    # What the search finds is tested in test_same_image.py.
    monkeypatch.setattr("covidnet.auditing.study.find_copies", lambda images, **_: same_files(images))
    source, target = (next((changed / name).glob("*.png")) for name in ("NORMAL", "PNEUMONIA"))
    shutil.copy(source, target)
    answer = labels(study_of(changed))
    (found,) = answer.findings
    assert found.level == "weakens"
    assert found.what == "1 pair of copies in two classes; 2 images concerned."
    assert set(found.images) == {str(path.relative_to(changed)) for path in (source, target)}
    assert f"{1 - 1 / 99:.2%}" in found.meaning
    assert answer.notes == ["Not possible: likely label errors; there is no sweep; give sweep_dir=DIR."]


def test_flipped_labels_are_found(tmp_path: Path) -> None:
    pytest.importorskip("cleanlab")
    split = split_table(per_fold=20)
    flipped = split.sample(frac=0.05, random_state=0).index
    wrong = split.copy()
    wrong.loc[flipped, "label"] = split.loc[flipped, "label"].map(
        {"COVID-19": "Normal", "Normal": "Pneumonia", "Pneumonia": "COVID-19"}
    )
    truth = dict(zip(split["image_id"], split["label"], strict=True))

    # The models know the truth; the files hold the wrong labels.
    folder = write_sweep(tmp_path / "sweep", split=split, skill=8.0)
    given = dict(zip(wrong["image_id"], wrong["label"], strict=True))
    for file in [*folder.glob("*/predictions.csv"), *folder.glob("*/split.csv")]:
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
        table["label"] = table["image_id"].map(given)
        table.to_csv(file, index=False)
    answer = labels(Study(None, sweep_dir=folder, why_no_images="gone"))
    (found,) = answer.findings
    assert found.level == "information"
    planted = {row.path for row in wrong.itertuples() if row.label != truth[row.image_id] and row.fold < 10}
    hits = planted & set(found.images)
    assert len(hits) / len(planted) > 0.95
    assert len(hits) / len(found.images) > 0.95
    assert found.number == pytest.approx(len(found.images) / 600)
    assert answer.notes == ["Not possible: copies in two classes; the images cannot be read: gone."]


def test_without_cleanlab_it_says_how_to_get_it(clean: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    assert labels(clean).notes == [
        'Not possible: likely label errors; cleanlab is not installed; pip install "covidnet[audit]".'
    ]
    with pytest.raises(NotPossibleError, match="the images cannot be read: gone; there is no sweep"):
        labels(Study(None, why_no_images="gone"))


def test_probabilities_need_each_class() -> None:
    pytest.importorskip("cleanlab")
    from covidnet.auditing.labels import likely_errors

    with pytest.raises(NotPossibleError, match="a class has no test image"):
        likely_errors(np.array([0, 0, 1]), np.full((3, 3), 1 / 3))
