"""The threads that run the network."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from covidnet.data.reading.images import ImageFacts, Radiograph
from covidnet.serving.web.worker import BATCH, AbandonedError, Worker
from tests.serving.web.fakes import FakePredictor


def image(first: int = 0) -> Radiograph:
    pixels = np.full((64, 64), 50, np.uint8)
    pixels[0, 0] = first
    return Radiograph(pixels, ImageFacts("0" * 64, 64, 64, "L", 9), 0.0, None)


@pytest.fixture
def predictor() -> FakePredictor:
    return FakePredictor()


@pytest.fixture
def worker(predictor: FakePredictor) -> Iterator[Worker]:
    worker = Worker(predictor)
    yield worker
    predictor.open.set()
    worker.close()


def wait_for(batches: list[int], count: int) -> None:
    end = time.monotonic() + 5
    while len(batches) < count and time.monotonic() < end:
        time.sleep(0.005)


def test_waiting_images_are_batched_in_order(worker: Worker, predictor: FakePredictor) -> None:
    predictor.open.clear()
    futures: list[Any] = [worker.submit(image(1), heat=True)]
    wait_for(predictor.batches, 1)
    futures += [worker.submit(image(n), heat=True) for n in range(6)]
    predictor.open.set()
    assert len([future.result(5) for future in futures]) == 7
    assert predictor.batches == [1, BATCH, 2]
    assert len(predictor.threads) == 1
    assert threading.get_ident() not in predictor.threads


def test_several_threads_share_the_waiting_images(predictor: FakePredictor) -> None:
    worker = Worker(predictor, 2)
    predictor.open.clear()
    futures: list[Any] = []
    for count in (1, 2):
        futures.append(worker.submit(image(count), heat=True))
        wait_for(predictor.batches, count)
    futures += [worker.submit(image(n), heat=True) for n in range(4)]
    predictor.open.set()
    assert len([future.result(5) for future in futures]) == 6
    worker.close()
    # First one each; of the four then waiting, the first free thread takes half, and so on.
    assert predictor.batches[:3] == [1, 1, 2]
    assert sum(predictor.batches) == 6
    assert len(predictor.threads) == 2


def test_heat_maps_are_computed_only_on_request(worker: Worker, predictor: FakePredictor) -> None:
    predictor.open.clear()
    first = worker.submit(image(), heat=True)
    wait_for(predictor.batches, 1)
    with_map, without = worker.submit(image(), heat=True), worker.submit(image(), heat=False)
    predictor.open.set()
    assert first.result(5).heat is not None  # type: ignore[union-attr]
    assert with_map.result(5).heat is not None  # type: ignore[union-attr]
    assert without.result(5).heat is None  # type: ignore[union-attr]


def test_an_image_that_fails_in_the_network_affects_no_other(worker: Worker, predictor: FakePredictor) -> None:
    predictor.error = RuntimeError("boom")
    predictor.open.clear()
    futures = [worker.submit(image(), heat=True)]
    wait_for(predictor.batches, 1)
    futures += [worker.submit(image(first), heat=True) for first in (1, 13, 2)]
    predictor.open.set()
    assert [type(future.exception(5)) for future in futures] == [type(None), type(None), RuntimeError, type(None)]
    assert worker.submit(image(), heat=True).result(5)


def test_a_cancelled_image_is_skipped(worker: Worker, predictor: FakePredictor) -> None:
    predictor.open.clear()
    first = worker.submit(image(), heat=True)
    wait_for(predictor.batches, 1)
    second = worker.submit(image(), heat=True)
    assert second.cancel()
    predictor.open.set()
    assert first.result(5)
    assert worker.submit(image(), heat=True).result(5)
    assert sum(predictor.batches) == 2


def test_closing_fails_the_waiting_images(predictor: FakePredictor) -> None:
    worker = Worker(predictor)
    predictor.open.clear()
    worker.submit(image(), heat=True)
    wait_for(predictor.batches, 1)
    closing = threading.Thread(target=worker.close)
    closing.start()
    time.sleep(0.05)
    late = worker.submit(image(), heat=True)
    predictor.open.set()
    closing.join(5)
    assert isinstance(late.exception(5), AbandonedError)
