"""From images to answers: the input gate, the network, and the result for each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from covidnet.base.classes import DEFAULT_CLASSES, ClassList
from covidnet.base.errors import ImageRefusedError, SettingError
from covidnet.data.reading.images import Radiograph
from covidnet.gate.flags import Flag
from covidnet.serving.model import ServedModel

GATES = ("refuse", "warn", "off")
"""The setting ``gate``: whether an image unlike the training images is refused, or predicted with a warning."""

_OF_PHANTOMS = {
    "refuse": "The input gate was fitted on phantoms: it may refuse real radiographs with no fault. "
    "gate=warn predicts them anyway.",
    "warn": "The input gate was fitted on phantoms: its findings on real radiographs may be wrong.",
}


@dataclass(frozen=True)
class ImageAnswer:
    """The result for one image.

    Args:
        probabilities: (classes,), calibrated, in the order of `classes`.
        members: (M, classes), the probabilities of each model.
        flags: the input gate's findings.
        heat: (S, S), 0..1, the heat map of the predicted class on the network's square input; None if not requested.
        classes: of the model.
    """

    probabilities: npt.NDArray[np.float64]
    members: npt.NDArray[np.float64]
    flags: list[Flag]
    heat: npt.NDArray[np.float32] | None = None
    classes: ClassList = DEFAULT_CLASSES

    @property
    def prediction(self) -> str:
        """The class with the largest probability."""
        return self.classes[int(self.probabilities.argmax())]

    @property
    def agreement(self) -> float:
        """The share of the models that predict the same class as their mean."""
        return float((self.members.argmax(axis=1) == self.probabilities.argmax()).mean())

    @property
    def spread(self) -> npt.NDArray[np.float64]:
        """(classes,): the standard deviation of each class's probability over the models; 0 for a single model."""
        return np.asarray(self.members.std(axis=0), np.float64)


class Predictor:
    """Predict images in batches, behind the input gate.

    Args:
        model: the model.
        gate: one of `GATES`.

    Raises:
        SettingError: there is no such gate.
    """

    def __init__(self, model: ServedModel, gate: str = "refuse") -> None:
        if gate not in GATES:
            raise SettingError("gate", gate, GATES)
        self.model = model
        self.gate = gate

    @property
    def classes(self) -> ClassList:
        """The model's classes, in the order of the probabilities."""
        return self.model.facts.classes

    def answer(
        self, images: Sequence[Radiograph], *, names: Sequence[str] = (), heat: bool = False
    ) -> list[ImageAnswer | ImageRefusedError]:
        """One answer or refusal for each image, in their order.

        Args:
            images: any number; 8 to 16 at a time are fastest on a CPU.
            names: the images' names in refusals; "image" if not given.
            heat: whether to compute a heat map of the predicted class.
        """
        called = list(names) or ["image"] * len(images)
        found: list[ImageAnswer | ImageRefusedError | None] = [None] * len(images)
        flags = [self._look(image) for image in images]
        for place, known in enumerate(flags):
            found[place] = self._refusal(called[place], known)
        left = [place for place, refusal in enumerate(found) if refusal is None]
        if left:
            squares = np.stack([self.model.fit(images[place].pixels) for place in left])
            outputs = self.model.outputs(squares, maps=heat)
            target = [int(one) for one in outputs.probabilities.argmax(axis=1)]
            heats = self.model.heat(squares, outputs, target) if heat else [None] * len(left)
            compared = self._compare(outputs.features) if self.gate != "off" else [[] for _ in left]
            for row, place in enumerate(left):
                flags[place] = flags[place] + compared[row]
                refusal = self._refusal(called[place], compared[row])
                found[place] = refusal or ImageAnswer(
                    outputs.probabilities[row], outputs.members[row], flags[place], heats[row], self.classes
                )
        return [one for one in found if one is not None]

    def notes(self) -> list[str]:
        """What a reader of a prediction needs to know about the model and its input gate, in sentences."""
        return [*self.model.facts.notes(), *self.gate_notes()]

    def gate_notes(self) -> list[str]:
        """What a reader of a prediction needs to know about the input gate, in sentences."""
        if self.gate == "off":
            return []
        if self.model.gated:
            return [_OF_PHANTOMS[self.gate]] if self.model.facts.synthetic else []
        return ["The checkpoint holds no model of its training images: the input gate applies only its fixed rules."]

    def _look(self, image: Radiograph) -> list[Flag]:
        return [] if self.gate == "off" else self._honest(self.model.gate.look(image))

    def _compare(self, features: npt.NDArray[np.float32]) -> list[list[Flag]]:
        return [self._honest(flags) for flags in self.model.gate.compare(features)]

    def _honest(self, flags: Sequence[Flag]) -> list[Flag]:
        """Flags that do not call a real image faulty because it is unlike a phantom."""
        if not self.model.facts.synthetic:
            return list(flags)
        return [replace(flag, text=_unlike_phantoms(flag.text, self.gate)) if flag.learned else flag for flag in flags]

    def _refusal(self, name: str, flags: Sequence[Flag]) -> ImageRefusedError | None:
        """The refusal of an image, if one of its flags is grave enough."""
        grave = [flag for flag in flags if flag.refuses]
        if self.gate != "refuse" or not grave:
            return None
        cause, _, remedy = grave[0].text.partition("; ")
        return ImageRefusedError(name, cause, remedy or "give a frontal chest radiograph, or use gate=warn")


def _unlike_phantoms(text: str, gate: str) -> str:
    """A flag's text if the training images were phantoms.

    Example:
        >>> _unlike_phantoms("looks like a lateral view; use the frontal image", "refuse")
        'unlike the phantoms that the model was trained on (looks like a lateral view); use gate=warn to predict it'
        >>> _unlike_phantoms("looks like a lateral view; use the frontal image", "warn")
        'unlike the phantoms that the model was trained on (looks like a lateral view)'
    """
    cause = text.partition("; ")[0]
    remedy = "; use gate=warn to predict it" if gate == "refuse" else ""
    return f"unlike the phantoms that the model was trained on ({cause}){remedy}"
