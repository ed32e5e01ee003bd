"""The first image of a fresh process would wait for libraries to plan their work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from covidnet.serving.web.worker import BATCH

if TYPE_CHECKING:
    from covidnet.serving.model import ServedModel


def warm_up(model: ServedModel) -> None:
    """Run the model once for each size of batch that the server uses."""
    side = model.fit.size
    ramp = np.linspace(0, 255, side, dtype=np.uint8)
    for count in range(1, BATCH + 1):
        squares = np.repeat(np.add.outer(ramp // 2, ramp // 2)[None], count, axis=0)
        outputs = model.outputs(squares, maps=model.explains)
        if model.explains:
            model.heat(squares, outputs, [0] * count)
