"""What a checkpoint stores for prediction besides its weights: temperature, input gate, provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from covidnet import __version__
from covidnet.gate.gate import InputGate
from covidnet.learning.checkpoints import content_sha256, read_checkpoint, write_checkpoint
from covidnet.learning.module import ClassificationModule
from covidnet.serving.facts import FORMAT
from covidnet.serving.model import example_square
from covidnet.serving.torch_model import TorchModel


def serving_record(
    *,
    fold: int,
    temperature: float | None,
    gate: InputGate | None,
    training: Mapping[str, Any],
    maps: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The record to store in a checkpoint: plain values and tensors, which can be loaded without running code.

    Args:
        fold: the test fold of the model.
        temperature: fitted on its validation images; None if it was not fitted.
        gate: fitted on its training images; None if it was not fitted.
        training: the training data, see `covidnet.serving.facts.ModelFacts`.
        maps: the findings of `covidnet.evaluation.explanations.map_notes`; None if its heat maps were not tested.
    """
    arrays = {} if gate is None else gate.arrays()
    return {
        "format": FORMAT,
        "fold": fold,
        "temperature": temperature,
        "gate": {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()},
        "training": dict(training),
        "maps": None if maps is None else list(maps),
        "versions": {"covidnet": __version__, "torch": str(torch.__version__)},
    }


def add_record(
    checkpoint: Path,
    record: Mapping[str, Any],
    held: tuple[dict[str, Any], ClassificationModule] | None = None,
) -> None:
    """Put a record into a checkpoint; weights and settings stay unchanged.

    ``example``, the output for `covidnet.serving.model.example_square`, and ``sha256``, the hash of the content, are
    added to it.

    Args:
        checkpoint: the file.
        record: see `serving_record`.
        held: content and module of a checkpoint that has not been written yet; None reads the file.

    Raises:
        WeightsError: the checkpoint is damaged or not from covidnet.
        WriteError: the disk is full; the checkpoint is unchanged.
    """
    if held is None:
        content = read_checkpoint(checkpoint)
        module = ClassificationModule.from_checkpoint(checkpoint, read=content)
    else:
        content, module = dict(held[0]), held[1].eval()
    module.serving = {name: value for name, value in record.items() if name not in ("example", "sha256")}
    model = TorchModel([module], checkpoint)
    answer = model.outputs(example_square(model.facts.image_size)).members[0, 0]
    content["serving"] = {**module.serving, "example": [float(one) for one in answer]}
    content["serving"]["sha256"] = content_sha256(content)
    write_checkpoint(content, checkpoint)
