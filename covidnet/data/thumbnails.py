"""Every film of a data set at 64 x 64 pixels: enough to recognise it by, and little enough to keep."""

from __future__ import annotations

import io
import logging
import zipfile
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.atomic import write_bytes
from covidnet.data.images import read_image
from covidnet.errors import ImageRefusedError
from covidnet.progress import available_cores, progress_bar
from covidnet.trust import archive_damage

log = logging.getLogger(__name__)

SIDE = 64
"""Height and width of a thumbnail in pixels."""

FILE = "thumbnails.npz"
"""Lies beside manifest.csv."""

Pixels = npt.NDArray[np.uint8]


class Thumbnails(NamedTuple):
    """The films of a manifest, small.

    Attributes:
        image_id: of each film, N of them, in the manifest's order.
        pixels: (N, 64, 64) uint8.
        aspects: (N,) float64, width over height of the film as it was read.
    """

    image_id: list[str]
    pixels: Pixels
    aspects: npt.NDArray[np.float64]


def thumbnail(film: Pixels) -> Pixels:
    """A whole film, squashed to a small square.

    Args:
        film: (H, W) 8-bit grey of any size.

    Returns:
        (64, 64) uint8.

    Example:
        >>> thumbnail(np.full((300, 200), 7, np.uint8)).shape
        (64, 64)
    """
    small = film
    # INTER_AREA averages where it shrinks, so that no detail aliases, but takes half as long as decoding a film does.
    # Halving by INTER_LINEAR averages too, in a fraction of that, and fastest where a side is even: the last line of a
    # large film is less than an eighth of a pixel here. The two ways differ by 5 of 255 at most.
    while max(small.shape) >= 3 * SIDE:
        height, width = (side - side % 2 if side >= 8 * SIDE else side for side in small.shape)
        halves = [(side + 1) // 2 if side >= 3 * SIDE else side for side in (width, height)]
        small = np.asarray(cv2.resize(small[:height, :width], halves, interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    height, width = (min(side, SIDE) for side in small.shape)
    small = np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    if small.shape != (SIDE, SIDE):
        # INTER_AREA is no good for enlarging.
        small = np.asarray(cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    return small


def collect(films: pd.DataFrame, small: dict[str, Pixels]) -> Thumbnails:
    """Thumbnails in the order of a manifest, without films that have none.

    Args:
        films: rows with image_id, path, width and height.
        small: the thumbnail of each path.
    """
    kept = films[films["path"].isin(small)]
    pixels = [small[path] for path in kept["path"]]
    return Thumbnails(
        [str(image_id) for image_id in kept["image_id"]],
        np.stack(pixels) if pixels else np.zeros((0, SIDE, SIDE), np.uint8),
        kept["width"].to_numpy(np.float64) / kept["height"].to_numpy(np.float64),
    )


def make_thumbnails(films: pd.DataFrame, root: Path, *, progress: bool = True) -> Thumbnails:
    """Read films that a manifest lists, and make them small; one that changed since is named and has none.

    As in `covidnet.data.dataset.FilmDataset`, a hash is checked before anything is decoded.

    Args:
        films: rows with image_id, path, sha256, width and height.
        root: the folder that path is relative to.
        progress: whether a progress bar is drawn.
    """

    def look(row: tuple[str, str]) -> tuple[str, Pixels | None]:
        path, sha256 = row
        try:
            # The manifest's limits were applied when the film was taken into it.
            film = read_image(root / path, max_megapixels=float("inf"), min_side=1, sha256=str(sha256))
            return path, thumbnail(film)
        except ImageRefusedError as error:
            log.warning("no thumbnail: %s", error)
            return path, None

    rows = list(zip(films["path"], films["sha256"], strict=True))
    with ThreadPoolExecutor(available_cores()) as pool, progress_bar(progress) as bar:
        found: Iterable[tuple[str, Pixels | None]] = bar.track(
            pool.map(look, rows), len(rows), description="making thumbnails"
        )
        return collect(films, {path: small for path, small in found if small is not None})


def write_thumbnails(file: Path, thumbnails: Thumbnails) -> None:
    """Write thumbnails.npz, whole or not at all.

    Args:
        file: where to.
        thumbnails: of all films of a manifest.

    Raises:
        WriteError: the system refused; an old file is unchanged.
    """
    write_arrays(
        file,
        image_id=np.array(thumbnails.image_id, dtype=np.str_),
        pixels=thumbnails.pixels,
        aspects=thumbnails.aspects,
    )


def read_thumbnails(file: Path, films: pd.DataFrame) -> Thumbnails | None:
    """The thumbnails of a manifest's films; None where the file is not there, damaged, or of other films.

    Args:
        file: as `write_thumbnails` wrote it.
        films: the manifest's rows.
    """
    arrays = read_arrays(file)
    if arrays is None:
        return None
    image_ids = [str(image_id) for image_id in films["image_id"]]
    try:
        found = Thumbnails(arrays["image_id"].tolist(), arrays["pixels"], arrays["aspects"])
    except KeyError:
        return None
    fits = found.pixels.shape == (len(image_ids), SIDE, SIDE) and found.aspects.shape == (len(image_ids),)
    return found if found.image_id == image_ids and fits and found.pixels.dtype == np.uint8 else None


def write_arrays(file: Path, **arrays: npt.NDArray[Any]) -> None:
    """Write plain arrays as an npz file, whole or not at all.

    Args:
        file: where to.
        arrays: by their names; numbers and text alone, no objects.

    Raises:
        WriteError: the system refused; an old file is unchanged.
    """
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **arrays)
    write_bytes(file, stream.getvalue())


def read_arrays(file: Path) -> dict[str, npt.NDArray[Any]] | None:
    """The arrays of an npz file; None where it is not there or damaged. No code in it is run.

    Args:
        file: as `write_arrays` wrote it.
    """
    try:
        if damage := archive_damage(file):
            raise ValueError(damage)
        # Of a damaged file numpy would leave its own stream open.
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except FileNotFoundError:
        return None
    except (OSError, MemoryError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        log.warning("%s: cannot be read (%s)", file, error)
        return None
