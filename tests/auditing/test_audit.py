"""The command: its files, exit codes, and checks that cannot run while others do."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from covidnet.audit import check_images, check_sweep
from covidnet.auditing.checks import CHECKS, Audit, audited
from covidnet.auditing.document import CAPTIONS, audit_document, write_audit
from covidnet.auditing.finding import LEVELS, Answer, Check, Finding
from covidnet.auditing.study import Study
from covidnet.base.errors import SettingError
from covidnet.report.rendering.document import Picture
from covidnet.report.rendering.markdown import markdown_of
from tests.auditing.conftest import altered, edited
from tests.commands import command
from tests.sweeps import write_nested, write_sweep


@pytest.fixture(scope="module")
def audit(clean: Study) -> Audit:
    return audited(clean)


@pytest.fixture(scope="module")
def folder(audit: Audit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("audit")
    write_audit(audit, out)
    return out


def test_clean_phantoms_and_a_clean_sweep_have_nothing_above_information(audit: Audit) -> None:
    assert audit.not_possible == {"published_tables": "no published table; give audit.published=FILE"}
    assert [one.what for one in audit.serious] == []
    assert list(audit.answers) == [check.name for check in CHECKS if check.name != "published_tables"]


def test_a_set_without_any_copy_is_audited(clean: Study) -> None:
    study = altered(clean)
    vars(study)["copies"] = clean.copies.head(0)
    audit = audited(study)
    assert not audit.serious
    assert "same_image" not in audit.answers["same_image"].tables
    assert not audit.answers["same_image"].findings


def test_the_files_say_the_same(folder: Path, audit: Audit) -> None:
    record = json.loads((folder / "audit.json").read_text())
    assert record["verdict"].startswith("Nothing was found that blocks or weakens a claim. ")
    assert record["data"]["images"] == 99
    assert set(record["checks"]) | set(record["not_possible"]) == {check.name for check in CHECKS}
    page, text = ((folder / name).read_text() for name in ("audit.html", "audit.md"))
    ElementTree.fromstring(page.partition("\n")[2])
    for check in CHECKS:
        assert f'id="{check.name}"' in page
        assert f"## {check.title}" in text
    assert record["verdict"] in page
    assert "| Leaks of the split | nothing found |" in text
    assert "The claim: an accuracy of " in text
    assert "| Source and acquisition | nothing found; in part not possible |" in text  # no column device
    for name, answer in audit.answers.items():
        for table, rows in answer.tables.items():
            assert len(pd.read_csv(folder / f"{table}.csv")) == len(rows), name


def test_levels_are_sorted_and_thumbnails_shown(clean: Study, tmp_path: Path) -> None:
    paths = tuple(clean.images["path"][:14])

    def found(study: Study) -> Answer:
        texts = ("<b>", "A", "meaning", "remedy")
        kinds = [(level, *texts[:1], 0.5, (0.4, 0.6), paths, *texts[2:]) for level in reversed(LEVELS)]
        return Answer([Finding("leaks", *kind) for kind in kinds])

    audit = audited(clean, [Check("leaks", "Leaks", "Leaks?", found)])
    assert [one.level for one in audit.findings] == list(LEVELS)
    document = audit_document(audit)
    pictures = [block for section in document.sections for block in section.blocks if isinstance(block, Picture)]
    assert len(pictures) == 3
    assert pictures[0].caption.startswith("The first 12 of 14 images concerned")
    write_audit(audit, tmp_path)
    page = (tmp_path / "audit.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "&lt;b&gt;" in page
    assert "50.0% [40.0, 60.0]" in page
    assert len(list((tmp_path / "panels").iterdir())) == 3
    assert page.count("Do not claim a performance from these data yet: 1 finding blocks it") == 1


def test_a_check_that_cannot_run_says_why_and_the_others_run(sweep: Path, tmp_path: Path) -> None:
    audit = audited(Study(None, sweep_dir=sweep, why_no_images="data.root=gone: no such folder"))
    assert "leaks" in audit.answers
    for name in ("identity", "same_image"):
        assert audit.not_possible[name] == "the images cannot be read: data.root=gone: no such folder"
    write_audit(audit, tmp_path)
    text = (tmp_path / "audit.md").read_text()
    assert "Not possible: the images cannot be read: data.root=gone: no such folder." in text
    assert "would have found is unknown" in text


def run(cwd: Path, cache: Path, *words: str) -> subprocess.CompletedProcess[str]:
    given = (f"cache_dir={cache}", "progress=false", "data.view=null")
    return command("covidnet.audit", *given, *words, cwd=cwd)


@pytest.mark.slow
def test_exit_codes(phantoms: Path, changed: Path, cache: Path, tmp_path: Path) -> None:
    first = ["data=folder", f"data.root={phantoms}", "out=first", "strict=true"]
    done = run(tmp_path, cache, *first)
    assert done.returncode == 0, done.stderr
    assert "Audit: first/audit.html" in done.stdout
    assert "not possible: leaks: there is no sweep; give sweep_dir=DIR" in done.stdout
    done = run(tmp_path, cache, *first)
    assert done.returncode == 1
    assert "audit.html already exists; give another folder, or overwrite=true" in done.stderr

    def spell(table: pd.DataFrame) -> pd.DataFrame:
        several = table["patient_id"].value_counts().index[0]
        table.loc[table.index[table["patient_id"] == several][0], "patient_id"] = several.upper()
        return table

    edited(changed, spell)
    words = ["data=folder", f"data.root={changed}", "out=second"]
    done = run(tmp_path, cache, *words, "strict=true")
    assert done.returncode == 3
    assert re.fullmatch(
        r"strict=true: \d findings? above \u201cfor your information\u201d; see second/audit\.html",
        done.stderr.splitlines()[-1],
    )


def test_nested_selection_is_refused_whose_runs_share_no_split(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="a sweep with one unseen fold, not nested selection; audit a sweep over"):
        check_sweep(write_nested(tmp_path / "nested", (0, 1)), "phantom")


def test_a_sweep_on_other_images_is_refused(sweep: Path) -> None:
    check_images(sweep, set(pd.read_csv(sweep / "fold=0/split.csv")["image_id"]))
    with pytest.raises(SettingError, match=r"sweep: must be a sweep on these images; no image of its split\.csv is in"):
        check_images(sweep, {"another"})


@pytest.mark.slow
def test_errors_are_one_line(changed: Path, cache: Path, tmp_path: Path, sweep: Path) -> None:
    folder = ["data=folder", f"data.root={changed}"]
    for words, answer in (
        ([*folder, "sweep_dir=nowhere"], "error: sweep_dir=nowhere: must be the folder of a sweep"),
        ([*folder, f"out={changed}/audit"], f"error: out={changed}/audit: must be a folder outside of {changed}"),
        ([*folder, "audit.prevalence=[0.1,2]"], "error: audit.prevalence=[0.1,2]: must be a list of numbers above 0"),
        (
            [*folder, "audit.published=nowhere"],
            "error: audit.published=nowhere: must be a CSV file of published numbers",
        ),
        (["data=folder", "data.root=nowhere"], f"error: data.root={tmp_path}/nowhere: no such folder"),
    ):
        done = run(tmp_path, cache, *words)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith(answer)
    other = Path(shutil.copytree(sweep, tmp_path / "sweep"))
    for file in other.glob("*/config.yaml"):
        file.write_text(file.read_text().replace("name: phantom", "name: kaggle"))
    done = run(tmp_path, cache, "sweep_dir=sweep")
    assert "error: data=phantom: must be the data set of the sweep, data=kaggle" in done.stderr
    done = run(tmp_path, cache, "sweep_dir=sweep", "data=folder", "data.root=gone", "out=gone-audit")
    assert done.returncode == 0, done.stderr
    assert "not possible: identity: the images cannot be read" in done.stdout


def test_the_page_explains_each_table_and_leaves_checklists_to_their_files(
    clean: Study, sweep: Path, tmp_path: Path
) -> None:
    audit = audited(Study(clean.table, sweep_dir=sweep, resamples=100))
    write_audit(audit, tmp_path)
    text = (tmp_path / "audit.md").read_text()
    shown = {name for answer in audit.answers.values() if answer.on_page for name in answer.tables}
    assert len(shown) > 5
    assert all(f"{CAPTIONS[name]} (" in text.replace("\\", "") for name in shown)
    assert "| Preprocessing |" not in text
    assert "Preprocessing" in (tmp_path / "claim_2024.csv").read_text()


def test_empty_columns_are_in_the_file_alone(clean: Study, tmp_path: Path) -> None:
    table = pd.DataFrame({"path": ["a.png"], "part": [""], "patient_id": [np.nan]})
    audit = audited(clean, [Check("leaks", "Leaks", "Leaks?", lambda study: Answer((), {"same_image": table}))])
    write_audit(audit, tmp_path)
    assert "\n| path |\n" in (tmp_path / "audit.md").read_text()
    assert list(pd.read_csv(tmp_path / "same_image.csv")) == list(table)


def test_images_of_unknown_patients_are_not_counted_as_patients(split: pd.DataFrame, tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep", split=split.assign(patient_id=np.nan), skill=3.0)
    audit = audited(Study(None, sweep_dir=folder), [])
    text = markdown_of(audit_document(audit))
    assert "test images of unknown patients. What follows" in text
