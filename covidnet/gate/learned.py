"""What a gate learns from the training images: models of them, and limits that few real images exceed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from covidnet.base.errors import DataError
from covidnet.gate.exposure import ExposureLimits, exposures
from covidnet.gate.feature_model import FeatureModel
from covidnet.gate.image_model import ImageModel, Moments
from covidnet.gate.laterals import draw_laterals
from covidnet.gate.limits import tail_limit
from covidnet.gate.ranks import Floats, ranked
from covidnet.gate.rules import MAX_SHAPE

Scores = dict[str, npt.NDArray[np.float64]]

SHARES = {"direction": 0.003, "lateral": 0.004, "likeness": 0.012, "features": 0.01}
"""The share of images that each check may refuse, 3 % in all. The goal is 5 %: images of other patients and hospitals
are refused more often than those that the limits are set on."""

PARTS = 5
LEAST_HELD_OUT = 50
"""The fewest held-out images that limits are also set on."""

_EXPOSURE_SHARE = 0.001
_DRAWN = 160
_ARRAYS = ("mean", "components", "variances")


@dataclass(frozen=True)
class Learned:
    """Models and limits.

    Args:
        images: model of the training images' thumbnails.
        laterals: model of drawn laterals' thumbnails.
        features: model of the training images' features.
        limits: one for each of `SHARES`; an image above it is refused.
        laterals_limit: a distance from the drawn laterals that laterals rarely exceed.
        exposure: limits of the exposure.
        max_shape: the largest ratio of long to short side.
    """

    images: ImageModel
    laterals: ImageModel
    features: FeatureModel
    limits: dict[str, float]
    laterals_limit: float
    exposure: ExposureLimits
    max_shape: float

    @classmethod
    def fit(
        cls,
        thumbnails: npt.NDArray[np.uint8],
        features: Floats,
        held_out: tuple[npt.NDArray[np.uint8], Floats] | None,
        aspects: npt.NDArray[np.floating] | None,
        seed: int,
    ) -> Learned:
        """See `InputGate.fit`. Every limit is set on images that the scoring model was not fitted to."""
        # Images may be sorted by id or class, so they are assigned to parts at random.
        part = np.random.default_rng(seed).permutation(len(thumbnails)) % PARTS
        ranks, seen = ranked(thumbnails), exposures(thumbnails)
        moments = Moments.of(ranks)
        laterals, laterals_limit = _laterals()
        scores: Scores = {name: np.zeros(len(thumbnails)) for name in SHARES}
        for n in range(PARTS):
            out = part == n
            images = ImageModel.fit(moments - Moments.of(ranks[out]))
            model = FeatureModel.fit(features[~out], seed)
            for name, values in _scores(images, laterals, model, ranks[out], features[out]).items():
                scores[name][out] = values
        images, model = ImageModel.fit(moments), FeatureModel.fit(features, seed)
        features_limit = tail_limit(scores["features"], SHARES["features"])
        if held_out is not None and len(held_out[0]) >= LEAST_HELD_OUT:
            other = _scores(images, laterals, model, ranked(held_out[0]), held_out[1])
            # A network's features of its own training images are closer together than those of other images.
            features_limit = max(features_limit, tail_limit(other["features"], SHARES["features"]))
            scores = {name: np.concatenate([values, other[name]]) for name, values in scores.items()}
            seen = np.concatenate([seen, exposures(held_out[0])])
        limits = {name: tail_limit(scores[name], share) for name, share in SHARES.items()}
        limits["features"] = features_limit
        # An image that scores best as it is, or resembles a frontal more than a lateral image, has neither fault.
        limits |= {name: max(limits[name], 0.0) for name in ("direction", "lateral")}
        shapes = np.ones(1) if aspects is None or not len(aspects) else np.maximum(aspects, 1 / aspects)
        shape = max(MAX_SHAPE, 1.1 * float(shapes.max()))
        return cls(images, laterals, model, limits, laterals_limit, ExposureLimits.of(seen, _EXPOSURE_SHARE), shape)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The state as numeric arrays."""
        numbers = [self.laterals_limit, self.max_shape, self.images.rest, self.laterals.rest, self.features.rest]
        found = {
            "numbers": np.array(numbers),
            "limits": np.array([self.limits[name] for name in SHARES]),
            "exposure": np.array(self.exposure),
            "films_direction": self.images.direction,
            "laterals_direction": self.laterals.direction,
            "features_weights": self.features.weights,
        }
        models: dict[str, ImageModel | FeatureModel]
        models = {"films": self.images, "laterals": self.laterals, "features": self.features}
        return found | {f"{kind}_{name}": getattr(model, name) for kind, model in models.items() for name in _ARRAYS}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Learned:
        """Restore from `arrays`.

        Raises:
            DataError: these are not the arrays of a gate.
        """
        try:
            if wrong := [name for name, array in arrays.items() if not np.isfinite(array).all()]:
                raise ValueError(f"{wrong[0]} is not finite")
            laterals_limit, max_shape, *rest = (float(number) for number in arrays["numbers"])
            mean, components, variances, weights = _floats(arrays, "features", (*_ARRAYS, "weights"))
            return cls(
                _image_model(arrays, "films", rest[0]),
                _image_model(arrays, "laterals", rest[1]),
                FeatureModel(mean, weights, components, variances, rest[2]),
                dict(zip(SHARES, (float(limit) for limit in arrays["limits"]), strict=True)),
                laterals_limit,
                ExposureLimits(*(float(limit) for limit in arrays["exposure"])),
                max_shape,
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DataError(f"not the arrays of an input gate ({error}); train the model again") from error


def _floats(arrays: Mapping[str, npt.NDArray[Any]], kind: str, names: Sequence[str]) -> list[Floats]:
    return [np.asarray(arrays[f"{kind}_{name}"], np.float32) for name in names]


def _image_model(arrays: Mapping[str, npt.NDArray[Any]], kind: str, rest: float) -> ImageModel:
    mean, components, variances, direction = _floats(arrays, kind, (*_ARRAYS, "direction"))
    return ImageModel(mean, components, variances, rest, direction)


def turn_gain(ways: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """How much better an image scores when turned or inverted: (N, 8) to (N,), above 0 if one of these is better."""
    return np.asarray(ways[:, 1:].max(axis=1) - ways[:, 0], np.float64)


def _scores(images: ImageModel, laterals: ImageModel, model: FeatureModel, ranks: Floats, features: Floats) -> Scores:
    likeness, lateral = images.unlikeness(ranks), laterals.unlikeness(ranks)
    return {
        "direction": turn_gain(images.ways(ranks)),
        "lateral": likeness - lateral,
        "likeness": likeness,
        "features": model.distance(features),
    }


@lru_cache(maxsize=1)
def _laterals() -> tuple[ImageModel, float]:
    """The model of drawn laterals, and the distance that 5 % of other drawn laterals exceed."""
    model = ImageModel.fit(Moments.of(ranked(draw_laterals(_DRAWN))))
    return model, tail_limit(model.unlikeness(ranked(draw_laterals(_DRAWN, seed=1))), 0.05)
