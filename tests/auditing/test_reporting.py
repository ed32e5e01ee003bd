"""The lists are whole, facts are those of the files, and what these lack is open and counted."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from covidnet.auditing.checks import Check, audited
from covidnet.auditing.document import write_audit
from covidnet.auditing.reporting import ANSWERS, _of_images, _of_sweep, items, known_facts, reporting
from covidnet.auditing.study import NotPossibleError, Study
from tests.sweeps import split_table, write_sweep

TABLES = {"CLAIM 2024": "claim_2024", "TRIPOD+AI": "tripod_ai", "PROBAST+AI": "probast_ai"}


def test_the_lists_are_whole() -> None:
    numbers = {name: [item["item"] for item in items() if item["checklist"] == name] for name in TABLES}
    assert numbers["CLAIM 2024"] == [str(n) for n in range(1, 45)]
    assert len(numbers["TRIPOD+AI"]) == len(set(numbers["TRIPOD+AI"])) == 52
    assert list(dict.fromkeys(re.sub("[a-g]", "", one) for one in numbers["TRIPOD+AI"])) == [
        str(n) for n in range(1, 28)
    ]
    parts = Counter(one.rpartition(".")[0] for one in numbers["PROBAST+AI"])
    assert list(parts.values()) == [3, 4, 4, 5, 3, 4, 4, 7]
    assert {item["answered"] for item in items()} == set(ANSWERS)
    assert all((item["answered"] == "authors") == (not item["facts"]) for item in items())


def test_every_fact_of_the_lists_can_be_known(clean: Study) -> None:
    possible = {*_of_images(clean), *_of_sweep(clean), "clusters"}  # the phantoms have one source
    assert {fact for item in items() for fact in item["facts"].split()} <= possible


def test_facts_are_those_of_the_files(clean: Study) -> None:
    answer = reporting(clean)
    (found,) = answer.findings
    assert found.level == "information"
    tables = {name: answer.tables[file] for name, file in TABLES.items()}
    still_open = sum((table["answered"] == "authors").sum() for table in tables.values())
    assert found.number == still_open / 130
    for note, (name, table) in zip(answer.notes, tables.items(), strict=False):
        filled, part, left = (int((table["answered"] == word).sum()) for word in ANSWERS.values())
        assert note == (
            f"{name}: {filled} of {len(table)} items filled in, {part} in part, {left} open for the authors."
        )
        assert ((table["what_the_files_say"] == "") == (table["answered"] == "authors")).all()
    known = known_facts(clean)
    pooled = [run.rows("test") for run in clean.sweep.runs]
    right = np.concatenate([table["label"] == table["prediction"] for table in pooled])
    assert f"{right.mean():.1%}" in known["internal"]
    assert known["software"] == "torch 2.15"
    assert "Rules of the folds that the files break: none" in known["leaks"]
    assert known["classes"] == "Classes as labelled: COVID-19 33, Normal 33, Pneumonia 33"
    assert re.match(r"Sex: [MF] \d+, [MF] \d+; mean age: COVID-19 \d\d, Normal \d\d, Pneu", known["demographics"])


def test_what_the_files_lack_is_open(clean: Study, tmp_path: Path) -> None:
    whole = reporting(clean)
    folder = write_sweep(tmp_path / "sweep", split=clean.sweep.runs[0].split, skill=3.0)
    for run in folder.iterdir():
        for name in ("environment.json", "config.yaml"):
            (run / name).unlink()
    bare = reporting(replace(clean, sweep_dir=folder))
    assert bare.findings[0].number > whole.findings[0].number
    for item in ("23", "24", "25"):  # software, initialisation, training
        rows = [answer.tables["claim_2024"].set_index("item").loc[item, "answered"] for answer in (whole, bare)]
        assert rows == ["filled in", "authors"]


def test_a_leak_is_a_fact(tmp_path: Path) -> None:
    split = split_table()
    # In two folds, and so in the training and validation images of a run.
    third, fourth = (split.index[split["fold"] == fold][0] for fold in (3, 4))
    split.loc[third, "patient_id"] = split.loc[fourth, "patient_id"]
    known = known_facts(Study(None, sweep_dir=write_sweep(tmp_path / "sweep", split=split)))
    assert "Rules of the folds that the files break: 2 (" in known["leaks"]
    assert "apparent" not in known


def test_images_alone_and_nothing_at_all(clean: Study) -> None:
    alone = known_facts(replace(clean, sweep_dir=None))
    assert {"sources", "flow", "demographics"} <= set(alone)
    assert not {"fairness", "internal", "model"} & set(alone)
    assert re.match(r"99 images of \d+ patients: ", alone["flow"])
    assert clean.table is not None
    table = replace(clean.table, images=clean.table.images.assign(patient_id=np.nan))
    assert known_facts(replace(clean, sweep_dir=None, table=table))["flow"].startswith(
        "99 images of unknown patients: "
    )
    with pytest.raises(NotPossibleError, match="the images cannot be read: gone; there is no sweep"):
        reporting(Study(None, why_no_images="gone"))


def test_the_files_have_every_item_and_the_page_names_them(clean: Study, tmp_path: Path) -> None:
    write_audit(audited(clean, [Check("reporting", "Reporting", "?", reporting)]), tmp_path)
    text = (tmp_path / "audit.md").read_text()
    for file, item in (("claim_2024", "44"), ("tripod_ai", "27c"), ("probast_ai", "evaluation 4.7")):
        assert item in set(pd.read_csv(tmp_path / f"{file}.csv", dtype=str)["item"])
        assert f"{file}.csv" in text.replace("\\", "")
        assert f"| {item} |" not in text
