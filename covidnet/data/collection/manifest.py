"""The manifest: one row per image, with everything that later steps need. Unknown is NaN, never 0 or ""."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from covidnet.base.atomic import write_text
from covidnet.base.errors import DataError, ImageRefusedError
from covidnet.base.names import listed, shown
from covidnet.base.progress import available_cores, progress_bar
from covidnet.data.collection.sources import Source
from covidnet.data.reading.decoders import shared_decoders
from covidnet.data.reading.dicom import is_lateral
from covidnet.data.reading.images import ImageFacts, Radiograph, unreadable
from covidnet.data.reading.thumbnails import Pixels, Thumbnails, collect, thumbnail

log = logging.getLogger(__name__)

COLUMNS = (
    "image_id", "path", "label", "patient_id", "view", "source", "sha256", "width", "height", "mode", "bytes", "flags",
)  # fmt: skip
"""Columns of manifest.csv. image_id: the first 16 digits of sha256; further copies of the same file end in -2, -3.
flags: why prediction would refuse the image, as codes of `covidnet.gate.flags.CODES` separated by semicolons."""

Rules = Callable[[Radiograph], Iterable[str]]
"""A function from an image to the codes of its faults, such as `covidnet.gate.fixed_rules`."""

REFUSED_COLUMNS = ("path", "cause", "remedy")


def refused_row(path: str, error: ImageRefusedError) -> tuple[str, str, str]:
    """A file's row in refused.csv, columns `REFUSED_COLUMNS`.

    Args:
        path: relative to the image folder; escaped with `covidnet.base.names.shown`, since people read it.
        error: why it was refused.
    """
    return listed(shown(path)), shown(error.cause), shown(error.remedy)


def relative_to(path: str | Path, root: Path) -> str:
    """The posix path of an image relative to the image folder; unchanged if it is outside.

    Args:
        path: the file.
        root: the folder.
    """
    return Path(path).relative_to(root).as_posix() if Path(path).is_relative_to(root) else str(path)


@dataclass(frozen=True)
class Manifest:
    """The images that can be used, and the files that cannot.

    Attributes:
        name: the data set's name.
        root: the folder that `images.path` is relative to.
        images: one row per image, columns `COLUMNS`, sorted by image_id.
        refused: one row per refused file, columns `REFUSED_COLUMNS`.
        thumbnails: of the images, if they were just read.
    """

    name: str
    root: Path
    images: pd.DataFrame
    refused: pd.DataFrame
    thumbnails: Thumbnails | None = field(default=None, repr=False, compare=False)

    @property
    def sha256(self) -> str:
        """Hash of file contents, labels, patients and views, independent of file order."""
        return manifest_hash(self.images)


def manifest_hash(images: pd.DataFrame) -> str:
    """Hash of a manifest's contents, independent of paths and row order (hexadecimal)."""
    columns = ["sha256", "label", "patient_id", "view"]
    lines = sorted("\t".join(map(str, row)) for row in images[columns].astype(object).fillna("").to_numpy())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def scan(
    source: Source,
    *,
    max_megapixels: float,
    min_side: int,
    limits: Mapping[str, float] | None = None,
    rules: Rules | None = None,
    progress: bool = True,
) -> Manifest:
    """Read every file of a source once, in parallel: hash, size, mode, thumbnail. Unusable files are refused.

    Args:
        source: the files.
        max_megapixels: larger images are refused before decoding.
        min_side: images with a shorter side (pixels) are refused.
        limits: ``max_memory`` and ``max_seconds`` per image, see `covidnet.data.reading.decoders.Decoders`.
        rules: what prediction would refuse an image for; None leaves the column flags unknown.
        progress: whether a progress bar is drawn.

    Raises:
        DataError: no file can be used.
        DecoderError: decoding fails whatever the file.
    """
    decoders = shared_decoders(max_megapixels=max_megapixels, min_side=min_side, **(limits or {}))
    facts: dict[str, ImageFacts] = {}
    headers: dict[str, dict[str, str | None]] = {}
    small: dict[str, Pixels] = {}
    flags: dict[str, str] = {}
    views = dict(zip(source.files["path"], source.files["view"], strict=True))
    refused = []
    for path in source.missing:
        cause, remedy = f"listed in {source.table}, but no such image is here", "restore the file or drop its row"
        absent = ImageRefusedError(source.root / path, cause, remedy)
        refused.append(refused_row(path, absent))
        log.warning("refused: %s", absent)

    def seen(path: str, image: Radiograph | ImageRefusedError) -> tuple[str, ImageFacts | ImageRefusedError]:
        if isinstance(image, ImageRefusedError):
            return path, image
        try:
            headers[path] = {"patient_id": image.patient_id, "view": image.view}
            small[path] = thumbnail(image.pixels)
            if rules is not None:
                view = views[path] if isinstance(views[path], str) else image.view
                view = "L" if view is not None and is_lateral(view) else view
                flags[path] = ";".join(rules(replace(image, view=view)))
            return path, image.facts
        except Exception as error:
            return path, unreadable(source.root / path, error)

    def look(group: Sequence[str]) -> list[tuple[str, ImageFacts | ImageRefusedError]]:
        found = decoders.read_several([source.root / path for path in group])
        return [seen(path, image) for path, image in zip(group, found, strict=True)]

    paths = list(source.files["path"])
    # Twice as many threads as decoders, so that no decoder waits while a thumbnail is made.
    with ThreadPoolExecutor(2 * available_cores()) as pool, progress_bar(progress) as bar:
        looked = pool.map(look, decoders.groups(paths))
        for path, found in bar.track(chain.from_iterable(looked), len(paths), description="reading images"):
            if isinstance(found, ImageRefusedError):
                refused.append(refused_row(path, found))
                log.warning("refused: %s", found)
            else:
                facts[path] = found
    if not facts:
        raise DataError(f"{source.root}: no usable file; {len(refused)} refused, the first because: {refused[0][1]}")
    images = _images(source.files, facts, headers, flags)
    table = pd.DataFrame(sorted(refused), columns=list(REFUSED_COLUMNS))
    return Manifest(source.name, source.root, images, table, collect(images, small))


def _images(
    files: pd.DataFrame,
    facts: dict[str, ImageFacts],
    headers: dict[str, dict[str, str | None]],
    flags: dict[str, str],
) -> pd.DataFrame:
    images = files[files["path"].isin(facts)].astype(object).copy()
    for column in ("sha256", "width", "height", "mode", "bytes"):
        images[column] = [getattr(facts[path], column) for path in images["path"]]
    for column in ("patient_id", "view"):
        from_header = images["path"].map(lambda path, column=column: headers.get(path, {}).get(column))
        images[column] = images[column].where(images[column].notna(), from_header)
    images["flags"] = [flags.get(path) or None for path in images["path"]]
    images["image_id"] = _image_ids(images)
    images = images[list(COLUMNS)].sort_values("image_id", ignore_index=True)
    # The same types as a manifest read from disk.
    images = images.where(images.notna(), float("nan")).astype(object)
    return images.astype(dict.fromkeys(("width", "height", "bytes"), "int64"))


def _image_ids(images: pd.DataFrame) -> list[str]:
    # From the content, so that an id survives renaming and moving. Copies are numbered in path order.
    rank = images.sort_values("path").groupby("sha256").cumcount().reindex(images.index)
    return [sha[:16] + (f"-{n + 1}" if n else "") for sha, n in zip(images["sha256"], rank, strict=True)]


CHECKED = "checked.json"
"""In a manifest's folder: the files that had the manifest's sha256, with what the file system said of them then."""

# Nanoseconds: a file may change again within one tick of a file system's clock, which leaves its times as they are.
_SETTLED = 2_000_000_000


def check_files(
    images: pd.DataFrame, root: Path, *, record: Path | None = None, verify: bool = False, progress: bool = True
) -> list[ImageRefusedError]:
    """An error for each image whose file is missing or no longer has the manifest's sha256.

    A file is not read again if its size, its times of modification and of change, and its inode are those of the last
    check.

    Args:
        images: rows with path and sha256.
        root: the folder that path is relative to.
        record: where earlier checks are kept; None reads every file. One that cannot be read or written is ignored.
        verify: whether every file is read whatever the record says.
        progress: whether a progress bar is drawn.
    """
    known, now = ({} if record is None else _checked(record)), time.time_ns()
    fine = dict(known)

    def look(row: tuple[str, str]) -> ImageRefusedError | None:
        path, sha256 = root / row[0], row[1]
        try:
            # Before it is read: a change meanwhile shows at the next check.
            stat = path.stat()
            state = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, sha256]
            if not verify and known.get(row[0]) == state:
                return None
            fine.pop(row[0], None)
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            fine.pop(row[0], None)
            return ImageRefusedError(path, f"cannot be read ({error.strerror})", "restore it or run prepare again")
        if found == sha256:
            if max(stat.st_mtime_ns, stat.st_ctime_ns) < now - _SETTLED:
                fine[row[0]] = state
            return None
        return ImageRefusedError(
            path, "does not match the manifest's sha256 (changed since prepare)", "restore it or run prepare again"
        )

    rows = list(zip(images["path"], images["sha256"], strict=True))
    with ThreadPoolExecutor(available_cores()) as pool, progress_bar(progress) as bar:
        found: Iterable[ImageRefusedError | None] = bar.track(
            pool.map(look, rows), len(rows), description="checking images"
        )
        errors = [error for error in found if error is not None]
    if record is not None and fine != known:
        # Another user's cache may be read-only.
        with suppress(OSError):
            write_text(record, json.dumps(fine) + "\n")
    return errors


def _checked(record: Path) -> dict[str, list[Any]]:
    try:
        found = json.loads(record.read_text(encoding="utf-8", errors="surrogateescape"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def duplicates(images: pd.DataFrame) -> list[tuple[str, list[str], list[str]]]:
    """Byte-identical images: the sha256, paths and classes of each group of two or more."""
    found = []
    for sha256, rows in images.groupby("sha256"):
        if len(rows) > 1:
            found.append((str(sha256), sorted(rows["path"]), sorted(set(rows["label"]))))
    return found
