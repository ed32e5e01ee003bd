"""An exported model in ONNX Runtime: it needs neither PyTorch nor the code of the network."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np

from covidnet.errors import SettingError, WeightsError
from covidnet.labels import CLASSES
from covidnet.models.onnx_session import onnx_session
from covidnet.progress import available_cores
from covidnet.quality.gate import InputGate
from covidnet.serving.facts import ModelFacts
from covidnet.serving.model import Outputs, ServedModel, Squares

FORMAT = 1
"""Of the files that are written, and the newest that is read."""

INPUT = "squares"
OUTPUTS = ("probabilities", "members", "features")


class OnnxModel(ServedModel):
    """A file that ``python -m covidnet.export`` wrote.

    Args:
        file: the file.
        threads: of the engine; all cores that this process may use if None.
        content: of the file where it is known already.

    Raises:
        SettingError: ONNX Runtime is not installed.
        WeightsError: the file is damaged, is none of ours, or is newer than this release.
    """

    def __init__(self, file: Path, threads: int | None = None, content: bytes | None = None) -> None:
        try:
            import onnxruntime  # noqa: F401
        except ImportError:
            raise SettingError(
                "engine", "onnx", "torch", 'ONNX Runtime is not installed: pip install "covidnet[onnx]"'
            ) from None
        try:
            found = content if content is not None else file.read_bytes()
            self.session = onnx_session(found, threads or available_cores())
            told = json.loads(self.session.get_modelmeta().custom_metadata_map["covidnet"])
        except Exception as error:  # the engine raises a different type for every way of being wrong
            cause = " ".join([type(error).__name__ + ":", *str(error).split()])
            raise WeightsError(
                f"{file}: not an exported covidnet model ({cause[:120]}); python -m covidnet.export writes one"
            ) from None
        if told.get("format", 0) > FORMAT:
            raise WeightsError(f"{file}: was exported by a newer covidnet; update covidnet, or export it again")
        if told.get("classes") != list(CLASSES):
            raise WeightsError(f"{file}: its classes are {told.get('classes')}, not {', '.join(CLASSES)}")
        gate = told.get("gate")
        super().__init__(ModelFacts.from_plain(told["facts"]), _gate(gate) if gate else None, file)

    def outputs(self, squares: Squares, maps: bool = False) -> Outputs:
        """Predict, see `ServedModel.outputs`; there are no maps."""
        probabilities, members, features = self.session.run(list(OUTPUTS), {INPUT: np.ascontiguousarray(squares)})
        return Outputs(probabilities.astype(np.float64), members.astype(np.float64), features)


def _gate(packed: str) -> InputGate:
    with np.load(io.BytesIO(base64.b64decode(packed)), allow_pickle=False) as arrays:
        return InputGate.from_arrays(dict(arrays))
