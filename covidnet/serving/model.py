"""A model ready to predict, independent of the engine that runs it. Nothing here needs PyTorch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from covidnet.base.errors import SettingError, WeightsError
from covidnet.data.loading.transforms import SquareFit
from covidnet.gate.gate import InputGate
from covidnet.serving.facts import ModelFacts

NO_MAPS = (
    "this exported model draws no heat maps, because its head is not linear or an older release exported it; give its "
    "checkpoint, or export it again"
)

Squares = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Outputs:
    """A model's outputs for a batch of N images.

    Args:
        probabilities: (N, classes), calibrated, in the order of the model's classes; the mean over the members.
        members: (N, M, classes), calibrated, from each of M models that predict together.
        features: (N, D): the pooled features of the first model's backbone.
        maps: intermediate results for `ServedModel.heat`, if requested.
    """

    probabilities: npt.NDArray[np.float64]
    members: npt.NDArray[np.float64]
    features: npt.NDArray[np.float32]
    maps: Any = None


EXAMPLE_TOLERANCE = 0.01
"""The largest difference allowed to a probability of the stored example: processors round differently."""


def example_square(side: int) -> Squares:
    """A synthetic square, always the same: its probabilities are stored with a model and compared when it is opened.

    Args:
        side: side of the network's input in pixels.

    Returns:
        (1, side, side) 8-bit grey.

    Example:
        >>> example_square(4)[0].tolist()
        [[0, 63, 127, 191], [63, 0, 64, 128], [127, 64, 0, 192], [191, 128, 192, 0]]
    """
    ramp = np.arange(side) * 255 // side
    return np.bitwise_xor.outer(ramp, ramp).astype(np.uint8)[None]


class ServedModel(ABC):
    """One model or an ensemble, from square images to calibrated probabilities.

    Args:
        facts: facts about it.
        gate: the input gate fitted with it; None applies only the fixed rules.
        source: the checkpoint, sweep or exported file that it was loaded from.
        example: (M, classes), the probabilities of `example_square`; None if the file does not record them.
    """

    explains = False
    """Whether `heat` works."""

    card = ""
    """The model card in Markdown, if the model's file contains one."""

    def __init__(
        self,
        facts: ModelFacts,
        gate: InputGate | None,
        source: Path,
        example: npt.NDArray[np.float64] | None = None,
    ) -> None:
        self.facts = facts
        self.fit = SquareFit(facts.image_size, facts.fit)
        # Without a fitted gate no image is at fault: the fixed rules need no model.
        self.gate = gate or InputGate.rules()
        self.gated = gate is not None
        self.source = source
        self.example = example

    def explains_by(self, method: str) -> bool:
        """Whether `heat` works with a method of `covidnet.models.saliency.METHODS`."""
        return self.explains

    def check(self) -> None:
        """Compare the output for `example_square` with the stored one, before any image is predicted.

        Raises:
            WeightsError: the output is invalid or differs from the stored one.
            DataError: the input gate was fitted to another network.
        """
        outputs = self.outputs(example_square(self.facts.image_size))
        self.gate.compare(outputs.features)
        if self.example is None:
            return
        if self.example.shape != outputs.members[0].shape or not (
            np.abs(self.example - outputs.members[0]).max() <= EXAMPLE_TOLERANCE
        ):
            raise WeightsError(
                f"{self.source}: damaged (its output for the stored example is {_listed(outputs.members[0])}, not "
                f"{_listed(self.example)}); copy it again, or train or export again"
            )

    def checked(self, outputs: Outputs, count: int) -> Outputs:
        """The outputs, unchanged, if they are probabilities and finite features.

        Args:
            outputs: of the network.
            count: the number of images.

        Raises:
            WeightsError: they are not: the model is damaged.
        """
        members, shape = outputs.members, (count, self.facts.members, len(self.facts.classes))
        fine = members.shape == shape and outputs.probabilities.shape == (count, len(self.facts.classes))
        fine = fine and outputs.features.ndim == 2 and len(outputs.features) == count
        for one in (outputs.probabilities, members):
            fine = fine and bool((one >= 0).all() and (np.abs(one.sum(axis=-1) - 1) <= 1e-3).all())
        if not fine or not np.isfinite(outputs.features).all():
            raise WeightsError(
                f"{self.source}: damaged (its probabilities, such as {_listed(outputs.probabilities)[:60]}, are not "
                f"between 0 and 1 with sum 1, or its features are not finite); train or export again"
            )
        return outputs

    @abstractmethod
    def outputs(self, squares: Squares, maps: bool = False) -> Outputs:
        """Predict.

        Args:
            squares: (N, S, S) 8-bit grey, as `fit` returns them.
            maps: whether `heat` will be called for these outputs.
        """

    def heat(
        self, squares: Squares, outputs: Outputs, target: Sequence[int], method: str = "gradcam"
    ) -> npt.NDArray[np.float32]:
        """Heat maps of the evidence for a class, on the square; ``fit.back`` maps them back to the image.

        Args:
            squares: as in `outputs`.
            outputs: of the same squares, with maps.
            target: the class index of each image.
            method: a value of the setting ``explain.method``.

        Returns:
            (N, S, S), 0..1; all 0 if no place has evidence.

        Raises:
            SettingError: the model draws no heat maps, or not by this method.
        """
        raise SettingError("engine", "onnx", "torch", NO_MAPS)


def _listed(values: npt.NDArray[np.float64]) -> str:
    return str(np.round(values, 4).tolist())
