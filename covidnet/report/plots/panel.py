"""A picture file of one image and its heat map."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import numpy.typing as npt

from covidnet.base.atomic import make_folder
from covidnet.base.classes import DEFAULT_CLASSES, ClassList
from covidnet.base.names import shown
from covidnet.data.loading.transforms import SquareFit
from covidnet.report.plots.sheet import DPI, MAX_HEIGHT, image_panels, save_figure, title

# Width of an image in inches. A very wide image is placed above its map, as wide as both side by side.
_CELL = 4.0
_WIDE = 2.0


def draw_image(
    picture: Path,
    path: str,
    image: npt.NDArray[np.uint8],
    heat: npt.NDArray[np.float32],
    fit: SquareFit,
    *,
    probabilities: npt.NDArray[np.floating],
    caption: str,
    lesion: npt.NDArray[np.bool_] | None = None,
    classes: ClassList = DEFAULT_CLASSES,
) -> None:
    """Write a picture of an image and its heat map.

    Args:
        picture: the file; its folder is created.
        path: of the image; its name is printed above.
        image: (H, W) 8-bit grey.
        heat: (S, S), 0..1, on the square input of the network.
        fit: how the image was fitted to that square.
        probabilities: (classes,); the predicted class is printed above.
        caption: printed below.
        lesion: (H, W), outlined; None if unknown.
        classes: of the model.

    Raises:
        WriteError: the picture cannot be written.
    """
    height, width = image.shape
    wide = width > _WIDE * height
    cell = 2 * _CELL if wide else _CELL
    scale = min(1.0, cell * DPI / width, MAX_HEIGHT * cell * DPI / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    # From the network's square input back to the shape of the image.
    whole = np.clip(fit.back(heat, small.shape), 0.0, 1.0)
    outline = None
    if lesion is not None:
        outline = np.asarray(cv2.resize(lesion.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST), bool)
    figure = image_panels(
        [small],
        [whole],
        [f"{shown(PurePosixPath(path).name)}\n{title(None, probabilities, heat, classes)}"],
        columns=1,
        caption=caption,
        outlines=[outline],
        stacked=wide,
        cell=cell,
    )
    make_folder(picture.parent, picture)
    save_figure(figure, picture)
