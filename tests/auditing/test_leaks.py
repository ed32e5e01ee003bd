"""Faults planted in the files of a sweep, each found by its rule."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from covidnet.auditing.leaks import leaks
from covidnet.auditing.study import NotPossibleError, Study
from covidnet.evaluation.intervals import proportion_interval


def test_a_clean_sweep_breaks_no_rule(clean: Study) -> None:
    answer = leaks(clean)
    assert not answer.findings
    assert not answer.tables
    assert answer.notes == ["10 runs with 99 rows of split.csv verified against 15 rules; 0 rules are broken."]


def in_every_split(change: Callable[[pd.DataFrame], None]) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        for file in folder.glob("*/split.csv"):
            table = pd.read_csv(file, dtype=str, keep_default_na=False)
            change(table)
            table.to_csv(file, index=False)

    return plant


def of_fold(table: pd.DataFrame, fold: int) -> int:
    return int(table.index[table["fold"] == str(fold)][0])


def patient_in_two_folds(table: pd.DataFrame) -> None:
    table.loc[[of_fold(table, 2), of_fold(table, 10)], "patient_id"] = "everywhere"


def bytes_in_two_folds(table: pd.DataFrame) -> None:
    table.loc[of_fold(table, -1) if (table["fold"] == "-1").any() else of_fold(table, 4), "image_id"] = (
        table.loc[of_fold(table, 5), "image_id"] + "-2"
    )


def copy_in_two_folds(table: pd.DataFrame) -> None:
    table.loc[[of_fold(table, 6), of_fold(table, 7)], "copy_of"] = "first"


def unknown_fold(table: pd.DataFrame) -> None:
    table.loc[of_fold(table, 3), "fold"] = "11"


def in_predictions(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        file = folder / "fold=0/predictions.csv"
        change(pd.read_csv(file, dtype=str, keep_default_na=False)).to_csv(file, index=False)

    return plant


def relabelled(table: pd.DataFrame) -> pd.DataFrame:
    table.loc[0, "label"] = "Normal" if table.loc[0, "label"] != "Normal" else "Pneumonia"
    return table


def selected(table: pd.DataFrame) -> pd.DataFrame:
    test = table[table["split"] == "test"]
    return pd.concat([table[table["split"] != "val"], test.assign(split="val")])


def foreign(table: pd.DataFrame) -> pd.DataFrame:
    table.loc[table["split"] == "val", "split"] = "test"
    return table


def part_of_a_patient(table: pd.DataFrame) -> pd.DataFrame:
    val = table[table["split"] == "val"]
    several = val["patient_id"].value_counts().index[0]
    assert (val["patient_id"] == several).sum() > 1
    return table.drop(val.index[val["patient_id"] == several][0])


def lacking(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(table.index[table["split"] == "test"][0])


def repeated_row(table: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([table, table[table["split"] == "test"].head(1)])


def other_split(folder: Path) -> None:
    file = folder / "fold=4/split.csv"
    file.write_text(file.read_text().replace("phantom-", "p-"))


def copied_run(folder: Path) -> None:
    shutil.copytree(folder / "fold=1", folder / "again,fold=1")
    (folder / "again,fold=1").rename(folder / "fold=1,")


@pytest.mark.parametrize(
    ("plant", "rule", "level"),
    [
        (in_every_split(patient_in_two_folds), "patients", "blocks"),
        (in_every_split(bytes_in_two_folds), "bytes", "blocks"),
        (in_every_split(copy_in_two_folds), "copies", "blocks"),
        (in_every_split(unknown_fold), "fold", "blocks"),
        (in_predictions(relabelled), "labels", "blocks"),
        (in_predictions(selected), "selected", "blocks"),
        (in_predictions(foreign), "test", "blocks"),
        (in_predictions(part_of_a_patient), "inner", "weakens"),
        (in_predictions(lacking), "lacking", "weakens"),
        (in_predictions(repeated_row), "rows", "blocks"),
        (other_split, "splits", "blocks"),
        (copied_run, "twice", "blocks"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_planted_fault_is_found(
    plant: Callable[[Path], None], rule: str, level: str, sweep: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(sweep, tmp_path / "sweep"))
    plant(folder)
    answer = leaks(Study(None, sweep_dir=folder))
    assert rule in set(answer.tables["leaks"]["rule"])
    at = list(dict.fromkeys(answer.tables["leaks"]["rule"])).index(rule)
    assert answer.findings[at].level == level
    assert answer.findings[at].number > 0


def test_the_share_has_the_interval_of_patients(sweep: Path, split: pd.DataFrame, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sweep, tmp_path / "sweep"))
    in_every_split(patient_in_two_folds)(folder)
    (found, *_) = leaks(Study(None, sweep_dir=folder)).findings
    table = pd.read_csv(folder / "fold=0/split.csv", dtype=str, keep_default_na=False)
    used = table[table["fold"] != "-1"]
    hits = used["patient_id"] == "everywhere"
    assert found.number == pytest.approx(hits.mean())
    assert found.interval == pytest.approx(proportion_interval(hits, used["patient_id"]))
    assert set(found.images) == set(used["path"][hits])


def test_without_splits_it_says_why(sweep: Path, tmp_path: Path) -> None:
    with pytest.raises(NotPossibleError, match=r"there is no sweep; give sweep_dir=DIR"):
        leaks(Study(None))
    folder = Path(shutil.copytree(sweep, tmp_path / "sweep", ignore=shutil.ignore_patterns("split.csv")))
    with pytest.raises(NotPossibleError, match=r"no run of .* has a split\.csv"):
        leaks(Study(None, sweep_dir=folder))
