"""The paper's three augmentations, or a pipeline of one's own: fixed copies of an image, or random in every epoch."""

from __future__ import annotations

import copy
import functools
import hashlib
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.base.classes import DEFAULT_CLASSES, ClassList
from covidnet.base.errors import SettingError

if TYPE_CHECKING:
    import albumentations

ORIGINAL = ""
"""The operator of an unaugmented image."""

_VERSION = version("albumentations")

# How often a pipeline is tried before it is used; a choice of several transforms takes another one each time.
_TRIALS = 16

Radiograph = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Operators:
    """Rotation, zoom and shear of fixed size about the image centre; edge pixels fill the uncovered area.

    Args:
        rotation: degrees; the operators ``rotate+`` (counter-clockwise) and ``rotate-`` have this magnitude.
        zoom: scale factor of ``zoom``, 1.02 for +2 %.
        shear: degrees by which ``shear`` leans vertical lines counter-clockwise.
    """

    rotation: float = 5.0
    zoom: float = 1.02
    shear: float = 2.0

    def __post_init__(self) -> None:
        """Refuse magnitudes that are not numbers, or that would destroy the image."""
        for name, value, low, high in (
            ("rotation", self.rotation, 0.0, 180.0),
            ("zoom", self.zoom, 0.1, 10.0),
            ("shear", self.shear, 0.0, 80.0),
        ):
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise SettingError(f"augment.{name}", value, f"a number from {low:g} to {high:g}")

    def affine(self, operator: str) -> albumentations.Affine:
        """The albumentations transform behind an operator's name."""
        import albumentations  # not at the top: a fold whose features are stored does not need it

        settings: dict[str, dict[str, Any]] = {
            "rotate+": {"rotate": (self.rotation, self.rotation)},
            "rotate-": {"rotate": (-self.rotation, -self.rotation)},
            "zoom": {"scale": (self.zoom, self.zoom)},
            # A single number would shear both axes. A negative shear leans the top left, which is counter-clockwise.
            "shear": {"shear": {"x": (-self.shear, -self.shear), "y": (0.0, 0.0)}},
        }
        if operator not in settings:
            raise SettingError("operator", operator, list(settings))
        return albumentations.Affine(p=1.0, border_mode=cv2.BORDER_REPLICATE, **settings[operator])

    def apply(self, operator: str, image: Radiograph) -> Radiograph:
        """Apply one operator to the image (H, W); `ORIGINAL` returns it unchanged."""
        if operator == ORIGINAL:
            return image
        return np.asarray(self.affine(operator)(image=image)["image"], dtype=np.uint8)

    def random(self, image: Radiograph, seed: int) -> Radiograph:
        """Random rotation, zoom and shear of the image (H, W) within the operators' magnitudes."""
        return _seeded(self._affine, image, seed)

    @functools.cached_property
    def _affine(self) -> albumentations.Compose:
        import albumentations

        random = albumentations.Affine(
            rotate=(-self.rotation, self.rotation),
            scale=(min(1.0, self.zoom), max(1.0, self.zoom)),
            keep_ratio=True,
            shear={"x": (-self.shear, self.shear), "y": (0.0, 0.0)},
            border_mode=cv2.BORDER_REPLICATE,
            p=1.0,
        )
        return albumentations.Compose([random])

    def copies_of(self, image_id: str) -> tuple[str, str, str]:
        """The operators of an image's copies, see the function `copies_of`."""
        return copies_of(image_id)

    def describe(self) -> dict[str, object]:
        """Name, parameters and library version, for the feature store's key."""
        return {"name": "Operators", **asdict(self), "albumentations": _VERSION}


@dataclass(frozen=True)
class Pipeline:
    """An albumentations pipeline of one's own, for images of one channel.

    Args:
        transforms: settings of each transform: its class as ``_target_``, and its arguments. Their classes are
            imported, so that `covidnet.base.trust.check_classes` has to have seen them.
        side: of the square images, in pixels.

    Raises:
        SettingError: a transform cannot be made, or the pipeline does not turn an 8-bit image of one channel into
            another of the same size.
    """

    transforms: Sequence[Mapping[str, Any]]
    side: int = 224

    def __post_init__(self) -> None:
        """Apply every transform once, whatever its probability, to an image of one channel."""
        if not self.transforms:
            raise SettingError("augment.transforms", [], "a list of transforms", "augment=none uses none")
        image = np.random.default_rng(0).integers(0, 256, (self.side, self.side), np.uint8)
        try:
            # A transform of colours only warns that it does nothing; so does one that does not know an argument.
            with warnings.catch_warnings(action="error"):
                always = copy.deepcopy(self._compose)
                _apply_always(always)
                found = []
                for trial in range(_TRIALS):
                    always.set_random_seed(trial)
                    found.append(always(image=image)["image"])
            wrong = next((f for f in found if getattr(f, "dtype", None) != np.uint8 or f.shape != image.shape), None)
            cause = "" if wrong is None else f"it turns uint8 {image.shape} into {wrong.dtype} {tuple(wrong.shape)}"
        except Exception as error:  # whatever a transform raises
            cause = " ".join(str(error.__cause__ or error).split())[:160]
        if cause:
            names = [str(transform.get("_target_")) for transform in self.transforms]
            allowed = "transforms of 8-bit images of one channel that keep the size"
            raise SettingError("augment.transforms", names, allowed, cause)

    def apply(self, operator: str, image: Radiograph) -> Radiograph:
        """The fixed copy of an image (H, W) with this name; `ORIGINAL` returns it unchanged."""
        if operator == ORIGINAL:
            return image
        # The same copy of an image in every fold and on every machine.
        return self.random(image, zlib.crc32(operator.encode(), zlib.crc32(image.tobytes())))

    def random(self, image: Radiograph, seed: int) -> Radiograph:
        """The image (H, W) after the pipeline, whose random numbers come from the seed."""
        return _seeded(self._compose, image, seed)

    @functools.cached_property
    def _compose(self) -> albumentations.Compose:
        import albumentations
        import hydra

        return albumentations.Compose([hydra.utils.instantiate(t, _convert_="all") for t in self.transforms])

    def copies_of(self, image_id: str) -> tuple[str, str, str]:
        """The names of an image's copies."""
        return "custom-1", "custom-2", "custom-3"

    def describe(self) -> dict[str, object]:
        """Transforms and library version, for the feature store's key."""
        return {"name": "Pipeline", "transforms": self.transforms, "albumentations": _VERSION}


Augmentation = Operators | Pipeline


def _seeded(pipeline: albumentations.Compose, image: Radiograph, seed: int) -> Radiograph:
    pipeline.set_random_seed(seed)
    return np.asarray(pipeline(image=image)["image"], dtype=np.uint8)


def _apply_always(transform: Any) -> None:
    transform.p = 1.0
    for inner in getattr(transform, "transforms", ()):
        _apply_always(inner)


def copies_of(image_id: str) -> tuple[str, str, str]:
    """The operators of an image's first, second and third copy: a property of the image, the same in every fold.

    Args:
        image_id: the image; the draw depends on nothing else.

    Returns:
        Rotation, zoom and shear in an order drawn for the image, with the sign of the rotation drawn too.

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
    """Grow every class to a target size with fixed copies of its training images.

    Every image gets its first copy before any image gets its second. The order of images is fixed (a hash of their id),
    so that two folds have almost the same copies.

    Args:
        target_per_class: training images per class, copies included, at the size of the paper's data.
        reference_per_class: the number of training images per class that the target is meant for. The target scales in
            proportion to the actual number. None uses the target as it is.
        operators: the three operators, or a pipeline of one's own.
    """

    target_per_class: int = 1070
    reference_per_class: int | None = 468
    operators: Augmentation = Operators()

    def __post_init__(self) -> None:
        """Refuse targets that are not counts."""
        for name, value in (
            ("target_per_class", self.target_per_class),
            ("reference_per_class", self.reference_per_class),
        ):
            if name == "reference_per_class" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SettingError(f"augment.{name}", value, "an integer of at least 1")

    def target(self, size: int) -> int:
        """Training images per class, copies included, for `size` images per class in the training folds.

        Example:
            >>> FixedCopies().target(468), FixedCopies().target(27)
            (1070, 62)
        """
        if self.reference_per_class is None:
            return self.target_per_class
        return round(self.target_per_class * size / self.reference_per_class)

    def plan(self, train: pd.DataFrame, size: int, classes: ClassList = DEFAULT_CLASSES) -> pd.DataFrame:
        """The training images and their copies.

        Args:
            train: the training images, with image_id and label.
            size: images per class in the training folds, inner validation included, so that the target does not depend
                on how many of them validation takes.
            classes: of the labels.

        Returns:
            The rows of `train` with a column ``operator``: originals first, then the copies of each class. A class
            grows to at most four times its images, since there are three operators.
        """
        parts = [train.assign(operator=ORIGINAL)]
        for label in classes:
            images = train[train["label"] == label]
            wanted = self.target(size) - len(images)
            order = sorted(images["image_id"], key=lambda i: hashlib.sha256(f"order {i}".encode()).digest())
            queue = [(image_id, turn) for turn in range(3) for image_id in order][: max(wanted, 0)]
            if not queue:
                continue
            ids = [image_id for image_id, _ in queue]
            copies = images.set_index("image_id", drop=False).loc[ids]
            parts.append(copies.assign(operator=[self.operators.copies_of(image_id)[turn] for image_id, turn in queue]))
        return pd.concat(parts, ignore_index=True)


def augmentation_of(settings: Mapping[str, Any], side: int = 224) -> Augmentation:
    """The augmentation described by the group ``augment``; the defaults for ``augment=none``, which does not use them.

    Args:
        settings: the group.
        side: of the square images, in pixels.

    Raises:
        SettingError: a magnitude or a transform is not allowed.
    """
    if settings.get("mode") == "custom":
        return Pipeline(settings["transforms"], side)
    given = {k: settings[k] for k in ("rotation", "zoom", "shear") if k in settings}
    # 5 and 5.0 must give the same key in the feature store. Values that are not numbers are refused by `Operators`.
    return Operators(**{k: float(v) if type(v) is int else v for k, v in given.items()})
