"""The short form of the audit that ``covidnet prepare`` ends with: what the data set alone tells, in a few lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from covidnet.auditing.checks import CHECKS, audited
from covidnet.auditing.document import number_text
from covidnet.auditing.finding import LEVELS
from covidnet.auditing.study import Study
from covidnet.base.names import counted
from covidnet.data.collection.image_table import ImageTable, select_thumbnails, table_columns
from covidnet.data.collection.prepared import COPIES_FILE, PreparedDataset
from covidnet.data.recognition.overlap import ImageSet, same_files

SHORT = ("identity", "same_image", "acquisition", "labels")
"""The checks of the short form."""

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
    lines = [f"{LEVELS[one.level]}: {one.what} {number_text(one)}" for one in audit.serious]
    lines += [f"not checked: {name}: {why}" for name, why in audit.not_possible.items()]
    found = counted(len(audit.serious), "finding") if audit.serious else "nothing that blocks or weakens a claim"
    return [*lines, f"{counted(len(audit.answers), 'check')} of the data set alone: {found}"]


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
