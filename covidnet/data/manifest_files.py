"""The files of a manifest in the cache: written by one process, read by all others."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from covidnet.atomic import locked, write_text
from covidnet.data.dicom import is_lateral
from covidnet.data.images import READING
from covidnet.data.manifest import COLUMNS, REFUSED_COLUMNS, Manifest
from covidnet.data.sources import Source
from covidnet.data.thumbnails import FILE as THUMBNAILS
from covidnet.data.thumbnails import Thumbnails, make_thumbnails, read_thumbnails, write_thumbnails
from covidnet.errors import DataError
from covidnet.names import counted, listed, shown

log = logging.getLogger(__name__)

_TEXT = ["image_id", "path", "label", "patient_id", "view", "source", "sha256", "mode", "flags"]


def manifest_home(data: Mapping[str, Any], source: Source, cache_dir: Path, *, flagged: bool) -> Path:
    """The folder for the manifest of a source that is read in a certain way; it is made where it is not there.

    Args:
        data: the group ``data`` of the configuration.
        source: the films.
        cache_dir: of everything that is kept.
        flagged: whether the manifest says what prediction would refuse.
    """
    reading = {k: data[k] for k in ("max_megapixels", "min_side")}
    ignore = data.get("ignore") or ()
    reading |= {
        "reading": READING,
        "flagged": flagged,
        "ignore": [ignore] if isinstance(ignore, str) else sorted(map(str, ignore)),
    }
    key = digest({"root": str(source.root), "labels": dict(data.get("labels") or {}), **reading})
    home = cache_dir / "manifests" / f"{source.name}-{key}"
    home.mkdir(parents=True, exist_ok=True)
    return home


def digest(settings: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that tell settings apart.

    Args:
        settings: as JSON takes them.

    Example:
        >>> digest({"seed": 0}) == digest({"seed": 0}), len(digest({}))
        (True, 12)
    """
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def read_csv(file: str | Path, text: Iterable[str]) -> pd.DataFrame:
    """A table whose text stays text, and whose empty cells are NaN.

    Args:
        file: as it was written.
        text: the columns of text: a patient 007 is no number, and one called "NA" is not unknown.
    """
    kinds = dict.fromkeys(text, object)
    return pd.read_csv(
        file, dtype=kinds, keep_default_na=False, na_values=[""], encoding="utf-8", encoding_errors="surrogateescape"
    )


RECORD = "manifest.json"
"""Beside manifest.csv: the hashes of it and of refused.csv."""


def write_manifest(home: Path, manifest: Manifest) -> None:
    """Write thumbnails.npz, refused.csv, manifest.json and manifest.csv.

    Args:
        home: of the manifest.
        manifest: that was made just now.

    Raises:
        WriteError: the system refused.
    """
    if manifest.thumbnails is not None:
        write_thumbnails(home / THUMBNAILS, manifest.thumbnails)
    tables = {"refused.csv": manifest.refused, "manifest.csv": manifest.films}
    texts = {name: table.to_csv(index=False, lineterminator="\n") for name, table in tables.items()}
    write_text(home / "refused.csv", texts["refused.csv"])
    hashes = {name: hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest() for name, text in texts.items()}
    write_text(home / RECORD, json.dumps(hashes, indent=2) + "\n")
    # Last, since its presence says that the scan is complete.
    write_text(home / "manifest.csv", texts["manifest.csv"])


def read_manifest(home: Path, source: Source) -> Manifest | None:
    """The manifest that was written, or None where there is none that can be read.

    Args:
        home: of the manifest.
        source: the films; those that the manifest does not know, or knows otherwise, are counted in the log.
    """
    found = _read(home, source)
    if found is None:
        return None
    added, told_anew, _ = changes(found, source)
    if told_anew:
        log.warning(
            "%s: label, patient or view of %d films is not what the manifest says, which is used; "
            "python -m covidnet.prepare reads them again",
            source.root,
            told_anew,
        )
    if added:
        log.warning(
            "%s: %d files are not in the manifest and are not used; python -m covidnet.prepare reads them",
            source.root,
            added,
        )
    return found


def read_current_manifest(home: Path, source: Source) -> Manifest | None:
    """The manifest that was written, where it still says what the folder and its metadata.csv say.

    Args:
        home: of the manifest.
        source: the films.

    Returns:
        None where there is none; where files were added or removed since, or have another label, patient or view.
    """
    found = _read(home, source)
    return None if found is None or any(changes(found, source)) else found


def changes(manifest: Manifest, source: Source) -> tuple[int, int, int]:
    """Files that were added since a manifest was made, films of which now something else is told, films that are gone.

    Args:
        manifest: of then.
        source: of now.
    """
    there = set(source.files["path"])
    gone = set(manifest.films["path"]) - there
    refused = set(manifest.refused["path"])
    # refused.csv is for people: a name in it may be escaped.
    added = [path for path in there - set(manifest.films["path"]) if listed(shown(path)) not in refused]
    return len(added), _told_anew(manifest.films, source.files), len(gone)


def kept_thumbnails(home: Path, root: Path, *, progress: bool) -> Thumbnails:
    """The thumbnails of a manifest's films; made and written where they are not there.

    Args:
        home: of the manifest.
        root: the folder that paths are relative to.
        progress: whether a progress bar is drawn.
    """
    films = read_csv(home / "manifest.csv", _TEXT)
    found = read_thumbnails(home / THUMBNAILS, films)
    if found is not None:
        return found
    with locked(home / ".lock") as unwritable:
        found = read_thumbnails(home / THUMBNAILS, films)
        if found is None:
            found = make_thumbnails(films, root, progress=progress)
            # Where some are lacking they are looked for again next time.
            if len(found.image_id) == len(films) and unwritable is None:
                write_thumbnails(home / THUMBNAILS, found)
    return found


def filter_view(films: pd.DataFrame, view: str | None) -> tuple[pd.DataFrame, list[str]]:
    """The films of some views, and a sentence that says how many were left out; all films without a view.

    Args:
        films: rows of a manifest.
        view: ``frontal`` for all but known laterals, or one view such as ``PA``; films of unknown view are kept.

    Raises:
        DataError: no film has this view.
    """
    if view is None:
        return films, []
    known = films["view"].dropna()
    lateral = known.map(is_lateral).astype(bool)
    frontal = str(view).casefold() == "frontal"
    if frontal:
        wanted = ~lateral
    elif is_lateral(str(view)):
        wanted = lateral
    else:
        wanted = known.str.casefold() == str(view).casefold()
    dropped = known.index[~wanted]
    unknown = len(films) - len(known)
    if not wanted.any() and not unknown:
        raise DataError(f"data.view={view}: no film has this view; known are {', '.join(sorted(known.unique()))}")
    if frontal:
        such = ", ".join(films["path"][dropped[:3]])
        note = (
            f"{counted(len(dropped), 'lateral image is', 'lateral images are')} left out, such as {such}; "
            "data.view=null keeps them"
        )
        return films.drop(index=dropped).reset_index(drop=True), [note] if len(dropped) else []
    note = f"view {view}: {counted(int(wanted.sum()), 'image')} kept, {len(dropped)} of other views left out"
    if unknown:
        note += f"; {unknown} of unknown view kept"
        log.warning("data.view=%s: the view of %d films is unknown; they are kept", view, unknown)
    return films.drop(index=dropped).reset_index(drop=True), [note]


def _read(home: Path, source: Source) -> Manifest | None:
    file, refused_file = home / "manifest.csv", home / "refused.csv"
    if not (file.exists() and refused_file.exists()):
        return None
    _check_whole(home)
    try:
        films = read_csv(file, _TEXT)[list(COLUMNS)]
        refused = read_csv(refused_file, REFUSED_COLUMNS)[list(REFUSED_COLUMNS)]
    except (ValueError, KeyError):
        log.warning("%s: not a manifest any more; the films are read again", file)
        return None
    return Manifest(source.name, source.root, films, refused)


def _check_whole(home: Path) -> None:
    """Refuse tables that are not what was written: half a manifest looks like a smaller data set."""
    try:
        told = json.loads((home / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        # An older release wrote none; it ended each table with a line end.
        told = {}
    except ValueError:
        told = None
    for name in ("manifest.csv", "refused.csv"):
        content = (home / name).read_bytes()
        whole = isinstance(told, dict) and (
            told.get(name) == hashlib.sha256(content).hexdigest() if told else content.endswith(b"\n")
        )
        if not whole:
            raise DataError(
                f"{home / name}: damaged (it is not what was written); delete it, and the images are read again"
            )


def _told_anew(films: pd.DataFrame, files: pd.DataFrame) -> int:
    """Films of which folders or metadata.csv now say something else than the manifest."""
    columns = ["label", "patient_id", "view"]
    both = files.merge(films, on="path", suffixes=("", "_before"))
    # What is unknown here can have come from a DICOM header.
    changed = [both[c].notna() & (both[c] != both[f"{c}_before"]) for c in columns]
    return int(pd.concat(changed, axis=1).any(axis=1).sum())
