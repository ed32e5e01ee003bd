"""Where the films of a data set lie and what is known of each: file layouts are known here and nowhere else."""

from __future__ import annotations

import logging
import os
import re
import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from covidnet.data.images import is_image_file
from covidnet.errors import DataError
from covidnet.labels import CLASSES, label_of

log = logging.getLogger(__name__)

# Folders beside the films that hold annotations of them, not films.
_ANNOTATIONS = {"masks", "boxes"}

_PATIENT_PATTERNS = (
    # NIH ChestX-ray: 00001280_004.png is the fifth study of patient 1280.
    (re.compile(r"^(\d{8})_\d{3}$"), "nih-{}"),
    # Kermany et al.'s children: person1_virus_6.jpeg, person1_bacteria_2.jpeg.
    (re.compile(r"^person(\d+)_(?:virus|bacteria)_\d+$", re.IGNORECASE), "person-{}"),
    # ... and their normal films: IM-0115-0001.jpeg, NORMAL2-IM-0927-0001.jpeg.
    (re.compile(r"^(?:NORMAL2-)?(IM-\d{4})-\d{4}(?:-\d{4})?$", re.IGNORECASE), "{}"),
)

_UNKNOWN = {"", "unknown", "none", "nan", "n/a", "na"}


@dataclass(frozen=True)
class Source:
    """The films of a data set before any of them was read.

    Attributes:
        name: phantom, kaggle or folder.
        root: the folder that `files.path` is relative to.
        files: one row per file: path (posix, relative to root), label, patient_id, view, source; unknown is NaN.
        missing: paths that metadata.csv lists and the disk does not hold.
    """

    name: str
    root: Path
    files: pd.DataFrame
    missing: tuple[str, ...] = ()


def patient_from_name(path: str | Path) -> str | None:
    """The patient that a file name tells, or None where it tells none.

    Example:
        >>> patient_from_name("NORMAL/00001280_004.png"), patient_from_name("person1_virus_6.jpeg")
        ('nih-00001280', 'person-1')
        >>> patient_from_name("COVID19(3).jpg") is None
        True
    """
    stem = Path(path).stem
    for pattern, form in _PATIENT_PATTERNS:
        if match := pattern.match(stem):
            return form.format(match.group(1))
    return None


def folder_source(root: str | Path, *, name: str = "folder", labels: Mapping[str, str] | None = None) -> Source:
    """Find the films of a folder of class folders, at any depth, with what metadata.csv says of them.

    The class of a film is the label in metadata.csv, else the nearest folder above it that names a class.
    metadata.csv (filename,label,patient_id,view,source; every column but the first may be absent) is looked for in
    `root` and in its parent. Folders named ``masks`` or ``boxes`` and hidden ones are passed over.

    Args:
        root: the folder.
        name: the data set's name in reports.
        labels: more folder names and the class they mean (``data.labels``).

    Raises:
        DataError: where the folder is absent, holds no image, or has folders that name no class.
    """
    root = Path(root).expanduser().resolve()
    if not root.is_dir():
        cause = "is a file" if root.exists() else "no such folder"
        raise DataError(f"data.root={root}: {cause}; give the folder that holds the class folders")
    labels = _checked_labels(labels)
    metadata = _metadata(root)
    rows, unlabelled, contradicted = [], Counter[str](), []
    for path in image_files(root):
        known = metadata.get(path, {})
        told, filed = _label_from_metadata(known, path, labels), _label_from_folders(path, labels)
        label = told or filed
        if told and filed and told != filed:
            contradicted.append(f"{path} ({told})")
        if label is None:
            unlabelled[Path(path).parent.as_posix()] += 1
            continue
        patient = known.get("patient_id") or patient_from_name(path)
        rows.append((path, label, patient, known.get("view"), known.get("source")))
    if unlabelled:
        listed = ", ".join(f"{folder}/ ({count} images)" for folder, count in sorted(unlabelled.items())[:5])
        raise DataError(
            f"{root}: not the name of a class: {listed}; allowed are {', '.join(CLASSES)} and their usual spellings, "
            "or map a name with data.labels='{NAME: Pneumonia}'"
        )
    if contradicted:
        log.warning(
            "metadata.csv: the label of %d files is not that of their folder and is taken: %s",
            len(contradicted),
            ", ".join(contradicted[:3]) + (", ..." if len(contradicted) > 3 else ""),
        )
    if not rows:
        raise DataError(f"{root}: no images found; expected class folders named like {', '.join(CLASSES)}")
    files = pd.DataFrame(rows, columns=["path", "label", "patient_id", "view", "source"], dtype=object)
    missing = sorted(set(metadata) - set(files["path"]))
    return Source(name, root, files.sort_values("path", ignore_index=True), tuple(missing))


def image_files(root: Path) -> list[str]:
    """The images below a folder, at any depth; folders of annotations and hidden ones are passed over.

    Args:
        root: the folder.

    Returns:
        Posix paths relative to it, sorted.
    """
    found = []
    seen: set[str] = set()
    # Class folders are often links to where the films lie; a folder that is met again is a circle or a second link.
    for place, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f.lower() not in _ANNOTATIONS)
        found += [path.relative_to(root).as_posix() for path in map(Path(place).joinpath, names) if is_image_file(path)]
    return sorted(found)


def kaggle_source(
    root: str | Path | None, *, handle: str, name: str = "kaggle", labels: Mapping[str, str] | None = None
) -> Source:
    """The paper's set from disk, or downloaded with kagglehub; the class folders of train/ and test/ are pooled.

    Args:
        root: a copy on disk, or None to download.
        handle: owner/name of the set at Kaggle.
        name: the data set's name in reports.
        labels: as in `folder_source`.

    Raises:
        DataError: where it is neither on disk nor to be had, in one line that says how to get it.
    """
    if root is None:
        root = _download(handle)
    return folder_source(root, name=name, labels=labels)


def _download(handle: str) -> Path:
    remedy = f"download {handle} elsewhere and give the copy with data.root=DIR"
    try:
        import kagglehub
    except ImportError as error:
        raise DataError(
            f'data=kaggle: kagglehub is not installed; pip install "covidnet[kaggle]", or {remedy}'
        ) from error
    try:
        return Path(kagglehub.dataset_download(handle))
    except Exception as error:  # kagglehub raises its own, requests' and the operating system's errors alike
        reason = textwrap.shorten(str(error), 160, placeholder="...")
        raise DataError(f"data=kaggle: the download failed ({type(error).__name__}: {reason}); {remedy}") from None


def _metadata(root: Path) -> dict[str, dict[str, str]]:
    """What metadata.csv says of each path below root; unknown cells are absent."""
    for folder in (root, root.parent):
        file = folder / "metadata.csv"
        if not file.is_file():
            continue
        try:
            table = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        except (ValueError, UnicodeDecodeError) as error:
            raise DataError(f"{file}: not a readable CSV ({error}); save it as UTF-8 with a header line") from None
        if "filename" not in table:
            if folder == root:
                raise DataError(
                    f"{file}: no column filename; expected filename,label,patient_id,view,source with commas between"
                )
            continue
        columns = [c for c in ("label", "patient_id", "view", "source") if c in table]
        prefix = "" if folder == root else root.name + "/"
        known: dict[str, dict[str, str]] = {}
        for row in table.to_dict("records"):
            # Tables written on Windows may separate folders by backslashes.
            path = Path(row["filename"].strip().replace("\\", "/")).as_posix()
            if path.startswith(prefix):
                cells = {c: row[c].strip() for c in columns if row[c].strip().lower() not in _UNKNOWN}
                if known.setdefault(path.removeprefix(prefix), cells) != cells:
                    raise DataError(f"{file}: {path} has two rows that differ; keep one of them")
        if known:
            log.info("metadata: %s (%d files)", file, len(known))
            return known
    return {}


def _label_from_metadata(known: Mapping[str, str], path: str, labels: Mapping[str, str] | None) -> str | None:
    if "label" not in known:
        return None
    label = label_of(known["label"], labels)
    if label is None:
        raise DataError(
            f"metadata.csv: {path} has the label {known['label']!r}; allowed are {', '.join(CLASSES)} and their usual "
            "spellings, or map it with data.labels"
        )
    return label


def _label_from_folders(path: str, labels: Mapping[str, str] | None) -> str | None:
    for folder in reversed(Path(path).parent.parts):
        if label := label_of(folder, labels):
            return label
    return None


def _checked_labels(labels: Mapping[str, str] | None) -> dict[str, str]:
    # YAML reads a folder name such as 1 as a number.
    checked = {str(name): str(target) for name, target in (labels or {}).items()}
    for name, target in checked.items():
        if label_of(target) is None:
            raise DataError(f"data.labels: {name} is mapped to {target!r}; allowed are {', '.join(CLASSES)}")
    return checked
