"""Where a data set's images are and what is known about each. Only this module knows file layouts."""

from __future__ import annotations

import fnmatch
import logging
import os
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from covidnet.base.classes import AUTO, DEFAULT_CLASSES, MOST_CLASSES, ClassList, key_of, label_of
from covidnet.base.errors import DataError, SettingError
from covidnet.base.names import counted, harmless, real_path
from covidnet.data.collection.layouts import LAYOUTS
from covidnet.data.collection.metadata import FILE as METADATA
from covidnet.data.collection.metadata import SPREADSHEETS, Given, Metadata, read_list, read_metadata
from covidnet.data.reading.images import is_image_file

log = logging.getLogger(__name__)

# Folders that hold annotations rather than images.
_ANNOTATIONS = {"masks", "boxes"}
# Files that are read for their content, and so are not counted as skipped.
_TABLES = {METADATA, "boxes.csv", "phantoms.json", *(pattern for layout in LAYOUTS for pattern in layout.files)}
# Folder names that say nothing of the class, where classes are taken from folders; compared by `key_of`.
_PLAIN = {
    "image", "images", "img", "imgs", "png", "jpg", "jpeg", "dicom", "dcm", "train", "training", "test", "testing",
    "val", "valid", "validation", "data", "all",
}  # fmt: skip

_WRITTEN = ("outputs", "multirun")
"""Folders of the working directory that commands write to by default."""

_RESULTS = re.compile(r"audit|predict|explain|evaluate|\d{4}-\d\d-\d\d")
"""The names of the folders that commands create in them."""

_PATIENT_PATTERNS = (
    # NIH ChestX-ray: 00001280_004.png is the fifth study of patient 1280.
    (re.compile(r"^(\d{8})_\d{3}$"), "nih-{}"),
    # Kermany et al.'s children: person1_virus_6.jpeg, person1_bacteria_2.jpeg.
    (re.compile(r"^person(\d+)_(?:virus|bacteria)_\d+$", re.IGNORECASE), "person-{}"),
    # ... and their normal images: IM-0115-0001.jpeg, NORMAL2-IM-0927-0001.jpeg.
    (re.compile(r"^(?:NORMAL2-)?(IM-\d{4})-\d{4}(?:-\d{4})?$", re.IGNORECASE), "{}"),
)


_PUBLISHED = re.compile(r"column:(?P<column>[^=]+)=(?P<value>.+)|folder:(?P<folder>[^/]+)|list:(?P<file>.+)")
_PUBLISHED_WORDS = "column:NAME=VALUE, folder:NAME or list:FILE"


@dataclass(frozen=True)
class Source:
    """The images of a data set, before any image is read.

    Attributes:
        name: phantom, kaggle or folder.
        root: the folder that `files.path` is relative to.
        files: one row per file: path (posix, relative to root), label, patient_id, view, source; unknown is NaN.
        classes: of the labels.
        missing: paths listed in the table that match no image.
        notes: what a reader of the numbers must know about the choice of files, in sentences.
        table: the name of the table, such as metadata.csv.
        layout: what decides which files are used and what is known about them, besides the folder; empty for class
            folders with a metadata.csv.
        unseen: paths of the images that the data set's publisher keeps for the final test (``split.unseen``).
    """

    name: str
    root: Path
    files: pd.DataFrame
    classes: ClassList
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    table: str = METADATA
    layout: str = ""
    unseen: frozenset[str] = frozenset()


def patient_from_name(path: str | Path) -> str | None:
    """The patient encoded in a file name, or None.

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


def folder_source(
    root: str | Path,
    *,
    name: str = "folder",
    labels: Mapping[str, str] | None = None,
    ignore: str | Sequence[str] | None = None,
    given: Given | None = None,
    unseen: str | None = None,
    classes: ClassList | None = DEFAULT_CLASSES,
    positive: str | None = None,
) -> Source:
    """Find the images of a folder, at any depth, and what a table or the folders' names say about each.

    The class of an image is its label in the table, else the nearest parent folder that names a class. The table is
    metadata.csv or that of a published data set (see `covidnet.data.collection.layouts`), in `root` or its parent, or
    what `given` names. Folders named ``masks`` or ``boxes`` and hidden folders are skipped.

    Args:
        root: the folder.
        name: the data set's name in reports.
        labels: more folder names and the class of each (``data.labels``).
        ignore: folders, labels and files to leave out (``data.ignore``).
        given: ``data.table``, ``data.columns`` and ``data.separator``.
        unseen: ``split.unseen``: which images are the published test images: ``column:NAME=VALUE`` of the table,
            ``folder:NAME``, or ``list:FILE`` of their names.
        classes: of the study. None takes them from the table and the folders (``data.classes=auto``): every label is a
            class, and so is the nearest parent folder of an image without one, unless its name is a usual one for
            something else, such as ``images`` or ``train``. Names that differ in letter case, spaces and punctuation
            are one class; classes are sorted by name.
        positive: the positive class, where `classes` is None.

    Raises:
        DataError: the folder is missing, has no images or has images without a class, or the table cannot be used.
        SettingError: a name in `ignore` matches nothing, `unseen` no image, or the classes found are too few or many.
    """
    root = real_path(Path(root).expanduser())
    if not root.is_dir():
        cause = "is a file" if root.exists() else "no such folder"
        raise DataError(f"data.root={root}: {cause}; give the folder that holds the images")
    labels = _checked_labels(labels, classes)
    paths = image_files(root)
    if not paths:
        named = "named after their class" if classes is None else f"named like {', '.join(classes)}"
        raise DataError(f"{root}: no images found; expected class folders {named}, or a table")
    published = _PUBLISHED.fullmatch(unseen) if unseen else None
    if unseen and published is None:
        raise SettingError("split.unseen", unseen, _PUBLISHED_WORDS)
    metadata = read_metadata(root, paths, labels, given, published["column"] if published else None, classes)
    ignored = dict.fromkeys([ignore] if isinstance(ignore, str) else map(str, ignore or ()), 0)
    rows, unlabelled, contradicted = [], [], []
    left_out = Counter[str]()
    for path in paths:
        known = metadata.cells.get(path, {})
        if (one := _ignored(path, known, ignored)) is not None:
            ignored[one] += 1
            continue
        # Where a table lists the images and any name may be a class, folders such as images_001 would be classes.
        unnamed = classes is None and metadata.listed
        filed = None if unnamed else _label_from_folders(path, labels, classes)
        if path in metadata.left_out or (filed is None and metadata.listed and path not in metadata.cells):
            left_out[metadata.left_out.get(path, "no row")] += 1
            continue
        listed = _label_from_metadata(known, path, labels, metadata.name, classes)
        if classes is not None and listed and filed and listed != filed:
            contradicted.append(f"{path} ({listed})")
        label = listed or filed
        if label is None:
            unlabelled.append(path)
            continue
        patient = known.get("patient_id") or patient_from_name(path)
        rows.append((harmless(path), label, patient, known.get("view"), known.get("source")))
    for one, count in ignored.items():
        if not count:
            raise SettingError("data.ignore", one, "the name of a folder, a label or a file of the data set")
    if unlabelled:
        raise DataError(f"{root}: {_without_class(unlabelled, metadata, classes)}")
    if contradicted:
        log.warning(
            "%s: the label of %d files differs from their folder's; %s is used: %s",
            metadata.name,
            len(contradicted),
            metadata.name,
            ", ".join(contradicted[:3]) + (", ..." if len(contradicted) > 3 else ""),
        )
    notes = [f"data.ignore: {counted(count, 'image')} of {one} left out" for one, count in ignored.items()]
    notes += _left_out_by(metadata, left_out)
    if not rows:
        because = "; ".join(notes) or "data.ignore leaves out all of them"
        raise DataError(f"{root}: no images left of {len(paths)}; {because}")
    files = pd.DataFrame(rows, columns=["path", "label", "patient_id", "view", "source"], dtype=object)
    files = files.sort_values("path", ignore_index=True)
    if classes is None:
        classes, files["label"] = _found_classes(files["label"], positive, root)
    layout = "" if metadata.name == METADATA and not metadata.listed else metadata.name
    test = _unseen(published, root, paths, metadata) & set(files["path"]) if published else set[str]()
    if published and not test:
        raise SettingError("split.unseen", unseen, "that of at least one image", f"none of {len(files)} has it")
    return Source(name, root, files, classes, metadata.missing, tuple(notes), metadata.name, layout, frozenset(test))


def _found_classes(labels: pd.Series, positive: str | None, root: Path) -> tuple[ClassList, pd.Series]:
    """The classes that the labels name, and the labels spelled alike."""
    spelled: dict[str, str] = {}
    for name in sorted(set(labels)):
        spelled.setdefault(key_of(name), name)
    names = sorted(set(spelled.values()), key=lambda name: (name.casefold(), name))
    if not 2 <= len(names) <= MOST_CLASSES:
        some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        allowed = f"a list of classes where the data set does not have 2 to {MOST_CLASSES}"
        raise SettingError("data.classes", AUTO, allowed, f"{root} has {len(names)}: {some}")
    # A usual name of a finding-free class, such as "No finding", does not name what a study is about.
    first = next((name for name in names if label_of(name) != "Normal"), names[0])
    return ClassList(tuple(names), positive or first), labels.map(lambda name: spelled[key_of(name)])


def _unseen(published: re.Match[str], root: Path, paths: Sequence[str], metadata: Metadata) -> set[str]:
    """The paths of the published test images, as tables hold them."""
    column, value, folder, file = published.group("column", "value", "folder", "file")
    if column:
        found = {path for path, known in metadata.cells.items() if known.get(column, "").casefold() == value.casefold()}
    elif folder:
        found = {path for path in paths if folder.casefold() in map(str.casefold, Path(path).parent.parts)}
    else:
        found, lost = read_list(real_path(Path(file).expanduser()), root, paths)
        if lost:
            log.warning("split.unseen: %s of %s match no image, such as %s", counted(len(lost), "name"), file, lost[0])
    return set(map(harmless, found))


def _left_out_by(metadata: Metadata, images: Counter[str]) -> list[str]:
    """One sentence on the images and rows that a table leaves out, by kind."""
    counts = [
        f"{counted(kinds.total(), *what)} ({', '.join(f'{count:,} {kind}' for kind, count in kinds.most_common(8))}"
        + (f", {sum(n for _, n in kinds.most_common()[8:]):,} of other kinds)" if len(kinds) > 8 else ")")
        for what, kinds in (
            (("image",), images),
            (("row without an image", "rows without an image"), metadata.rows_out),
        )
        if kinds
    ]
    return [f"{metadata.name}: {' and '.join(counts)} left out"] if counts else []


def _ignored(path: str, known: Mapping[str, str], ignored: Iterable[str]) -> str | None:
    """The name in data.ignore that matches an image: its own name, a parent folder or its label. None if none does."""
    place = Path(path)
    names = {key_of(part) for part in (*place.parent.parts, known.get("label", ""))} - {""}
    for one in ignored:
        if key_of(one) in names or one.casefold() in (place.name.casefold(), path.casefold()):
            return one
    return None


def _without_class(paths: list[str], metadata: Metadata, classes: ClassList | None) -> str:
    """Cause and remedy for images that get a class from neither a folder nor metadata.csv."""
    folders = Counter(Path(path).parent.as_posix() for path in paths)
    loose = folders.pop(".", 0)
    causes = []
    if loose:
        names = [path for path in paths if "/" not in path]
        causes.append(
            f"{counted(loose, 'image has', 'images have')} no class: {', '.join(names[:3])}"
            + (", ..." if loose > 3 else "")
            + ("" if metadata.columns else " (a table of their labels is named with data.table=PATH)")
        )
    if folders:
        listed = ", ".join(f"{folder}/ ({counted(count, 'image')})" for folder, count in sorted(folders.items())[:5])
        causes.append(f"folders not named after a class: {listed}")
        if not metadata.columns and all(key_of(Path(folder).name) in _PLAIN for folder in folders):
            causes[-1] += " (a table of their labels is named with data.table=PATH)"
    if metadata.columns:
        causes.append(
            f"{metadata.name}, with the columns {', '.join(metadata.columns[:12])}, has no label for {paths[0]} (in a "
            "column label, diagnosis, class or category, or data.columns='{label: COLUMN}')"
        )
    example = paths[0] if loose else Path(paths[0]).parent.name
    if classes is None:
        return f"{'; '.join(causes)}; put images in a folder named after their class, or set data.ignore='[{example}]'"
    return (
        f"{'; '.join(causes)}; a class must be one of {', '.join(classes)} or a usual spelling: map a name with "
        f"data.labels='{{NAME: {classes[-1]}}}', leave images out with data.ignore='[{example}]', or take the "
        "folders' names as the classes with data.classes=auto"
    )


def own_results(folder: Path) -> Path | None:
    """The ``outputs`` or ``multirun`` of the working directory that contains (or is) a folder; None if neither does.

    Args:
        folder: any path.
    """
    real = real_path(folder)
    return next((place for name in _WRITTEN if real.is_relative_to(place := Path.cwd().resolve() / name)), None)


def image_files(root: Path, *, log_skipped: bool = True) -> list[str]:
    """The images below a folder, at any depth, except in hidden folders and folders of annotations.

    Results of commands are skipped too: ``outputs`` and ``multirun`` of the working directory, unless `root` is inside
    them, and folders of results that commands wrote below `root` from another working directory.

    Args:
        root: the folder.
        log_skipped: whether the log counts skipped files.

    Returns:
        Posix paths relative to it, sorted.
    """
    found: list[str] = []
    others: list[str] = []
    seen: set[str] = set()
    if own_results(root) is None:
        seen |= {os.path.realpath(name) for name in _WRITTEN}
    # Class folders are often links to the images. A folder seen before is a cycle or a second link.
    for place, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f.lower() not in _ANNOTATIONS)
        for written in [path for path in map(Path(place).joinpath, folders) if _is_written(path)]:
            folders.remove(written.name)
            if log_skipped:
                log.info("%s: skipped; results of an earlier call", written)
        for path in map(Path(place).joinpath, names):
            (found if is_image_file(path) else others).append(path.relative_to(root).as_posix())
    if log_skipped:
        log_skipped_files(root, others)
    return sorted(found)


def _is_written(folder: Path) -> bool:
    """Whether a command created this folder for its results, in any working directory."""
    return folder.name in _WRITTEN and any(map(_RESULTS.fullmatch, next(os.walk(folder), ("", [], []))[1]))


def log_skipped_files(root: Path, others: Iterable[str]) -> None:
    """Log one line that counts the files that are not images, by kind.

    Args:
        root: the folder that was searched.
        others: paths of the files; known tables such as metadata.csv are not counted.
    """
    names = sorted(Path(path).name for path in others)
    kinds = Counter(
        "hidden" if name.startswith(".") else Path(name).suffix.lower() or "without a suffix"
        for name in names
        if not any(fnmatch.fnmatch(name, pattern) for pattern in _TABLES)
    )
    if kinds:
        listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(12))
        more = "" if len(kinds) <= 12 else f", and {len(kinds) - 12} other kinds"
        log.info("%s: %s skipped: %s%s", root, counted(kinds.total(), "file is", "files are"), listed, more)
    if sheets := [name for name in names if name.lower().endswith(SPREADSHEETS)]:
        as_csv = Path(sheets[0]).with_suffix(".csv")
        log.info("%s: spreadsheets are not read; save %s as %s to use it", root, sheets[0], as_csv)


def kaggle_source(
    root: str | Path | None,
    *,
    handle: str,
    name: str = "kaggle",
    labels: Mapping[str, str] | None = None,
    ignore: str | Sequence[str] | None = None,
    given: Given | None = None,
    unseen: str | None = None,
    classes: ClassList | None = DEFAULT_CLASSES,
    positive: str | None = None,
) -> Source:
    """The paper's data set, from disk or downloaded with kagglehub; the class folders of train/ and test/ are pooled.

    Args:
        root: a copy on disk, or None to download.
        handle: owner/name of the data set on Kaggle.
        name: the data set's name in reports.
        labels: as in `folder_source`.
        ignore: as in `folder_source`.
        given: as in `folder_source`.
        unseen: as in `folder_source`.
        classes: as in `folder_source`.
        positive: as in `folder_source`.

    Raises:
        DataError: it is not on disk and cannot be downloaded, in one line that says how to get it.
    """
    if root is None:
        root = _download(handle)
    return folder_source(
        root, name=name, labels=labels, ignore=ignore, given=given, unseen=unseen, classes=classes, positive=positive
    )


def _download(handle: str) -> Path:
    remedy = f"download {handle} elsewhere and set data.root=DIR to the copy"
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


def _label_from_metadata(
    known: Mapping[str, str], path: str, labels: Mapping[str, str] | None, table: str, classes: ClassList | None
) -> str | None:
    if "label" not in known:
        return None
    label = label_of(known["label"], labels, classes)
    if label is None and classes is not None:
        raise DataError(
            f"{table}: {path} has the label {known['label']!r}; must be one of {', '.join(classes)} or a usual "
            f"spelling: map it with data.labels='{{NAME: {classes[-1]}}}', leave it out with "
            f"data.ignore='[{known['label']}]', or set data.classes"
        )
    return label


def _label_from_folders(path: str, labels: Mapping[str, str] | None, classes: ClassList | None) -> str | None:
    for folder in reversed(Path(path).parent.parts):
        if classes is None and key_of(folder) in _PLAIN and key_of(folder) not in map(key_of, labels or ()):
            continue
        if label := label_of(folder, labels, classes):
            return label
    return None


def _checked_labels(labels: Mapping[str, str] | None, classes: ClassList | None) -> dict[str, str]:
    # YAML reads a folder name such as 1 as a number.
    checked = {str(name): str(target) for name, target in (labels or {}).items()}
    for name, target in checked.items():
        if classes is not None and label_of(target, None, classes) is None:
            raise DataError(f"data.labels: {name} is mapped to {target!r}; must be one of {', '.join(classes)}")
    return checked
