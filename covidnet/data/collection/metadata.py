"""Read the table that describes a folder's images, and match its rows to images."""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pandas as pd

from covidnet.base.classes import DEFAULT_CLASSES, ClassList, label_of
from covidnet.base.errors import DataError
from covidnet.base.names import counted, inert, real_path
from covidnet.data.collection.layouts import LAYOUTS, OWN, Layout, layout_of, plain
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
SPREADSHEETS = (".xlsx", ".xlsm", ".xls", ".ods")
"""Suffixes of tables that are not read: they have to be saved as CSV."""
# The first bytes of .xlsx and .ods (a zip file), and of .xls.
_MAGIC = (b"PK\3\4", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|", "space": " "}
"""The values of ``data.separator``; a space stands for any number of blanks."""
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
    """The content of the table of a folder.

    Attributes:
        cells: for each matched path, its known cells by column.
        missing: file names of rows that match no image, as written in the table.
        columns: the column names in the file; empty without a table.
        name: of the table's file, or files.
        listed: whether images without a row are left out.
        left_out: for each matched path that is not used, the kind of reason.
        rows_out: rows without an image that are not used, counted by kind of reason.
    """

    cells: dict[str, dict[str, str]] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    name: str = FILE
    listed: bool = False
    left_out: dict[str, str] = field(default_factory=dict)
    rows_out: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Given:
    """A table as the settings describe it.

    Attributes:
        files: ``data.table``; none means metadata.csv in the folder or its parent.
        columns: ``data.columns``: the table's column for each of `COLUMNS`, or its number, counted from 1, in a table
            without a header line.
        separator: ``data.separator``, one of `SEPARATORS`.
    """

    files: tuple[Path, ...] = ()
    columns: Mapping[str, str | int] = field(default_factory=dict)
    separator: str | None = None


def read_table(file: Path, wanted: Iterable[str] = COLUMNS, layout: Layout = OWN, level: int = logging.INFO) -> Table:
    """Read a text table in any encoding and with any separator that spreadsheets write; assumptions are logged.

    The encoding is UTF-8, UTF-16 or, failing both, Windows-1252. The separator is the comma, semicolon, tab or bar that
    yields a column of file names, or what Excel's line ``sep=;`` names. Column names may differ in case, blanks and
    underscores, and a few have synonyms.

    Args:
        file: the table.
        wanted: names of columns to recognise.
        layout: what is known about it.
        level: at which assumptions are logged.

    Raises:
        DataError: it cannot be read as a table, or lacks a column that the layout names.
    """
    text, encoding = _decoded(file)
    first = re.match(r"sep=(.)\r?\n", text)
    body = text[first.end() :] if first else text
    line = _first_line(body)
    found = first[1] if first else max(_SEPARATORS, key=lambda one: _score(line, one))
    separator = layout.separator or found
    header = list(layout.header)
    if any(isinstance(number, int) for number in layout.columns.values()):
        cells = line.split() if separator == " " else next(csv.reader([line], delimiter=separator), [])
        header = [str(n + 1) for n in range(len(cells))]
    try:
        # Empty lines are kept, so that errors can name the line.
        rows = pd.read_csv(
            io.StringIO(body), sep=r"\s+" if separator == " " else separator, dtype=str, keep_default_na=False,
            skipinitialspace=True, skip_blank_lines=False, header=None if header else 0, names=header or None,
        ).fillna("")  # fmt: skip
    except ValueError as error:
        cause = " ".join(str(error).split())
        raise DataError(f"{file}: not a readable CSV ({cause}); save it as UTF-8 with a header line") from None
    if not isinstance(rows.index, pd.RangeIndex):
        cause = "rows have more cells than there are columns" if header else "rows have more cells than the header"
        raise DataError(f"{file}: not a readable CSV ({cause}); name every column")
    columns = [str(column).strip() for column in rows.columns]
    named = _chosen(file, columns, layout)
    named |= _recognised([c for c in columns if c not in named], [w for w in wanted if w not in named.values()])
    # A column that is not meant gives its name to the one that is.
    rows.columns = pd.Index([named.get(c, f"{c} (not used)" if c in named.values() else c) for c in columns])
    assumed = [f"as {layout.name}"] if layout.name else []
    assumed += [f"as {encoding}"] if encoding != "UTF-8" else []
    usual = separator in (",", layout.separator)
    assumed += [] if usual else [f"with {_SEPARATORS.get(separator, repr(separator))} between"]
    assumed += [f"column {column} as {name}" for column, name in named.items() if column != name]
    if layout.header:
        assumed.append(f"its columns taken as {', '.join(layout.header)}")
    if assumed:
        log.log(level, "%s: read %s", file, ", ".join(assumed))
    return Table(rows, columns, separator, 1 if header else 3 if first else 2)


def read_metadata(
    root: Path,
    paths: Sequence[str],
    labels: Mapping[str, str] | None = None,
    given: Given | None = None,
    also: str | None = None,
    classes: ClassList | None = DEFAULT_CLASSES,
) -> Metadata:
    """Read the table of a folder, or of its parent, for the images in the folder.

    It is metadata.csv, or a table of a published data set (`LAYOUTS`), or what the settings say. A row refers to the
    image whose path it gives. If there is none, matching ignores letter case, then leading folders (the folder's own
    name, or one that the row omits), then the suffix, as long as exactly one image matches.

    Args:
        root: the folder.
        paths: of its images, posix, relative to it.
        labels: more label names and the class of each.
        given: what the settings say about the table.
        also: a further column to keep, under its own name; in lists named ``train*.txt`` and so on, ``split`` is one.
        classes: of the study; None where any label is a class.

    Raises:
        DataError: the table cannot be read or has no column of file names; two rows of one image differ; or more than
            5% of the rows, or all rows of a class, match no image.
    """
    if given is not None and given.files:
        folders = {root: [(file, _layout(file, given)) for file in given.files]}
    else:
        folders = {folder: _tables(folder, given) for folder in (root, root.parent)}
    for folder, tables in folders.items():
        parts = [_read(file, layout, folder, root, paths, labels, also, classes) for file, layout in tables]
        known = [part for part in parts if part is not None]
        if known:
            return _together(known)
    if given is not None:
        raise DataError(
            f"data.columns or data.separator is set, but no {FILE} is in {root}; name the table with data.table=PATH"
        )
    return Metadata()


def read_columns(root: Path, paths: Sequence[str], given: Given | None = None) -> pd.DataFrame:
    """All columns of the table of a folder, or of its parent, besides those of `COLUMNS`.

    Args:
        root: the folder.
        paths: of its images, posix, relative to it.
        given: what the settings say about the table.

    Returns:
        A row for each path, in their order; text, unknown is NaN. Without a table there are no columns.

    Raises:
        DataError: the table cannot be read.
    """
    for folder in (root, root.parent):
        files = given.files if given is not None and given.files else ()
        tables = [(file, _layout(file, given)) for file in files] if files else _tables(folder, given)
        parts = []
        for file, layout in tables:
            rows = read_table(file, layout=layout, level=logging.DEBUG).rows  # read_metadata has said it
            if "filename" in rows and not layout.header:
                names = rows["filename"].tolist()
                found = pd.Series(_matched(file, names, root, paths, logging.DEBUG), rows.index, dtype=object)
                parts.append(rows.assign(filename=found).dropna(subset=["filename"]))
        if any(len(part) for part in parts):
            known = pd.concat(parts).drop_duplicates("filename").set_index("filename").reindex(list(paths))
            known = known.drop(columns=[name for name in COLUMNS if name in known])
            return known.map(lambda cell: cell if str(cell).strip().lower() not in _UNKNOWN else float("nan"))
    return pd.DataFrame(index=list(paths))


def read_list(file: Path, root: Path, paths: Sequence[str]) -> tuple[set[str], list[str]]:
    """Read a list of images, one file name in a line.

    Args:
        file: the list, in any encoding that `read_table` knows.
        root: the folder of the images.
        paths: of the images, posix, relative to it.

    Returns:
        The paths of the listed images, matched as in `read_metadata`, and the names that match no single image.

    Raises:
        DataError: the list cannot be read.
    """
    try:
        names = [line.strip() for line in _decoded(file)[0].splitlines() if line.strip()]
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); give a list of file names") from None
    found = _matched(file, names, root, paths)
    return {path for path in found if path is not None}, [
        name for name, path in zip(names, found, strict=True) if path is None
    ]


def _layout(file: Path, given: Given | None) -> Layout:
    """The layout of a table: what the settings say, or what its first line looks like."""
    try:
        known = layout_of(_first_line(_decoded(file)[0]))
    except OSError as error:
        raise DataError(
            f"{file}: cannot be read ({error.strerror}); data.table must be the path of a table of images, from the "
            "current folder"
        ) from None
    if given is None or not (given.columns or given.separator):
        return known if known.name or given is None or not given.files else Layout(listed=True)
    separator = SEPARATORS[given.separator] if given.separator else None
    return Layout(columns=given.columns, separator=separator, listed=bool(given.files))


def _tables(folder: Path, given: Given | None) -> list[tuple[Path, Layout]]:
    """The tables in a folder: metadata.csv, or else those of the first published layout that fits."""
    if (own := folder / FILE).is_file():
        return [(own, _layout(own, given))]
    for suffix in SPREADSHEETS:
        # Its patients would go unused without a word.
        if (sheet := own.with_suffix(suffix)).is_file():
            raise _is_spreadsheet(sheet)
    if given is None:
        for layout in LAYOUTS:
            files = {file for pattern in layout.files for file in folder.glob(pattern) if file.is_file()}
            if fits := [(file, layout) for file in sorted(files) if layout.fits(_first_line(_decoded(file)[0]))]:
                return fits
    return []


def _read(
    file: Path,
    layout: Layout,
    folder: Path,
    root: Path,
    paths: Sequence[str],
    labels: Mapping[str, str] | None,
    also: str | None,
    classes: ClassList | None,
) -> Metadata | None:
    """The content of one table; None if it is the parent's and describes other images."""
    table = read_table(file, layout=layout)
    if "filename" not in table.rows:
        if folder != root:
            return None
        likely = difflib.get_close_matches("filename", table.columns, 1, 0)
        raise DataError(
            f"{file}: no column filename; its columns are {', '.join(table.columns)}; expected are "
            f"{','.join(COLUMNS)}, and only filename is required: name it with data.columns='{{filename: {likely[0]}}}'"
        )
    rows = table.rows[(table.rows != "").any(axis=1)].copy()
    if layout.header and (split := re.match(r"train|test|val", file.name)):
        inside = f"{split[0]}/" if (folder / split[0]).is_dir() else ""
        rows = rows.assign(split=split[0], filename=inside + rows["filename"])
    if also is not None and also not in rows:
        known = [*table.columns, *(["split"] if "split" in rows else [])]
        raise DataError(f"{file}: no column {also}; its columns are {', '.join(known)}{_nearest(also, known)}")
    names = rows["filename"].tolist()
    reasons = _reasons(rows, layout, labels, classes)
    found = _matched(file, names, root, paths)
    lost = [n for n, path in enumerate(found) if path is None and reasons[n] is None]
    if folder != root:
        found, inside_rows = _about(names, found, root)
        lost = sorted(set(lost) & set(inside_rows))
        if not lost and all(path is None for path in found):
            log.warning("%s: skipped; no row refers to an image in %s", file, root)
            return None
    rows_out = Counter(reason for reason, path in zip(reasons, found, strict=True) if reason and path is None)
    if layout.partial and len(lost) < sum(reason is None for reason in reasons):
        rows_out["not downloaded"] += len(lost)
        lost = []
    used = [None if why else path for path, why in zip(found, reasons, strict=True)]
    _check_lost(file, rows, used, lost, root, paths, labels, classes)
    cells = _cells(file, table, rows, found, also)
    log.info("metadata: %s (%d files)", file, len(cells))
    left_out = {path: why for path, why in zip(found, reasons, strict=True) if path and why}
    missing = sorted({_below(names[n], root)[-1].as_posix() for n in lost})
    listed = layout.listed and "label" in rows
    return Metadata(cells, tuple(missing), tuple(table.columns), file.name, listed, left_out, +rows_out)


def _together(tables: Sequence[Metadata]) -> Metadata:
    """The content of several tables of one folder."""
    cells: dict[str, dict[str, str]] = {}
    for table in tables:
        for path, known in table.cells.items():
            if cells.setdefault(path, known) != known:
                names = " and ".join(one.name for one in tables if path in one.cells)
                raise DataError(f"{names}: {path} has two rows that differ; keep one of them")
    first = tables[0]
    return Metadata(
        cells, tuple(sorted(name for table in tables for name in table.missing)), first.columns,
        " and ".join(table.name for table in tables), first.listed,
        {path: why for table in tables for path, why in table.left_out.items()},
        sum((table.rows_out for table in tables), Counter()),
    )  # fmt: skip


def _reasons(
    rows: pd.DataFrame, layout: Layout, labels: Mapping[str, str] | None, classes: ClassList | None
) -> list[str | None]:
    """Why each row is not used; None if it is. Labels that list findings are replaced by the one that names a class."""
    reasons: list[str | None] = [None] * len(rows)
    if layout.findings:
        read = [_finding(cell, labels, classes) for cell in rows["label"]]
        rows["label"] = [finding for finding, _ in read]
        reasons = [reason for _, reason in read]
    kept = {name: column for name in layout.keep for column in map(str, rows) if plain(column) == plain(name)}
    for name, column in kept.items():
        for n, cell in enumerate(rows[column]):
            if cell.strip().casefold() != layout.keep[name].casefold():
                reasons[n] = f"{name} {cell.strip() or 'unknown'}"
    return reasons


def _finding(
    cell: str, labels: Mapping[str, str] | None, classes: ClassList | None = DEFAULT_CLASSES
) -> tuple[str, str | None]:
    """The finding that names the class of an image, or the cell and why there is none.

    Example:
        >>> _finding("Pneumonia/Viral/COVID-19", None), _finding("Pneumonia|Effusion", None)
        (('COVID-19', None), ('Pneumonia', None))
        >>> _finding("Hernia", None)[1], _finding("Hernia|Mass", None)[1], _finding("COVID-19, Pneumonia", None)[1]
        ('finding Hernia', 'several other findings', 'findings of several classes')
    """
    findings = [finding.strip() for finding in re.split(r"[|,]", cell) if finding.strip()]
    if classes is None and len(findings) > 1:
        return cell, "several findings"
    if classes is None:
        return cell.split("/")[-1].strip(), None
    if label_of(cell, labels, classes):
        return cell, None
    named = {}
    for finding in findings:
        # A path ends in what is most specific.
        steps = [step.strip() for step in reversed(finding.split("/"))]
        if known := next((step for step in steps if label_of(step, labels, classes)), None):
            named[label_of(known, labels, classes)] = known
    if len(named) == 1:
        return next(iter(named.values())), None
    if named:
        return cell, "findings of several classes"
    return cell, "several other findings" if len(findings) > 1 else f"finding {cell.strip() or 'unknown'}"


def _chosen(file: Path, columns: Sequence[str], layout: Layout) -> dict[str, str]:
    """The columns that a layout names, mapped to the usual names."""
    chosen = {}
    for name, wanted in layout.columns.items():
        fits = [column for column in columns if column == str(wanted)]
        fits += [column for column in columns if plain(column) == plain(str(wanted))]
        if not fits:
            raise DataError(
                f"{file}: no column {wanted}, which data.columns names as {name}; its columns are "
                f"{', '.join(columns)}{_nearest(str(wanted), columns)}"
            )
        chosen[fits[0]] = name
    return chosen


def _nearest(name: str, columns: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, columns, 1)
    return f"; did you mean {near[0]}?" if near else ""


def _first_line(text: str) -> str:
    return text.lstrip("\r\n").split("\n", 1)[0].strip("\r")


def _decoded(file: Path) -> tuple[str, str]:
    """The text of a file, and the name of its encoding."""
    data = file.read_bytes()
    if data.startswith(_MAGIC):
        raise _is_spreadsheet(file)
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


def _is_spreadsheet(file: Path) -> DataError:
    used = "" if file.stem == Path(FILE).stem else f", and give data.table={file.with_suffix('.csv')}"
    return DataError(f"{file}: spreadsheets are not read; save it as {file.stem}.csv (in Excel: CSV UTF-8){used}")


def _score(header: str, separator: str) -> tuple[bool, int]:
    """How well a separator fits: whether it yields a column of file names, and the number of columns."""
    cells = next(csv.reader([header], delimiter=separator, skipinitialspace=True), [])
    return any(plain(cell) in _SYNONYMS["filename"] for cell in cells), len(cells)


def _recognised(columns: Sequence[str], wanted: Iterable[str]) -> dict[str, str]:
    """Maps column names in the file to the usual names."""
    named = {}
    for name in wanted:
        if name in columns:
            named[name] = name
            continue
        for synonym in _SYNONYMS.get(name, (plain(name),)):
            fits = [column for column in columns if plain(column) == synonym and column not in named]
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


def _matched(
    file: Path, names: Sequence[str], root: Path, paths: Sequence[str], level: int = logging.INFO
) -> list[str | None]:
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
            words = "%s: %d rows name their image %s, for example %s for %s"
            log.log(level, words, file, len(new), how, names[n], new[n])
    return found


def _check_lost(
    file: Path,
    rows: pd.DataFrame,
    found: Sequence[str | None],
    lost: Sequence[int],
    root: Path,
    paths: Sequence[str],
    labels: Mapping[str, str] | None,
    classes: ClassList | None,
) -> None:
    """Refuse a table if too many rows, or all rows of a class, match no image."""
    if not lost:
        return
    total = len(lost) + sum(path is not None for path in found)
    cause = f"{len(lost)} of {total} rows match no single image" if len(lost) > _MOST_LOST * total else ""
    if not cause and "label" in rows:
        names = [label_of(cell, labels, classes) or cell.strip() for cell in rows["label"]]
        held = {names[n] for n, path in enumerate(found) if path is not None}
        if gone := Counter(names[n] for n in lost if names[n] and names[n] not in held):
            name, count = gone.most_common(1)[0]
            cause = f"none of the {counted(count, 'row')} of {name} matches an image"
            lost = [n for n in lost if names[n] == name]
    files = rows["filename"].str.strip()
    if cause and (outside := [files.iloc[n] for n in lost if _is_outside(files.iloc[n], root)]):
        raise DataError(
            f"{file}: {counted(len(outside), 'row names a file', 'rows name files')} outside of {root}, such as "
            f"{outside[0]}; set data.root to a folder that holds them all"
        )
    if cause:
        listed = ", ".join(rows["filename"].iloc[n].strip() or "an empty cell" for n in lost[:3])
        known = {path for path in found if path is not None}
        free = [path for path in paths if path not in known] or list(paths)
        raise DataError(
            f"{file}: {cause}, such as {listed}; images are named like {', '.join(free[:3])}: use such paths in the "
            "column filename, or delete the rows of missing images"
        )


def _is_outside(name: str, root: Path) -> bool:
    """Whether a row names a file by a path that leads out of the folder."""
    leads = ".." in _posix(name).parts or (Path(name).is_absolute() and Path(name).is_file())
    return leads and not real_path(root / name).is_relative_to(root)


def _cells(
    file: Path, table: Table, rows: pd.DataFrame, found: Sequence[str | None], also: str | None
) -> dict[str, dict[str, str]]:
    columns = [column for column in dict.fromkeys((*COLUMNS[1:], also)) if column is not None and column in rows]
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
