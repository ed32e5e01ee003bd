"""Synthetic lateral chest images at thumbnail size. Laterals are the most common wrong input to a gate.

Training data has no labelled laterals, and often none at all. So laterals are drawn from anatomy: one lung field
between sternum and spine, the heart low in front, the shoulders above, the diaphragm falling towards the back.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from covidnet.data.reading.thumbnails import SIDE


def draw_laterals(count: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Draw lateral images facing left, each different.

    Args:
        count: how many.
        seed: another seed gives other images.

    Returns:
        (count, 64, 64) uint8.

    Example:
        >>> draw_laterals(3).shape
        (3, 64, 64)
    """
    rng = np.random.default_rng(seed)

    def between(low: float, high: float) -> npt.NDArray[np.float32]:
        return rng.uniform(low, high, (count, 1, 1)).astype(np.float32)

    # Half the resolution of a thumbnail is enough, at a quarter of the work.
    y, x = np.meshgrid(*[np.linspace(0, 1, SIDE // 2, dtype=np.float32)] * 2, indexing="ij")
    # The frame of each image: tilted, scaled and slightly off centre.
    y, x = (y - 0.5) * between(0.85, 1.15) + 0.5 + between(-0.06, 0.06), x - 0.5 + between(-0.06, 0.06)
    x = x * between(0.8, 1.2) + between(-0.25, 0.25) * (y - 0.5)
    front = -0.24 - between(0.05, 0.22) * np.clip(y - 0.1, 0, 0.6) - between(-0.05, 0.12)
    back = 0.3 + between(0.02, 0.12) * np.sin(np.pi * y) + between(-0.05, 0.12)
    body = _step((x - front) / 0.02) * _step((back - x) / 0.02)
    thick = between(1.1, 1.5) + between(0.2, 0.9) * np.exp(-((y / between(0.1, 0.25)) ** 2))
    # Arms are in front of the face or over the lung apex.
    arm = between(0, 0.8) * np.exp(-(((y - between(-0.05, 0.1)) / 0.12) ** 2) - ((x + between(-0.1, 0.35)) / 0.25) ** 2)
    lean = between(-0.1, 0.1) * (y - 0.45)
    dome = between(0.62, 0.8) + between(0.0, 0.35) * x + between(0.2, 0.9) * (x + 0.05) ** 2
    lung = _step((1 - ((x - lean - 0.02) / between(0.2, 0.3)) ** 2 - ((y - 0.47) / between(0.32, 0.42)) ** 2) / 0.25)
    lung = lung * _step((dome - y) / 0.03)
    heart = _step((1 - ((x + 0.1) / between(0.1, 0.17)) ** 2 - ((y - dome + 0.14) / between(0.1, 0.18)) ** 2) / 0.4)
    spine = np.exp(-(((x - 0.17 - 0.06 * np.sin(np.pi * y)) / 0.06) ** 2))
    depth = body * (thick + arm + between(0.05, 0.35) * spine + between(0.0, 0.4) * _step((y - dome) / 0.05))
    # The lung is darkest behind the heart, low in front of the spine.
    clear = between(0.5, 0.9) + between(0.0, 0.35) * (y - 0.4) + between(-0.3, 0.5) * x
    depth = depth - lung * (clear - between(0.2, 0.6) * heart)
    grey = _step((depth - between(0.5, 1.0)) / between(0.25, 0.5))
    grey = grey + between(0.0, 0.06) * rng.standard_normal(grey.shape, dtype=np.float32)
    return np.clip(np.round(250 * grey), 0, 255).astype(np.uint8).repeat(2, axis=1).repeat(2, axis=2)


def _step(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    return np.asarray(1 / (1 + np.exp(-np.clip(4 * values, -30, 30))), np.float32)
