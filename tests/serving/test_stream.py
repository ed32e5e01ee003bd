"""Any number of films through a model, in their order and few at a time."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from covidnet.data.images import Film, ImageFacts
from covidnet.errors import ImageRefusedError
from covidnet.serving.stream import BATCH, Share, answered


def film(number: int) -> Film:
    return Film(np.full((8, 8), number % 256, np.uint8), ImageFacts("", 8, 8, "L", 1), 0.0, None)


class _Answering:
    """Answers with the film's grey and its name, after a while that differs; counts who is at work."""

    def __init__(self) -> None:
        self.lock, self.now, self.most, self.batches = threading.Lock(), 0, 0, []

    def answer(self, films: list[Film], *, names: list[str], heat: bool) -> list[Any]:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            self.batches.append(len(films))
        time.sleep(0.002 * (int(films[0].pixels[0, 0]) % 3) if films else 0)
        with self.lock:
            self.now -= 1
        return [(int(one.pixels[0, 0]), name, heat) for one, name in zip(films, names, strict=True)]


def read(number: int) -> Film:
    if number % 10 == 7:
        raise ImageRefusedError(f"film {number}", "not an image", "use another")
    return film(number)


@pytest.mark.parametrize("passes", [1, 2, 4])
@pytest.mark.parametrize("count", [0, 1, 8, 100])
def test_answers_come_in_the_order_of_the_films(passes: int, count: int) -> None:
    answering = _Answering()
    found = list(answered(answering, range(count), read, name="film {}".format, heat=True, passes=passes))  # type: ignore[arg-type]
    assert [number for number, _, _ in found] == list(range(count))
    for number, given, answer in found:
        if number % 10 == 7:
            assert given is None
            assert isinstance(answer, ImageRefusedError)
            assert answer.path == f"film {number}"
        else:
            assert given is not None
            assert answer == (number, f"film {number}", True)
    assert max(answering.batches, default=0) <= BATCH
    assert answering.most <= passes


def test_passes_of_the_network_run_side_by_side() -> None:
    answering, both = _Answering(), threading.Barrier(2, timeout=5)
    answering.answer = lambda films, **_: (both.wait(), films)[1]  # type: ignore[method-assign]
    assert len(list(answered(answering, range(2 * BATCH), film, name=str, passes=2))) == 2 * BATCH  # type: ignore[arg-type]


def test_few_films_are_read_before_they_are_needed() -> None:
    begun: list[int] = []

    def noted(number: int) -> Film:
        begun.append(number)
        return film(number)

    stream = answered(_Answering(), iter(range(10_000)), noted, name=str, passes=2)  # type: ignore[arg-type]
    for _ in range(100):
        next(stream)
    time.sleep(0.05)
    assert len(begun) <= 100 + 7 * BATCH
    stream.close()


def test_what_breaks_while_one_film_is_read_or_answered_costs_that_film() -> None:
    def broken(number: int) -> Film:
        if number == 3:
            raise MemoryError("no room")
        return film(number)

    class _Sensitive(_Answering):
        def answer(self, films: list[Film], *, names: list[str], heat: bool) -> list[Any]:
            if any(one.pixels[0, 0] == 5 for one in films):
                raise RuntimeError("no such film")
            return super().answer(films, names=names, heat=heat)

    found = list(answered(_Sensitive(), range(30), broken, name="film {}".format))  # type: ignore[arg-type]
    assert [number for number, _, _ in found] == list(range(30))
    refused = {number: answer for number, _, answer in found if isinstance(answer, ImageRefusedError)}
    assert {number: error.path for number, error in refused.items()} == {3: "film 3", 5: "film 5"}
    assert "MemoryError: no room" in refused[3].cause
    assert "RuntimeError: no such film" in refused[5].cause
    assert all(answer == (number, f"film {number}", False) for number, _, answer in found if number not in refused)


def test_what_breaks_for_every_film_is_the_models_fault_and_raised() -> None:
    answering = _Answering()
    answering.answer = lambda films, **_: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        list(answered(answering, range(30), film, name=str, passes=2))  # type: ignore[arg-type]


def test_all_cores_are_used_and_none_twice() -> None:
    for cores in range(1, 130):
        share = Share.of_cores(cores)
        assert share.passes * share.threads <= cores
        assert share.passes * (share.threads + 1) > cores
        assert share.passes <= 4
