"""An exported model in ONNX Runtime; it needs neither PyTorch nor the network's code."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from covidnet.base.errors import SettingError, WeightsError
from covidnet.base.progress import available_cores
from covidnet.base.trust import archive_damage
from covidnet.gate.gate import InputGate
from covidnet.models.onnx_session import onnx_session
from covidnet.serving.facts import ModelFacts
from covidnet.serving.model import Outputs, ServedModel, Squares

log = logging.getLogger(__name__)

FORMAT = 1
"""The format of exported files, and the newest that can be read."""

SHA256 = "covidnet_sha256"
"""The metadata entry with the file's hash."""

NO_HASH = hashlib.sha256(SHA256.encode()).hexdigest()

# A gate for 2,048 features takes less than 1 MB.
_MAX_GATE_BYTES = 64_000_000

INPUT = "squares"
OUTPUTS = ("probabilities", "members", "features")

LINEAR = ("gradcam", "cam")
"""Heat-map methods that need no gradient for a linear head, for which they are identical."""

EVIDENCE = "evidence"
"""The output that heat maps are computed from; absent for non-linear heads and in files of older releases."""


def need_engine() -> None:
    """Check that ONNX Runtime is installed.

    Raises:
        SettingError: it is not.
    """
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        raise SettingError(
            "engine", "onnx", "torch", "ONNX Runtime is not installed: pip install onnxruntime"
        ) from None


class OnnxModel(ServedModel):
    """A file written by ``python -m covidnet.export``.

    Args:
        file: the file.
        threads: threads of the engine; None for all cores that this process may use.
        content: the file's content, if already read.

    Raises:
        SettingError: ONNX Runtime is not installed.
        WeightsError: the file is damaged, not a covidnet model, or newer than this release.
    """

    def __init__(self, file: Path, threads: int | None = None, content: bytes | None = None) -> None:
        need_engine()
        try:
            found = content if content is not None else file.read_bytes()
            self.session = onnx_session(found, threads or available_cores())
            held = self.session.get_modelmeta().custom_metadata_map
            described = json.loads(held["covidnet"])
        except Exception as error:  # the engine raises a different type for every kind of damage
            cause = " ".join([type(error).__name__ + ":", *str(error).split()])
            raise WeightsError(
                f"{file}: not an exported covidnet model ({cause[:120]}); python -m covidnet.export writes one"
            ) from None
        try:
            if described["format"] > FORMAT:
                raise WeightsError(f"{file}: was exported by a newer covidnet; update covidnet, or export it again")
            digest = held.get(SHA256)
            if digest is None:
                log.warning("%s: has no hash, so some damage goes unnoticed; export it again to add one", file)
            elif digest != content_sha256(found, digest):
                raise ValueError("it does not match its hash")
            gate, example = described.get("gate"), described.get("example")
            facts = ModelFacts.from_plain(described["facts"])
            if described.get("classes") != list(facts.classes):
                raise ValueError(f"its classes are {described.get('classes')}, not {', '.join(facts.classes)}")
            super().__init__(
                facts,
                _gate(gate) if gate else None,
                file,
                None if example is None else np.array(example, np.float64),
            )
        except (KeyError, TypeError, ValueError, AttributeError, zipfile.BadZipFile) as error:
            cause = " ".join(str(error).split())[:160]
            raise WeightsError(f"{file}: damaged ({cause}); copy it again, or export it again") from None
        self.card = held.get("card", "")

    @property
    def explains(self) -> bool:  # type: ignore[override]  # of this file, not of the class
        """Whether the file contains what `heat` needs."""
        return any(output.name == EVIDENCE for output in self.session.get_outputs())

    def outputs(self, squares: Squares, maps: bool = False) -> Outputs:
        """Predict, see `ServedModel.outputs`."""
        names = [*OUTPUTS, *([EVIDENCE] if maps and self.explains else [])]
        probabilities, members, features, *more = self.session.run(names, {INPUT: np.ascontiguousarray(squares)})
        maps_found = more[0] if more else None
        outputs = Outputs(probabilities.astype(np.float64), members.astype(np.float64), features, maps_found)
        return self.checked(outputs, len(squares))

    def heat(
        self, squares: Squares, outputs: Outputs, target: Sequence[int], method: str = "gradcam"
    ) -> npt.NDArray[np.float32]:
        """CAM (Zhou et al. 2016), which equals Grad-CAM for a linear head: the same maps as PyTorch's."""
        if outputs.maps is None:
            return super().heat(squares, outputs, target, method)
        if method not in LINEAR:
            raise SettingError("explain.method", method, LINEAR, "the others need gradients; give the checkpoint")
        side = self.facts.image_size
        chosen = outputs.maps[np.arange(len(target)), :, list(target)]
        heats = [[_stretched(_stretched(np.maximum(one, 0)), side) for one in member] for member in chosen]
        return np.stack([_stretched(np.mean(member, axis=0, dtype=np.float32)) for member in heats])


def content_sha256(content: bytes, digest: str) -> str:
    """The hash of an exported file with `NO_HASH` in place of the hash, since no file can contain its own.

    Args:
        content: the file's content.
        digest: the hexadecimal digits now in place of the hash.
    """
    return hashlib.sha256(content.replace(digest.encode(), NO_HASH.encode(), 1)).hexdigest()


def _stretched(heat: npt.NDArray[np.float32], side: int | None = None) -> npt.NDArray[np.float32]:
    """A map scaled to 0..1, after enlarging it linearly if a side is given; all 0 if it is constant."""
    large = heat if side is None else cv2.resize(heat, (side, side))
    low, high = large.min(), large.max()
    return np.asarray((large - low) / (high - low) if high > low else np.zeros_like(large), np.float32)


def _gate(packed: str) -> InputGate:
    stream = io.BytesIO(base64.b64decode(packed))
    if damage := archive_damage(stream, _MAX_GATE_BYTES):
        raise ValueError(f"gate: {damage}")
    stream.seek(0)
    with np.load(stream, allow_pickle=False) as arrays:
        return InputGate.from_arrays(dict(arrays))
