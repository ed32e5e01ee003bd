"""Every image of a data set at 64 x 64 pixels: large enough to recognise it, small enough to store."""

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

from covidnet.base.atomic import write_bytes
from covidnet.base.errors import ImageRefusedError
from covidnet.base.progress import available_cores, progress_bar
from covidnet.base.trust import archive_damage
from covidnet.data.reading.images import read_image

log = logging.getLogger(__name__)

SIDE = 64
"""Height and width of a thumbnail in pixels."""

FILE = "thumbnails.npz"
"""The name of the file beside manifest.csv."""

Pixels = npt.NDArray[np.uint8]


class Thumbnails(NamedTuple):
    """Small copies of a manifest's images.

    Attributes:
        image_id: of each of the N images, in the manifest's order.
        pixels: (N, 64, 64) uint8.
        aspects: (N,) float64, width over height of the image as it was read.
    """

    image_id: list[str]
    pixels: Pixels
    aspects: npt.NDArray[np.float64]


def thumbnail(image: Pixels) -> Pixels:
    """A whole image, resized to a small square.

    Args:
        image: (H, W) 8-bit grey of any size.

    Returns:
        (64, 64) uint8.

    Example:
        >>> thumbnail(np.full((300, 200), 7, np.uint8)).shape
        (64, 64)
    """
    small = image
    # INTER_AREA averages, so that no detail aliases, but takes half as long as decoding the image. Halving with
    # INTER_LINEAR averages too and takes a fraction of that time, least if a side is even: dropping the last line of a
    # large image moves less than an eighth of a thumbnail's pixel. The results differ by at most 5 of 255.
    while max(small.shape) >= 3 * SIDE:
        height, width = (side - side % 2 if side >= 8 * SIDE else side for side in small.shape)
        halves = [(side + 1) // 2 if side >= 3 * SIDE else side for side in (width, height)]
        small = np.asarray(cv2.resize(small[:height, :width], halves, interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    height, width = (min(side, SIDE) for side in small.shape)
    small = np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    if small.shape != (SIDE, SIDE):
        # INTER_AREA is not suited to enlarging.
        small = np.asarray(cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    return small


def collect(images: pd.DataFrame, small: dict[str, Pixels]) -> Thumbnails:
    """Thumbnails in the order of a manifest, without images that have none.

    Args:
        images: rows with image_id, path, width and height.
        small: the thumbnail of each path.
    """
    kept = images[images["path"].isin(small)]
    pixels = [small[path] for path in kept["path"]]
    return Thumbnails(
        [str(image_id) for image_id in kept["image_id"]],
        np.stack(pixels) if pixels else np.zeros((0, SIDE, SIDE), np.uint8),
        kept["width"].to_numpy(np.float64) / kept["height"].to_numpy(np.float64),
    )


def make_thumbnails(images: pd.DataFrame, root: Path, *, progress: bool = True) -> Thumbnails:
    """Read a manifest's images and make their thumbnails; an image that has changed is logged and gets none.

    As in `covidnet.data.loading.dataset.ImageDataset`, hashes are checked before decoding.

    Args:
        images: rows with image_id, path, sha256, width and height.
        root: the folder that path is relative to.
        progress: whether a progress bar is drawn.
    """

    def look(row: tuple[str, str]) -> tuple[str, Pixels | None]:
        path, sha256 = row
        try:
            # The limits were applied when the manifest was made.
            image = read_image(root / path, max_megapixels=float("inf"), min_side=1, sha256=str(sha256))
            return path, thumbnail(image)
        except ImageRefusedError as error:
            log.warning("no thumbnail: %s", error)
            return path, None

    rows = list(zip(images["path"], images["sha256"], strict=True))
    with ThreadPoolExecutor(available_cores()) as pool, progress_bar(progress) as bar:
        found: Iterable[tuple[str, Pixels | None]] = bar.track(
            pool.map(look, rows), len(rows), description="making thumbnails"
        )
        return collect(images, {path: small for path, small in found if small is not None})


def write_thumbnails(file: Path, thumbnails: Thumbnails) -> None:
    """Write thumbnails.npz, whole or not at all.

    Args:
        file: the path to write.
        thumbnails: of all images of a manifest.

    Raises:
        WriteError: it cannot be written; an old file is unchanged.
    """
    write_arrays(
        file,
        image_id=np.array(thumbnails.image_id, dtype=np.str_),
        pixels=thumbnails.pixels,
        aspects=thumbnails.aspects,
    )


def read_thumbnails(file: Path, images: pd.DataFrame) -> Thumbnails | None:
    """The thumbnails of a manifest's images; None if the file is missing, damaged, or of other images.

    Args:
        file: as `write_thumbnails` wrote it.
        images: the manifest's rows.
    """
    arrays = read_arrays(file)
    if arrays is None:
        return None
    image_ids = [str(image_id) for image_id in images["image_id"]]
    try:
        found = Thumbnails(arrays["image_id"].tolist(), arrays["pixels"], arrays["aspects"])
    except KeyError:
        return None
    fits = found.pixels.shape == (len(image_ids), SIDE, SIDE) and found.aspects.shape == (len(image_ids),)
    return found if found.image_id == image_ids and fits and found.pixels.dtype == np.uint8 else None


def write_arrays(file: Path, **arrays: npt.NDArray[Any]) -> None:
    """Write plain arrays as an npz file, whole or not at all.

    Args:
        file: the path to write.
        arrays: numbers and text by name, no objects.

    Raises:
        WriteError: it cannot be written; an old file is unchanged.
    """
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **arrays)
    write_bytes(file, stream.getvalue())


def read_arrays(file: Path) -> dict[str, npt.NDArray[Any]] | None:
    """The arrays of an npz file; None if it is missing or damaged. No code in it is run.

    Args:
        file: as `write_arrays` wrote it.
    """
    try:
        if damage := archive_damage(file):
            raise ValueError(damage)
        # numpy would leave its own stream to a damaged file open.
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except FileNotFoundError:
        return None
    except (OSError, MemoryError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        log.warning("%s: cannot be read (%s)", file, error)
        return None
