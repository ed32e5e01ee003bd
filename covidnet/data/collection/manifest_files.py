"""A manifest's files in the cache: one process writes them, all others read them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from covidnet.base.atomic import locked, write_text
from covidnet.base.classes import DEFAULT_CLASSES
from covidnet.base.errors import DataError
from covidnet.base.names import counted, listed, shown
from covidnet.data.collection.manifest import CHECKED, COLUMNS, REFUSED_COLUMNS, Manifest, check_files
from covidnet.data.collection.sources import Source
from covidnet.data.reading.dicom import is_lateral
from covidnet.data.reading.images import READING
from covidnet.data.reading.thumbnails import FILE as THUMBNAILS
from covidnet.data.reading.thumbnails import Thumbnails, make_thumbnails, read_thumbnails, write_thumbnails

log = logging.getLogger(__name__)

_TEXT = ["image_id", "path", "label", "patient_id", "view", "source", "sha256", "mode", "flags"]


def manifest_home(data: Mapping[str, Any], source: Source, cache_dir: Path, *, flagged: bool) -> Path:
    """The folder for the manifest of a source read with these settings; created if missing.

    Args:
        data: the group ``data`` of the configuration.
        source: the images.
        cache_dir: the cache.
        flagged: whether the manifest records what prediction would refuse.
    """
    reading = {k: data[k] for k in ("max_megapixels", "min_side")}
    ignore = data.get("ignore") or ()
    reading |= {
        "reading": READING,
        "flagged": flagged,
        "ignore": [ignore] if isinstance(ignore, str) else sorted(map(str, ignore)),
    }
    if source.layout:
        table = {name: data.get(name) for name in ("table", "columns", "separator") if data.get(name)}
        reading |= {"layout": source.layout, **table}
    if source.classes.names != DEFAULT_CLASSES.names:
        # The draw of the folds depends on their order too.
        reading["classes"] = list(source.classes)
    key = digest({"root": str(source.root), "labels": dict(data.get("labels") or {}), **reading})
    home = cache_dir / "manifests" / f"{source.name}-{key}"
    home.mkdir(parents=True, exist_ok=True)
    return home


def digest(settings: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that identify settings.

    Args:
        settings: JSON-serialisable.

    Example:
        >>> digest({"seed": 0}) == digest({"seed": 0}), len(digest({}))
        (True, 12)
    """
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def read_csv(file: str | Path, text: Iterable[str]) -> pd.DataFrame:
    """Read a table, keeping text as text and empty cells as NaN.

    Args:
        file: the CSV.
        text: the text columns: patient 007 is not a number, and a patient called "NA" is not unknown.
    """
    kinds = dict.fromkeys(text, object)
    return pd.read_csv(
        file, dtype=kinds, keep_default_na=False, na_values=[""], encoding="utf-8", encoding_errors="surrogateescape"
    )


RECORD = "manifest.json"
"""Hashes of manifest.csv and refused.csv, in the same folder."""


def write_manifest(home: Path, manifest: Manifest) -> None:
    """Write thumbnails.npz, refused.csv, manifest.json and manifest.csv.

    Args:
        home: the manifest's folder.
        manifest: a manifest that was just made.

    Raises:
        WriteError: the files cannot be written.
    """
    if manifest.thumbnails is not None:
        write_thumbnails(home / THUMBNAILS, manifest.thumbnails)
    tables = {"refused.csv": manifest.refused, "manifest.csv": manifest.images}
    texts = {name: table.to_csv(index=False, lineterminator="\n") for name, table in tables.items()}
    write_text(home / "refused.csv", texts["refused.csv"])
    hashes = {name: hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest() for name, text in texts.items()}
    write_text(home / RECORD, json.dumps(hashes, indent=2) + "\n")
    # Last, since its presence means that the scan is complete.
    write_text(home / "manifest.csv", texts["manifest.csv"])


def read_manifest(home: Path, source: Source) -> Manifest | None:
    """The manifest on disk, or None if there is no readable one.

    Args:
        home: the manifest's folder.
        source: the images; the log counts those that are missing from the manifest or differ from it.
    """
    found = _read(home, source)
    if found is None:
        return None
    added, relabelled, _ = changes(found, source)
    if relabelled:
        log.warning(
            "%s: label, patient, view or source of %d images differs from the manifest, which is used; "
            "python -m covidnet.prepare reads them again",
            source.root,
            relabelled,
        )
    if added:
        log.warning(
            "%s: %d files are not in the manifest and are not used; python -m covidnet.prepare reads them",
            source.root,
            added,
        )
    return found


def read_current_manifest(home: Path, source: Source, *, progress: bool = True) -> Manifest | None:
    """The manifest on disk, if it still matches the folder and its metadata.csv.

    Args:
        home: the manifest's folder.
        source: the images.
        progress: whether a progress bar is drawn.

    Returns:
        None if there is no manifest, if files were added, removed or changed since, or if a label, patient, view or
        source changed.
    """
    found = _read(home, source)
    if found is None or any(changes(found, source)):
        return None
    return None if check_files(found.images, source.root, record=home / CHECKED, progress=progress) else found


def changes(manifest: Manifest, source: Source) -> tuple[int, int, int]:
    """Count the files added since the manifest was made, the images relabelled, and the images removed.

    Args:
        manifest: the earlier manifest.
        source: the current files.
    """
    there = set(source.files["path"])
    gone = set(manifest.images["path"]) - there
    refused = set(manifest.refused["path"])
    # Names in refused.csv may be escaped, since people read it.
    added = [path for path in there - set(manifest.images["path"]) if listed(shown(path)) not in refused]
    return len(added), _count_relabelled(manifest.images, source.files), len(gone)


def kept_thumbnails(home: Path, root: Path, *, progress: bool) -> Thumbnails:
    """The thumbnails of a manifest's images; computed and written if missing.

    Args:
        home: the manifest's folder.
        root: the folder that paths are relative to.
        progress: whether a progress bar is drawn.
    """
    images = read_csv(home / "manifest.csv", _TEXT)
    found = read_thumbnails(home / THUMBNAILS, images)
    if found is not None:
        return found
    with locked(home / ".lock") as unwritable:
        found = read_thumbnails(home / THUMBNAILS, images)
        if found is None:
            found = make_thumbnails(images, root, progress=progress)
            # Write only a complete set; otherwise the next call tries again.
            if len(found.image_id) == len(images) and unwritable is None:
                write_thumbnails(home / THUMBNAILS, found)
    return found


def filter_view(images: pd.DataFrame, view: str | None) -> tuple[pd.DataFrame, list[str]]:
    """The images of some views, and a note on how many were left out; all images if `view` is None.

    Args:
        images: rows of a manifest.
        view: ``frontal`` for all but known laterals, or one view such as ``PA``; images of unknown view are kept.

    Raises:
        DataError: no image has this view.
    """
    if view is None:
        return images, []
    known = images["view"].dropna()
    lateral = known.map(is_lateral).astype(bool)
    frontal = str(view).casefold() == "frontal"
    if frontal:
        wanted = ~lateral
    elif is_lateral(str(view)):
        wanted = lateral
    else:
        wanted = known.str.casefold() == str(view).casefold()
    dropped = known.index[~wanted]
    unknown = len(images) - len(known)
    if not wanted.any() and not unknown:
        raise DataError(
            f"data.view={view}: no image has this view; the images have {', '.join(sorted(known.unique()))}"
        )
    if frontal:
        such = ", ".join(images["path"][dropped[:3]])
        note = (
            f"{counted(len(dropped), 'lateral image is', 'lateral images are')} left out, for example {such}; "
            "data.view=null keeps them"
        )
        return images.drop(index=dropped).reset_index(drop=True), [note] if len(dropped) else []
    note = f"view {view}: {counted(int(wanted.sum()), 'image')} kept, {len(dropped)} of other views left out"
    if unknown:
        note += f"; {unknown} of unknown view kept"
        log.warning("data.view=%s: the view of %d images is unknown; they are kept", view, unknown)
    return images.drop(index=dropped).reset_index(drop=True), [note]


def _read(home: Path, source: Source) -> Manifest | None:
    file, refused_file = home / "manifest.csv", home / "refused.csv"
    if not (file.exists() and refused_file.exists()):
        return None
    _check_whole(home)
    try:
        images = read_csv(file, _TEXT)[list(COLUMNS)]
        refused = read_csv(refused_file, REFUSED_COLUMNS)[list(REFUSED_COLUMNS)]
    except (ValueError, KeyError):
        log.warning("%s: not a readable manifest; the images are read again", file)
        return None
    return Manifest(source.name, source.root, images, refused)


def _check_whole(home: Path) -> None:
    """Refuse damaged tables: half a manifest looks like a smaller data set."""
    try:
        hashes = json.loads((home / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        # Older releases wrote no hashes, but ended each table with a newline.
        hashes = {}
    except ValueError:
        hashes = None
    for name in ("manifest.csv", "refused.csv"):
        content = (home / name).read_bytes()
        whole = isinstance(hashes, dict) and (
            hashes.get(name) == hashlib.sha256(content).hexdigest() if hashes else content.endswith(b"\n")
        )
        if not whole:
            raise DataError(
                f"{home / name}: damaged (it or its hash changed since it was written); "
                "delete it to read the images again"
            )


def _count_relabelled(images: pd.DataFrame, files: pd.DataFrame) -> int:
    """How many images have a label, patient, view or source that now differs from the manifest."""
    columns = ["label", "patient_id", "view", "source"]
    both = files.merge(images, on="path", suffixes=("", "_before"))
    # Values unknown here may have come from a DICOM header.
    changed = [both[c].notna() & (both[c] != both[f"{c}_before"]) for c in columns]
    return int(pd.concat(changed, axis=1).any(axis=1).sum())
