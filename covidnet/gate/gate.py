"""The input gate rejects anything unlike an upright frontal chest X-ray from the training data, and says why.

Rules come first, then a model of the training images' thumbnails, then a model of their features. Limits are set on
images that these models were not fitted to, so that few real images exceed them. benchmarks/gate.py measures how much
of each kind of input is refused. Mirrored images are not detected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from covidnet.base.errors import DataError
from covidnet.data.reading.images import Radiograph
from covidnet.data.reading.thumbnails import SIDE, thumbnail
from covidnet.gate.causes import CT, LATERAL, NOT_FRONTAL, direction_flag, has_black_border
from covidnet.gate.exposure import Exposure, ExposureLimits, exposure_flag
from covidnet.gate.flags import Flag
from covidnet.gate.learned import Learned, turn_gain
from covidnet.gate.ranks import Floats, ranked
from covidnet.gate.rules import MAX_SHAPE, rule_flags

Thumbnails = npt.NDArray[np.uint8]

LEAST_IMAGES = 20
"""The fewest training images to fit a model to; with fewer, the gate has only its rules."""


class InputGate:
    """Finds faults of images. Created by `fit`, `rules` or `from_arrays`.

    Args:
        learned: fitted to the training images; None for a gate with only rules.
    """

    def __init__(self, learned: Learned | None = None) -> None:
        self.learned = learned

    @classmethod
    def rules(cls) -> InputGate:
        """A gate with only rules, for a model whose training images are not available."""
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
            held_out: the same for images that the model was not trained on; with at least 50, limits are set on them
                too.
            aspects: (N,), width / height of the training images, above 0.
            seed: of the random partition of the images. Each part gets its scores from models fitted to the others.

        Returns:
            A gate; with fewer than `LEAST_IMAGES` images it has only rules.

        Raises:
            DataError: thumbnails and features do not match, or features are not finite.
        """
        _check(thumbnails, features, "training images")
        if held_out is not None:
            _check(*held_out, "held-out images")
        if len(thumbnails) < LEAST_IMAGES:
            return cls()
        # The matrices are so small that threads wait for each other: on a busy machine two take ten times as long.
        with threadpool_limits(1, "blas"):
            return cls(Learned.fit(thumbnails, features, held_out, aspects, seed))

    def look(self, image: Radiograph) -> list[Flag]:
        """The faults of an image, before it goes through the network.

        Args:
            image: from `covidnet.data.reading.images.read_radiograph`.

        Returns:
            A flag for each fault; none for an image like the training images.
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
        # Pages and images without contrast are also unlike the training images, but one cause is enough.
        if cause is None or cause.code in codes or codes & {"page", "dark", "bright", "flat"}:
            return flags
        return [*flags, cause]

    def compare(self, features: Floats) -> list[list[Flag]]:
        """The faults of images according to their features.

        Args:
            features: (N, D), from the network whose training images the gate was fitted to.

        Returns:
            The flags of each image.

        Raises:
            DataError: the features have the wrong width.
        """
        known = self.learned
        if known is None:
            return [[] for _ in features]
        width = len(known.features.mean)
        if features.ndim != 2 or features.shape[1] != width:
            raise DataError(
                f"features of shape {features.shape}: must be (N, {width}), as the gate was fitted to; use the gate "
                "with its own network"
            )
        found: list[list[Flag]] = []
        for distance in known.features.distance(features) - known.limits["features"]:
            times = float(np.exp(min(distance / 2, 10.0)))
            text = f"unlike the training images, {times:.1f} times as far from them as allowed"
            flag = Flag("unlike", f"{text}; give a frontal chest radiograph", learned=True)
            found.append([flag] if distance > 0 else [])
        return found

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The gate's state as numeric arrays, to be stored with the model; empty for a gate with only rules."""
        return self.learned.arrays() if self.learned else {}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> InputGate:
        """Restore a gate from `arrays`.

        Args:
            arrays: by name.

        Raises:
            DataError: these are not the arrays of a gate.
        """
        return cls(Learned.from_arrays(arrays)) if arrays else cls()


def fixed_rules(image: Radiograph) -> list[str]:
    """The codes for which any gate refuses an image, whatever its model was trained on; none for a usable image.

    Args:
        image: from `covidnet.data.reading.images.read_radiograph`, with the view ``L`` if any source says it is
            lateral.
    """
    return [flag.code for flag in InputGate.rules().look(image) if flag.refuses]


def _cause(known: Learned, small: Thumbnails) -> Flag | None:
    """Why a thumbnail is not like an upright frontal image, or None."""
    ranks, limits = ranked(small[None]), known.limits
    ways = known.images.ways(ranks)
    if turn_gain(ways)[0] > limits["direction"]:
        way = int(ways[0].argmax())
        upright = np.rot90(ranks, way % 4, axes=(1, 2)) * (-1 if way >= 4 else 1)
        if known.images.unlikeness(upright)[0] <= limits["likeness"]:
            return direction_flag(way)
    unlike, lateral = known.images.unlikeness(ranks)[0], known.laterals.unlikeness(ranks)[0]
    if unlike > limits["likeness"] and has_black_border(small):
        return CT
    if unlike - lateral > limits["lateral"] and lateral <= known.laterals_limit:
        return LATERAL
    return NOT_FRONTAL if unlike > limits["likeness"] else None


def _check(thumbnails: Thumbnails, features: Floats, what: str) -> None:
    if thumbnails.dtype != np.uint8 or thumbnails.shape[1:] != (SIDE, SIDE):
        raise DataError(f"{what}: thumbnails {thumbnails.dtype} {thumbnails.shape}, must be uint8 (N, {SIDE}, {SIDE})")
    if features.ndim != 2 or len(features) != len(thumbnails):
        raise DataError(f"{what}: features {features.shape} for {len(thumbnails)} images, must have one row per image")
    if not np.isfinite(features).all():
        raise DataError(f"{what}: features are not finite, training has diverged; lower optim.lr")
