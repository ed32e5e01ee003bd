"""How the tables of published data sets describe images; each is recognised by its columns."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from covidnet.data.reading.images import SUFFIXES


@dataclass(frozen=True)
class Layout:
    """How a table describes images.

    Attributes:
        name: of the data set, as logged; empty for tables of one's own.
        files: patterns of the table's file name.
        columns: the column for each of filename, label, patient_id, view and source that has an unusual name. In a
            table without a header line, its number, counted from 1.
        beside: further columns by which the table is recognised.
        header: the column names of a table without a header line.
        separator: between cells; None if it is to be detected.
        keep: the value that a column must have for a row to be used.
        findings: whether a label lists several findings (``A|B`` or ``A, B``), each of which may be a path
            (``Pneumonia/Viral``). Images whose findings name no class, or several, are left out.
        partial: whether rows without an image are normal, since many people download a part of the set.
        listed: whether images without a row are left out; otherwise they need a class folder.
    """

    name: str = ""
    files: tuple[str, ...] = ()
    columns: Mapping[str, str | int] = field(default_factory=dict)
    beside: tuple[str, ...] = ()
    header: tuple[str, ...] = ()
    separator: str | None = None
    keep: Mapping[str, str] = field(default_factory=dict)
    findings: bool = False
    partial: bool = False
    listed: bool = True

    def fits(self, first_line: str) -> bool:
        """Whether a table that begins with this line has this layout.

        Args:
            first_line: of the file.
        """
        if self.header:
            cells = first_line.split()
            if not len(self.header) - 1 <= len(cells) <= len(self.header):
                return False
            return Path(dict(zip(self.header, cells, strict=False))["filename"]).suffix.lower() in SUFFIXES
        cells = re.split(r"[,;\t]", first_line)
        return {*map(plain, map(str, self.columns.values())), *self.keep, *self.beside} <= set(map(plain, cells))


OWN = Layout(files=("metadata.csv",), listed=False)
"""A table of one's own: columns filename, label, patient_id, view, source, or usual names for them."""

LAYOUTS = (
    Layout(
        "the COVID-19 image data collection", OWN.files, {"label": "finding"}, findings=True,
        keep={"modality": "X-ray", "folder": "images"},
    ),
    Layout(
        "NIH ChestX-ray", ("Data_Entry_2017*.csv", "sample_labels.csv"),
        {"filename": "Image Index", "label": "Finding Labels", "patient_id": "Patient ID", "view": "View Position"},
        findings=True, partial=True,
    ),
    Layout(
        "COVIDx", ("train*.txt", "test*.txt", "val*.txt"), separator=" ",
        header=("patient_id", "filename", "label", "source"),
    ),
    Layout(
        "the COVID-19 Radiography Database", ("*.metadata.csv",), {"filename": "FILE NAME", "source": "URL"},
        beside=("format", "size"), listed=False,
    ),
)  # fmt: skip
"""Published layouts, recognised by themselves; the first that fits is used."""


def layout_of(first_line: str) -> Layout:
    """The layout of a table that begins with this line.

    Args:
        first_line: of the file.

    Example:
        >>> layout_of("Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,View Position").name
        'NIH ChestX-ray'
        >>> layout_of("1 COVID-1.png COVID-19 sirm").name
        'COVIDx'
    """
    return next((layout for layout in LAYOUTS if layout.fits(first_line)), OWN)


def plain(column: str) -> str:
    """A column name as it is compared: lower-case letters and digits only.

    Args:
        column: as written in the table.
    """
    return re.sub(r"[^a-z0-9]", "", column.lower())
