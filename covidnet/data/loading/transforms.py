"""Turn a grey image of any size into a network's square input. Deterministic; random augmentation is in augment."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import cv2
import numpy as np
import numpy.typing as npt

from covidnet.base.errors import SettingError

FITS = ("squash", "crop", "pad")

MAX_SIDE = 4096
"""Pixels. A larger square is a mistake, or a file made to exhaust memory."""


@dataclass(frozen=True)
class SquareFit:
    """Make an image square and resize it to the network's size.

    The image stays single-channel: augmenting and normalising three equal channels would cost three times as much.

    Args:
        size: side of the result in pixels.
        fit: ``squash`` changes the aspect ratio (the usual choice, and ours for the paper), ``crop`` keeps the central
            square, ``pad`` adds black bars.
    """

    size: int = 224
    fit: str = "squash"

    def __post_init__(self) -> None:
        """Refuse invalid settings before any image is read."""
        if self.fit not in FITS:
            raise SettingError("data.fit", self.fit, FITS)
        if isinstance(self.size, bool) or not isinstance(self.size, int) or not 1 <= self.size <= MAX_SIDE:
            raise SettingError("data.image_size", self.size, f"a whole number of pixels, 1 to {MAX_SIDE}")

    def __call__(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The image as (size, size), 8-bit grey."""
        height, width = image.shape
        if self.fit == "crop":
            side = min(height, width)
            top, left = (height - side) // 2, (width - side) // 2
            image = image[top : top + side, left : left + side]
        elif self.fit == "pad":
            side = max(height, width)
            square = np.zeros((side, side), np.uint8)
            top, left = (side - height) // 2, (side - width) // 2
            square[top : top + height, left : left + width] = image
            image = square
        # INTER_AREA averages when it shrinks, which prevents aliasing, but is poor at enlarging. An image may need to
        # shrink along one axis and grow along the other.
        height, width = (min(side, self.size) for side in image.shape)
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
        if image.shape != (self.size, self.size):
            image = np.asarray(
                cv2.resize(image, (self.size, self.size), interpolation=cv2.INTER_LINEAR), dtype=np.uint8
            )
        return image

    def back(self, square: npt.NDArray[np.float32], shape: tuple[int, int]) -> npt.NDArray[np.float32]:
        """Map something on the square, such as a heat map, back to the image.

        Args:
            square: (size, size) float32.
            shape: (H, W) of the image.

        Returns:
            (H, W); 0 in the part that ``crop`` removed.
        """
        height, width = shape
        if self.fit == "squash":
            return np.asarray(cv2.resize(square, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
        side = min(height, width) if self.fit == "crop" else max(height, width)
        top, left = abs(height - side) // 2, abs(width - side) // 2
        whole = np.asarray(cv2.resize(square, (side, side), interpolation=cv2.INTER_LINEAR), np.float32)
        if self.fit == "pad":
            return whole[top : top + height, left : left + width]
        image = np.zeros(shape, np.float32)
        image[top : top + side, left : left + side] = whole
        return image

    def describe(self) -> dict[str, object]:
        """Name, parameters and library version, for the feature store's key."""
        return {"name": "SquareFit", **asdict(self), "opencv": cv2.__version__}


@dataclass(frozen=True)
class Normalise:
    """Scale 8-bit grey to 0..1, subtract the mean and divide by the standard deviation of each channel.

    Args:
        mean: one value per channel; the default is ImageNet's, for three equal channels.
        std: one value per channel.

    Example:
        >>> Normalise((0.5,), (0.25,))(np.array([[0, 255]], np.uint8)).tolist()
        [[[-2.0, 2.0]]]
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __call__(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """(H, W) 8-bit grey to (C, H, W) float32."""
        # There are only 256 grey values: a lookup table per channel is exact and needs no arithmetic per pixel.
        values = np.arange(256, dtype=np.float64) / 255.0
        table = (values[None] - np.array(self.mean)[:, None]) / np.array(self.std)[:, None]
        return np.take(table.astype(np.float32), image, axis=1)

    def describe(self) -> dict[str, object]:
        """Name and parameters for the feature store's key."""
        return {"name": "Normalise", "mean": list(self.mean), "std": list(self.std)}
