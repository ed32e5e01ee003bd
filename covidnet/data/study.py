"""A data set made ready: its manifest and its split, written once into the cache, hashed, and only read afterwards."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from covidnet.atomic import write_text
from covidnet.data.manifest import COLUMNS, REFUSED_COLUMNS, Manifest, duplicates, scan
from covidnet.data.phantom import write_phantoms
from covidnet.data.sources import Source, folder_source, kaggle_source
from covidnet.data.splits import balanced_folds
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
        folder: where manifest.csv, refused.csv, split.csv and left_out.csv lie.
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


def find_source(data: Mapping[str, Any], cache_dir: Path, *, progress: bool = True) -> Source:
    """The source that the settings under ``data`` name; phantoms are drawn first if they are not there.

    Args:
        data: the group ``data`` of the configuration.
        cache_dir: where phantoms are kept.
        progress: whether progress bars are drawn.
    """
    name, labels = data["name"], data.get("labels") or {}
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
    from covidnet.data.manifest import manifest_hash

    data_hash = manifest_hash(films)
    # The manifest's paths may differ where its contents do not, so they are part of the name, not of the draw.
    paths = hashlib.sha256("\n".join(films["path"]).encode()).hexdigest()
    settings = {"data": data_hash, "paths": paths, "group": split["group"], "seed": split["seed"]}
    folder = home / f"split-{_digest(settings)}"
    file, record = folder / "split.csv", folder / "split.json"
    if not record.exists():
        folder.mkdir(exist_ok=True)
        made = balanced_folds(films, group=split["group"], seed=split["seed"])
        text = made.table[list(SPLIT_COLUMNS)].to_csv(index=False, lineterminator="\n")
        write_text(file, text)
        write_text(folder / "left_out.csv", made.left_out.to_csv(index=False, lineterminator="\n"))
        digest = hashlib.sha256(text.encode()).hexdigest()
        write_text(record, json.dumps({**settings, "split_sha256": digest, "notes": made.notes}, indent=2) + "\n")
    told = json.loads(record.read_text(encoding="utf-8"))
    table = read_split(file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest != told["split_sha256"]:
        raise SplitError(f"{file}: was changed after it was written; delete {folder} to have it drawn again")
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
    table = pd.read_csv(file, dtype=dict.fromkeys(SPLIT_COLUMNS[:-1], object), keep_default_na=False, na_values=[""])
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
    root = cache_dir / "phantoms" / f"{settings['images_per_class']}-{_digest(settings)}"
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


def _write_manifest(home: Path, manifest: Manifest) -> None:
    write_text(home / "refused.csv", manifest.refused.to_csv(index=False, lineterminator="\n"))
    # Last, since its presence says that the scan is complete.
    write_text(home / "manifest.csv", manifest.films.to_csv(index=False, lineterminator="\n"))


def _read_manifest(home: Path, source: Source) -> Manifest | None:
    file = home / "manifest.csv"
    if not file.exists():
        return None
    films = pd.read_csv(file, dtype=dict.fromkeys(_TEXT, object), keep_default_na=False, na_values=[""])
    refused = pd.read_csv(home / "refused.csv", dtype=object, keep_default_na=False)
    known = set(films["path"]) | set(refused["path"])
    added = len(set(source.files["path"]) - known)
    if added:
        log.warning(
            "%s: %d files are not in the manifest and are not used; python -m covidnet.prepare reads them",
            source.root,
            added,
        )
    return Manifest(source.name, source.root, films[list(COLUMNS)], refused[list(REFUSED_COLUMNS)])


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
    unknown = int(films["patient_id"].isna().sum())
    if unknown:
        notes.append(f"the patient of {unknown} films is unknown; each counts as a patient of its own")
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
