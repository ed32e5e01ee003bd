"""Warming up before the first image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from covidnet.data.reading.decoders import Decoders
from covidnet.serving.model import Outputs, ServedModel
from covidnet.serving.web.request_handler import READERS
from covidnet.serving.web.warm import warm_decoders, warm_up
from covidnet.serving.web.worker import BATCH
from tests.serving.web.fakes import FACTS


class Counting(ServedModel):
    def __init__(self, explains: bool) -> None:
        super().__init__(FACTS, None, None)  # type: ignore[arg-type]
        self.explains = explains
        self.seen: list[tuple[str, int]] = []

    def outputs(self, squares: np.ndarray, maps: bool = False) -> Outputs:
        assert squares.dtype == np.uint8
        assert squares.shape[1:] == (32, 32)
        assert maps is self.explains
        self.seen.append(("outputs", len(squares)))
        found = np.full((len(squares), 1, 3), 1 / 3)
        return Outputs(found[:, 0], found, np.zeros((len(squares), 2), np.float32))

    def heat(self, squares: np.ndarray, outputs: Outputs, target: Sequence[int]) -> np.ndarray:
        assert len(target) == len(squares)
        self.seen.append(("heat", len(squares)))
        return np.zeros(squares.shape, np.float32)


@pytest.mark.parametrize("explains", [True, False])
def test_every_batch_size_is_run_once(explains: bool) -> None:
    model = Counting(explains)
    warm_up(model)
    sizes = list(range(1, BATCH + 1))
    assert [size for what, size in model.seen if what == "outputs"] == sizes
    assert [size for what, size in model.seen if what == "heat"] == (sizes if explains else [])


@pytest.mark.parametrize("min_side", [64, 500])
def test_every_decoder_is_started(min_side: int) -> None:
    with Decoders(READERS, min_side=min_side) as decoders:
        warm_decoders(decoders)
        assert len(decoders._children) == READERS
