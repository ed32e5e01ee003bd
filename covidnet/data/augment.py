"""The paper's three augmentations: fixed copies that belong to the image, or random ranges drawn anew."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import albumentations
import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.errors import SettingError
from covidnet.labels import CLASSES

ORIGINAL = ""
"""The operator of a film that is not augmented."""

Film = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Operators:
    """Rotation, zoom and shear of fixed size about the centre of the film; the edge's pixels fill what comes free.

    Args:
        rotation: degrees; the operators ``rotate+`` (counter-clockwise) and ``rotate-`` have this magnitude.
        zoom: scale factor of ``zoom``, 1.02 for +2 %.
        shear: degrees by which ``shear`` leans vertical lines counter-clockwise.
    """

    rotation: float = 5.0
    zoom: float = 1.02
    shear: float = 2.0

    def __post_init__(self) -> None:
        """Refuse magnitudes that are no numbers, or that leave nothing of a film."""
        for name, value, low, high in (
            ("rotation", self.rotation, 0.0, 180.0),
            ("zoom", self.zoom, 0.1, 10.0),
            ("shear", self.shear, 0.0, 80.0),
        ):
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise SettingError(f"augment.{name}", value, f"a number from {low:g} to {high:g}")

    def affine(self, operator: str) -> albumentations.Affine:
        """The albumentations transform behind an operator's name."""
        settings: dict[str, dict[str, Any]] = {
            "rotate+": {"rotate": (self.rotation, self.rotation)},
            "rotate-": {"rotate": (-self.rotation, -self.rotation)},
            "zoom": {"scale": (self.zoom, self.zoom)},
            # A number alone would shear both axes. Negative leans the top to the left, which is counter-clockwise.
            "shear": {"shear": {"x": (-self.shear, -self.shear), "y": (0.0, 0.0)}},
        }
        if operator not in settings:
            raise SettingError("operator", operator, list(settings))
        return albumentations.Affine(p=1.0, border_mode=cv2.BORDER_REPLICATE, **settings[operator])

    def apply(self, operator: str, film: Film) -> Film:
        """The film (H, W) under one operator; `ORIGINAL` gives it back as it is."""
        if operator == ORIGINAL:
            return film
        return np.asarray(self.affine(operator)(image=film)["image"], dtype=np.uint8)

    def describe(self) -> dict[str, object]:
        """Name, parameters and library version: what the feature store's key holds."""
        return {"name": "Operators", **asdict(self), "albumentations": albumentations.__version__}


def copies_of(image_id: str) -> tuple[str, str, str]:
    """The operators of an image's first, second and third copy: a fixed property of the image, the same in every fold.

    Args:
        image_id: the image; nothing else goes into the draw.

    Returns:
        Rotation, zoom and shear in an order of the image's own, with the rotation's sign drawn.

    Example:
        >>> copies_of("0123456789abcdef") == copies_of("0123456789abcdef")
        True
        >>> sorted(name.strip("+-") for name in copies_of("0123456789abcdef"))
        ['rotate', 'shear', 'zoom']
    """
    digest = hashlib.sha256(f"copies {image_id}".encode()).digest()
    names = ["rotate+" if digest[0] % 2 else "rotate-", "zoom", "shear"]
    order = sorted(range(3), key=lambda k: digest[1 + 8 * k : 9 + 8 * k])
    return names[order[0]], names[order[1]], names[order[2]]


@dataclass(frozen=True)
class FixedCopies:
    """Grow every class to a target with fixed copies of its training films.

    Every image gets its first copy before any image gets its second, and images come in an order of their own
    (a hash of their id), so that the copies of two folds are almost the same ones.

    Args:
        target_per_class: training images per class, copies included, at the size of the paper's data.
        reference_per_class: the training images per class that the target is meant for; the target scales in
            proportion to the images that there are. None takes the target as it is.
        operators: the three operators.
    """

    target_per_class: int = 1070
    reference_per_class: int | None = 468
    operators: Operators = Operators()

    def __post_init__(self) -> None:
        """Refuse targets that are no counts."""
        for name, value in (
            ("target_per_class", self.target_per_class),
            ("reference_per_class", self.reference_per_class),
        ):
            if name == "reference_per_class" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SettingError(f"augment.{name}", value, "a whole number from 1 on")

    def target(self, size: int) -> int:
        """Training images per class, for `size` images per class in the folds that are trained on.

        Example:
            >>> FixedCopies().target(468), FixedCopies().target(27)
            (1070, 62)
        """
        if self.reference_per_class is None:
            return self.target_per_class
        return round(self.target_per_class * size / self.reference_per_class)

    def plan(self, train: pd.DataFrame, size: int) -> pd.DataFrame:
        """The training films and their copies.

        Args:
            train: the training films, with image_id and label.
            size: images per class in the folds that are trained on, inner validation included: the target then
                does not depend on how much of them validation takes.

        Returns:
            The rows of `train` with a column ``operator``, `ORIGINAL` first, then the copies of each class. A class
            grows to at most four times its films, since there are three operators.
        """
        parts = [train.assign(operator=ORIGINAL)]
        for label in CLASSES:
            films = train[train["label"] == label]
            wanted = self.target(size) - len(films)
            order = sorted(films["image_id"], key=lambda i: hashlib.sha256(f"order {i}".encode()).digest())
            queue = [(image_id, turn) for turn in range(3) for image_id in order][: max(wanted, 0)]
            if not queue:
                continue
            ids = [image_id for image_id, _ in queue]
            copies = films.set_index("image_id", drop=False).loc[ids]
            parts.append(copies.assign(operator=[copies_of(image_id)[turn] for image_id, turn in queue]))
        return pd.concat(parts, ignore_index=True)


def online_augmentation(operators: Operators) -> Callable[[Film, int], Film]:
    """Random rotation, zoom and shear within the operators' magnitudes, as a function of film and seed."""
    o = operators
    pipeline = albumentations.Compose(
        [
            albumentations.Affine(
                rotate=(-o.rotation, o.rotation),
                scale=(min(1.0, o.zoom), max(1.0, o.zoom)),
                keep_ratio=True,
                shear={"x": (-o.shear, o.shear), "y": (0.0, 0.0)},
                border_mode=cv2.BORDER_REPLICATE,
                p=1.0,
            )
        ]
    )

    def augment(film: Film, seed: int) -> Film:
        pipeline.set_random_seed(seed)
        return np.asarray(pipeline(image=film)["image"], dtype=np.uint8)

    return augment


def operators_of(settings: Mapping[str, Any]) -> Operators:
    """The operators that the group ``augment`` describes; ``augment=none`` has the default ones and uses none."""
    given = {k: settings[k] for k in ("rotation", "zoom", "shear") if k in settings}
    # 5 and 5.0 are one operator, and so one key of the feature store; what is no number is refused by name.
    return Operators(**{k: float(v) if type(v) is int else v for k, v in given.items()})
