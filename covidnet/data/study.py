"""A data set made ready: its manifest and its split, written once into the cache, hashed, and only read afterwards."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from covidnet.atomic import locked, write_text
from covidnet.data.manifest import Manifest, Rules, duplicates, manifest_hash, scan
from covidnet.data.manifest_files import (
    digest,
    filter_view,
    kept_thumbnails,
    manifest_home,
    read_csv,
    read_manifest,
    write_manifest,
)
from covidnet.data.overlap import COPY_COLUMNS, METHOD, SAME_FILE, FilmSet, find_copies, named_copies
from covidnet.data.phantom import DRAWING, write_phantoms
from covidnet.data.sources import Source, folder_source, kaggle_source
from covidnet.data.splits import COPIES, GROUPS, balanced_folds
from covidnet.data.thumbnails import FILE as THUMBNAILS
from covidnet.data.thumbnails import Thumbnails, make_thumbnails, read_thumbnails
from covidnet.errors import DataError, SettingError, SplitError
from covidnet.labels import CLASSES
from covidnet.names import counted

log = logging.getLogger(__name__)

COPIES_FILE = "copies.csv"
"""Lies beside split.csv: pairs of images that are one."""

# Pairs in two classes that are named one by one.
_NAMED = 5

_COPIES_CSV: dict[str, Any] = {"index": False, "float_format": "%.3f", "lineterminator": "\n"}

SPLIT_COLUMNS = ("image_id", "path", "label", "patient_id", "view", "source", "fold", "reason", "copy_of")


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
        folder: where split.csv, copies.csv and left_out.csv lie, the last with what data.view leaves out too;
            manifest.csv, refused.csv and thumbnails.npz lie above it.
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
        return kept_thumbnails(self.folder.parent, self.root, progress=progress)


def find_source(data: Mapping[str, Any], cache_dir: Path, *, progress: bool = True) -> Source:
    """The source that the settings under ``data`` name; phantoms are drawn first if they are not there.

    Args:
        data: the group ``data`` of the configuration.
        cache_dir: where phantoms are kept.
        progress: whether progress bars are drawn.
    """
    name, labels, ignore = data["name"], data.get("labels") or {}, data.get("ignore")
    for limit in ("max_megapixels", "min_side"):
        value = data[limit]
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise SettingError(f"data.{limit}", value, "a number above 0")
    root = data.get("root")
    if root is not None and not str(root).strip():
        # data.root=$DIR with DIR unset: the empty path would mean the current folder.
        raise SettingError("data.root", root, "a folder of class folders", "say data.root=DIR")
    if name == "phantom":
        return folder_source(_phantoms(data, cache_dir, progress), name=name, labels=labels, ignore=ignore)
    if name == "kaggle":
        return kaggle_source(root, handle=data["handle"], name=name, labels=labels, ignore=ignore)
    if root is None:
        raise SettingError("data.root", None, "a folder of class folders", "say data=folder data.root=DIR")
    return folder_source(root, name=name, labels=labels, ignore=ignore)


def prepare_study(
    data: Mapping[str, Any],
    split: Mapping[str, Any],
    *,
    cache_dir: Path,
    strict: bool = False,
    rescan: bool = False,
    rules: Rules | None = None,
    limits: Mapping[str, float] | None = None,
    progress: bool = True,
) -> Study:
    """Manifest and split of a data set: read from the cache if they are there, made and written otherwise.

    Args:
        data: the group ``data`` of the configuration.
        split: the group ``split``.
        cache_dir: where both are kept.
        strict: whether a film in two classes is an error rather than a warning.
        rescan: read every file again even where a manifest is there.
        rules: what prediction would refuse an image for, as in `covidnet.data.manifest.scan`; such images are used and
            named in a note.
        limits: the settings under ``reading``.
        progress: whether progress bars are drawn.

    Raises:
        DataError: where the data cannot be used, in one line.
        SplitError: where no balanced folds can be made.
    """
    if split["group"] not in GROUPS:
        raise SettingError("split.group", split["group"], GROUPS)
    if split.get("copies", "bytes") not in COPIES:
        raise SettingError("split.copies", split["copies"], COPIES)
    source = find_source(data, cache_dir, progress=progress)
    home = manifest_home(data, source, cache_dir, flagged=rules is not None)
    # Jobs of one sweep start together: the first one writes, the others read.
    with locked(home / ".lock") as unwritable:
        manifest = None if rescan else read_manifest(home, source)
        if manifest is None:
            # Before every image is read for nothing.
            if unwritable is not None:
                raise unwritable
            manifest = scan(
                source,
                max_megapixels=data["max_megapixels"],
                min_side=data["min_side"],
                limits=limits,
                rules=rules,
                progress=progress,
            )
            write_manifest(home, manifest)
        films, notes = filter_view(manifest.films, data.get("view"))
        notes = [*source.notes, *notes, *_notes(manifest, films)]
        study = _split_study(home, manifest, films, split, notes, progress)
    together = "" if split.get("copies") == "off" else "kept in one fold, "
    for text in _two_classes(films, study.folder):
        if strict:
            raise DataError(f"{text}; remove all but the right one")
        log.warning("%s; %sremove all but the right one", text, together)
        study.notes.append(text)
    return study


def _split_study(
    home: Path,
    manifest: Manifest,
    films: pd.DataFrame,
    split: Mapping[str, Any],
    notes: list[str],
    progress: bool,
) -> Study:
    data_hash = manifest_hash(films)
    # The manifest's paths may differ where its contents do not, so they are part of the name, not of the draw.
    paths = _sha256("\n".join(films["path"]))
    settings = {"data": data_hash, "paths": paths, "group": split["group"], "seed": split["seed"]}
    other = manifest.films[~manifest.films["image_id"].isin(films["image_id"])]
    if len(other):
        settings["other_views"] = _sha256("\n".join(other["path"]))
    # The settings of an older run have no copies, and its split has no such entry: equal files were kept together.
    copies = split.get("copies", "bytes")
    if copies != "bytes":
        settings["copies"] = f"near {METHOD}" if copies == "near" else copies
    folder = home / f"split-{digest(settings)}"
    file, record = folder / "split.csv", folder / "split.json"
    if not record.exists():
        folder.mkdir(exist_ok=True)
        if copies == "near":
            pairs = _kept_copies(home, manifest, progress)
            films = films.assign(copy_of=films["image_id"].map(_first_copies(pairs)))
            settings["copies_sha256"] = _write_copies(folder / COPIES_FILE, _pairs_within(pairs, films))
        # A split.csv without its record is what a stopped process left behind: it is written anew.
        made = balanced_folds(films, group=split["group"], seed=split["seed"], copies=copies)
        for text in made.warnings:
            log.warning("%s", text)
        text = made.table[list(SPLIT_COLUMNS)].to_csv(index=False, lineterminator="\n")
        write_text(file, text)
        left_out = pd.concat([other.assign(reason="view: " + other["view"].astype(str)), made.left_out], join="inner")
        left_out = left_out[list(made.left_out)].sort_values("image_id")
        write_text(folder / "left_out.csv", left_out.to_csv(index=False, lineterminator="\n"))
        told = {**settings, "split_sha256": _sha256(text), "notes": made.notes}
        write_text(record, json.dumps(told, indent=2) + "\n")
    try:
        told = json.loads(record.read_text(encoding="utf-8"))
        hashes = {file: told["split_sha256"]}
        # A record of an older release has no hash of copies.csv.
        hashes |= {folder / COPIES_FILE: told["copies_sha256"]} if "copies_sha256" in told else {}
        notes = [*notes, *map(str, told["notes"])]
    except (ValueError, KeyError, TypeError) as error:
        raise SplitError(f"{record}: damaged ({error}); delete {folder} to have it drawn again") from None
    for written, sha256 in hashes.items():
        if _file_sha256(written) != sha256:
            raise SplitError(f"{written}: was changed after it was written; delete {folder} to have it drawn again")
    table = read_split(file)
    return Study(
        name=manifest.name,
        root=manifest.root,
        films=films.drop(columns="copy_of", errors="ignore"),
        split=table,
        refused=manifest.refused,
        manifest_sha256=data_hash,
        split_sha256=hashes[file],
        folder=folder,
        notes=notes,
    )


def read_split(file: str | Path) -> pd.DataFrame:
    """The table of a split.csv, unknown cells as NaN and fold as int; without reason and copy_of where it has none."""
    table = read_csv(file, [c for c in SPLIT_COLUMNS if c != "fold"])
    absent = [c for c in SPLIT_COLUMNS[:-2] if c not in table]
    if absent:
        raise SplitError(f"{file}: has no column {', '.join(absent)}; expected {','.join(SPLIT_COLUMNS[:-2])}")
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
    root = cache_dir / "phantoms" / f"{settings['images_per_class']}-{digest({**settings, 'drawing': DRAWING})}"
    root.parent.mkdir(parents=True, exist_ok=True)
    lacking = not (root / "metadata.csv").exists()
    if lacking:
        log.info("drawing %d phantoms per class (once; kept in %s)", settings["images_per_class"], root)
    with locked(root.with_name(f"{root.name}.lock")) as unwritable:
        if lacking and unwritable is not None:
            raise unwritable
        write_phantoms(root, **settings)
    return root


def _sha256(text: str) -> str:
    # As write_text writes it: names of files that are no UTF-8 keep their bytes.
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _file_sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else "gone"


def _write_copies(file: Path, pairs: pd.DataFrame) -> str:
    """Write a table of pairs; its hash."""
    text = pairs.to_csv(**_COPIES_CSV)
    write_text(file, text)
    return _sha256(text)


def _notes(manifest: Manifest, films: pd.DataFrame) -> list[str]:
    counts = ", ".join(f"{name} {int((films['label'] == name).sum())}" for name in CLASSES)
    notes = [f"{counted(len(films), 'image')} ({counts})"]
    if len(manifest.refused):
        notes.append(f"{counted(len(manifest.refused), 'file was', 'files were')} refused (refused.csv)")
    flagged = films[films["flags"].notna()]
    if len(flagged):
        codes = Counter(code for flags in flagged["flags"] for code in flags.split(";"))
        notes.append(
            f"{counted(len(flagged), 'image is', 'images are')} used that prediction would refuse "
            f"({', '.join(f'{code} {count}' for code, count in sorted(codes.items()))}), such as "
            f"{', '.join(sorted(flagged['path'])[:3])}; manifest.csv has all in the column flags, data.ignore leaves "
            "files out"
        )
    return notes


def _two_classes(films: pd.DataFrame, folder: Path) -> list[str]:
    """Images that are filed under two classes: equal files, and the near copies of copies.csv."""
    found = [
        f"one film in two classes: {' and '.join(paths)}" for _, paths, classes in duplicates(films) if len(classes) > 1
    ]
    file = folder / COPIES_FILE
    if file.exists():
        try:
            pairs = read_csv(file, [c for c in COPY_COLUMNS if c != "similarity"])
            apart = pairs[(pairs["label"] != pairs["other_label"]) & (pairs["kind"] != SAME_FILE)]
            for row in apart.sort_values("similarity", ascending=False).head(_NAMED).itertuples():
                sides = f"{row.path} ({row.label}) and {row.other_path} ({row.other_label})"
                found.append(f"one film in two classes ({row.kind}): {sides}")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            # The hash is not there to be compared: an older release wrote it.
            raise SplitError(f"{file}: damaged ({error}); delete {folder} to have it drawn again") from None
        if len(apart) > _NAMED:
            found.append(f"{len(apart) - _NAMED} more pairs are in two classes: {file}")
    return found


def _kept_copies(home: Path, manifest: Manifest, progress: bool) -> pd.DataFrame:
    """Pairs of images of a manifest that are one, by image id; looked for once, whatever is split how."""
    films = manifest.films
    # An image id is the hash of the file, so that the same ids have the same pairs.
    file = home / f"copies-{digest({'method': METHOD, 'films': sorted(films['image_id'])})}.csv"
    # Pairs that are missing would be taken for images that have no copy, and lie in training and test.
    record = file.with_suffix(".sha256")
    whole = record.exists() and record.read_bytes() == _file_sha256(file).encode()
    if not whole:
        small = manifest.thumbnails or read_thumbnails(home / THUMBNAILS, films)
        if small is None:
            small = make_thumbnails(films, manifest.root, progress=progress)
        hashes = films.set_index("image_id")["sha256"].reindex(small.image_id)
        found = find_copies(FilmSet(hashes.to_numpy(dtype=str), small.pixels), progress=progress)
        ids = pd.Series(small.image_id, dtype=object)
        found = found.assign(film=ids[found["film"]].tolist(), other=ids[found["other"]].tolist())
        if len(small.image_id) < len(films):
            return found  # Images that changed since were not compared: they are looked for again next time.
        write_text(record, _write_copies(file, found))
    return read_csv(file, ["film", "other", "kind"])


def _first_copies(pairs: pd.DataFrame) -> dict[str, str]:
    """For each image that has a copy the smallest id of all that are one with it."""
    first: dict[str, str] = {}

    def root(image_id: str) -> str:
        while first.setdefault(image_id, image_id) != image_id:
            image_id = first[image_id]
        return image_id

    for film, other in zip(pairs["film"], pairs["other"], strict=True):
        one, two = sorted((root(film), root(other)))
        first[two] = one
    return {image_id: root(image_id) for image_id in first}


def _pairs_within(pairs: pd.DataFrame, films: pd.DataFrame) -> pd.DataFrame:
    """The rows of copies.csv where both images are among those that are split."""
    at = pd.Series(range(len(films)), index=films["image_id"])
    here = pairs[pairs["film"].isin(at.index) & pairs["other"].isin(at.index)]
    return named_copies(here.assign(film=at[here["film"]].tolist(), other=at[here["other"]].tolist()), films)


__all__ = ["SPLIT_COLUMNS", "Study", "find_source", "prepare_study", "read_split"]
