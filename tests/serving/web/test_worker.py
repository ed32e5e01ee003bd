"""The threads that run the network."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from covidnet.data.reading.images import ImageFacts, Radiograph
from covidnet.serving.web.worker import BATCH, LeftError, Worker
from tests.serving.web.fakes import FakeAnswering


def image(first: int = 0) -> Radiograph:
    pixels = np.full((64, 64), 50, np.uint8)
    pixels[0, 0] = first
    return Radiograph(pixels, ImageFacts("0" * 64, 64, 64, "L", 9), 0.0, None)


@pytest.fixture
def answering() -> FakeAnswering:
    return FakeAnswering()


@pytest.fixture
def worker(answering: FakeAnswering) -> Iterator[Worker]:
    worker = Worker(answering)
    yield worker
    answering.open.set()
    worker.close()


def wait_for(batches: list[int], count: int) -> None:
    end = time.monotonic() + 5
    while len(batches) < count and time.monotonic() < end:
        time.sleep(0.005)


def test_images_that_wait_together_go_together_and_in_order(worker: Worker, answering: FakeAnswering) -> None:
    answering.open.clear()
    futures: list[Any] = [worker.submit(image(1), heat=True)]
    wait_for(answering.batches, 1)
    futures += [worker.submit(image(n), heat=True) for n in range(6)]
    answering.open.set()
    assert len([future.result(5) for future in futures]) == 7
    assert answering.batches == [1, BATCH, 2]
    assert len(answering.threads) == 1
    assert threading.get_ident() not in answering.threads


def test_several_threads_share_those_who_wait(answering: FakeAnswering) -> None:
    worker = Worker(answering, 2)
    answering.open.clear()
    futures: list[Any] = []
    for count in (1, 2):
        futures.append(worker.submit(image(count), heat=True))
        wait_for(answering.batches, count)
    futures += [worker.submit(image(n), heat=True) for n in range(4)]
    answering.open.set()
    assert len([future.result(5) for future in futures]) == 6
    worker.close()
    # Two at once at first; of the four that wait then the first thread takes half, the rest in turn.
    assert answering.batches[:3] == [1, 1, 2]
    assert sum(answering.batches) == 6
    assert len(answering.threads) == 2


def test_heat_maps_are_made_for_those_who_asked(worker: Worker, answering: FakeAnswering) -> None:
    answering.open.clear()
    first = worker.submit(image(), heat=True)
    wait_for(answering.batches, 1)
    with_map, without = worker.submit(image(), heat=True), worker.submit(image(), heat=False)
    answering.open.set()
    assert first.result(5).heat is not None  # type: ignore[union-attr]
    assert with_map.result(5).heat is not None  # type: ignore[union-attr]
    assert without.result(5).heat is None  # type: ignore[union-attr]


def test_a_image_that_breaks_the_network_breaks_no_other(worker: Worker, answering: FakeAnswering) -> None:
    answering.error = RuntimeError("boom")
    answering.open.clear()
    futures = [worker.submit(image(), heat=True)]
    wait_for(answering.batches, 1)
    futures += [worker.submit(image(first), heat=True) for first in (1, 13, 2)]
    answering.open.set()
    assert [type(future.exception(5)) for future in futures] == [type(None), type(None), RuntimeError, type(None)]
    assert worker.submit(image(), heat=True).result(5)


def test_a_cancelled_image_is_passed_over(worker: Worker, answering: FakeAnswering) -> None:
    answering.open.clear()
    first = worker.submit(image(), heat=True)
    wait_for(answering.batches, 1)
    second = worker.submit(image(), heat=True)
    assert second.cancel()
    answering.open.set()
    assert first.result(5)
    assert worker.submit(image(), heat=True).result(5)
    assert sum(answering.batches) == 2


def test_closing_tells_those_who_wait(answering: FakeAnswering) -> None:
    worker = Worker(answering)
    answering.open.clear()
    worker.submit(image(), heat=True)
    wait_for(answering.batches, 1)
    closing = threading.Thread(target=worker.close)
    closing.start()
    time.sleep(0.05)
    late = worker.submit(image(), heat=True)
    answering.open.set()
    closing.join(5)
    assert isinstance(late.exception(5), LeftError)
