"""The manifest: one row per film, with everything later steps may ask about it. Unknown is NaN, never 0 or ""."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from covidnet.data.decoders import DecoderError, shared_decoders
from covidnet.data.dicom import is_lateral
from covidnet.data.images import Film, ImageFacts, unreadable
from covidnet.data.sources import Source
from covidnet.data.thumbnails import Pixels, Thumbnails, collect, thumbnail
from covidnet.errors import DataError, ImageRefusedError
from covidnet.names import listed, shown
from covidnet.progress import available_cores, progress_bar

log = logging.getLogger(__name__)

COLUMNS = (
    "image_id", "path", "label", "patient_id", "view", "source", "sha256", "width", "height", "mode", "bytes", "flags",
)  # fmt: skip
"""Columns of manifest.csv. image_id: the first 16 digits of sha256; later copies of the same file end in -2, -3. flags:
codes of `covidnet.quality.flags.CODES`, with semicolons between, of what prediction would refuse the image for."""

Rules = Callable[[Film], Iterable[str]]
"""Codes of what is wrong with an image, such as `covidnet.quality.fixed_rules`."""

REFUSED_COLUMNS = ("path", "cause", "remedy")


def refused_row(path: str, error: ImageRefusedError) -> tuple[str, str, str]:
    """The row of refused.csv for a file, columns `REFUSED_COLUMNS`.

    Args:
        path: relative to the folder of the films; people read it, so that it is escaped as `covidnet.names.shown` does.
        error: what is wrong with it.
    """
    return listed(shown(path)), shown(error.cause), shown(error.remedy)


def relative_to(path: str | Path, root: Path) -> str:
    """The posix path of a film relative to the folder of the films; as it is where it lies elsewhere.

    Args:
        path: the file.
        root: the folder.
    """
    return Path(path).relative_to(root).as_posix() if Path(path).is_relative_to(root) else str(path)


@dataclass(frozen=True)
class Manifest:
    """The films that can be used, and the files that cannot.

    Attributes:
        name: the data set's name.
        root: the folder that `films.path` is relative to.
        films: one row per film, columns `COLUMNS`, sorted by image_id.
        refused: one row per refused file, columns `REFUSED_COLUMNS`.
        thumbnails: of the films, where they were read just now.
    """

    name: str
    root: Path
    films: pd.DataFrame
    refused: pd.DataFrame
    thumbnails: Thumbnails | None = field(default=None, repr=False, compare=False)

    @property
    def sha256(self) -> str:
        """Hash of what the data set says: file contents, labels, patients and views, in no order of files."""
        return manifest_hash(self.films)


def manifest_hash(films: pd.DataFrame) -> str:
    """Hash of a manifest's contents, independent of paths and of the order of rows (hexadecimal)."""
    columns = ["sha256", "label", "patient_id", "view"]
    lines = sorted("\t".join(map(str, row)) for row in films[columns].astype(object).fillna("").to_numpy())
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
    """Read every file of a source once, in parallel: hash, size, mode, thumbnail; refuse what is no usable film.

    Args:
        source: the files.
        max_megapixels: larger images are refused before they are decoded.
        min_side: images with a shorter side (pixels) are refused.
        limits: ``max_memory`` and ``max_seconds`` of one image, as `covidnet.data.decoders.Decoders` takes them.
        rules: what prediction would refuse an image for; None leaves the column flags unknown.
        progress: whether a progress bar is drawn.

    Raises:
        DataError: where not one file can be used.
        DecoderError: nothing can be decoded, whatever the file.
    """
    decoders = shared_decoders(max_megapixels=max_megapixels, min_side=min_side, **(limits or {}))
    facts: dict[str, ImageFacts] = {}
    headers: dict[str, dict[str, str | None]] = {}
    small: dict[str, Pixels] = {}
    flags: dict[str, str] = {}
    views = dict(zip(source.files["path"], source.files["view"], strict=True))
    refused = []
    for path in source.missing:
        cause, remedy = "listed in metadata.csv, which matches no image here", "restore the file or drop its row"
        absent = ImageRefusedError(source.root / path, cause, remedy)
        refused.append(refused_row(path, absent))
        log.warning("refused: %s", absent)

    def look(path: str) -> tuple[str, ImageFacts | ImageRefusedError]:
        try:
            film = decoders.read(source.root / path)
            headers[path] = {"patient_id": film.patient_id, "view": film.view}
            small[path] = thumbnail(film.pixels)
            if rules is not None:
                view = views[path] if isinstance(views[path], str) else film.view
                view = "L" if view is not None and is_lateral(view) else view
                flags[path] = ";".join(rules(replace(film, view=view)))
            return path, film.facts
        except ImageRefusedError as error:
            return path, error
        except DecoderError:
            # No file is to blame.
            raise
        except Exception as error:
            return path, unreadable(source.root / path, error)

    # Twice as many as there are decoders, so that none waits while a thumbnail is made.
    with ThreadPoolExecutor(2 * available_cores()) as pool, progress_bar(progress) as bar:
        for path, found in bar.track(
            pool.map(look, source.files["path"]), len(source.files), description="reading films"
        ):
            if isinstance(found, ImageRefusedError):
                refused.append(refused_row(path, found))
                log.warning("refused: %s", found)
            else:
                facts[path] = found
    if not facts:
        raise DataError(f"{source.root}: no file is left, {len(refused)} refused, the first for: {refused[0][1]}")
    films = _films(source.files, facts, headers, flags)
    table = pd.DataFrame(sorted(refused), columns=list(REFUSED_COLUMNS))
    return Manifest(source.name, source.root, films, table, collect(films, small))


def _films(
    files: pd.DataFrame,
    facts: dict[str, ImageFacts],
    headers: dict[str, dict[str, str | None]],
    flags: dict[str, str],
) -> pd.DataFrame:
    films = files[files["path"].isin(facts)].astype(object).copy()
    for column in ("sha256", "width", "height", "mode", "bytes"):
        films[column] = [getattr(facts[path], column) for path in films["path"]]
    for column in ("patient_id", "view"):
        told = films["path"].map(lambda path, column=column: headers.get(path, {}).get(column))
        films[column] = films[column].where(films[column].notna(), told)
    films["flags"] = [flags.get(path) or None for path in films["path"]]
    films["image_id"] = _image_ids(films)
    films = films[list(COLUMNS)].sort_values("image_id", ignore_index=True)
    # The same types as a manifest that is read from its file.
    films = films.where(films.notna(), float("nan")).astype(object)
    return films.astype(dict.fromkeys(("width", "height", "bytes"), "int64"))


def _image_ids(films: pd.DataFrame) -> list[str]:
    # By content, so that an id survives renaming and moving; copies are numbered in the order of their paths.
    rank = films.sort_values("path").groupby("sha256").cumcount().reindex(films.index)
    return [sha[:16] + (f"-{n + 1}" if n else "") for sha, n in zip(films["sha256"], rank, strict=True)]


def check_files(films: pd.DataFrame, root: Path, *, progress: bool = True) -> list[ImageRefusedError]:
    """The films whose file is gone or no longer has the manifest's sha256, each as the error that names it.

    Args:
        films: rows with path and sha256.
        root: the folder that path is relative to.
        progress: whether a progress bar is drawn.
    """

    def look(row: tuple[str, str]) -> ImageRefusedError | None:
        path, sha256 = root / row[0], row[1]
        try:
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            return ImageRefusedError(path, f"cannot be read ({error.strerror})", "restore it or run prepare again")
        if found == sha256:
            return None
        return ImageRefusedError(
            path, "does not match the manifest's sha256 (changed since prepare)", "restore it or run prepare again"
        )

    rows = list(zip(films["path"], films["sha256"], strict=True))
    with ThreadPoolExecutor(available_cores()) as pool, progress_bar(progress) as bar:
        found: Iterable[ImageRefusedError | None] = bar.track(
            pool.map(look, rows), len(rows), description="checking films"
        )
        return [error for error in found if error is not None]


def duplicates(films: pd.DataFrame) -> list[tuple[str, list[str], list[str]]]:
    """Byte-identical films: sha256, their paths, and the classes they lie in, for every film that is there twice."""
    found = []
    for sha256, rows in films.groupby("sha256"):
        if len(rows) > 1:
            found.append((str(sha256), sorted(rows["path"]), sorted(set(rows["label"]))))
    return found
