"""The command: its files, exit codes, and checks that cannot run while others do."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from covidnet.audit import PATHS, check_images, check_sweep, main
from covidnet.auditing.checks import CHECKS, Audit, audited
from covidnet.auditing.document import CAPTIONS, audit_document, write_audit
from covidnet.auditing.finding import LEVELS, Answer, Check, Finding
from covidnet.auditing.study import Study
from covidnet.base.errors import CovidnetError, SettingError
from covidnet.launch.arguments import quoted
from covidnet.launch.command import compose
from covidnet.report.rendering.document import Picture
from covidnet.report.rendering.markdown import markdown_of
from tests.auditing.conftest import altered
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


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without the features that other tests have stored: an audit would use them."""
    return tmp_path_factory.mktemp("own_cache")


def words_of(cache: Path, *words: str) -> list[str]:
    return [f"cache_dir={cache}", "progress=false", "data.view=null", *words]


def begun(cache: Path, *words: str) -> None:
    """The command in this process."""
    main(compose(quoted(words_of(cache, *words), PATHS), "audit"))


@pytest.mark.slow
def test_exit_codes(
    phantoms: Path,
    split: pd.DataFrame,
    own_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    first = ["data=folder", f"data.root={phantoms}", "out=first", "strict=true"]
    begun(own_cache, *first)
    printed = capsys.readouterr().out
    assert "Audit: first/audit.html" in printed
    assert "not possible: leaks: there is no sweep; give sweep_dir=DIR" in printed
    with pytest.raises(CovidnetError, match=r"audit\.html already exists; give another folder, or overwrite=true"):
        begun(own_cache, *first)
    # A patient in two folds.
    used = split[split["fold"] >= 0]
    one, other = (used.index[used["fold"] == fold][0] for fold in (1, 2))
    planted = split.copy()
    planted.loc[one, "patient_id"] = planted.loc[other, "patient_id"]
    write_sweep(tmp_path / "sweep", [0, 1], split=planted, skill=3.0)
    words = ["data=folder", "data.root=gone", "sweep_dir=sweep", "out=second"]
    for strict, code in (("false", 0), ("true", 3)):
        told = words_of(own_cache, *words, f"strict={strict}", "overwrite=true")
        done = command("covidnet.audit", *told, cwd=tmp_path)
        assert done.returncode == code, done.stderr
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
def test_errors_are_one_line(
    changed: Path,
    own_cache: Path,
    tmp_path: Path,
    sweep: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = ["data=folder", f"data.root={changed}"]
    for words, answer in (
        ([*folder, "sweep_dir=nowhere"], "sweep_dir=nowhere: must be the folder of a sweep"),
        ([*folder, f"out={changed}/audit"], f"out={changed}/audit: must be a folder outside of {changed}"),
        ([*folder, "audit.prevalence=[0.1,2]"], "audit.prevalence=[0.1,2]: must be a list of numbers above 0"),
        ([*folder, "audit.published=nowhere"], "audit.published=nowhere: must be a CSV file of published numbers"),
    ):
        with pytest.raises(CovidnetError, match=f"^{re.escape(answer)}") as caught:
            begun(own_cache, *words)
        assert "\n" not in str(caught.value)
    done = command("covidnet.audit", *words_of(own_cache, "data=folder", "data.root=nowhere"), cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: data.root={tmp_path}/nowhere: no such folder")
    other = Path(shutil.copytree(sweep, tmp_path / "sweep"))
    for file in other.glob("*/config.yaml"):
        file.write_text(file.read_text().replace("name: phantom", "name: kaggle"))
    with pytest.raises(SettingError, match=r"^data=phantom: must be the data set of the sweep, data=kaggle"):
        begun(own_cache, "sweep_dir=sweep")
    begun(own_cache, "sweep_dir=sweep", "data=folder", "data.root=gone", "out=gone-audit")
    assert "not possible: identity: the images cannot be read" in capsys.readouterr().out


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
