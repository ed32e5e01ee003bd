"""Lesion and lung regions from masks and boxes, in image coordinates and in the network's square input."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.base.errors import DataError, ImageRefusedError
from covidnet.data.collection.metadata import read_table
from covidnet.data.collection.sources import image_files
from covidnet.data.loading.transforms import SquareFit
from covidnet.data.reading.decoders import shared_decoders
from covidnet.data.reading.images import SUFFIXES

log = logging.getLogger(__name__)

REGIONS: tuple[str, ...] = ("lesion", "lung")
"""Regions by name: the mask subfolder, or the column ``region`` of the boxes."""

Mask = npt.NDArray[np.bool_]

_BOX = ("x", "y", "width", "height")
_MASK_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


class Annotations:
    """The masks and boxes of a folder of images.

    Masks mirror the image folders: ``masks/lesion/<image path>`` and ``masks/lung/<image path>``. A mask folder with
    neither subfolder holds lesion masks. A mask's suffix may differ from the image's. An all-black mask means that the
    image has no such region.

    Boxes are rows of a CSV: filename, x, y, width, height and region. The four numbers are pixels of the image as
    displayed; x and y are the upper left corner. Region is lesion or lung, and defaults to lesion. A row with the four
    numbers empty means that the image has no such region. An image may have several boxes, and masks too.

    Args:
        root: the folder that image paths are relative to.
        masks: the folder of masks (``data.masks``); None for ``masks`` in `root`, if it exists.
        boxes: the CSV of boxes (``data.boxes``); None for ``boxes.csv`` in `root`, if it exists.
        images: paths of the images to annotate, relative to `root`; None for all images below it.
        reading: keyword arguments of `covidnet.data.reading.decoders.shared_decoders`.

    Raises:
        DataError: a given path does not exist or matches none of the images, or the CSV is malformed or names no image
            below `root`.
    """

    def __init__(
        self,
        root: str | Path,
        masks: str | Path | None = None,
        boxes: str | Path | None = None,
        images: Sequence[str] | None = None,
        reading: Mapping[str, Any] | None = None,
    ) -> None:
        self._decoders = shared_decoders(**(reading or {}))
        self.root = Path(root).expanduser()
        self.folders = self._mask_folders(masks)
        self.boxes = self._read_boxes(boxes)
        if masks is not None or (boxes is not None and images is not None):
            # Otherwise a slightly wrong path would only show as an empty table at the end.
            names = (
                image_files(self.root, log_skipped=False) if images is None else [self._name(image) for image in images]
            )
            if masks is not None:
                self._check_masks(Path(masks).expanduser(), names)
            if boxes is not None and images is not None:
                self._check_boxes(Path(boxes).expanduser(), names)

    def __bool__(self) -> bool:
        """Whether there are any masks or boxes."""
        return bool(self.folders or self.boxes)

    def regions(self, path: str | Path, shape: tuple[int, int]) -> dict[str, Mask]:
        """The known regions of one image.

        Args:
            path: the image, relative to the root.
            shape: (H, W) of the image as `read_image` gives it.

        Returns:
            A mask (H, W) for each known region (of `REGIONS`), all False if the image is known not to have it. Masks
            and boxes of one image are merged. Unknown regions are absent.

        Raises:
            DataError: a mask cannot be read or differs in size from the image, or more than half of a box lies outside
                the image.
        """
        name = self._name(path)
        found: dict[str, Mask] = {}
        for region, mask in self._known(name, shape):
            found[region] = found[region] | mask if region in found else mask
        return found

    def fitted(self, path: str | Path, shape: tuple[int, int], fit: SquareFit) -> dict[str, Mask]:
        """`regions` in the square that the network sees.

        Masks are transformed like the image: a pixel belongs to a region if the region covers at least half of it. A
        region too small to cover half of any pixel keeps every pixel it touches. A region cropped away is empty.

        Args:
            path: the image, relative to the root.
            shape: (H, W) of the image as `read_image` gives it.
            fit: the transform that makes the image square.

        Returns:
            As `regions`, each mask (size, size).

        Raises:
            DataError: as in `regions`.
        """
        return {region: _fitted(mask, fit) for region, mask in self.regions(path, shape).items()}

    def _name(self, path: str | Path) -> str:
        """The image's path relative to the root, however it is written; empty for an image outside the root."""
        path = Path(path)
        if path.is_absolute():
            # Joining an absolute path to the mask folder would give the image itself.
            return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else ""
        return _posix(str(path))

    def _check_masks(self, given: Path, names: Sequence[str]) -> None:
        if not names or any(_mask_file(folder, name) for name in names for folder in self.folders.values() if name):
            return
        sought = (next(iter(self.folders.values())) / names[0]).with_suffix(_MASK_SUFFIXES[0])
        raise DataError(
            f"data.masks={given}: no mask for any of the {len(names)} images, for example {sought}; mirror the image "
            f"paths below {self.root} in lesion/ and lung/, or directly in the folder if all masks are of lesions"
        )

    def _check_boxes(self, given: Path, names: Sequence[str]) -> None:
        if names and not any(name in self.boxes for name in names):
            raise DataError(
                f"data.boxes={given}: no row for any of the {len(names)} images, for example {names[0]}; give paths "
                f"relative to {self.root}"
            )

    def _mask_folders(self, masks: str | Path | None) -> dict[str, Path]:
        folder = self.root / "masks" if masks is None else Path(masks).expanduser()
        if not folder.is_dir():
            if masks is None:
                return {}
            cause = "is a file" if folder.exists() else "no such folder"
            raise DataError(f"data.masks={folder}: {cause}; give the folder that holds lesion/ and lung/")
        folders = {region: folder / region for region in REGIONS if (folder / region).is_dir()}
        return folders or {"lesion": folder}

    def _read_boxes(self, boxes: str | Path | None) -> dict[str, list[tuple[str, tuple[float, ...]]]]:
        file = self.root / "boxes.csv" if boxes is None else Path(boxes).expanduser()
        if not file.is_file():
            if boxes is None:
                return {}
            cause = "is a folder" if file.exists() else "no such file"
            raise DataError(f"data.boxes={file}: {cause}; give a CSV with the columns filename,{','.join(_BOX)}")
        found: dict[str, list[tuple[str, tuple[float, ...]]]] = {}
        rows, first = _rows(file)
        for line, row in enumerate(rows.to_dict("records"), start=first):
            if any(row.values()):
                found.setdefault(_posix(row["filename"].strip()), []).append(_box(row, f"{file}, line {line}"))
        absent = [name for name in found if not (self.root / name).is_file()]
        if found and len(absent) == len(found):
            raise DataError(
                f"{file}: none of its {len(found)} images is below {self.root}, for example {absent[0]}; give paths "
                "relative to the image folder"
            )
        if absent:
            listed = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
            log.warning("%s: %d of %d images are not below %s: %s", file, len(absent), len(found), self.root, listed)
        return found

    def _known(self, name: str, shape: tuple[int, int]) -> Iterator[tuple[str, Mask]]:
        for region, folder in self.folders.items():
            file = _mask_file(folder, name) if name else None
            if file is not None:
                try:
                    yield region, self._decoders.mask(file, shape)
                except ImageRefusedError as error:
                    raise DataError(str(error)) from error
        for region, box in self.boxes.get(name, []):
            yield region, _boxed(box, shape, name)


def _posix(name: str) -> str:
    # Tables written on Windows may use backslashes.
    return PureWindowsPath(name).as_posix()


def _mask_file(folder: Path, name: str) -> Path | None:
    image = folder / name
    if image.is_file():
        return image
    # The last number of a DICOM UID looks like a suffix but is not one.
    bare = image.with_suffix("") if image.suffix.lower() in SUFFIXES else image
    for suffix in _MASK_SUFFIXES:
        for written in (suffix, suffix.upper()):
            file = bare.with_name(bare.name + written)
            if file.is_file():
                return file
    return None


def _rows(file: Path) -> tuple[pd.DataFrame, int]:
    """The rows of a table of boxes, and the line number of the first row."""
    table = read_table(file, ("filename", *_BOX, "region"))
    rows = table.rows
    absent = [column for column in ("filename", *_BOX) if column not in rows]
    if absent:
        raise DataError(
            f"{file}: no column {', '.join(absent)}; its columns are {', '.join(table.columns)}; expected are "
            f"filename,{','.join(_BOX)}"
        )
    if table.separator != "," and rows[list(_BOX)].map(lambda cell: "," in cell).any(axis=None):
        log.info("%s: reading commas within numbers as decimal points", file)
        rows[list(_BOX)] = rows[list(_BOX)].map(lambda cell: cell.replace(",", "."))
    return rows, table.first_line


def _box(row: dict[Any, str], place: str) -> tuple[str, tuple[float, ...]]:
    """Region and box of a row; the box is empty if the image lacks the region."""
    region = row.get("region", "").strip().lower() or "lesion"
    if not row["filename"].strip():
        raise DataError(f"{place}: no filename; give the image's path relative to the image folder")
    if region not in REGIONS:
        raise DataError(f"{place}: region {row['region']!r}; must be one of {', '.join(REGIONS)}")
    cells = [row[column].strip() for column in _BOX]
    if not any(cells):
        return region, ()
    try:
        box = tuple(float(cell) for cell in cells)
    except ValueError:
        box = (float("nan"),) * len(_BOX)
    if not np.isfinite(box).all() or min(box[2:]) <= 0:
        given = ", ".join(f"{column}={cell}" for column, cell in zip(_BOX, cells, strict=True))
        raise DataError(
            f"{place}: {given}; give four numbers in pixels, width and height above 0, or leave all four empty"
        )
    return region, box


def _boxed(box: tuple[float, ...], shape: tuple[int, int], name: str) -> Mask:
    """Every pixel that a box touches."""
    mask = np.zeros(shape, bool)
    if not box:
        return mask
    x, y, width, height = box
    across = min(x + width, shape[1]) - max(x, 0.0)
    down = min(y + height, shape[0]) - max(y, 0.0)
    inside = max(across, 0.0) * max(down, 0.0)
    # A box at the edge may stick out a little. One that sticks out a lot is of another image, or in other units.
    if inside * 2 < width * height:
        lies = "is outside" if inside == 0 else "has more than half of its area outside"
        raise DataError(
            f"{name}: the box x={x:g}, y={y:g}, width={width:g}, height={height:g} {lies} the image of "
            f"{shape[1]} x {shape[0]} pixels; give boxes in pixels of the image as displayed"
        )
    top, left = max(0, int(np.floor(y))), max(0, int(np.floor(x)))
    mask[top : int(np.ceil(y + height)), left : int(np.ceil(x + width))] = True
    return mask


def _fitted(mask: Mask, fit: SquareFit) -> Mask:
    fitted = fit(mask.astype(np.uint8) * 255) >= 128
    if fitted.any() or not mask.any():
        return fitted
    # The region is so small that 8-bit averaging left nothing: mark the pixels that its own pixels map to. At full size
    # the square is cropped or padded, not resampled.
    seen = mask
    if fit.fit != "squash":
        side = min(mask.shape) if fit.fit == "crop" else max(mask.shape)
        seen = SquareFit(side, fit.fit)(mask.astype(np.uint8) * 255) > 0
    rows, columns = np.nonzero(seen)
    height, width = seen.shape
    fitted[(2 * rows + 1) * fit.size // (2 * height), (2 * columns + 1) * fit.size // (2 * width)] = True
    return fitted
