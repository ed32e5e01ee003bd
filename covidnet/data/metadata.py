"""The table that people keep beside their images: read as it was saved, its rows matched to the images they mean."""

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

from covidnet.data.images import SUFFIXES
from covidnet.errors import DataError
from covidnet.labels import label_of
from covidnet.names import counted, inert

log = logging.getLogger(__name__)

FILE = "metadata.csv"
COLUMNS = ("filename", "label", "patient_id", "view", "source")

# Lower case, without blanks and underscores. A column's own name goes before its synonyms, those in their order.
_SYNONYMS = {
    "filename": ("filename", "file", "image", "imagename", "imageindex", "path", "filepath", "imagepath"),
    "label": ("label", "diagnosis", "class", "category"),
    "patient_id": ("patientid", "patient", "subjectid"),
    "view": ("view", "viewposition", "projection"),
}
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_UNKNOWN = {"", "unknown", "none", "nan", "n/a", "na"}
# More rows without a file than this share are a table of something else, not a few files that are gone.
_MOST_LOST = 0.05


class Table(NamedTuple):
    """A table as it was saved.

    Attributes:
        rows: cells as text, "" where there is none; columns that were recognised have their usual names.
        columns: as the file names them.
        separator: between cells.
        first_line: the line of the file that holds the first row, from 1 on.
    """

    rows: pd.DataFrame
    columns: list[str]
    separator: str
    first_line: int


@dataclass(frozen=True)
class Metadata:
    """What metadata.csv says.

    Attributes:
        cells: for each path that a row means, what is known of it, by column.
        missing: rows that match no image, as the table writes them.
        columns: of the table, as the file names them; empty where there is no table.
    """

    cells: dict[str, dict[str, str]] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()


def read_table(file: Path, wanted: Iterable[str] = COLUMNS) -> Table:
    """A table of text in any encoding and with any separator that spreadsheets write; what was assumed is logged.

    UTF-8, UTF-16 and, failing both, Windows-1252; commas, semicolons, tabs or bars, whichever make a column of file
    names; Excel's line ``sep=;`` is understood. Column names may differ in case, blanks and underscores, and a few
    have synonyms.

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
    told = [f"as {encoding}"] if encoding != "UTF-8" else []
    told += [f"with {_SEPARATORS.get(separator, repr(separator))} between"] if separator != "," else []
    told += [f"column {column} as {name}" for column, name in named.items() if column != name]
    if told:
        log.info("%s: read %s", file, ", ".join(told))
    return Table(rows, columns, separator, 3 if first else 2)


def read_metadata(root: Path, paths: Sequence[str], labels: Mapping[str, str] | None = None) -> Metadata:
    """What the metadata.csv in a folder, or in its parent, says of the images in the folder.

    A row means the image whose path it gives. Where there is none, letter case, folders before the path (the folder's
    own name, or one that the row leaves out) and then the suffix are passed over, if only one image is left.

    Args:
        root: the folder.
        paths: of its images, posix, relative to it.
        labels: more names of labels and the class they mean.

    Raises:
        DataError: the table cannot be read or has no column of file names; two rows of one image differ; more than 5%
            of the rows, or all rows of a class, match no image.
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
                    f"{','.join(COLUMNS)}, of which only filename is needed"
                )
            continue
        rows = table.rows[(table.rows != "").any(axis=1)]
        names = rows["filename"].tolist()
        found = _matched(file, names, root, paths)
        lost = [n for n, path in enumerate(found) if path is None]
        if folder != root:
            found, lost = _about(names, found, root)
            if not lost and all(path is None for path in found):
                log.warning("%s: no row is about an image in %s; passed over", file, root)
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
    """How well a separator fits: whether it makes a column of file names, and the number of columns."""
    cells = next(csv.reader([header], delimiter=separator, skipinitialspace=True), [])
    return any(_plain(cell) in _SYNONYMS["filename"] for cell in cells), len(cells)


def _recognised(columns: Sequence[str], wanted: Iterable[str]) -> dict[str, str]:
    """The usual name of each column that has one."""
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
    # Tables written on Windows may separate folders by backslashes, and begin with a drive.
    return PurePosixPath(re.sub(r"^[A-Za-z]:", "", name.strip().replace("\\", "/")).lstrip("/"))


def _bare(path: PurePosixPath) -> PurePosixPath:
    """The path without the suffix of an image; DICOM files are often named by numbers with dots."""
    return path.with_suffix("") if path.suffix.lower() in SUFFIXES else path


def _about(names: Sequence[str], found: Sequence[str | None], root: Path) -> tuple[list[str | None], list[int]]:
    """Matches and lost rows of the parent's table, without rows that are about other folders beside this one."""
    inside = [root.name.casefold() in (part.casefold() for part in _posix(name).parts[:-1]) for name in names]
    kept = [
        path if path is not None and (here or not (root.parent / _posix(name)).is_file()) else None
        for name, path, here in zip(names, found, inside, strict=True)
    ]
    single = [len(_posix(name).parts) == 1 for name in names]
    bare = any(path is not None and one for path, one in zip(kept, single, strict=True))
    return kept, [n for n, path in enumerate(kept) if path is None and (inside[n] or (bare and single[n]))]


def _below(name: str, root: Path) -> list[PurePosixPath]:
    """What a row's path can mean, relative to root: itself, and what follows the folder's own name in it."""
    path = _posix(name)
    own = [n for n, part in enumerate(path.parts[:-1]) if part.casefold() == root.name.casefold()]
    return [path, *(PurePosixPath(*path.parts[n + 1 :]) for n in own)]


def _tails(path: PurePosixPath) -> list[str]:
    """The path, and what is left of it without its first folders."""
    return [PurePosixPath(*path.parts[n:]).as_posix() for n in range(len(path.parts))]


# From strict to lenient: what a file is called, by one or several names, and what a row asks for.
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
    """The image that each row means."""
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
            # a.jpg is not a.png where another row means a.png.
            other = _posix(names[n]).suffix.lower()
            if path not in taken or other not in SUFFIXES or other == PurePosixPath(path).suffix.lower():
                found[n] = path
        taken.update(new.values())
        if new and how:
            n = min(new)
            log.info("%s: %d rows name their image %s, such as %s for %s", file, len(new), how, names[n], new[n])
    return found


def _check_lost(
    file: Path,
    rows: pd.DataFrame,
    found: Sequence[str | None],
    lost: Sequence[int],
    paths: Sequence[str],
    labels: Mapping[str, str] | None,
) -> None:
    """Refuse a table of which too many rows, or all rows of a class, match nothing."""
    if not lost:
        return
    total = len(lost) + sum(path is not None for path in found)
    cause = f"{len(lost)} of {total} rows match no single image" if len(lost) > _MOST_LOST * total else ""
    if not cause and "label" in rows:
        told = [label_of(cell, labels) or cell.strip() for cell in rows["label"]]
        held = {told[n] for n, path in enumerate(found) if path is not None}
        if gone := Counter(told[n] for n in lost if told[n] and told[n] not in held):
            name, count = gone.most_common(1)[0]
            cause = f"none of the {counted(count, 'row')} of {name} matches an image"
            lost = [n for n in lost if told[n] == name]
    if cause:
        listed = ", ".join(rows["filename"].iloc[n].strip() or "an empty cell" for n in lost[:3])
        known = {path for path in found if path is not None}
        free = [path for path in paths if path not in known] or list(paths)
        raise DataError(
            f"{file}: {cause}, such as {listed}; images are named like {', '.join(free[:3])}: give such paths in the "
            "column filename, or delete the rows of images that are not here"
        )


def _cells(file: Path, table: Table, rows: pd.DataFrame, found: Sequence[str | None]) -> dict[str, dict[str, str]]:
    columns = [column for column in COLUMNS[1:] if column in rows]
    known: dict[str, tuple[dict[str, str], int]] = {}
    for at, row, path in zip(rows.index, rows[columns].to_dict("records"), found, strict=True):
        if path is None:
            continue
        # Patients, views and sources go into our own tables, which spreadsheets open.
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
