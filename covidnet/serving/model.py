"""A model that is ready to predict, whatever runs it. Nothing here needs PyTorch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from covidnet.checkpoint_path import ONNX, find_models
from covidnet.data.transforms import SquareFit
from covidnet.errors import SettingError
from covidnet.quality.gate import InputGate
from covidnet.serving.facts import ModelFacts

ENGINES = ("auto", "torch", "onnx")
"""The setting ``engine``."""

Squares = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Outputs:
    """What a model says of a batch of N films.

    Args:
        probabilities: (N, 3), calibrated, in the order of `covidnet.labels.CLASSES`; the mean over the members.
        members: (N, M, 3), calibrated: of each of M models that predict together.
        features: (N, D): the pooled features of the first model's backbone.
        maps: what `ServedModel.heat` goes on with, where it was asked for.
    """

    probabilities: npt.NDArray[np.float64]
    members: npt.NDArray[np.float64]
    features: npt.NDArray[np.float32]
    maps: Any = None


class ServedModel(ABC):
    """One model or an ensemble, from square films to calibrated probabilities.

    Args:
        facts: what is known of it.
        gate: the input gate that was fitted with it; its rules alone where it holds none.
        source: the checkpoint, sweep or exported file that it comes from.
    """

    explains = False
    """Whether `heat` works."""

    def __init__(self, facts: ModelFacts, gate: InputGate | None, source: Path) -> None:
        self.facts = facts
        self.fit = SquareFit(facts.image_size, facts.fit)
        # Another network is no fault of the film: rules need no model.
        self.gate = gate or InputGate.rules()
        self.gated = gate is not None
        self.source = source

    @abstractmethod
    def outputs(self, squares: Squares, maps: bool = False) -> Outputs:
        """Predict.

        Args:
            squares: (N, S, S) 8-bit grey, as `fit` makes them of films.
            maps: whether `heat` will be asked for.
        """

    def heat(self, squares: Squares, outputs: Outputs, target: Sequence[int]) -> npt.NDArray[np.float32]:
        """Where the evidence for a class lies, on the square; ``fit.back`` lays it on the film.

        Args:
            squares: as in `outputs`.
            outputs: of the same squares, with maps.
            target: for each film the class, 0..2.

        Returns:
            (N, S, S), 0..1; all 0 where no place has evidence.
        """
        raise SettingError("engine", "onnx", "torch", "an exported model draws no heat maps; give its checkpoint")


def open_model(checkpoint: str | Path, engine: str = "auto", threads: int | None = None) -> ServedModel:
    """Open a model for predictions.

    Args:
        checkpoint: a best.ckpt, a run folder, a sweep folder (whose models then predict together), or a file that
            ``python -m covidnet.export`` wrote.
        engine: ``torch``, ``onnx`` (an exported file, or the ``model.onnx`` of the folder), or ``auto``: what the file
            is made for.
        threads: that one call may take; all cores if None. Calls from several threads at once, with one each, answer
            more films per second than one call after the other that takes all.

    Raises:
        SettingError: there is no such engine, or it does not go with the file.
        WeightsError: there is no checkpoint, it is none of ours, or the models of a sweep do not go together.
    """
    if engine not in ENGINES:
        raise SettingError("engine", engine, ENGINES)
    files = find_models(checkpoint, onnx=engine == "onnx")
    if files[0].suffix == ONNX:
        if engine == "torch":
            raise SettingError("engine", engine, "onnx, auto", f"{files[0].name} was exported for ONNX Runtime")
        # Each engine is loaded where it is used: one of them may not be installed.
        from covidnet.serving.onnx_model import OnnxModel

        return OnnxModel(files[0], threads)
    from covidnet.serving.torch_model import TorchModel

    return TorchModel.open(files, Path(checkpoint), threads)
