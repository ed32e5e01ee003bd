"""The input gate: what is no upright frontal film such as the model was trained on is refused, and the answer says why.

Rules come first, then a model of the training films' thumbnails, then one of their features. Limits are set on films
that the model at hand has not seen, so that few real films exceed them; see `SHARES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from covidnet.data.images import Film
from covidnet.data.thumbnails import thumbnail
from covidnet.errors import DataError
from covidnet.quality.exposure import Exposure, ExposureLimits, exposure_flag, exposures
from covidnet.quality.feature_model import FeatureModel
from covidnet.quality.film_model import FilmModel, Moments
from covidnet.quality.flags import Flag
from covidnet.quality.laterals import draw_laterals
from covidnet.quality.limits import tail_limit
from covidnet.quality.naming import CT, LATERAL, NOT_FRONTAL, direction_flag, surrounded
from covidnet.quality.ranks import ranked
from covidnet.quality.rules import MAX_SHAPE, rule_flags

Thumbnails = npt.NDArray[np.uint8]
Features = npt.NDArray[np.float32]

SHARES = {"direction": 0.003, "likeness": 0.012, "features": 0.010, "exposure": 0.001}
"""Share of films that each check may refuse; the two exposure limits have one share each. 3 % in all, because films of
patients that the model has not seen are refused more often than those that the limits are set on."""

LEAST_FILMS = 20
"""Training films from which on a model of them is fitted; with fewer the gate has its rules alone."""

_PARTS = 5
_LEAST_HELD_OUT = 50
_DIRECTION_SLACK = 0.0


@dataclass(frozen=True)
class _Learned:
    films: FilmModel
    features: FeatureModel
    direction_limit: float
    likeness_limit: float
    features_limit: float
    exposure: ExposureLimits
    max_shape: float


class InputGate:
    """Tells what is wrong with a film. Made by `fit`, `rules` or `from_arrays`."""

    def __init__(self, learned: _Learned | None = None) -> None:
        self._learned = learned

    @classmethod
    def rules(cls) -> InputGate:
        """A gate of rules alone, for a model whose training films are not known."""
        return cls()

    @classmethod
    def fit(
        cls,
        thumbnails: Thumbnails,
        features: Features,
        *,
        held_out: tuple[Thumbnails, Features] | None = None,
        aspects: npt.NDArray[np.floating] | None = None,
        seed: int = 0,
    ) -> InputGate:
        """Learn what training films look like.

        Args:
            thumbnails: (N, 64, 64) of the training films, see `covidnet.data.thumbnails`.
            features: (N, D) of the same films.
            held_out: the same of films that the model was not trained on; where there are 50, limits hold for them too.
            aspects: (N,), width over height of the training films.
            seed: of the parts that films are put in, where limits are set on the training films.

        Returns:
            A gate; of rules alone with fewer than `LEAST_FILMS` films.

        Raises:
            DataError: thumbnails and features are not of the same films, or features are not finite.
        """
        _check(thumbnails, features, "training films")
        if len(thumbnails) < LEAST_FILMS:
            return cls()
        # Films stand in order of their ids or classes; parts must not.
        part = np.random.default_rng(seed).permutation(len(thumbnails)) % _PARTS
        pictures = ranked(thumbnails)
        seen = exposures(thumbnails)
        moments = Moments.of(pictures)
        films, model = FilmModel.fit(moments), FeatureModel.fit(features, seed)
        likeness, direction, distance = np.zeros((3, len(thumbnails)))
        for n in range(_PARTS):
            out = part == n
            others = FilmModel.fit(moments - Moments.of(pictures[out]))
            likeness[out], direction[out] = others.likeness(pictures[out]), _astray(others.ways(pictures[out]))
            distance[out] = FeatureModel.fit(features[~out], seed).distance(features[out])
        scores = {"likeness": likeness, "direction": direction, "features": distance}
        limits = {name: tail_limit(values, SHARES[name]) for name, values in scores.items()}
        if held_out is not None and len(held_out[0]) >= _LEAST_HELD_OUT:
            _check(*held_out, "held-out films")
            other = ranked(held_out[0])
            found = {
                "likeness": films.likeness(other),
                "direction": _astray(films.ways(other)),
                "features": model.distance(held_out[1]),
            }
            limits = {name: max(limit, tail_limit(found[name], SHARES[name])) for name, limit in limits.items()}
            seen = np.concatenate([seen, exposures(held_out[0])])
        shapes = np.ones(1) if aspects is None else np.maximum(aspects, 1 / np.maximum(aspects, 1e-6))
        return cls(
            _Learned(
                films,
                model,
                max(limits["direction"], _DIRECTION_SLACK),
                limits["likeness"],
                limits["features"],
                _exposure_limits(seen),
                max(MAX_SHAPE, 1.1 * float(shapes.max())),
            )
        )

    def look(self, film: Film) -> list[Flag]:
        """What is wrong with a film, before the network has seen it.

        Args:
            film: as `covidnet.data.images.read_film` reads it.

        Returns:
            One flag per fault, none for a film like those that the model was trained on.
        """
        known = self._learned
        flags = rule_flags(film, known.max_shape if known else MAX_SHAPE)
        small = thumbnail(film.pixels)[None]
        exposure = Exposure(*(float(value) for value in exposures(small)[0]))
        if flag := exposure_flag(exposure, known.exposure if known else ExposureLimits()):
            flags.append(flag)
        # A page is unlike a film too, and one cause is enough.
        if known is None or any(flag.code in ("page", "noise", "colour", "flat") for flag in flags):
            return flags
        picture = ranked(small)
        if flag := self._direction(known, picture) or self._likeness(known, picture, small[0]):
            if not any(one.code == flag.code for one in flags):
                flags.append(flag)
        return flags

    def compare(self, features: Features) -> list[list[Flag]]:
        """What is wrong with films by what the network makes of them.

        Args:
            features: (N, D), of the network whose training films the gate has seen.

        Returns:
            The flags of each film.

        Raises:
            DataError: features of another width.
        """
        known = self._learned
        if known is None:
            return [[] for _ in features]
        if features.ndim != 2 or features.shape[1] != len(known.features.mean):
            raise DataError(
                f"features of shape {features.shape}: the gate was fitted to (N, {len(known.features.mean)}); "
                "use the network that it belongs to"
            )
        found: list[list[Flag]] = []
        for distance in known.features.distance(features):
            over = float(np.exp(min(distance - known.features_limit, 20.0)))
            text = f"unlike the training films: {over:.1f} times as far from them as the limit; use a frontal chest film"
            found.append([Flag("unlike", text)] if distance > known.features_limit else [])
        return found

    @staticmethod
    def _direction(known: _Learned, picture: npt.NDArray[np.float32]) -> Flag | None:
        ways = known.films.ways(picture)
        if _astray(ways)[0] <= known.direction_limit:
            return None
        best = int(ways[0].argmax())
        upright = _turned_back(picture, best)
        return direction_flag(best) if known.films.likeness(upright)[0] <= known.likeness_limit else None

    @staticmethod
    def _likeness(known: _Learned, picture: npt.NDArray[np.float32], small: Thumbnails) -> Flag | None:
        if known.films.likeness(picture)[0] <= known.likeness_limit:
            return None
        return unlikely_flag(picture[0], small)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All that the gate knows, as plain numeric arrays, to be kept with the model; see `from_arrays`."""
        known = self._learned
        if known is None:
            return {"numbers": np.zeros(0)}
        numbers = [known.direction_limit, known.likeness_limit, known.features_limit, known.max_shape]
        return {
            "numbers": np.array([*numbers, known.films.rest, known.features.rest, *known.exposure]),
            "film_mean": known.films.mean,
            "film_components": known.films.components,
            "film_variances": known.films.variances,
            "film_direction": known.films.direction,
            "feature_mean": known.features.mean,
            "feature_weights": known.features.weights,
            "feature_components": known.features.components,
            "feature_variances": known.features.variances,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> InputGate:
        """The gate that `arrays` was called on.

        Args:
            arrays: of `arrays`.

        Raises:
            DataError: the arrays are not those of a gate.
        """
        try:
            numbers = [float(number) for number in arrays["numbers"]]
            if not numbers:
                return cls()
            direction, likeness, distance, shape, film_rest, feature_rest, *exposure = numbers
            films = [np.asarray(arrays[f"film_{name}"], np.float32) for name in _FILM_ARRAYS]
            parts = [np.asarray(arrays[f"feature_{name}"], np.float32) for name in _FEATURE_ARRAYS]
            return cls(
                _Learned(
                    FilmModel(films[0], films[1], films[2], film_rest, films[3]),
                    FeatureModel(*parts, feature_rest),
                    direction,
                    likeness,
                    distance,
                    ExposureLimits(*exposure),
                    shape,
                )
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"not the arrays of an input gate ({error}); train the model again") from error


_FILM_ARRAYS = ("mean", "components", "variances", "direction")
_FEATURE_ARRAYS = ("mean", "weights", "components", "variances")


def _check(thumbnails: Thumbnails, features: Features, what: str) -> None:
    if thumbnails.dtype != np.uint8 or thumbnails.ndim != 3 or features.ndim != 2 or len(thumbnails) != len(features):
        raise DataError(
            f"{what}: thumbnails {thumbnails.dtype} {thumbnails.shape} and features {features.shape}, "
            "needed are uint8 (N, 64, 64) and (N, D)"
        )
    if not np.isfinite(features).all():
        raise DataError(f"{what}: features are not finite; the training has diverged, lower its learning rate")


def _astray(ways: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """How much better a picture fits when it is turned: (N, 8) to (N,), above 0 where one of the turns is better."""
    return ways[:, 1:].max(axis=1) - ways[:, 0]


def _turned_back(picture: npt.NDArray[np.float32], way: int) -> npt.NDArray[np.float32]:
    back = np.rot90(picture, way % 4, axes=(1, 2))
    return -back if way >= 4 else back


def _exposure_limits(seen: npt.NDArray[np.float64]) -> ExposureLimits:
    """The fixed limits, each moved outwards where films of the training set would exceed it."""
    mean, low, high = seen.T
    share, fixed = SHARES["exposure"], ExposureLimits()
    return ExposureLimits(
        min(fixed.dark, -tail_limit(-mean, share)),
        min(fixed.dark_high, -tail_limit(-high, share)),
        max(fixed.bright, tail_limit(mean, share)),
        max(fixed.bright_low, tail_limit(low, share)),
        min(fixed.contrast, -tail_limit(low - high, share)),
    )


__all__ = ["LEAST_FILMS", "SHARES", "InputGate"]

