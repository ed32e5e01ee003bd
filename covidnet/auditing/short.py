"""Short forms of the audit: of a data set, at the end of ``covidnet prepare``, and of a sweep, in its report."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from covidnet.auditing.checks import CHECKS, Audit, audited
from covidnet.auditing.document import finding_text
from covidnet.auditing.finding import LEVELS
from covidnet.auditing.study import Study
from covidnet.base.names import counted
from covidnet.data.collection.image_table import ImageTable, select_thumbnails, table_columns
from covidnet.data.collection.prepared import COPIES_FILE, PreparedDataset
from covidnet.data.reading.thumbnails import SIDE, Thumbnails
from covidnet.data.recognition.image_search import COLUMNS
from covidnet.data.recognition.overlap import ImageSet, same_files
from covidnet.report.summary import AuditFinding, SweepAudit
from covidnet.sweep.folder import Sweep

log = logging.getLogger(__name__)

SHORT = ("identity", "same_image", "acquisition", "labels")
"""The checks at the end of ``covidnet prepare``."""

SPLIT = ("identity", "acquisition", "labels")
"""The checks of a sweep's report on what split.csv tells of the images: patient, view, source and copies."""

FILES = ("leaks", "shuffled_labels", "subgroups", "stability", "uncertainty", "clinical")
"""Its checks on split.csv, predictions.csv and the curves."""

RESAMPLES = 400
"""Resamples of its bootstrap: fewer than those of ``covidnet audit``, as nobody quotes these intervals."""


def short_audit(prepared: PreparedDataset, data: Mapping[str, Any]) -> list[str]:
    """A line for each finding that blocks or weakens a claim, and one that says what was checked.

    Copies are those that were found when the folds were drawn; with another ``split.copies`` only identical files.

    Args:
        prepared: a data set.
        data: the group ``data`` of the configuration that it was prepared with.
    """
    study = _study(prepared, data)
    audit = audited(study, [check for check in CHECKS if check.name in SHORT])
    lines = [finding_text(one) for one in audit.serious]
    lines += [f"not checked: {name}: {why}" for name, why in audit.not_possible.items()]
    found = counted(len(audit.serious), "finding") if audit.serious else "nothing that blocks or weakens a claim"
    return [*lines, f"{counted(len(audit.answers), 'check')} of the data set alone: {found}"]


def audited_sweep(sweep: Sweep) -> SweepAudit:
    """What the files of a sweep alone tell about it, for its report.

    Args:
        sweep: the sweep. A check that fails is one that could not run: it must not take the report away.
    """
    files = Study(
        None,
        sweep_dir=sweep.folder,
        classes=sweep.classes,
        why_no_images="a report reads no images",
        resamples=RESAMPLES,
    )
    vars(files).update(sweep=sweep, run_folders=[run.folder for run in sweep.runs])
    studies = dict.fromkeys((*SPLIT, *FILES), files)
    if (split := sweep.runs[0].split) is not None:
        studies |= dict.fromkeys(SPLIT, _of_split(files, split))
    found, ran, not_possible = list[AuditFinding](), list[str](), dict[str, str]()
    for check in CHECKS:
        if check.name not in studies:
            continue
        try:
            audit = audited(studies[check.name], [check])
        except Exception as error:
            log.debug("the check %s failed", check.name, exc_info=True)
            audit = Audit(files, {}, {check.name: str(error)})
        ran += [check.title] if audit.answers else []
        if check.name in audit.not_possible:
            not_possible[check.title] = audit.not_possible[check.name]
        found += [
            AuditFinding(check.title, one.level, one.what, one.number, one.interval, one.unit, one.meaning, one.remedy)
            for one in audit.serious
        ]
    found.sort(key=lambda one: list(LEVELS).index(one.level))
    return SweepAudit(found, ran, not_possible)


def _study(prepared: PreparedDataset, data: Mapping[str, Any]) -> Study:
    images, small = prepared.images, select_thumbnails(prepared.thumbnails(progress=False), prepared.images)
    table = ImageTable(
        prepared.name, prepared.root, images, prepared.refused, prepared.manifest_sha256, small, prepared.notes
    )
    study = Study(table, table_columns(data, table), classes=prepared.classes, resamples=RESAMPLES)
    if prepared.copies == "near":
        pairs = pd.read_csv(prepared.folder / COPIES_FILE)
        row = {path: n for n, path in enumerate(images["path"])}
        rows = {"image": pairs["path"], "other": pairs["other_path"]}
        pairs = pairs.assign(**{name: paths.map(row).astype(np.intp) for name, paths in rows.items()})
        pairs = pairs[["image", "other", "kind", "similarity"]]
    else:
        place = study.thumbnail_rows
        pairs = same_files(ImageSet(images["sha256"].to_numpy(dtype=str)[place], small.pixels))
        pairs = pairs.assign(image=place[pairs["image"]], other=place[pairs["other"]])
    vars(study)["copies"] = pairs
    return study


def _of_split(files: Study, split: pd.DataFrame) -> Study:
    """The images of the folds as split.csv has them, without pixels, sizes and files."""
    images = split[split["fold"] >= 0].reset_index(drop=True)
    images = images.assign(**dict.fromkeys(("sha256", "mode", "width", "height", "bytes"), np.nan))
    small = Thumbnails([], np.zeros((0, SIDE, SIDE), np.uint8), np.zeros(0))
    study = replace(files, table=ImageTable("", Path(), images, pd.DataFrame(), "", small))
    first: dict[str, int] = {}
    copies = images["copy_of"] if "copy_of" in images else pd.Series(np.nan, images.index)
    rows = [(n, first.setdefault(one, n), "copy", np.nan) for n, one in enumerate(copies) if isinstance(one, str)]
    pairs = pd.DataFrame([row for row in rows if row[0] != row[1]], columns=list(COLUMNS))
    pairs = pairs.astype({"image": np.intp, "other": np.intp})
    vars(study).update(sweep=files.sweep, run_folders=files.run_folders, copies=pairs)
    return study
