"""Patients spelled in several ways, ids of two people, and unknown patients."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from covidnet.auditing.identity import age_in_years, id_key, identity
from covidnet.auditing.study import Study
from tests.auditing.conftest import edited

StudyOf = Callable[..., Study]


def test_clean_phantoms_have_nothing_to_find(clean: Study) -> None:
    answer = identity(clean)
    assert not answer.findings
    assert "not possible" not in " ".join(answer.notes).lower()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("P01", "p1 ", True),
        ("P01", "P-01", True),
        ("\uff3001", "p1", True),
        ("a.b", "AB", False),
        ("1-12", "11-2", False),
        ("P1", "P2", False),
    ],
)
def test_spellings_of_one_id(one: str, other: str, same: bool) -> None:
    assert (id_key(one) == id_key(other)) is same


def test_a_patient_spelled_in_two_ways_is_found(changed: Path, study_of: StudyOf, sweep: Path) -> None:
    def spell(table: pd.DataFrame) -> pd.DataFrame:
        several = table["patient_id"].value_counts().index[0]
        first = table.index[table["patient_id"] == several][0]
        table.loc[first, "patient_id"] = several.upper().replace("-", " ")
        return table

    study = study_of(edited(changed, spell))
    (found,) = identity(study).findings
    assert found.level == "weakens"
    assert found.what.startswith("2 patient ids differ only in case, spaces, zeros or punctuation, such as ")
    hits = np.isin(study.images["path"], found.images)
    assert found.number == pytest.approx(hits.mean())
    assert identity(study_of(changed, sweep_dir=sweep)).findings[0].level == "weakens"  # still in one fold


def test_spellings_in_two_folds_block_a_claim(changed: Path, study_of: StudyOf, sweep: Path) -> None:
    split = pd.read_csv(sweep / "fold=0/split.csv", dtype=str)
    a, b = (split.loc[split["fold"] == fold, "path"].iloc[0] for fold in ("1", "2"))

    def spell(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[table["filename"] == a, "patient_id"] = "P01"
        table.loc[table["filename"] == b, "patient_id"] = "P-1"
        return table

    (found,) = identity(study_of(edited(changed, spell), sweep_dir=sweep)).findings
    assert found.level == "blocks"
    assert set(found.images) == {a, b}


@pytest.mark.parametrize(
    ("column", "cell", "words"), [("sex", "female", "two sexes"), ("age", "099Y", "ages 20 years")]
)
def test_one_id_of_two_people_is_found(column: str, cell: str, words: str, changed: Path, study_of: StudyOf) -> None:
    def contradict(table: pd.DataFrame) -> pd.DataFrame:
        mine = table["sex"] == "M"
        several = table.loc[mine, "patient_id"].value_counts().index[0]
        table.loc[table.index[table["patient_id"] == several][0], column] = cell
        return table

    (found,) = identity(study_of(edited(changed, contradict))).findings
    assert found.level == "weakens"
    assert words in found.what
    assert len(found.images) > 1


def test_file_names_that_contradict_the_table_are_found(changed: Path, study_of: StudyOf) -> None:
    names = ["00000007_000.png", "00000007_001.png"]

    def rename(table: pd.DataFrame) -> pd.DataFrame:
        firsts = table.drop_duplicates("patient_id").index[:2]
        for at, name in zip(firsts, names, strict=True):
            old = table.loc[at, "filename"]
            new = (changed / old).rename((changed / old).with_name(name))
            table.loc[at, "filename"] = str(new.relative_to(changed))
        return table

    (found,) = identity(study_of(edited(changed, rename))).findings
    assert "given to files whose names say one patient" in found.what
    assert sorted(Path(path).name for path in found.images) == names


def test_unknown_patients_are_counted_with_what_they_do_to_intervals(
    changed: Path, study_of: StudyOf, tmp_path: Path
) -> None:
    def forget(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[::3, "patient_id"] = ""
        return table

    study = study_of(edited(changed, forget))
    (found,) = identity(study).findings
    assert (found.level, found.number) == ("weakens", pytest.approx(1 / 3))
    sizes = study.images["patient_id"].value_counts()
    assert f"a factor of up to {np.sqrt((sizes**2).sum() / sizes.sum()):.1f}" in found.meaning
    unnamed = Path(shutil.copytree(changed, tmp_path / "unnamed"))
    edited(unnamed, lambda table: table.drop(columns=["patient_id", "sex"]))
    answer = identity(study_of(unnamed))
    assert [one.number for one in answer.findings] == [1.0]
    assert answer.notes == ["Not possible: comparing ids; no patient is known."]


def test_ages() -> None:
    assert [age_in_years(cell) for cell in ("63", "063Y", "006M", "014D")] == pytest.approx([63, 63, 0.5, 14 / 365.25])
    assert np.isnan([age_in_years(cell) for cell in ("", "unknown", float("nan"), "1e3")]).all()
