"""The short form of the audit: silent on clean phantoms, a line for each planted fault, and never an error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from covidnet.auditing import short
from covidnet.auditing.short import audited_sweep, short_audit
from covidnet.data.collection.prepared import PreparedDataset, prepare_folder
from covidnet.prepare import short_form
from covidnet.sweep.folder import read_sweep
from covidnet.sweep.reports import report_sweeps
from tests.auditing.conftest import DATA, edited
from tests.sweeps import write_sweep


def of(root: Path, cache: Path, **settings: Any) -> tuple[PreparedDataset, dict[str, Any]]:
    return prepare_folder(root, cache_dir=cache, progress=False, **settings), {**DATA, "root": str(root)}


def test_clean_phantoms_give_one_line(phantoms: Path, cache: Path) -> None:
    assert short_audit(*of(phantoms, cache)) == [
        "4 checks of the data set alone: nothing that blocks or weakens a claim"
    ]


@pytest.mark.parametrize("copies", ["near", "bytes"])
def test_planted_faults_are_a_line_each(
    changed: Path, cache: Path, copies: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pd.read_csv(changed / "metadata.csv", dtype=str)
    first = {label: rows["filename"].iloc[0] for label, rows in table.groupby("label")}
    image = cv2.imread(str(changed / first["Normal"]), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(changed / first["Pneumonia"]), image[:, ::-1])

    def spell(table: pd.DataFrame) -> pd.DataFrame:
        several = table["patient_id"].value_counts().index[0]
        table.loc[table.index[table["patient_id"] == several][0], "patient_id"] = several.upper()
        return table.assign(source=table["label"])

    prepared, data = of(edited(changed, spell), cache, copies=copies)
    monkeypatch.setattr(
        "covidnet.auditing.study.find_copies", lambda *a, **k: pytest.fail("copies were searched again")
    )
    *lines, last = short_audit(prepared, data)
    assert last == f"4 checks of the data set alone: {len(lines)} findings"
    texts = [line.partition(": ")[2] for line in lines]
    assert {line.partition(": ")[0] for line in lines} == {"Blocks a claim", "Weakens a claim"}
    assert sum("differ only in case" in text for text in texts) == 1
    assert sum("Source and class cannot be separated" in text for text in texts) == 1
    # With copies=bytes a mirrored image is not searched for.
    assert sum("copies in two classes" in text for text in texts) == (copies == "near")


def test_a_fault_of_a_check_is_a_line_and_no_error(
    phantoms: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a check is broken")

    monkeypatch.setattr(short, "audited", fail)
    assert short_form(*of(phantoms, cache)) == ["not checked: a check is broken"]


def test_the_files_of_a_clean_sweep_give_no_finding(sweep: Path) -> None:
    audit = audited_sweep(read_sweep(sweep))
    assert audit.findings == []
    assert not set(audit.ran) & set(audit.not_possible)
    assert {"Leaks of the split", "Patient identity", "Source and acquisition", "Labels", "Stability"} <= set(audit.ran)


def test_acquisition_is_not_checked_where_the_files_do_not_have_it(sweep: Path) -> None:
    read = read_sweep(sweep)
    first = read.runs[0]
    assert first.split is not None
    blank = replace(first, split=first.split.assign(view=np.nan, source=np.nan))
    audit = audited_sweep(replace(read, runs=[blank, *read.runs[1:]]))
    assert "Source and acquisition" not in audit.ran
    assert audit.not_possible["Source and acquisition"].startswith("sizes, views and sources of the images are not")


@pytest.mark.usefixtures("undrawn")
def test_faults_in_the_files_of_a_sweep_are_in_its_report(split: pd.DataFrame, tmp_path: Path) -> None:
    used = split[split["fold"] >= 0]
    one = used.index[used["fold"] == 1][0]
    several = used["patient_id"].value_counts().index[0]
    planted = split.assign(source=split["label"])
    # A patient in another fold, and the second spelling of another patient's id.
    planted.loc[one, "patient_id"] = used.loc[used["fold"] == 2, "patient_id"].iloc[0]
    planted.loc[planted.index[planted["patient_id"] == several][0], "patient_id"] = several.upper()
    folder = write_sweep(tmp_path / "sweep", [0, 1, 2], split=planted, skill=3.0)
    (summary,) = report_sweeps([folder], resamples=100, audit=audited_sweep)
    assert summary.audit is not None
    found = {(one.check, one.level) for one in summary.audit.findings}
    assert {("Leaks of the split", "blocks"), ("Source and acquisition", "blocks")} <= found
    assert any(check == "Patient identity" for check, _ in found)
    levels = [one.level for one in summary.audit.findings]
    assert levels == sorted(levels)
    text = (folder / "report/report.md").read_text()
    assert "## What could be wrong" in text
    for one in summary.audit.findings:
        assert f"{one.what.removesuffix('.')}: " in text


def test_a_check_that_fails_does_not_take_the_report_away(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a check is broken")

    monkeypatch.setattr(short, "audited", fail)
    audit = audited_sweep(read_sweep(sweep))
    assert audit.ran == []
    assert set(audit.not_possible.values()) == {"a check is broken"}
