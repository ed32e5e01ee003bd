"""What a checkpoint holds beside its weights for those who predict with it: temperature, input gate, provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from covidnet import __version__
from covidnet.learning.checkpoints import write_checkpoint
from covidnet.quality.gate import InputGate

FORMAT = 1
"""Raised where an older release could not read the record."""


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
        temperature: fitted on its validation films; None where it has none.
        gate: fitted on its training films; None where it was not.
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

    Raises:
        WriteError: the disk is full; the checkpoint is as it was.
    """
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    write_checkpoint({**content, "serving": dict(record)}, checkpoint)
