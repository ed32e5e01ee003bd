"""A prepared data set: its manifest and split are written to the cache once, hashed, and only read from then on."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from covidnet.base.atomic import locked, write_text
from covidnet.base.classes import DEFAULT_CLASSES, ClassList
from covidnet.base.errors import DataError, SettingError, SplitError
from covidnet.base.names import counted, real_path
from covidnet.data.collection.manifest import Manifest, Rules, duplicates, manifest_hash, scan
from covidnet.data.collection.manifest_files import (
    digest,
    filter_view,
    kept_thumbnails,
    manifest_home,
    read_csv,
    read_manifest,
    write_manifest,
)
from covidnet.data.collection.metadata import COLUMNS, Given
from covidnet.data.collection.sources import Source, folder_source, kaggle_source
from covidnet.data.folds.splits import (
    N_FOLDS,
    UNSEEN_FOLD,
    Copies,
    Group,
    balanced_folds,
    check_groups,
    check_unseen_fold,
    unseen_fold_of,
)
from covidnet.data.phantoms.phantom import DRAWING, FOLDERS, write_phantoms
from covidnet.data.reading.thumbnails import FILE as THUMBNAILS
from covidnet.data.reading.thumbnails import Thumbnails, make_thumbnails, read_thumbnails
from covidnet.data.recognition.overlap import COPY_COLUMNS, METHOD, SAME_FILE, ImageSet, find_copies, named_copies

if TYPE_CHECKING:
    from covidnet.data.loading.datamodule import FoldDataModule

log = logging.getLogger(__name__)

COPIES_FILE = "copies.csv"
"""In the folder of split.csv: pairs of images that are copies."""

# How many pairs in two classes are listed individually.
_NAMED = 5

_COPIES_CSV: dict[str, Any] = {"index": False, "float_format": "%.3f", "lineterminator": "\n"}

SPLIT_COLUMNS = ("image_id", "path", "label", "patient_id", "view", "source", "fold", "reason", "copy_of")


@dataclass(frozen=True)
class PreparedDataset:
    """A data set with its folds.

    Attributes:
        name: phantom, kaggle or folder.
        root: the folder that paths are relative to.
        images: the manifest's rows after the view filter (columns of `covidnet.data.collection.manifest.COLUMNS`).
        split: the table of split.csv.
        refused: files that cannot be used: path, cause, remedy.
        manifest_sha256: hash of the images' contents, labels, patients and views.
        split_sha256: hash of split.csv's bytes.
        folder: holds split.csv, copies.csv and left_out.csv, which includes images excluded by data.view; its parent
            holds manifest.csv, refused.csv and thumbnails.npz.
        notes: what a reader of the numbers must know about the data, in sentences.
        group: what no two folds share: ``patient+copies``, ``patient`` or ``image``.
        copies: which copies of an image share a fold: ``near``, ``bytes`` or ``off``.
        classes: of the images.
    """

    name: str
    root: Path
    images: pd.DataFrame
    split: pd.DataFrame
    refused: pd.DataFrame
    manifest_sha256: str
    split_sha256: str
    folder: Path
    notes: list[str] = field(default_factory=list)
    group: Group = "patient+copies"
    copies: Copies = "near"
    classes: ClassList = DEFAULT_CLASSES

    @property
    def split_file(self) -> Path:
        """The data set's split.csv."""
        return self.folder / "split.csv"

    @property
    def synthetic(self) -> bool:
        """Whether the images are phantoms."""
        return self.name == "phantom"

    def rows(self) -> pd.DataFrame:
        """The table of split.csv with each file's sha256."""
        return self.split.merge(self.images[["image_id", "sha256"]], on="image_id", how="left", validate="1:1")

    def fold(self, fold: int, **settings: Any) -> FoldDataModule:
        """The data module of one fold: nine folds to train on, one to test on, and the unseen one.

        Args:
            fold: the test fold, 0..9.
            settings: keyword arguments of `FoldDataModule`, such as ``fit=SquareFit(96)`` or ``batch_size=16``.
        """
        # Lightning takes seconds to import, and preparing data does not need it.
        from covidnet.data.loading.datamodule import FoldDataModule

        defaults = {"root": self.root, "group": self.group, "split_copies": self.copies, "classes": self.classes}
        return FoldDataModule(self.rows(), fold=fold, **{**defaults, **settings})

    def thumbnails(self, *, progress: bool = True) -> Thumbnails:
        """Every image of the manifest, of any view, at 64 x 64 pixels: image_id, pixels, aspects.

        They are written with the manifest. If an older manifest has none, the images are read once more; an image that
        changed since is logged and has no row.

        Args:
            progress: whether a progress bar is drawn.
        """
        return kept_thumbnails(self.folder.parent, self.root, progress=progress)


def prepare_folder(
    root: str | Path,
    *,
    classes: Sequence[str] | str = DEFAULT_CLASSES,
    cache_dir: str | Path | None = None,
    view: str | None = "frontal",
    group: Group = "patient+copies",
    copies: Copies = "near",
    seed: int = 0,
    progress: bool = True,
) -> PreparedDataset:
    """Prepare a folder of class folders: read every image once, find patients and copies, draw eleven balanced folds.

    A second call reads what the first one wrote. `prepare_dataset` takes the commands' settings instead.

    Args:
        root: has a folder per class, and optionally a metadata.csv (filename, label, patient_id, view, source).
        classes: 2 to 50 names; ``auto`` takes them from the folders or metadata.csv's column label.
        cache_dir: where manifest and folds are kept; ``COVIDNET_CACHE``, or ``~/.cache/covidnet``, if None.
        view: ``frontal``, one view such as ``PA``, or None for all.
        group: what no two folds share: ``patient+copies``, ``patient`` or ``image``.
        copies: which copies of an image share a fold: ``near``, ``bytes`` or ``off``.
        seed: of the draw of the folds.
        progress: whether progress bars are drawn.

    Raises:
        DataError: the data cannot be used, in one line.
        SplitError: no balanced folds can be made.
    """
    home = cache_dir or os.environ.get("COVIDNET_CACHE") or Path("~/.cache/covidnet")
    given = classes if isinstance(classes, str) else list(classes)
    positive = classes.positive if isinstance(classes, ClassList) else None
    data = {
        "name": "folder", "root": str(root), "view": view, "max_megapixels": 64, "min_side": 64,
        "classes": given, "positive": positive,
    }  # fmt: skip
    return prepare_dataset(
        data, {"group": group, "copies": copies, "seed": seed}, cache_dir=Path(home).expanduser(), progress=progress
    )


def find_source(
    data: Mapping[str, Any], cache_dir: Path, *, unseen: str | None = None, progress: bool = True
) -> Source:
    """The source named by the settings under ``data``; missing phantoms are drawn first.

    Args:
        data: the group ``data`` of the configuration.
        cache_dir: where phantoms are kept.
        unseen: ``split.unseen``.
        progress: whether progress bars are drawn.
    """
    name, labels, ignore = data["name"], data.get("labels") or {}, data.get("ignore")
    for limit in ("max_megapixels", "min_side"):
        value = data[limit]
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise SettingError(f"data.{limit}", value, "a number above 0")
    root = data.get("root")
    if root is not None and not str(root).strip():
        # data.root=$DIR with DIR unset: an empty path would mean the current folder.
        raise SettingError("data.root", root, "a folder of images", "say data.root=DIR")
    more: dict[str, Any] = {"name": name, "labels": labels, "ignore": ignore, "unseen": unseen}
    more |= {"classes": ClassList.declared(data), "positive": data.get("positive")}
    if name == "phantom":
        classes = more["classes"] or ClassList(DEFAULT_CLASSES.names, data.get("positive") or "")
        if other := [label for label in classes if label not in FOLDERS]:
            raise SettingError(
                "data.classes", list(classes), f"some of {', '.join(FOLDERS)}, which phantoms are drawn of",
                f"for {other[0]}, say data=folder data.root=DIR",
            )  # fmt: skip
        absent = [folder for label, folder in FOLDERS.items() if label not in classes]
        drawn = {**more, "ignore": absent, "classes": classes}
        return replace(folder_source(_phantoms(data, cache_dir, progress), **drawn), notes=())
    more["given"] = given_table(data)
    if name == "kaggle":
        return kaggle_source(root, handle=data["handle"], **more)
    if root is None:
        raise SettingError("data.root", None, "a folder of images", "say data=folder data.root=DIR")
    return folder_source(root, **more)


def given_table(data: Mapping[str, Any]) -> Given | None:
    """The table that data.table, data.columns and data.separator describe; None if none of them is set.

    Args:
        data: the group ``data`` of the configuration.

    Raises:
        SettingError: data.columns names what no table has.
    """
    table, columns, separator = data.get("table"), data.get("columns") or {}, data.get("separator")
    if not (table or columns or separator):
        return None
    for name in columns:
        if name not in COLUMNS:
            raise SettingError("data.columns", f"{{{name}: ...}}", COLUMNS)
    numbers = [isinstance(column, int) for column in columns.values()]
    if any(numbers) and not (all(numbers) and min(columns.values()) > 0 and "filename" in columns):
        remedy = "numbers, counted from 1, are for a table without a header line"
        raise SettingError("data.columns", dict(columns), "all names, or all numbers with filename", remedy)
    files = tuple(real_path(Path(file).expanduser()) for file in ([table] if isinstance(table, str) else table or ()))
    return Given(files, columns, separator)


def prepare_dataset(
    data: Mapping[str, Any],
    split: Mapping[str, Any],
    *,
    cache_dir: Path,
    strict: bool = False,
    rescan: bool = False,
    rules: Rules | None = None,
    limits: Mapping[str, float] | None = None,
    progress: bool = True,
) -> PreparedDataset:
    """Manifest and split of a data set: read from the cache if present, otherwise made and written.

    Args:
        data: the group ``data`` of the configuration.
        split: the group ``split``.
        cache_dir: where both are kept.
        strict: whether an image in two classes is an error rather than a warning.
        rescan: read every file again even if there is a manifest.
        rules: what prediction would refuse an image for, as in `covidnet.data.collection.manifest.scan`. Such images
            are still used, and a note counts them.
        limits: the settings under ``reading``.
        progress: whether progress bars are drawn.

    Raises:
        DataError: the data cannot be used, in one line.
        SplitError: no balanced folds can be made.
    """
    check_groups(split["group"], split.get("copies", "bytes"))
    check_unseen_fold(unseen_fold_of(split), published=split.get("unseen") is not None)
    source = find_source(data, cache_dir, unseen=split.get("unseen"), progress=progress)
    if absent := [label for label in source.classes if label not in set(source.files["label"])]:
        least = N_FOLDS - bool(source.unseen)
        raise SplitError(
            f"{source.root}: class {absent[0]}: 0 images, at least {least} are needed, one per fold; add images, or "
            "name the folders that mean it in data.labels"
        )
    home = manifest_home(data, source, cache_dir, flagged=rules is not None)
    # Jobs of one sweep start together: the first writes, the others read.
    with locked(home / ".lock") as unwritable:
        manifest = None if rescan else read_manifest(home, source)
        if manifest is None:
            # Fail before reading every image in vain.
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
        images, notes = filter_view(manifest.images, data.get("view"))
        notes = [*source.notes, *notes, *_notes(manifest, images, source.classes)]
        unseen = images["image_id"][images["path"].isin(source.unseen)].tolist()
        prepared = _split_dataset(home, manifest, images, split, unseen, notes, progress, source.classes)
    together = "" if split.get("copies") == "off" else "kept in one fold, "
    for text in _two_classes(images, prepared.folder):
        if strict:
            raise DataError(f"{text}; remove all but the right one")
        log.warning("%s; %sremove all but the right one", text, together)
        prepared.notes.append(text)
    return prepared


def _split_dataset(
    home: Path,
    manifest: Manifest,
    images: pd.DataFrame,
    split: Mapping[str, Any],
    unseen: list[str],
    notes: list[str],
    progress: bool,
    classes: ClassList,
) -> PreparedDataset:
    data_hash = manifest_hash(images)
    # Two manifests with the same contents may differ in paths, so paths are part of the folder's name, not of the draw.
    paths = _sha256("\n".join(images["path"]))
    # "patient+copies" draws the split that older runs call "patient": the copies are an entry of their own.
    group = "patient" if split["group"] == "patient+copies" else split["group"]
    settings = {"data": data_hash, "paths": paths, "group": group, "seed": split["seed"]}
    other = manifest.images[~manifest.images["image_id"].isin(images["image_id"])]
    if len(other):
        settings["other_views"] = _sha256("\n".join(other["path"]))
    # Older runs have no setting `copies`, and no such entry in their splits: identical files were kept together.
    copies = split.get("copies", "bytes")
    if copies != "bytes":
        settings["copies"] = f"near {METHOD}" if copies == "near" else copies
    # Older runs have no setting `balance`, and their splits no such entry.
    balance = bool(split.get("balance", True))
    if not balance:
        settings["balance"] = False
    if unseen:
        settings["unseen"] = _sha256("\n".join(sorted(unseen)))
    unseen_fold = unseen_fold_of(split)
    if unseen_fold != UNSEEN_FOLD:
        settings["unseen_fold"] = unseen_fold
    folder = home / f"split-{digest(settings)}"
    file, record = folder / "split.csv", folder / "split.json"
    if not record.exists():
        folder.mkdir(exist_ok=True)
        if copies == "near":
            pairs = _kept_copies(home, manifest, progress)
            images = images.assign(copy_of=images["image_id"].map(_first_copies(pairs)))
            settings["copies_sha256"] = _write_copies(folder / COPIES_FILE, _pairs_within(pairs, images))
        # A split.csv without a record was left by a stopped process: write it again.
        made = balanced_folds(
            images,
            group=split["group"],
            seed=split["seed"],
            copies=copies,
            unseen=unseen,
            unseen_fold=unseen_fold,
            balance=balance,
            classes=classes,
        )
        for text in made.warnings:
            log.warning("%s", text)
        text = made.table[list(SPLIT_COLUMNS)].to_csv(index=False, lineterminator="\n")
        write_text(file, text)
        left_out = pd.concat([other.assign(reason="view: " + other["view"].astype(str)), made.left_out], join="inner")
        left_out = left_out[list(made.left_out)].sort_values("image_id")
        write_text(folder / "left_out.csv", left_out.to_csv(index=False, lineterminator="\n"))
        exchange = f"Drawn fold {unseen_fold} is the unseen one; it and fold {UNSEEN_FOLD} have exchanged numbers."
        more = [exchange] if unseen_fold != UNSEEN_FOLD else []
        facts = {**settings, "split_sha256": _sha256(text), "notes": [*made.notes, *more]}
        write_text(record, json.dumps(facts, indent=2) + "\n")
    try:
        facts = json.loads(record.read_text(encoding="utf-8"))
        hashes = {file: facts["split_sha256"]}
        # Records of older releases have no hash of copies.csv.
        hashes |= {folder / COPIES_FILE: facts["copies_sha256"]} if "copies_sha256" in facts else {}
        notes = [*notes, *map(str, facts["notes"])]
    except (ValueError, KeyError, TypeError) as error:
        raise SplitError(f"{record}: damaged ({error}); delete {folder} to draw the split again") from None
    for written, sha256 in hashes.items():
        if _file_sha256(written) != sha256:
            raise SplitError(f"{written}: changed after it was written; delete {folder} to draw the split again")
    table = read_split(file)
    return PreparedDataset(
        name=manifest.name,
        root=manifest.root,
        images=images.drop(columns="copy_of", errors="ignore"),
        split=table,
        refused=manifest.refused,
        manifest_sha256=data_hash,
        split_sha256=hashes[file],
        folder=folder,
        notes=notes,
        group=split["group"],
        copies=copies,
        classes=classes,
    )


def read_split(file: str | Path) -> pd.DataFrame:
    """Read a split.csv, with unknown cells as NaN and fold as int; reason and copy_of are optional columns."""
    table = read_csv(file, [c for c in SPLIT_COLUMNS if c != "fold"])
    absent = [c for c in SPLIT_COLUMNS[:-2] if c not in table]
    if absent:
        raise SplitError(f"{file}: no column {', '.join(absent)}; expected columns are {','.join(SPLIT_COLUMNS[:-2])}")
    return table


def _phantoms(data: Mapping[str, Any], cache_dir: Path, progress: bool) -> Path:
    settings = {
        "images_per_class": data["images_per_class"],
        "size": data["phantom_size"],
        "severity": data["severity"],
        "faults": sorted(data["faults"]),
        "seed": data["seed"],
    }
    if not isinstance(settings["images_per_class"], int) or settings["images_per_class"] < 11:
        raise SettingError("data.images_per_class", settings["images_per_class"], "an integer of at least 11")
    root = cache_dir / "phantoms" / f"{settings['images_per_class']}-{digest({**settings, 'drawing': DRAWING})}"
    root.parent.mkdir(parents=True, exist_ok=True)
    lacking = not (root / "metadata.csv").exists()
    if lacking:
        log.info("drawing %d phantoms per class (once; kept in %s)", settings["images_per_class"], root)
    with locked(root.with_name(f"{root.name}.lock")) as unwritable:
        if lacking and unwritable is not None:
            raise unwritable
        for leftover in root.parent.glob(f".{root.name}.*.partial"):
            # Under the lock no other process is drawing them: this one was killed.
            shutil.rmtree(leftover, ignore_errors=True)
        write_phantoms(root, **settings)
    return root


def _sha256(text: str) -> str:
    # Encoded as write_text does: file names that are not UTF-8 keep their bytes.
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _file_sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else "gone"


def _write_copies(file: Path, pairs: pd.DataFrame) -> str:
    """Write a table of pairs and return its hash."""
    text = pairs.to_csv(**_COPIES_CSV)
    write_text(file, text)
    return _sha256(text)


def _notes(manifest: Manifest, images: pd.DataFrame, classes: ClassList) -> list[str]:
    counts = ", ".join(f"{name} {int((images['label'] == name).sum())}" for name in classes)
    notes = [f"{counted(len(images), 'image')} ({counts})"]
    if len(manifest.refused):
        notes.append(f"{counted(len(manifest.refused), 'file was', 'files were')} refused (refused.csv)")
    flagged = images[images["flags"].notna()]
    if len(flagged):
        codes = Counter(code for flags in flagged["flags"] for code in flags.split(";"))
        notes.append(
            f"{counted(len(flagged), 'image is', 'images are')} used that prediction would refuse "
            f"({', '.join(f'{code} {count}' for code, count in sorted(codes.items()))}), for example "
            f"{', '.join(sorted(flagged['path'])[:3])}; the column flags of manifest.csv marks them all, and "
            "data.ignore leaves files out"
        )
    return notes


def _two_classes(images: pd.DataFrame, folder: Path) -> list[str]:
    """Images filed under two classes: identical files, and the near copies of copies.csv."""
    found = [
        f"one image in two classes: {' and '.join(paths)}"
        for _, paths, classes in duplicates(images)
        if len(classes) > 1
    ]
    file = folder / COPIES_FILE
    if file.exists():
        try:
            pairs = read_csv(file, [c for c in COPY_COLUMNS if c != "similarity"])
            apart = pairs[(pairs["label"] != pairs["other_label"]) & (pairs["kind"] != SAME_FILE)]
            for row in apart.sort_values("similarity", ascending=False).head(_NAMED).itertuples():
                sides = f"{row.path} ({row.label}) and {row.other_path} ({row.other_label})"
                found.append(f"one image in two classes ({row.kind}): {sides}")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            # An older release wrote this file without a hash to check.
            raise SplitError(f"{file}: damaged ({error}); delete {folder} to draw the split again") from None
        if len(apart) > _NAMED:
            found.append(f"{len(apart) - _NAMED} more pairs are in two classes: {file}")
    return found


def _kept_copies(home: Path, manifest: Manifest, progress: bool) -> pd.DataFrame:
    """Pairs of copies in a manifest, by image id; searched for once per manifest, whatever the split."""
    images = manifest.images
    # An image id is the hash of the file, so the same ids have the same pairs.
    file = home / f"copies-{digest({'method': METHOD, 'images': sorted(images['image_id'])})}.csv"
    # If pairs were missing, copies could end up in both training and test. So the file is checked against its hash.
    record = file.with_suffix(".sha256")
    whole = record.exists() and record.read_bytes() == _file_sha256(file).encode()
    if not whole:
        small = manifest.thumbnails or read_thumbnails(home / THUMBNAILS, images)
        if small is None:
            small = make_thumbnails(images, manifest.root, progress=progress)
        hashes = images.set_index("image_id")["sha256"].reindex(small.image_id)
        found = find_copies(ImageSet(hashes.to_numpy(dtype=str), small.pixels), progress=progress)
        ids = pd.Series(small.image_id, dtype=object)
        found = found.assign(image=ids[found["image"]].tolist(), other=ids[found["other"]].tolist())
        if len(small.image_id) < len(images):
            return found  # Changed images were not compared, so nothing is written and the next call searches again.
        write_text(record, _write_copies(file, found))
    return read_csv(file, ["image", "other", "kind"])


def _first_copies(pairs: pd.DataFrame) -> dict[str, str]:
    """For each image with a copy, the smallest id among its copies."""
    first: dict[str, str] = {}

    def root(image_id: str) -> str:
        while first.setdefault(image_id, image_id) != image_id:
            image_id = first[image_id]
        return image_id

    for image, other in zip(pairs["image"], pairs["other"], strict=True):
        one, two = sorted((root(image), root(other)))
        first[two] = one
    return {image_id: root(image_id) for image_id in first}


def _pairs_within(pairs: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """The rows of copies.csv with both images in the split."""
    at = pd.Series(range(len(images)), index=images["image_id"])
    here = pairs[pairs["image"].isin(at.index) & pairs["other"].isin(at.index)]
    return named_copies(here.assign(image=at[here["image"]].tolist(), other=at[here["other"]].tolist()), images)


__all__ = ["SPLIT_COLUMNS", "PreparedDataset", "find_source", "prepare_dataset", "prepare_folder", "read_split"]
