"""Streaming images through a model: in order, a few at a time."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from covidnet.base.errors import ImageRefusedError
from covidnet.data.reading.images import ImageFacts, Radiograph
from covidnet.serving.stream import BATCH, Share, answered


def image(number: int) -> Radiograph:
    return Radiograph(np.full((8, 8), number % 256, np.uint8), ImageFacts("", 8, 8, "L", 1), 0.0, None)


class _Answering:
    """Answers with the image's grey value and name after a varying delay; counts concurrent calls."""

    def __init__(self) -> None:
        self.lock, self.now, self.most, self.batches = threading.Lock(), 0, 0, []

    def answer(self, images: list[Radiograph], *, names: list[str], heat: bool) -> list[Any]:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            self.batches.append(len(images))
        time.sleep(0.002 * (int(images[0].pixels[0, 0]) % 3) if images else 0)
        with self.lock:
            self.now -= 1
        return [(int(one.pixels[0, 0]), name, heat) for one, name in zip(images, names, strict=True)]


def read(number: int) -> Radiograph:
    if number % 10 == 7:
        raise ImageRefusedError(f"image {number}", "not an image", "use another")
    return image(number)


@pytest.mark.parametrize("passes", [1, 2, 4])
@pytest.mark.parametrize("count", [0, 1, 8, 100])
def test_answers_come_in_the_order_of_the_images(passes: int, count: int) -> None:
    answering = _Answering()
    found = list(answered(answering, range(count), read, name="image {}".format, heat=True, passes=passes))  # type: ignore[arg-type]
    assert [number for number, _, _ in found] == list(range(count))
    for number, given, answer in found:
        if number % 10 == 7:
            assert given is None
            assert isinstance(answer, ImageRefusedError)
            assert answer.path == f"image {number}"
        else:
            assert given is not None
            assert answer == (number, f"image {number}", True)
    assert max(answering.batches, default=0) <= BATCH
    assert answering.most <= passes


def test_passes_of_the_network_run_concurrently() -> None:
    answering, both = _Answering(), threading.Barrier(2, timeout=5)
    answering.answer = lambda images, **_: (both.wait(), images)[1]  # type: ignore[method-assign]
    assert len(list(answered(answering, range(2 * BATCH), image, name=str, passes=2))) == 2 * BATCH  # type: ignore[arg-type]


def test_few_images_are_read_before_they_are_needed() -> None:
    begun: list[int] = []

    def noted(number: int) -> Radiograph:
        begun.append(number)
        return image(number)

    stream = answered(_Answering(), iter(range(10_000)), noted, name=str, passes=2)  # type: ignore[arg-type]
    for _ in range(100):
        next(stream)
    time.sleep(0.05)
    assert len(begun) <= 100 + 7 * BATCH
    stream.close()


def test_a_failure_on_one_image_affects_only_that_image() -> None:
    def broken(number: int) -> Radiograph:
        if number == 3:
            raise MemoryError("no room")
        return image(number)

    class _Sensitive(_Answering):
        def answer(self, images: list[Radiograph], *, names: list[str], heat: bool) -> list[Any]:
            if any(one.pixels[0, 0] == 5 for one in images):
                raise RuntimeError("no such image")
            return super().answer(images, names=names, heat=heat)

    found = list(answered(_Sensitive(), range(30), broken, name="image {}".format))  # type: ignore[arg-type]
    assert [number for number, _, _ in found] == list(range(30))
    refused = {number: answer for number, _, answer in found if isinstance(answer, ImageRefusedError)}
    assert {number: error.path for number, error in refused.items()} == {3: "image 3", 5: "image 5"}
    assert "MemoryError: no room" in refused[3].cause
    assert "RuntimeError: no such image" in refused[5].cause
    assert all(answer == (number, f"image {number}", False) for number, _, answer in found if number not in refused)


def test_a_failure_on_every_image_is_raised() -> None:
    answering = _Answering()
    answering.answer = lambda images, **_: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        list(answered(answering, range(30), image, name=str, passes=2))  # type: ignore[arg-type]


def test_all_cores_are_used_once() -> None:
    for cores in range(1, 130):
        share = Share.of_cores(cores)
        assert share.passes * share.threads <= cores
        assert share.passes * (share.threads + 1) > cores
        assert share.passes <= 4
