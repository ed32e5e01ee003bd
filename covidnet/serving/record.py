"""What a checkpoint holds beside its weights for those who predict with it: temperature, input gate, provenance."""

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
    """The record as a checkpoint takes it: plain values and tensors, which are loaded without running code.

    Args:
        fold: the test fold of the model.
        temperature: fitted on its validation images; None where it has none.
        gate: fitted on its training images; None where it was not.
        training: what the model was trained on, as `covidnet.serving.facts.ModelFacts` takes it.
        maps: what `covidnet.evaluation.explanations.map_notes` says of its heat maps; None where they were not tested.
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


def add_record(checkpoint: Path, record: Mapping[str, Any]) -> None:
    """Put a record into a checkpoint that is written already; weights and settings stay as they are.

    Added to it are the answer to `covidnet.serving.model.example_square`, as ``example``, and the hash of it all, as
    ``sha256``.

    Raises:
        WeightsError: the checkpoint is none of ours, or damaged.
        WriteError: the disk is full; the checkpoint is as it was.
    """
    content = read_checkpoint(checkpoint)
    module = ClassificationModule.from_checkpoint(checkpoint)
    module.serving = {name: value for name, value in record.items() if name not in ("example", "sha256")}
    model = TorchModel([module], checkpoint)
    answer = model.outputs(example_square(model.facts.image_size)).members[0, 0]
    content["serving"] = {**module.serving, "example": [float(one) for one in answer]}
    content["serving"]["sha256"] = content_sha256(content)
    write_checkpoint(content, checkpoint)
