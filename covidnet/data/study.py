"""A data set made ready: its manifest and its split, written once into the cache, hashed, and only read afterwards."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from covidnet.atomic import write_text
from covidnet.data.manifest import COLUMNS, REFUSED_COLUMNS, Manifest, duplicates, manifest_hash, scan
from covidnet.data.phantom import DRAWING, write_phantoms
from covidnet.data.sources import Source, folder_source, kaggle_source
from covidnet.data.splits import balanced_folds
from covidnet.data.thumbnails import FILE as THUMBNAILS
from covidnet.data.thumbnails import Thumbnails, make_thumbnails, read_thumbnails, write_thumbnails
from covidnet.errors import DataError, SettingError, SplitError
from covidnet.labels import CLASSES

log = logging.getLogger(__name__)

SPLIT_COLUMNS = ("image_id", "path", "label", "patient_id", "view", "source", "fold")

_TEXT = ["image_id", "path", "label", "patient_id", "view", "source", "sha256", "mode"]


@dataclass(frozen=True)
class Study:
    """A data set with its folds.

    Attributes:
        name: phantom, kaggle or folder.
        root: the folder that paths are relative to.
        films: the manifest's rows after the view filter (columns of `covidnet.data.manifest.COLUMNS`).
        split: the table of split.csv.
        refused: files that cannot be used: path, cause, remedy.
        manifest_sha256: hash of the films' contents, labels, patients and views.
        split_sha256: hash of split.csv's bytes.
        folder: where split.csv and left_out.csv lie; manifest.csv, refused.csv and thumbnails.npz lie above it.
        notes: what a reader of the numbers has to know of the data, in sentences.
    """

    name: str
    root: Path
    films: pd.DataFrame
    split: pd.DataFrame
    refused: pd.DataFrame
    manifest_sha256: str
    split_sha256: str
    folder: Path
    notes: list[str] = field(default_factory=list)

    @property
    def split_file(self) -> Path:
        """The split.csv that was written once for this data set."""
        return self.folder / "split.csv"

    @property
    def synthetic(self) -> bool:
        """Whether the films are phantoms."""
        return self.name == "phantom"

    def thumbnails(self, *, progress: bool = True) -> Thumbnails:
        """Every film of the manifest, also of other views, at 64 x 64 pixels: image_id, pixels, aspects.

        They were kept when the manifest was made. For a manifest from before the films are read once more; one that
        changed since is named in the log and has no row.

        Args:
            progress: whether a progress bar is drawn.
        """
        return _thumbnails(self.folder.parent, self.root, progress)


def find_source(data: Mapping[str, Any], cache_dir: Path, *, progress: bool = True) -> Source:
    """The source that the settings under ``data`` name; phantoms are drawn first if they are not there.

    Args:
        data: the group ``data`` of the configuration.
        cache_dir: where phantoms are kept.
        progress: whether progress bars are drawn.
    """
    name, labels = data["name"], data.get("labels") or {}
    if data["root"] is not None and not str(data["root"]).strip():
        # data.root=$DIR with DIR unset: the empty path would mean the current folder.
        raise SettingError("data.root", data["root"], "a folder of class folders", "say data.root=DIR")
    if name == "phantom":
        return folder_source(_phantoms(data, cache_dir, progress), name=name, labels=labels)
    if name == "kaggle":
        return kaggle_source(data["root"], handle=data["handle"], name=name, labels=labels)
    if data["root"] is None:
        raise SettingError("data.root", None, "a folder of class folders", "say data=folder data.root=DIR")
    return folder_source(data["root"], name=name, labels=labels)


def prepare_study(
    data: Mapping[str, Any],
    split: Mapping[str, Any],
    *,
    cache_dir: Path,
    strict: bool = False,
    rescan: bool = False,
    progress: bool = True,
) -> Study:
    """Manifest and split of a data set: read from the cache if they are there, made and written otherwise.

    Args:
        data: the group ``data`` of the configuration.
        split: the group ``split``.
        cache_dir: where both are kept.
        strict: whether a film in two classes is an error rather than a warning.
        rescan: read every file again even where a manifest is there.
        progress: whether progress bars are drawn.

    Raises:
        DataError: where the data cannot be used, in one line.
        SplitError: where no balanced folds can be made.
    """
    source = find_source(data, cache_dir, progress=progress)
    home = cache_dir / "manifests" / f"{source.name}-{_key(data, source)}"
    home.mkdir(parents=True, exist_ok=True)
    # Jobs of one sweep start together: the first one writes, the others read.
    with FileLock(home / ".lock"):
        manifest = None if rescan else _read_manifest(home, source)
        if manifest is None:
            manifest = scan(source, max_megapixels=data["max_megapixels"], min_side=data["min_side"], progress=progress)
            _write_manifest(home, manifest)
        films, notes = _filter_view(manifest.films, data.get("view"))
        notes += _notes(manifest, films, strict)
        return _split_study(home, manifest, films, split, notes)


def _split_study(
    home: Path, manifest: Manifest, films: pd.DataFrame, split: Mapping[str, Any], notes: list[str]
) -> Study:
    data_hash = manifest_hash(films)
    # The manifest's paths may differ where its contents do not, so they are part of the name, not of the draw.
    paths = _sha256("\n".join(films["path"]))
    settings = {"data": data_hash, "paths": paths, "group": split["group"], "seed": split["seed"]}
    folder = home / f"split-{_digest(settings)}"
    file, record = folder / "split.csv", folder / "split.json"
    if not record.exists():
        folder.mkdir(exist_ok=True)
        # A split.csv without its record is what a stopped process left behind: it is written anew.
        made = balanced_folds(films, group=split["group"], seed=split["seed"])
        text = made.table[list(SPLIT_COLUMNS)].to_csv(index=False, lineterminator="\n")
        write_text(file, text)
        write_text(folder / "left_out.csv", made.left_out.to_csv(index=False, lineterminator="\n"))
        told = {**settings, "split_sha256": _sha256(text), "notes": made.notes}
        write_text(record, json.dumps(told, indent=2) + "\n")
    told = json.loads(record.read_text(encoding="utf-8"))
    digest = hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else "gone"
    if digest != told["split_sha256"]:
        raise SplitError(f"{file}: was changed after it was written; delete {folder} to have it drawn again")
    table = read_split(file)
    return Study(
        name=manifest.name,
        root=manifest.root,
        films=films,
        split=table,
        refused=manifest.refused,
        manifest_sha256=data_hash,
        split_sha256=digest,
        folder=folder,
        notes=[*notes, *told["notes"]],
    )


def read_split(file: str | Path) -> pd.DataFrame:
    """The table of a split.csv, unknown cells as NaN and fold as int."""
    table = _read_csv(file, SPLIT_COLUMNS[:-1])
    absent = [c for c in SPLIT_COLUMNS if c not in table]
    if absent:
        raise SplitError(f"{file}: has no column {', '.join(absent)}; expected {','.join(SPLIT_COLUMNS)}")
    return table


def _phantoms(data: Mapping[str, Any], cache_dir: Path, progress: bool) -> Path:
    settings = {
        "images_per_class": data["images_per_class"],
        "size": data["film_size"],
        "severity": data["severity"],
        "faults": sorted(data["faults"]),
        "seed": data["seed"],
    }
    if not isinstance(settings["images_per_class"], int) or settings["images_per_class"] < 11:
        raise SettingError("data.images_per_class", settings["images_per_class"], "a whole number from 11 on")
    root = cache_dir / "phantoms" / f"{settings['images_per_class']}-{_digest({**settings, 'drawing': DRAWING})}"
    root.parent.mkdir(parents=True, exist_ok=True)
    if not (root / "metadata.csv").exists():
        log.info("drawing %d phantoms per class (once; kept in %s)", settings["images_per_class"], root)
    with FileLock(f"{root}.lock"):
        write_phantoms(root, **settings)
    return root


def _key(data: Mapping[str, Any], source: Source) -> str:
    reading = {k: data[k] for k in ("max_megapixels", "min_side")}
    return _digest({"root": str(source.root), "labels": dict(data.get("labels") or {}), **reading})


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def _sha256(text: str) -> str:
    # As write_text writes it: names of files that are no UTF-8 keep their bytes.
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _read_csv(file: str | Path, text: Iterable[str]) -> pd.DataFrame:
    # Text stays text: a patient 007 is no number, and one called "NA" is not unknown.
    kinds = dict.fromkeys(text, object)
    return pd.read_csv(
        file, dtype=kinds, keep_default_na=False, na_values=[""], encoding="utf-8", encoding_errors="surrogateescape"
    )


def _thumbnails(home: Path, root: Path, progress: bool) -> Thumbnails:
    films = _read_csv(home / "manifest.csv", _TEXT)
    found = read_thumbnails(home / THUMBNAILS, films)
    if found is not None:
        return found
    with FileLock(home / ".lock"):
        found = read_thumbnails(home / THUMBNAILS, films)
        if found is None:
            found = make_thumbnails(films, root, progress=progress)
            # Where some are lacking they are looked for again next time.
            if len(found.image_id) == len(films):
                write_thumbnails(home / THUMBNAILS, found)
    return found


def _write_manifest(home: Path, manifest: Manifest) -> None:
    if manifest.thumbnails is not None:
        write_thumbnails(home / THUMBNAILS, manifest.thumbnails)
    write_text(home / "refused.csv", manifest.refused.to_csv(index=False, lineterminator="\n"))
    # Last, since its presence says that the scan is complete.
    write_text(home / "manifest.csv", manifest.films.to_csv(index=False, lineterminator="\n"))


def _read_manifest(home: Path, source: Source) -> Manifest | None:
    file, refused_file = home / "manifest.csv", home / "refused.csv"
    if not (file.exists() and refused_file.exists()):
        return None
    try:
        films = _read_csv(file, _TEXT)[list(COLUMNS)]
        refused = _read_csv(refused_file, REFUSED_COLUMNS)[list(REFUSED_COLUMNS)]
    except (ValueError, KeyError):
        log.warning("%s: not a manifest any more; the films are read again", file)
        return None
    known = set(films["path"]) | set(refused["path"])
    added = len(set(source.files["path"]) - known)
    told_anew = _told_anew(films, source.files)
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
    return Manifest(source.name, source.root, films, refused)


def _told_anew(films: pd.DataFrame, files: pd.DataFrame) -> int:
    """Films of which folders or metadata.csv now say something else than the manifest."""
    columns = ["label", "patient_id", "view"]
    both = files.merge(films, on="path", suffixes=("", "_before"))
    # What is unknown here can have come from a DICOM header.
    changed = [both[c].notna() & (both[c] != both[f"{c}_before"]) for c in columns]
    return int(pd.concat(changed, axis=1).any(axis=1).sum())


def _filter_view(films: pd.DataFrame, view: str | None) -> tuple[pd.DataFrame, list[str]]:
    if view is None:
        return films, []
    known = films["view"].dropna()
    wanted = known.str.casefold() == str(view).casefold()
    dropped = known.index[~wanted]
    unknown = len(films) - len(known)
    if not wanted.any() and not unknown:
        raise DataError(f"data.view={view}: no film has this view; known are {', '.join(sorted(known.unique()))}")
    note = f"view {view}: {int(wanted.sum())} films kept, {len(dropped)} of other views left out"
    if unknown:
        note += f"; the view of {unknown} films is unknown, they are kept"
        log.warning("data.view=%s: the view of %d films is unknown; they are kept", view, unknown)
    return films.drop(index=dropped).reset_index(drop=True), [note]


def _notes(manifest: Manifest, films: pd.DataFrame, strict: bool) -> list[str]:
    notes = []
    counts = ", ".join(f"{name} {int((films['label'] == name).sum())}" for name in CLASSES)
    notes.append(f"{len(films)} films ({counts})")
    if len(manifest.refused):
        notes.append(f"{len(manifest.refused)} files were refused (refused.csv)")
    for _, paths, classes in duplicates(films):
        if len(classes) > 1:
            text = f"one film in two classes: {' and '.join(paths)}"
            if strict:
                raise DataError(f"{text}; remove all but the right one")
            log.warning("%s; kept in one fold, remove all but the right one", text)
            notes.append(text)
    return notes


__all__ = ["SPLIT_COLUMNS", "Study", "find_source", "prepare_study", "read_split"]
