"""The input gate rejects anything unlike an upright frontal chest X-ray from the training data, and says why.

Rules come first, then a model of the training images' thumbnails, then one of their features. Limits are set on images
that the model at hand has not seen, so that few real images exceed them. What is refused of which kind of input is
measured by benchmarks/gate.py. A mirrored image is not recognised.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from covidnet.base.errors import DataError
from covidnet.data.reading.images import Radiograph
from covidnet.data.reading.thumbnails import SIDE, thumbnail
from covidnet.gate.causes import CT, LATERAL, NOT_FRONTAL, direction_flag, surrounded
from covidnet.gate.exposure import Exposure, ExposureLimits, exposure_flag
from covidnet.gate.flags import Flag
from covidnet.gate.learned import Learned, astray
from covidnet.gate.ranks import Floats, ranked
from covidnet.gate.rules import MAX_SHAPE, rule_flags

Thumbnails = npt.NDArray[np.uint8]

LEAST_IMAGES = 20
"""Training images from which on a model of them is fitted; with fewer the gate has its rules alone."""


class InputGate:
    """Tells what is wrong with an image. Made by `fit`, `rules` or `from_arrays`.

    Args:
        learned: of the training images; None for rules alone.
    """

    def __init__(self, learned: Learned | None = None) -> None:
        self.learned = learned

    @classmethod
    def rules(cls) -> InputGate:
        """A gate of rules alone, for a model whose training images are not known."""
        return cls()

    @classmethod
    def fit(
        cls,
        thumbnails: Thumbnails,
        features: Floats,
        *,
        held_out: tuple[Thumbnails, Floats] | None = None,
        aspects: npt.NDArray[np.floating] | None = None,
        seed: int = 0,
    ) -> InputGate:
        """Learn what training images look like.

        Args:
            thumbnails: (N, 64, 64) of the training images, see `covidnet.data.reading.thumbnails`.
            features: (N, D) of the same images.
            held_out: the same of images that the model was not trained on; from 50 on limits hold for them too.
            aspects: (N,), width over height of the training images, above 0.
            seed: of the parts that images are put in, for limits need images that have not been seen.

        Returns:
            A gate; of rules alone with fewer than `LEAST_IMAGES` images.

        Raises:
            DataError: thumbnails and features are not of the same images, or features are not finite.
        """
        _check(thumbnails, features, "training images")
        if held_out is not None:
            _check(*held_out, "held-out images")
        if len(thumbnails) < LEAST_IMAGES:
            return cls()
        return cls(Learned.fit(thumbnails, features, held_out, aspects, seed))

    def look(self, image: Radiograph) -> list[Flag]:
        """What is wrong with an image, before the network has seen it.

        Args:
            image: as `covidnet.data.reading.images.read_radiograph` reads it.

        Returns:
            A flag for each fault, none for an image like those that the model was trained on.
        """
        known = self.learned
        flags = rule_flags(image, known.max_shape if known else MAX_SHAPE)
        small = thumbnail(image.pixels)
        codes = {flag.code for flag in flags}
        exposed = exposure_flag(Exposure.of(small), known.exposure if known else ExposureLimits())
        if exposed and not codes & {"page", "noise", "dark", "bright"}:
            flags.append(replace(exposed, learned=known is not None))
        codes = {flag.code for flag in flags}
        if known is None or codes & {"noise", "colour"}:
            return flags
        cause = _cause(known, small)
        if cause is CT and codes <= {"page", "dark", "flat"}:
            return [CT]
        # Pages and images without greys are unlike an image too, and one cause is enough.
        if cause is None or cause.code in codes or codes & {"page", "dark", "bright", "flat"}:
            return flags
        return [*flags, cause]

    def compare(self, features: Floats) -> list[list[Flag]]:
        """What is wrong with images by what the network makes of them.

        Args:
            features: (N, D), of the network whose training images the gate has seen.

        Returns:
            The flags of each image.

        Raises:
            DataError: features of another width.
        """
        known = self.learned
        if known is None:
            return [[] for _ in features]
        width = len(known.features.mean)
        if features.ndim != 2 or features.shape[1] != width:
            raise DataError(
                f"features of shape {features.shape}: the gate was fitted to (N, {width}); use the network that it "
                "belongs to"
            )
        found: list[list[Flag]] = []
        for distance in known.features.distance(features) - known.limits["features"]:
            times = float(np.exp(min(distance / 2, 10.0)))
            text = f"unlike the training images, {times:.1f} times as far from them as the limit"
            flag = Flag("unlike", f"{text}; give a frontal chest radiograph", learned=True)
            found.append([flag] if distance > 0 else [])
        return found

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All that the gate knows, as plain numeric arrays that are kept with the model; none for rules alone."""
        return self.learned.arrays() if self.learned else {}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> InputGate:
        """The gate that `arrays` was called on.

        Args:
            arrays: by their names.

        Raises:
            DataError: the arrays are of something else.
        """
        return cls(Learned.from_arrays(arrays)) if arrays else cls()


def fixed_rules(image: Radiograph) -> list[str]:
    """Codes of what any gate refuses an image for, whatever its model was trained on; none for a usable image.

    Args:
        image: as `covidnet.data.reading.images.read_radiograph` reads it; with the view ``L`` where anything names it
            lateral.
    """
    return [flag.code for flag in InputGate.rules().look(image) if flag.refuses]


def _cause(known: Learned, small: Thumbnails) -> Flag | None:
    """What a thumbnail tells of an image that is not upright and frontal."""
    picture, limits = ranked(small[None]), known.limits
    ways = known.images.ways(picture)
    if astray(ways)[0] > limits["direction"]:
        way = int(ways[0].argmax())
        upright = np.rot90(picture, way % 4, axes=(1, 2)) * (-1 if way >= 4 else 1)
        if known.images.unlikeness(upright)[0] <= limits["likeness"]:
            return direction_flag(way)
    unlike, lateral = known.images.unlikeness(picture)[0], known.laterals.unlikeness(picture)[0]
    if unlike > limits["likeness"] and surrounded(small):
        return CT
    if unlike - lateral > limits["lateral"] and lateral <= known.laterals_limit:
        return LATERAL
    return NOT_FRONTAL if unlike > limits["likeness"] else None


def _check(thumbnails: Thumbnails, features: Floats, what: str) -> None:
    if thumbnails.dtype != np.uint8 or thumbnails.shape[1:] != (SIDE, SIDE):
        raise DataError(
            f"{what}: thumbnails {thumbnails.dtype} {thumbnails.shape}, needed are uint8 (N, {SIDE}, {SIDE})"
        )
    if features.ndim != 2 or len(features) != len(thumbnails):
        raise DataError(f"{what}: features {features.shape} of {len(thumbnails)} images, needed are as many rows")
    if not np.isfinite(features).all():
        raise DataError(f"{what}: features are not finite; the training has diverged, lower its learning rate")
