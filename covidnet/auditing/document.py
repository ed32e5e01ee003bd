"""The report of an audit: audit.html, audit.md, audit.json and the tables behind them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet import __version__
from covidnet.auditing.checks import CHECKS, Audit
from covidnet.auditing.finding import LEVELS, Finding
from covidnet.auditing.study import NotPossibleError, Study
from covidnet.base.atomic import make_folder, write_text
from covidnet.base.caveats import Caveat
from covidnet.base.names import counted, inert
from covidnet.evaluation.bootstrap import cluster_codes
from covidnet.evaluation.intervals import proportion_interval
from covidnet.report.rendering.document import (
    Block,
    Bullets,
    Cell,
    Column,
    Document,
    Notice,
    Paragraph,
    Picture,
    Section,
    Table,
)
from covidnet.report.rendering.html import json_text, page_of
from covidnet.report.rendering.markdown import markdown_of
from covidnet.report.rendering.pictures import remove_old_pictures, write_pictures
from covidnet.report.sweep.audit import number_text as text_of
from covidnet.report.sweep.audit import with_number
from covidnet.report.sweep.content import numbered
from covidnet.report.values import Value
from covidnet.report.words import patients_words, probability

FILES = ("audit.html", "audit.md", "audit.json")
"""What an audit always writes; each table is a CSV file beside them."""

# Rows of a table that the page shows, and thumbnails of a finding.
_ROWS, _THUMBNAILS, _PER_LINE = 12, 12, 6

_SIDE, _GAP = 128, 6

CAPTIONS = {
    "leaks": "Broken rules of the folds",
    "identity": "Ids and files of the findings",
    "same_image": "Pairs of copies; similarity 1 is the same picture",
    "acquisition": "Association of each property with the class: Cramér's V (0: none, 1: full) with its 95% interval; "
    "p holm is the p value corrected for the number of properties",
    "leave_one_source_out": "Accuracy on each source of a regression that saw it and of one that did not",
    "shortcuts": "How well each part of the images alone predicts the class. Share of skill: its gain over guessing as "
    "a share of the model's. Gain: sensitivity plus specificity of the best class, less 1",
    "contradictory_labels": "Copies of one image in two classes",
    "label_errors": "Labels that the models contradict, with the models' probability (p) of each class",
    "shuffled_labels": "Accuracy with the true labels, and with labels exchanged between patients",
    "subgroups": "Accuracy of each group, beside what its classes let expect; z below 0 is worse than expected",
    "convergence": "Epochs of each model, counted from 0; the lowest validation loss, and its relative fall in "
    "the last quarter of the epochs",
    "seeds": "Accuracy of each seed and split on the test folds, and of the ensemble on the unseen fold",
    "learning_curve": "Balanced accuracy of a ridge regression that is fitted to a share of the patients",
    "method_ranks": "Ranks of the methods over the seeds; 1 is best",
    "prediction_sets": "Coverage: share of the images whose set holds the true class; single and empty: shares of sets "
    "with one class and with none",
    "abstention": "Accuracy if only the most confident predictions are given",
    "predictive_values": "Predictive values if this share of all images (prevalence) is of the class",
    "net_benefit": "Net benefit per image of acting on the model, on every image and on none, by the probability from "
    "which one acts (threshold)",
    "operating_points": "Thresholds chosen on validation images, and what they give on test images",
    "published_tables": "Printed rates, and the nearest ones that a confusion matrix can give",
}
"""What each table on the page shows."""


def audit_document(audit: Audit) -> Document:
    """The whole report.

    Args:
        audit: the answers of the checks.
    """
    study = audit.study
    claim = [Paragraph(text) for text in [_claim(study)] if text]
    sections = [Section("", "abstract", [Paragraph(verdict(audit)), *claim, _notice(audit), _overview(audit)])]
    sections += [
        _section(audit, check.name, check.title, check.question) for check in CHECKS if _ran(audit, check.name)
    ]
    subtitle = f"Data: {study.table.root if study.table else 'not read'}"
    subtitle += f"; {counted(len(study.images), 'image')}" if study.table else ""
    subtitle += f". Sweep: {study.sweep_dir or 'none'}. {Caveat.RESEARCH_ONLY}"
    return Document("Audit: what a reviewer would find", subtitle, numbered(sections))


def write_audit(audit: Audit, folder: Path) -> None:
    """Write audit.html, audit.md, audit.json and a CSV file for each table.

    Args:
        audit: the answers of the checks.
        folder: created if missing.

    Raises:
        DataError: a number is NaN or infinite, which JSON cannot hold; nothing is written.
        WriteError: a file cannot be written.
    """
    document = audit_document(audit)
    tables = {f"{name}.csv": table for answer in audit.answers.values() for name, table in answer.tables.items()}
    texts = dict(
        zip(FILES, (page_of(document), markdown_of(document), json_text("audit", _record(audit))), strict=True)
    )
    texts |= {name: _safe(table).to_csv(index=False, lineterminator="\n") for name, table in tables.items()}
    make_folder(folder)
    pictures = write_pictures(document, folder)
    for name, text in texts.items():
        write_text(folder / name, text)
    remove_old_pictures(folder, pictures)


def verdict(audit: Audit) -> str:
    """In one or two sentences, whether numbers from these data can be believed.

    Args:
        audit: the answers of the checks.
    """
    count = Counter(finding.level for finding in audit.findings)
    ran = f"{len(audit.answers)} of {len(audit.answers) + len(audit.not_possible)} checks could run"
    weakened = counted(count["weakens"], "finding weakens", "findings weaken")
    if count["blocks"]:
        blocked = counted(count["blocks"], "finding blocks", "findings block")
        text = f"Do not claim a performance from these data yet: {blocked} it"
        text += f", and {weakened} it" if count["weakens"] else ""
    elif count["weakens"]:
        text = f"State the following with any claim: {weakened} it"
    else:
        text = "Nothing was found that blocks or weakens a claim"
    titles = [check.title for check in CHECKS if check.name in audit.not_possible]
    rest = f"; what the rest ({', '.join(titles)}) would have found is unknown" if titles else ""
    return f"{text}. {ran}{rest}."


def _claim(study: Study) -> str | None:
    """The accuracy of the sweep, which is what the findings bear on; None without a sweep, or if it repeats folds."""
    try:
        runs = study.sweep.runs
    except NotPossibleError:
        return None
    rows = pd.concat([run.rows("test") for run in runs], ignore_index=True)
    if rows["image_id"].duplicated().any() or rows.empty:
        return None
    codes = cluster_codes(rows)
    right = (rows["label"] == rows["prediction"]).to_numpy(bool)
    number = text_of(float(right.mean()), proportion_interval(right, codes), "%")
    patients = rows["patient_id"]
    of = patients_words(len(np.unique(codes)), patients.nunique(), int(patients.isna().sum()))
    images = f"{counted(len(rows), 'test image')} of {of}"
    other = 0 if study.table is None else len(study.images) - len(rows)
    left = f" (the other {counted(other, 'image')} of the data set: unseen fold, or left out)" if other > 0 else ""
    return f"The claim: an accuracy of {number} on {images}{left}. What follows says what it is worth."


def number_text(finding: Finding) -> str:
    """The number behind a finding with its interval.

    Args:
        finding: of a check.
    """
    return text_of(finding.number, finding.interval, finding.unit)


def finding_text(finding: Finding) -> str:
    """A finding in one line: its level, what was found, and the number.

    Args:
        finding: of a check.
    """
    return f"{LEVELS[finding.level].capitalize()}: {with_number(finding.what, number_text(finding))}"


def _ran(audit: Audit, name: str) -> bool:
    return name in audit.answers or name in audit.not_possible


def _notice(audit: Audit) -> Notice:
    items = [finding_text(one) for one in audit.serious]
    return Notice(
        "What could be wrong", items or ["Nothing above the level \u201cfor your information\u201d."], not items
    )


def _overview(audit: Audit) -> Table:
    rows: list[list[Cell]] = []
    for check in CHECKS:
        if check.name in audit.not_possible:
            rows.append([check.title, "not possible", audit.not_possible[check.name], ""])
        elif check.name in audit.answers:
            found = [one for one in audit.findings if one.check == check.name]
            rows += [[check.title, LEVELS[one.level], one.what, number_text(one)] for one in found]
            partly = any(note.startswith("Not possible") for note in audit.answers[check.name].notes)
            nothing = "nothing found; in part not possible" if partly else "nothing found"
            rows += [] if found else [[check.title, nothing, "", ""]]
    columns = [Column("Check"), Column("Level"), Column("Found"), Column("Number")]
    return Table("The checks and what they found; in brackets 95% intervals, the patient as the unit.", columns, rows)


def _section(audit: Audit, name: str, title: str, question: str) -> Section:
    blocks: list[Block] = [Paragraph(question)]
    if name in audit.not_possible:
        return Section(title, name, [*blocks, Paragraph(f"Not possible: {audit.not_possible[name]}.")])
    answer = audit.answers[name]
    if not answer.findings:
        blocks.append(Paragraph("Nothing found."))
    for at, finding in enumerate(answer.findings):
        blocks.append(Notice(finding_text(finding), [finding.meaning, finding.remedy], finding.level == "information"))
        if picture := _picture(audit.study, finding, f"{name}-{at}"):
            blocks.append(picture)
    if answer.notes:
        blocks.append(Bullets(answer.notes))
    blocks += [_table(file, table) for file, table in answer.tables.items() if answer.on_page]
    return Section(title, name, blocks)


def _picture(study: Study, finding: Finding, name: str) -> Picture | None:
    """The first images of a finding side by side."""
    if study.table is None:
        return None
    place = dict(zip(study.images["path"], study.images["image_id"], strict=True))
    small = {image_id: n for n, image_id in enumerate(study.table.thumbnails.image_id)}
    shown = [path for path in finding.images if place.get(path) in small][:_THUMBNAILS]
    if not shown:
        return None
    pixels = [study.table.thumbnails.pixels[small[place[path]]] for path in shown]
    which = f"The first {len(shown)} of {len(finding.images):,}" if len(finding.images) > len(shown) else "The"
    caption = f"{which} images concerned, row by row; their paths, in this order: audit.json."
    return Picture(caption, f"Thumbnails: {finding.what}", f"{name}.png", data=sheet(pixels))


def sheet(pixels: Sequence[npt.NDArray[np.uint8]]) -> bytes:
    """Thumbnails in rows of six, as a PNG.

    Args:
        pixels: (64, 64) uint8 each; at least one.
    """
    step = _SIDE + _GAP
    lines = -(-len(pixels) // _PER_LINE)
    page = np.full((lines * step - _GAP, _PER_LINE * step - _GAP), 255, np.uint8)
    for n, image in enumerate(pixels):
        top, left = n // _PER_LINE * step, n % _PER_LINE * step
        page[top : top + _SIDE, left : left + _SIDE] = cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_LINEAR)
    return bytes(cv2.imencode(".png", page)[1].tobytes())


def _table(name: str, table: pd.DataFrame) -> Table:
    total = len(table)
    empty = table.isna().all() | (table == "").all()
    table = table.loc[:, ~empty].head(_ROWS)
    tests = [column in ("p", "p_holm") for column in table]
    rows = [
        [probability(value) if test else _cell(value) for value, test in zip(row, tests, strict=True)]
        for row in table.astype(object).to_numpy().tolist()
    ]
    file = f"{name}.csv" if total == len(table) else f"the first {_ROWS} of {total:,} rows of {name}.csv"
    return Table(f"{CAPTIONS[name]} ({file}).", [Column(str(column).replace("_", " ")) for column in table], rows)


def _cell(value: object) -> Cell:
    if isinstance(value, float | np.floating):
        if not np.isfinite(value):
            return ""
        return Value(float(value), digits=0 if float(value).is_integer() else 3)
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return Value(float(value))
    return "" if value is None else str(value)


def _safe(table: pd.DataFrame) -> pd.DataFrame:
    """The table with text that no spreadsheet runs as a formula."""
    return table.map(lambda cell: inert(cell) if isinstance(cell, str) else cell)


def _record(audit: Audit) -> dict[str, Any]:
    study = audit.study
    return {
        "covidnet": __version__,
        "data": None
        if study.table is None
        else {"name": study.table.name, "images": len(study.images), "manifest_sha256": study.table.manifest_sha256},
        "sweep_dir": None if study.sweep_dir is None else str(study.sweep_dir),
        "verdict": verdict(audit),
        "findings": audit.findings,
        "checks": {name: {"findings": len(answer.findings), "notes": list(answer.notes), "tables": list(answer.tables)}
                   for name, answer in audit.answers.items()},
        "not_possible": audit.not_possible,
    }  # fmt: skip
