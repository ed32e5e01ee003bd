"""A copy of a folder of DICOM radiographs without what identifies the patients."""

from __future__ import annotations

import csv
import io
import logging
import os
import secrets
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from covidnet.base.atomic import WriteError, make_folder, write_bytes, write_text
from covidnet.base.classes import ClassList, label_of
from covidnet.base.errors import DataError, ImageRefusedError, SettingError
from covidnet.base.names import real_path
from covidnet.base.progress import available_cores, progress_bar
from covidnet.data.collection.metadata import FILE as METADATA
from covidnet.data.collection.metadata import read_metadata
from covidnet.data.collection.prepared import given_table
from covidnet.data.collection.sources import image_files
from covidnet.data.reading.burnt_in import text_like_corners
from covidnet.data.reading.decoders import Decoders
from covidnet.data.reading.deidentified import Pseudonyms, deidentified
from covidnet.data.reading.dicom import is_dicom
from covidnet.data.reading.images import open_image, reading

log = logging.getLogger(__name__)

BURNT_IN = "burnt_in.csv"
"""The table of images with marks like text in a corner."""

_KEY_BYTES = 32
_MOST_BYTES = 2**29
_VIEWS = frozenset({"PA", "AP", "L", "LL", "RL", "AP SUPINE", "AP ERECT", "AP SEMI ERECT"})
_NO_CLASS = "images"


@dataclass(frozen=True)
class DeidentifiedCopy:
    """What was copied.

    Args:
        images: files in the copy.
        patients: pseudonyms in it.
        marked: images with marks like text, or whose header says that there is some.
        refused: files that are not in the copy.
    """

    images: int
    patients: int
    marked: int
    refused: int


def read_key(path: Path) -> bytes:
    """The secret key of pseudonyms; a new one, which only its owner can read, if there is no such file.

    Raises:
        SettingError: the file is not such a key, or others can read it.
        WriteError: a new one cannot be written.
    """
    allowed = "a file with 64 hexadecimal digits, or a new one"
    try:
        make_folder(path.parent, path)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(_KEY_BYTES) + "\n")
        log.info("new key of the pseudonyms: %s; keep it, and keep it away from the copy", path)
    except FileExistsError:
        pass
    except OSError as error:
        if isinstance(error, WriteError):
            raise
        raise WriteError(path, error.errno or 0, error.strerror or str(error)) from error
    try:
        with path.open("rb") as opened:
            if os.name == "posix" and os.fstat(opened.fileno()).st_mode & 0o077:
                raise SettingError("key", path, "a file that only you can read", f"chmod 600 {path}")
            key = bytes.fromhex(opened.read(4 * _KEY_BYTES).decode("ascii").strip())
    except (OSError, ValueError) as error:
        if isinstance(error, SettingError):
            raise
        raise SettingError("key", path, allowed) from None
    if len(key) != _KEY_BYTES:
        raise SettingError("key", path, allowed)
    return key


def deidentified_copy(
    data: Mapping[str, Any],
    out: Path,
    key: Path,
    classes: ClassList | None,
    *,
    limits: Mapping[str, Any],
    progress: bool = True,
) -> DeidentifiedCopy:
    """Copy the DICOM radiographs of a folder without what identifies the patients.

    The copy has a folder for each class, with one folder for each patient; all names of folders and files are new. Its
    metadata.csv has the known cells of the original one. `BURNT_IN` lists the images that may show text.

    Args:
        data: the group ``data`` of the configuration.
        out: the copy, a new or empty folder.
        key: file of the secret key of the pseudonyms, outside of `out`; made if there is none.
        classes: of the study.
        limits: the settings under ``reading``.
        progress: whether a progress bar is drawn.

    Raises:
        SettingError: a setting is not allowed.
        DataError: there is no image to copy, or the table cannot be read.
        WriteError: a file cannot be written.
        CovidnetError: dicognito is not installed.
    """
    root = _checked(data, out, key, classes)
    paths = image_files(root)
    cells = read_metadata(root, paths, data["labels"], given_table(data), None, classes).cells
    pseudonyms = Pseudonyms(read_key(key))
    rows: list[dict[str, str]] = []
    marks: list[dict[str, str]] = []
    refused = 0
    with (
        Decoders(max_megapixels=data["max_megapixels"], min_side=data["min_side"], **limits) as decoders,
        ThreadPoolExecutor(available_cores()) as threads,
        progress_bar(progress) as bar,
    ):
        task = bar.add_task("de-identifying", total=len(paths))

        def one(path: str) -> tuple[dict[str, str], dict[str, str]] | ImageRefusedError:
            try:
                return _copied(root, path, cells.get(path, {}), out, pseudonyms, decoders, data, classes)
            except ImageRefusedError as error:
                return error

        for found in threads.map(one, paths):
            bar.advance(task)
            if isinstance(found, ImageRefusedError):
                refused += 1
                log.warning("not copied: %s", found)
            else:
                rows.append(found[0])
                marks.append(found[1])
    if not rows:
        raise DataError(f"{root}: no DICOM radiograph could be copied; see the lines above")
    rows.sort(key=lambda row: row["filename"])
    marks.sort(key=lambda row: row["filename"])
    write_text(out / METADATA, _table(rows, tuple(rows[0])))
    marks = [row for row in marks if row["corners"] or row["header"] == "YES"]
    write_text(out / BURNT_IN, _table(marks, ("filename", "corners", "header")))
    patients = Counter(row["patient_id"] for row in rows)
    return DeidentifiedCopy(len(rows), len(patients), len(marks), refused)


def _checked(data: Mapping[str, Any], out: Path, key: Path, classes: ClassList | None) -> Path:
    if data["name"] != "folder" or not data["root"]:
        raise SettingError("data", data["name"], "folder", "deidentify=true copies a folder: data=folder data.root=DIR")
    if classes is None:
        remedy = "names of folders might be those of patients; name the classes: data.classes=[A,B]"
        raise SettingError("data.classes", "auto", "named with deidentify=true", remedy)
    root = real_path(Path(data["root"]).expanduser())
    if not root.is_dir():
        raise DataError(f"data.root={root}: no such folder; give the folder that holds the images")
    target = real_path(out)
    if target.is_relative_to(root) or root.is_relative_to(target):
        raise SettingError("out", out, f"a folder outside of {root}", "the copy must not be among the originals")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SettingError("out", out, "a new or empty folder", "files of an earlier copy might stay in it")
    if real_path(key).is_relative_to(target):
        raise SettingError("key", key, f"a file outside of {out}", "whoever has both could identify the patients")
    return root


def _copied(
    root: Path,
    path: str,
    cells: Mapping[str, str],
    out: Path,
    pseudonyms: Pseudonyms,
    decoders: Decoders,
    data: Mapping[str, Any],
    classes: ClassList | None,
) -> tuple[dict[str, str], dict[str, str]]:
    """Copy one file, and return its rows of the two tables."""
    place = root / path
    with reading(place), open_image(place, max_megapixels=data["max_megapixels"]) as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ImageRefusedError(place, f"over {_MOST_BYTES / 1e6:.0f} MB", "export it smaller")
    if not is_dicom(content, path):
        raise ImageRefusedError(place, "not DICOM", "copy it yourself, if it has no identifiers in it or in its name")
    image = decoders.decode(content, str(place))
    corners = text_like_corners(image.pixels)
    copy, patient = deidentified(content, place, pseudonyms, cells.get("patient_id"), burnt_in=bool(corners))
    labels = [cells.get("label"), *reversed(Path(path).parts[:-1])]
    known = (label_of(name, data["labels"], classes) for name in labels if name)
    label = next((one for one in known if one), None)
    name = f"{label or _NO_CLASS}/{patient}/{pseudonyms.name('image', path)}.dcm"
    make_folder((out / name).parent)
    write_bytes(out / name, copy)
    view = (cells.get("view") or image.view or "").upper()
    source = cells.get("source")
    row = {
        "filename": name,
        "label": label or "",
        "patient_id": patient,
        "view": view if view in _VIEWS else "",
        "source": pseudonyms.name("source", source) if source else "",
    }
    return row, {"filename": name, "corners": "; ".join(corners), "header": _burnt_in(copy)}


def _burnt_in(copy: bytes) -> str:
    from pydicom import dcmread

    said = dcmread(io.BytesIO(copy), specific_tags=["BurnedInAnnotation"]).get("BurnedInAnnotation")
    return said if said in ("YES", "NO") else ""


def _table(rows: list[dict[str, str]], columns: tuple[str, ...]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
