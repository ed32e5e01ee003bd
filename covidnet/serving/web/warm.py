"""Warm up a new process: the first image would otherwise wait for libraries to initialise and decoders to start."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from covidnet.base.errors import ImageRefusedError
from covidnet.serving.web.request_handler import READERS
from covidnet.serving.web.worker import BATCH

if TYPE_CHECKING:
    from covidnet.data.reading.decoders import Decoders
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


def warm_decoders(decoders: Decoders) -> None:
    """Decode one picture with each decoder process, so that all of them are started.

    Args:
        decoders: of the server.

    Raises:
        DecoderError: a process cannot be started.
    """
    file = io.BytesIO()
    Image.fromarray(np.add.outer(*[np.arange(64, dtype=np.uint8)] * 2)).save(file, "PNG")

    def decode() -> None:
        # The server may require larger images.
        with suppress(ImageRefusedError):
            decoders.decode(file.getvalue(), "warm-up")

    with ThreadPoolExecutor(READERS) as threads:
        for started in [threads.submit(decode) for _ in range(READERS)]:
            started.result()
