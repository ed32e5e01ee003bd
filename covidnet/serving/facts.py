"""Facts about a trained model that travel with it: plain values, without PyTorch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import PurePath
from typing import Any

from covidnet.base.caveats import Caveat
from covidnet.base.classes import DEFAULT_CLASSES, ClassList
from covidnet.base.errors import DataError, SettingError
from covidnet.data.loading.transforms import FITS, MAX_SIDE
from covidnet.report.words import TRAINED_ON

FORMAT = 1
"""The format of a checkpoint's serving record; increased when an older release could not read it."""

NOTICE = Caveat.RESEARCH_ONLY.value
"""The notice beside every prediction."""


@dataclass(frozen=True)
class ModelFacts:
    """Facts about one model, or several that predict together.

    Args:
        network: its name, such as ``densenet121``.
        weights: the backbone's initial weights: ``random``, ``imagenet``, ``chest``, or a file's name.
        frozen: whether only the head was trained.
        image_size: side of the network's input in pixels.
        fit: how an image becomes square: ``squash``, ``crop`` or ``pad``.
        mean: per channel, subtracted from grey values of 0..1.
        std: per channel, the divisor after that.
        folds: the test fold of each model; None if its checkpoint does not record it.
        temperatures: of each model; None if none was fitted.
        training: the training data: name, images, manifest_sha256, split_sha256, group, validation; empty if a
            checkpoint does not record it.
        versions: of the libraries used for training.
        maps: findings of the heat-map tests, in sentences; None if the checkpoint records no test.
        class_names: in the order of the probabilities.
        positive: the class that headlines are about.

    Raises:
        DataError: a value has the wrong type or is out of range: the file is damaged.
    """

    network: str
    weights: str
    frozen: bool
    image_size: int
    fit: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    folds: tuple[int | None, ...]
    temperatures: tuple[float | None, ...]
    training: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    maps: tuple[str, ...] | None = None
    class_names: tuple[str, ...] = DEFAULT_CLASSES.names
    positive: str = DEFAULT_CLASSES.positive

    def __post_init__(self) -> None:
        """Reject values that no trained model has."""
        side = self.image_size
        right = {
            "network": isinstance(self.network, str),
            "weights": isinstance(self.weights, str),
            "frozen": isinstance(self.frozen, bool),
            "image_size": isinstance(side, int) and not isinstance(side, bool) and 1 <= side <= MAX_SIDE,
            "fit": self.fit in FITS,
            "mean": len(self.mean) in (1, 3) and all(map(_is_number, self.mean)),
            "std": len(self.std) == len(self.mean) and all(_is_number(one) and one > 0 for one in self.std),
            "folds": len(self.folds) > 0 and all(f is None or (type(f) is int and 0 <= f <= 9) for f in self.folds),
            "temperatures": len(self.temperatures) == len(self.folds)
            and all(t is None or (_is_number(t) and t > 0) for t in self.temperatures),
            "training": isinstance(self.training, dict) and all(map(_is_plain, self.training.values())),
            "versions": isinstance(self.versions, dict) and all(isinstance(v, str) for v in self.versions.values()),
            "maps": self.maps is None or all(isinstance(line, str) for line in self.maps),
        }
        for name, fine in right.items():
            if not fine:
                raise DataError(f"{name}={str(getattr(self, name))[:60]} is not a valid {name} of a model")
        try:
            ClassList(self.class_names, self.positive)
        except (SettingError, TypeError) as error:
            raise DataError(f"class_names={str(self.class_names)[:60]} ({error})") from None

    @property
    def classes(self) -> ClassList:
        """The classes, in the order of the probabilities."""
        return ClassList(self.class_names, self.positive)

    @property
    def members(self) -> int:
        """How many models predict together."""
        return len(self.folds)

    @property
    def calibrated(self) -> bool:
        """Whether every model has a temperature."""
        return all(temperature is not None for temperature in self.temperatures)

    @property
    def synthetic(self) -> bool:
        """Whether the training images were phantoms."""
        return self.training.get("name") == "phantom"

    @property
    def random_weights(self) -> bool:
        """Whether the backbone is frozen at its random initial weights."""
        return self.frozen and self.weights == "random"

    @property
    def title(self) -> str:
        """A readable name, such as ``densenet121, 10 models (folds 0, 1, ...)``."""
        known = [str(fold) for fold in self.folds if fold is not None]
        if self.members == 1:
            return f"{self.network}, fold {known[0]}" if known else self.network
        return f"{self.network}, {self.members} models" + (f" (folds {', '.join(known)})" if known else "")

    @property
    def trained_on(self) -> str | None:
        """The training data in words; None if the checkpoint does not record it."""
        name = self.training.get("name")
        return None if name is None else TRAINED_ON.get(str(name), str(name))

    def notes(self) -> list[str]:
        """What a reader of a prediction needs to know about the model, in sentences."""
        found: list[str] = []
        if self.synthetic:
            found.append(Caveat.TRAINED_ON_SYNTHETIC)
        if self.random_weights:
            found.append(Caveat.RANDOM_BACKBONE)
        if not self.calibrated:
            found.append("Probabilities are not calibrated: the checkpoint holds no temperature.")
        elif self.training.get("validation") == "test":
            found.append("The temperature was fitted on the test fold, which also selected the checkpoint.")
        return found

    def map_notes(self) -> list[str]:
        """What a reader of a heat map needs to know about the model's maps, in sentences."""
        return ["No test of this model's heat maps is recorded with it."] if self.maps is None else list(self.maps)

    def plain(self) -> dict[str, Any]:
        """The facts as plain values for JSON, without the default classes, which older releases did not store."""
        skipped = ("class_names", "positive") if self.classes == DEFAULT_CLASSES else ()
        return {name: value for name, value in asdict(self).items() if name not in skipped}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> ModelFacts:
        """The facts from what `plain` returned, even after a round trip through JSON."""
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**plain)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_plain(value: object) -> bool:
    """Whether it is text, a number, None, or a mapping from names to numbers."""
    if isinstance(value, dict):
        return all(isinstance(name, str) and _is_number(number) for name, number in value.items())
    return value is None or isinstance(value, str | bool) or _is_number(value)


def weights_name(weights: object) -> str:
    """A backbone's initial weights, without the folders of a file.

    Example:
        >>> weights_name("/home/anna/chexnet.pt"), weights_name("imagenet")
        ('chexnet.pt', 'imagenet')
    """
    return PurePath(str(weights)).name


def of_members(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The training facts that the records of several checkpoints agree on.

    Args:
        records: each checkpoint's ``serving`` entry; empty if it has none.
    """
    first = dict(records[0].get("training") or {}) if records else {}
    others = [record.get("training") or {} for record in records[1:]]
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}


def maps_of_members(records: Sequence[Mapping[str, Any]]) -> tuple[str, ...] | None:
    """The findings about heat maps in the records of several checkpoints.

    Args:
        records: each checkpoint's ``serving`` entry.

    Returns:
        The sentences, if all records agree; else the number of models with findings, and the sentences of the first of
        them. None if one of them records no test.

    Example:
        >>> maps_of_members([{"maps": []}, {"fold": 3, "maps": ["They fail."]}])
        ('The heat maps of 1 of 2 models have a caveat.', 'Fold 3: They fail.')
    """
    recorded = [record.get("maps") for record in records]
    if not recorded or any(one is None for one in recorded):
        return None
    if all(one == recorded[0] for one in recorded):
        return tuple(recorded[0] or ())
    against = [record for record in records if record["maps"]]
    first = against[0]
    count = f"The heat maps of {len(against)} of {len(records)} models have a caveat."
    return (count, *(f"Fold {first.get('fold')}: {line}" for line in first["maps"]))
