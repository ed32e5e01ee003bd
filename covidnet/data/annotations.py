"""Where the lesions and lungs of films are, from masks and boxes, and how they come to the network's square."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.data.decoders import shared_decoders
from covidnet.data.images import SUFFIXES
from covidnet.data.metadata import read_table
from covidnet.data.sources import image_files
from covidnet.data.transforms import SquareFit
from covidnet.errors import DataError, ImageRefusedError

log = logging.getLogger(__name__)

REGIONS: tuple[str, ...] = ("lesion", "lung")
"""What a mask or a box shows, by the name of the folder of masks or the column region of the boxes."""

Mask = npt.NDArray[np.bool_]

_BOX = ("x", "y", "width", "height")
_MASK_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


class Annotations:
    """The masks and boxes of a folder of films.

    Masks lie as the films do: ``masks/lesion/<path of the film>`` and ``masks/lung/<path of the film>``; a folder that
    has neither a folder lesion nor lung holds lesions. The suffix may be another one than the film's. A mask that is
    black all over says that the film has no such region. Boxes are rows
    of a CSV: filename, x, y, width, height in pixels of the film as it is displayed, x and y of the upper left corner,
    and region (lesion or lung; lesion where there is no such column or the cell is empty). A row whose four numbers
    are empty says that the film has no such region. A film may have several boxes, and masks too.

    Args:
        root: the folder that the paths of films are relative to.
        masks: the folder of masks (``data.masks``); None for ``masks`` in `root`, where it is there.
        boxes: the CSV of boxes (``data.boxes``); None for ``boxes.csv`` in `root`, where it is there.
        films: paths of the films that are meant, relative to `root`; None for all images below it.
        reading: keyword arguments of `covidnet.data.decoders.shared_decoders`.

    Raises:
        DataError: a path that is given is not there or belongs to none of the films, or the CSV is not as described, or
            names no film below `root`.
    """

    def __init__(
        self,
        root: str | Path,
        masks: str | Path | None = None,
        boxes: str | Path | None = None,
        films: Sequence[str] | None = None,
        reading: Mapping[str, Any] | None = None,
    ) -> None:
        self._decoders = shared_decoders(**(reading or {}))
        self.root = Path(root).expanduser()
        self.folders = self._mask_folders(masks)
        self.boxes = self._read_boxes(boxes)
        if masks is not None or (boxes is not None and films is not None):
            # A path that is slightly wrong would else be found out by the empty table at the end.
            names = image_files(self.root, tell=False) if films is None else [self._name(film) for film in films]
            if masks is not None:
                self._check_masks(Path(masks).expanduser(), names)
            if boxes is not None and films is not None:
                self._check_boxes(Path(boxes).expanduser(), names)

    def __bool__(self) -> bool:
        """Whether there are masks or boxes at all."""
        return bool(self.folders or self.boxes)

    def regions(self, path: str | Path, shape: tuple[int, int]) -> dict[str, Mask]:
        """What is known of one film.

        Args:
            path: the film, relative to the root.
            shape: (H, W) of the film as `read_image` gives it.

        Returns:
            For each region (of `REGIONS`) that is known a mask (H, W), all False where the film is known to have none
            of it. Masks and boxes of one film are joined. A region that nothing is known of is absent.

        Raises:
            DataError: a mask cannot be read or has another size than the film, or more than half of a box lies outside
                of it.
        """
        name = self._name(path)
        found: dict[str, Mask] = {}
        for region, mask in self._known(name, shape):
            found[region] = found[region] | mask if region in found else mask
        return found

    def fitted(self, path: str | Path, shape: tuple[int, int], fit: SquareFit) -> dict[str, Mask]:
        """The same in the square that the network sees.

        Masks go the way of the film: a pixel belongs to a region where at least half of it does. A region that is too
        small for half of any pixel keeps those that it touches; one that the square leaves out is empty.

        Args:
            path: the film, relative to the root.
            shape: (H, W) of the film as `read_image` gives it.
            fit: what makes the film square.

        Returns:
            As `regions`, each mask (size, size).

        Raises:
            DataError: as in `regions`.
        """
        return {region: _fitted(mask, fit) for region, mask in self.regions(path, shape).items()}

    def _name(self, path: str | Path) -> str:
        """The film as its path below the root, however it is written; nothing for a film that lies elsewhere."""
        path = Path(path)
        if path.is_absolute():
            # Joined to the folder of masks an absolute path would be the film itself.
            return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else ""
        return _posix(str(path))

    def _check_masks(self, given: Path, names: Sequence[str]) -> None:
        if not names or any(_mask_file(folder, name) for name in names for folder in self.folders.values() if name):
            return
        sought = (next(iter(self.folders.values())) / names[0]).with_suffix(_MASK_SUFFIXES[0])
        raise DataError(
            f"data.masks={given}: no mask of any of the {len(names)} films, such as {sought}; masks lie as the films "
            f"do below {self.root}, in lesion/ and lung/ or, where they are all of lesions, right in the folder"
        )

    def _check_boxes(self, given: Path, names: Sequence[str]) -> None:
        if names and not any(name in self.boxes for name in names):
            raise DataError(
                f"data.boxes={given}: no row of any of the {len(names)} films, such as filename {names[0]}; give paths "
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
                f"{file}: none of its {len(found)} films lies below {self.root}, such as {absent[0]}; give paths "
                "relative to the folder of films"
            )
        if absent:
            listed = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
            log.warning("%s: %d of %d films are not below %s: %s", file, len(absent), len(found), self.root, listed)
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
    # Tables written on Windows may separate folders by backslashes.
    return PureWindowsPath(name).as_posix()


def _mask_file(folder: Path, name: str) -> Path | None:
    film = folder / name
    if film.is_file():
        return film
    # The last number of a DICOM file's UID looks like a suffix and is none.
    bare = film.with_suffix("") if film.suffix.lower() in SUFFIXES else film
    for suffix in _MASK_SUFFIXES:
        for written in (suffix, suffix.upper()):
            file = bare.with_name(bare.name + written)
            if file.is_file():
                return file
    return None


def _rows(file: Path) -> tuple[pd.DataFrame, int]:
    """The rows of a table of boxes, and the line of the first one."""
    table = read_table(file, ("filename", *_BOX, "region"))
    rows = table.rows
    absent = [column for column in ("filename", *_BOX) if column not in rows]
    if absent:
        raise DataError(
            f"{file}: no column {', '.join(absent)}; its columns are {', '.join(table.columns)}; expected are "
            f"filename,{','.join(_BOX)}"
        )
    if table.separator != "," and rows[list(_BOX)].map(lambda cell: "," in cell).any(axis=None):
        log.info("%s: commas within numbers are read as decimal points", file)
        rows[list(_BOX)] = rows[list(_BOX)].map(lambda cell: cell.replace(",", "."))
    return rows, table.first_line


def _box(row: dict[Any, str], place: str) -> tuple[str, tuple[float, ...]]:
    """Region and box of a row; a film without the region has no numbers."""
    region = row.get("region", "").strip().lower() or "lesion"
    if not row["filename"].strip():
        raise DataError(f"{place}: no filename; give the film's path relative to the folder of films")
    if region not in REGIONS:
        raise DataError(f"{place}: region {row['region']!r}; allowed are {', '.join(REGIONS)}")
    cells = [row[column].strip() for column in _BOX]
    if not any(cells):
        return region, ()
    try:
        box = tuple(float(cell) for cell in cells)
    except ValueError:
        box = (float("nan"),) * len(_BOX)
    if not np.isfinite(box).all() or min(box[2:]) <= 0:
        told = ", ".join(f"{column}={cell}" for column, cell in zip(_BOX, cells, strict=True))
        raise DataError(
            f"{place}: {told}; give four numbers in pixels, width and height above 0, or leave all four empty"
        )
    return region, box


def _boxed(box: tuple[float, ...], shape: tuple[int, int], name: str) -> Mask:
    """All pixels that a box touches."""
    mask = np.zeros(shape, bool)
    if not box:
        return mask
    x, y, width, height = box
    across = min(x + width, shape[1]) - max(x, 0.0)
    down = min(y + height, shape[0]) - max(y, 0.0)
    inside = max(across, 0.0) * max(down, 0.0)
    # A box at the edge may stick out by a little; one of another film, or in other units, by much.
    if inside * 2 < width * height:
        lies = "lies outside" if inside == 0 else "lies for more than half of its area outside"
        raise DataError(
            f"{name}: the box x={x:g}, y={y:g}, width={width:g}, height={height:g} {lies} the film of "
            f"{shape[1]} x {shape[0]} pixels; give boxes in pixels of the film as it is displayed"
        )
    top, left = max(0, int(np.floor(y))), max(0, int(np.floor(x)))
    mask[top : int(np.ceil(y + height)), left : int(np.ceil(x + width))] = True
    return mask


def _fitted(mask: Mask, fit: SquareFit) -> Mask:
    fitted = fit(mask.astype(np.uint8) * 255) >= 128
    if fitted.any() or not mask.any():
        return fitted
    # So small that averaging in 8 bits may leave nothing: the pixels where its own pixels come to lie. At its own size
    # the square is cut or padded but not resampled.
    seen = mask
    if fit.fit != "squash":
        side = min(mask.shape) if fit.fit == "crop" else max(mask.shape)
        seen = SquareFit(side, fit.fit)(mask.astype(np.uint8) * 255) > 0
    rows, columns = np.nonzero(seen)
    height, width = seen.shape
    fitted[(2 * rows + 1) * fit.size // (2 * height), (2 * columns + 1) * fit.size // (2 * width)] = True
    return fitted
