"""Read the metadata table that people keep beside their images, and match its rows to images."""

from __future__ import annotations

import codecs
import csv
import io
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pandas as pd

from covidnet.base.classes import label_of
from covidnet.base.errors import DataError
from covidnet.base.names import counted, inert
from covidnet.data.reading.images import SUFFIXES

log = logging.getLogger(__name__)

FILE = "metadata.csv"
COLUMNS = ("filename", "label", "patient_id", "view", "source")

# Lower case, without blanks and underscores. A column's own name takes precedence, then its synonyms in this order.
_SYNONYMS = {
    "filename": ("filename", "file", "image", "imagename", "imageindex", "path", "filepath", "imagepath"),
    "label": ("label", "diagnosis", "class", "category"),
    "patient_id": ("patientid", "patient", "subjectid"),
    "view": ("view", "viewposition", "projection"),
}
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_UNKNOWN = {"", "unknown", "none", "nan", "n/a", "na"}
# Above this share of rows without a file, the table describes something else; below it, a few files are missing.
_MOST_LOST = 0.05


class Table(NamedTuple):
    """A table as read from its file.

    Attributes:
        rows: cells as text, "" if empty; recognised columns have their usual names.
        columns: the column names in the file.
        separator: between cells.
        first_line: the line number of the first row, counted from 1.
    """

    rows: pd.DataFrame
    columns: list[str]
    separator: str
    first_line: int


@dataclass(frozen=True)
class Metadata:
    """The content of metadata.csv.

    Attributes:
        cells: for each matched path, its known cells by column.
        missing: file names of rows that match no image, as written in the table.
        columns: the column names in the file; empty without a table.
    """

    cells: dict[str, dict[str, str]] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()


def read_table(file: Path, wanted: Iterable[str] = COLUMNS) -> Table:
    """Read a text table in any encoding and with any separator that spreadsheets write; assumptions are logged.

    The encoding is UTF-8, UTF-16 or, failing both, Windows-1252. The separator is the comma, semicolon, tab or bar that
    yields a column of file names, or what Excel's line ``sep=;`` names. Column names may differ in case, blanks and
    underscores, and a few have synonyms.

    Args:
        file: the table.
        wanted: names of columns to recognise.

    Raises:
        DataError: it cannot be read as a table.
    """
    text, encoding = _decoded(file)
    first = re.match(r"sep=(.)\r?\n", text)
    body = text[first.end() :] if first else text
    header = body.lstrip("\r\n").split("\n", 1)[0].strip("\r")
    separator = first[1] if first else max(_SEPARATORS, key=lambda one: _score(header, one))
    try:
        # Empty lines are kept, so that errors can name the line.
        rows = pd.read_csv(
            io.StringIO(body), sep=separator, dtype=str, keep_default_na=False, skipinitialspace=True,
            skip_blank_lines=False,
        ).fillna("")  # fmt: skip
    except ValueError as error:
        raise DataError(f"{file}: not a readable CSV ({error}); save it as UTF-8 with a header line") from None
    if not isinstance(rows.index, pd.RangeIndex):
        raise DataError(f"{file}: not a readable CSV (rows have more cells than the header); name every column")
    columns = [str(column).strip() for column in rows.columns]
    named = _recognised(columns, wanted)
    rows.columns = pd.Index([named.get(column, column) for column in columns])
    assumed = [f"as {encoding}"] if encoding != "UTF-8" else []
    assumed += [f"with {_SEPARATORS.get(separator, repr(separator))} between"] if separator != "," else []
    assumed += [f"column {column} as {name}" for column, name in named.items() if column != name]
    if assumed:
        log.info("%s: read %s", file, ", ".join(assumed))
    return Table(rows, columns, separator, 3 if first else 2)


def read_metadata(root: Path, paths: Sequence[str], labels: Mapping[str, str] | None = None) -> Metadata:
    """Read the metadata.csv of a folder, or of its parent, for the images in the folder.

    A row refers to the image whose path it gives. If there is none, matching ignores letter case, then leading folders
    (the folder's own name, or one that the row omits), then the suffix, as long as exactly one image matches.

    Args:
        root: the folder.
        paths: of its images, posix, relative to it.
        labels: more label names and the class of each.

    Raises:
        DataError: the table cannot be read or has no column of file names; two rows of one image differ; or more than
            5% of the rows, or all rows of a class, match no image.
    """
    for folder in (root, root.parent):
        file = folder / FILE
        if not file.is_file():
            continue
        table = read_table(file)
        if "filename" not in table.rows:
            if folder == root:
                raise DataError(
                    f"{file}: no column filename; its columns are {', '.join(table.columns)}; expected are "
                    f"{','.join(COLUMNS)}, and only filename is required"
                )
            continue
        rows = table.rows[(table.rows != "").any(axis=1)]
        names = rows["filename"].tolist()
        found = _matched(file, names, root, paths)
        lost = [n for n, path in enumerate(found) if path is None]
        if folder != root:
            found, lost = _about(names, found, root)
            if not lost and all(path is None for path in found):
                log.warning("%s: skipped; no row refers to an image in %s", file, root)
                continue
        _check_lost(file, rows, found, lost, paths, labels)
        cells = _cells(file, table, rows, found)
        log.info("metadata: %s (%d files)", file, len(cells))
        missing = sorted({_below(names[n], root)[-1].as_posix() for n in lost})
        return Metadata(cells, tuple(missing), tuple(table.columns))
    return Metadata()


def _decoded(file: Path) -> tuple[str, str]:
    """The text of a file, and the name of its encoding."""
    data = file.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        ways = [("utf-16", "UTF-16")]
    elif b"\0" in data:
        ways = [("utf-16-le" if data[1:2] == b"\0" else "utf-16-be", "UTF-16")]
    else:
        ways = [("utf-8-sig", "UTF-8"), ("cp1252", "Windows-1252")]
    for codec, name in ways:
        try:
            return data.decode(codec), name
        except UnicodeDecodeError as error:
            cause = error
    raise DataError(f"{file}: not a readable CSV ({cause}); save it as UTF-8 with a header line")


def _plain(column: str) -> str:
    return re.sub(r"[^a-z0-9]", "", column.lower())


def _score(header: str, separator: str) -> tuple[bool, int]:
    """How well a separator fits: whether it yields a column of file names, and the number of columns."""
    cells = next(csv.reader([header], delimiter=separator, skipinitialspace=True), [])
    return any(_plain(cell) in _SYNONYMS["filename"] for cell in cells), len(cells)


def _recognised(columns: Sequence[str], wanted: Iterable[str]) -> dict[str, str]:
    """Maps column names in the file to the usual names."""
    named = {}
    for name in wanted:
        if name in columns:
            named[name] = name
            continue
        for synonym in _SYNONYMS.get(name, (_plain(name),)):
            fits = [column for column in columns if _plain(column) == synonym and column not in named]
            if fits:
                named[fits[0]] = name
                break
    return named


def _posix(name: str) -> PurePosixPath:
    # Tables written on Windows may use backslashes and begin with a drive.
    return PurePosixPath(re.sub(r"^[A-Za-z]:", "", name.strip().replace("\\", "/")).lstrip("/"))


def _bare(path: PurePosixPath) -> PurePosixPath:
    """The path without an image suffix; DICOM names often contain dots that are not one."""
    return path.with_suffix("") if path.suffix.lower() in SUFFIXES else path


def _about(names: Sequence[str], found: Sequence[str | None], root: Path) -> tuple[list[str | None], list[int]]:
    """Matches and lost rows of the parent's table, without the rows that refer to sibling folders."""
    inside = [root.name.casefold() in (part.casefold() for part in _posix(name).parts[:-1]) for name in names]
    kept = [
        path if path is not None and (here or not (root.parent / _posix(name)).is_file()) else None
        for name, path, here in zip(names, found, inside, strict=True)
    ]
    single = [len(_posix(name).parts) == 1 for name in names]
    bare = any(path is not None and one for path, one in zip(kept, single, strict=True))
    return kept, [n for n, path in enumerate(kept) if path is None and (inside[n] or (bare and single[n]))]


def _below(name: str, root: Path) -> list[PurePosixPath]:
    """The possible readings of a row's path, relative to root: itself, and the part after the folder's own name."""
    path = _posix(name)
    own = [n for n, part in enumerate(path.parts[:-1]) if part.casefold() == root.name.casefold()]
    return [path, *(PurePosixPath(*path.parts[n + 1 :]) for n in own)]


def _tails(path: PurePosixPath) -> list[str]:
    """The path, and the path with one or more leading folders removed."""
    return [PurePosixPath(*path.parts[n:]).as_posix() for n in range(len(path.parts))]


# From strict to lenient: the names that a file goes by, and the name that a row looks for.
_LEVELS: tuple[tuple[str, Callable[[PurePosixPath], list[str]], Callable[[PurePosixPath], str]], ...] = (
    ("", lambda file: [file.as_posix()], lambda row: row.as_posix()),
    ("in another letter case", lambda file: [file.as_posix().casefold()], lambda row: row.as_posix().casefold()),
    ("without its folder", lambda file: _tails(PurePosixPath(file.as_posix().casefold())),
     lambda row: row.as_posix().casefold()),
    ("without its suffix", lambda file: [_bare(file).as_posix().casefold()],
     lambda row: _bare(row).as_posix().casefold()),
    ("without folder and suffix", lambda file: _tails(PurePosixPath(_bare(file).as_posix().casefold())),
     lambda row: _bare(row).as_posix().casefold()),
)  # fmt: skip


def _matched(file: Path, names: Sequence[str], root: Path, paths: Sequence[str]) -> list[str | None]:
    """The image that each row refers to, or None."""
    wanted = [_below(name, root) if name.strip() else [] for name in names]
    found: list[str | None] = [None] * len(names)
    taken: set[str] = set()
    left = set(range(len(names)))
    for how, names_of, asked in _LEVELS:
        if not left:
            break
        index = defaultdict[str, list[str]](list)
        for path in paths:
            for name in names_of(PurePosixPath(path)):
                index[name].append(path)
        new = {}
        for n in sorted(left):
            fits = {path for row in wanted[n] for path in index.get(asked(row), ())}
            if len(fits) > 1:
                left.discard(n)
            elif fits:
                new[n] = fits.pop()
        left -= new.keys()
        for n, path in new.items():
            # a.jpg does not mean a.png if another row means a.png.
            other = _posix(names[n]).suffix.lower()
            if path not in taken or other not in SUFFIXES or other == PurePosixPath(path).suffix.lower():
                found[n] = path
        taken.update(new.values())
        if new and how:
            n = min(new)
            log.info("%s: %d rows name their image %s, for example %s for %s", file, len(new), how, names[n], new[n])
    return found


def _check_lost(
    file: Path,
    rows: pd.DataFrame,
    found: Sequence[str | None],
    lost: Sequence[int],
    paths: Sequence[str],
    labels: Mapping[str, str] | None,
) -> None:
    """Refuse a table if too many rows, or all rows of a class, match no image."""
    if not lost:
        return
    total = len(lost) + sum(path is not None for path in found)
    cause = f"{len(lost)} of {total} rows match no single image" if len(lost) > _MOST_LOST * total else ""
    if not cause and "label" in rows:
        classes = [label_of(cell, labels) or cell.strip() for cell in rows["label"]]
        held = {classes[n] for n, path in enumerate(found) if path is not None}
        if gone := Counter(classes[n] for n in lost if classes[n] and classes[n] not in held):
            name, count = gone.most_common(1)[0]
            cause = f"none of the {counted(count, 'row')} of {name} matches an image"
            lost = [n for n in lost if classes[n] == name]
    if cause:
        listed = ", ".join(rows["filename"].iloc[n].strip() or "an empty cell" for n in lost[:3])
        known = {path for path in found if path is not None}
        free = [path for path in paths if path not in known] or list(paths)
        raise DataError(
            f"{file}: {cause}, such as {listed}; images are named like {', '.join(free[:3])}: use such paths in the "
            "column filename, or delete the rows of missing images"
        )


def _cells(file: Path, table: Table, rows: pd.DataFrame, found: Sequence[str | None]) -> dict[str, dict[str, str]]:
    columns = [column for column in COLUMNS[1:] if column in rows]
    known: dict[str, tuple[dict[str, str], int]] = {}
    for at, row, path in zip(rows.index, rows[columns].to_dict("records"), found, strict=True):
        if path is None:
            continue
        # Patients, views and sources end up in our own tables, which people open in spreadsheets.
        cells = {
            column: row[column].strip() if column == "label" else inert(row[column].strip())
            for column in columns
            if row[column].strip().lower() not in _UNKNOWN
        }
        line = table.first_line + int(at)
        before, first = known.setdefault(path, (cells, line))
        if before != cells:
            raise DataError(f"{file}: {path} has two rows that differ (lines {first} and {line}); keep one of them")
    return {path: cells for path, (cells, _) in known.items()}
