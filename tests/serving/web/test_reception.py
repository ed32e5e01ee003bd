"""Those who wait for an answer, those who wait too long, and those who go away."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import cv2
import pytest
from starlette.requests import ClientDisconnect

from covidnet.data.transforms import SquareFit
from covidnet.errors import ImageRefusedError
from covidnet.serving.web import reception as module
from covidnet.serving.web.limits import WebLimits
from covidnet.serving.web.reception import READERS, Reception, place_of, short_of_memory
from covidnet.serving.web.web_error import WebError
from tests.serving.web.fakes import FACTS, HOLDS, FakeAnswering, FakeDecoders
from tests.serving.web.servers import film_png


async def stays() -> None:
    await asyncio.sleep(60)


def within(
    answering: FakeAnswering,
    work: Callable[[Reception], Awaitable[Any]],
    decoders: FakeDecoders | None = None,
    **limits: Any,
) -> Any:
    async def run() -> Any:
        decodes: Any = decoders or FakeDecoders()
        reception = Reception(answering, decodes, SquareFit(32), FACTS, WebLimits(**limits))
        try:
            return await work(reception)
        finally:
            answering.open.set()
            reception.close()

    return asyncio.run(run())


def test_a_film_is_answered() -> None:
    found = within(FakeAnswering(), lambda reception: reception.answer(film_png(), True, stays))
    assert found["film"] == {"width": 96, "height": 96, "mode": "L"}
    assert found["heat"]["class"] == found["prediction"]


def test_more_films_than_may_wait_are_sent_away() -> None:
    answering = FakeAnswering()
    answering.open.clear()

    async def work(reception: Reception) -> list[Any]:
        waiting = [asyncio.create_task(reception.answer(film_png(), False, stays)) for _ in range(3)]
        await asyncio.sleep(0.1)
        with pytest.raises(WebError, match="3 images are waiting already") as caught:
            await reception.answer(film_png(), False, stays)
        assert (caught.value.status, caught.value.code) == (503, "busy")
        answering.open.set()
        found = await asyncio.gather(*waiting)
        assert (await reception.answer(film_png(), False, stays))["prediction"]
        return found

    assert len(within(answering, work, queue=3)) == 3


def test_an_answer_that_takes_too_long_is_given_up_and_keeps_its_place_while_it_is_at_work() -> None:
    answering = FakeAnswering()
    answering.open.clear()

    async def work(reception: Reception) -> None:
        with pytest.raises(WebError, match=r"no answer within 0\.2 seconds") as caught:
            await reception.answer(film_png(), False, stays)
        assert caught.value.status == 503
        assert "Retry-After" in caught.value.headers
        with pytest.raises(WebError, match="1 image is waiting already"):
            reception.check_room()
        answering.open.set()
        end = time.monotonic() + 5
        while reception._visits and time.monotonic() < end:
            await asyncio.sleep(0.01)
        reception.check_room()

    within(answering, work, queue=1, answer_seconds=0.2)


def test_a_client_that_leaves_costs_no_pass_of_the_network() -> None:
    answering = FakeAnswering()
    answering.open.clear()

    async def leaves() -> None:
        await asyncio.sleep(0.2)

    async def work(reception: Reception) -> None:
        first = asyncio.create_task(reception.answer(film_png(), False, stays))
        while not answering.batches:
            await asyncio.sleep(0.01)
        with pytest.raises(ClientDisconnect):
            await reception.answer(film_png(), False, leaves)
        answering.open.set()
        await first
        assert (await reception.answer(film_png(), False, stays))["prediction"]

    within(answering, work)
    assert sum(answering.batches) == 2


async def until(done: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not done() and time.monotonic() < end:
        await asyncio.sleep(0.01)
    assert done()


# Files that are decoded for ever


def test_files_that_hold_all_readers_are_killed_in_time_and_the_next_is_answered() -> None:
    decoders = FakeDecoders()

    async def work(reception: Reception) -> None:
        bad = [asyncio.create_task(reception.answer(HOLDS, False, stays, str(n))) for n in range(READERS)]
        await until(lambda: len(decoders.at_work) == READERS)
        await asyncio.sleep(0.5)
        # Half of its time is left when they are killed.
        assert (await reception.answer(film_png(), False, stays))["prediction"]
        assert decoders.at_work == []
        for one in bad:
            with pytest.raises(WebError, match="no answer within 1 seconds") as caught:
                await one
            assert (caught.value.status, caught.value.code) == (503, "timed_out")
        reception.check_room()

    within(FakeAnswering(), work, decoders, queue=READERS + 1, answer_seconds=1)
    assert 0 < decoders.seconds[READERS] < 1


def test_the_files_of_one_client_never_hold_all_readers() -> None:
    decoders = FakeDecoders()

    async def work(reception: Reception) -> None:
        gone = asyncio.Event()
        bad = [asyncio.create_task(reception.answer(HOLDS, False, gone.wait, "10.0.0.1")) for _ in range(5)]
        await until(lambda: len(decoders.at_work) == READERS - 1)
        assert (await reception.answer(film_png(), False, stays, "10.0.0.2"))["prediction"]
        await reception.check_ready()
        # Those that wait for their turn leave at once too.
        gone.set()
        await asyncio.wait(bad)
        assert [type(one.exception()) for one in bad] == [ClientDisconnect] * 5
        await until(lambda: not reception._visits)
        assert len(decoders.seconds) == READERS
        bad.clear()
        gc.collect()
        assert not reception._turns

    within(FakeAnswering(), work, decoders)


def test_what_is_left_of_the_time_is_told_to_the_decoder() -> None:
    decoders = FakeDecoders()
    within(FakeAnswering(), lambda reception: reception.answer(film_png(), False, stays), decoders, answer_seconds=7)
    assert 6 < decoders.seconds[0] <= 7


def test_a_client_that_leaves_frees_its_reader_and_its_place() -> None:
    decoders = FakeDecoders()

    async def work(reception: Reception) -> None:
        gone = asyncio.Event()
        bad = [asyncio.create_task(reception.answer(HOLDS, False, gone.wait, str(n % 2))) for n in range(6)]
        await until(lambda: len(decoders.at_work) == READERS)
        with pytest.raises(WebError, match="6 images are waiting already"):
            reception.check_room()
        gone.set()
        for one in bad:
            with pytest.raises(ClientDisconnect):
                await one
        await until(lambda: not reception._visits)
        assert len(decoders.seconds) == READERS
        assert (await reception.answer(film_png(), False, stays))["prediction"]

    within(FakeAnswering(), work, decoders, queue=6)


def test_an_answer_that_is_there_does_not_wait_for_the_readers() -> None:
    answering, decoders = FakeAnswering(), FakeDecoders()
    answering.open.clear()

    async def work(reception: Reception) -> None:
        good = asyncio.create_task(reception.answer(film_png(), True, stays))
        await until(lambda: bool(answering.batches))
        bad = [asyncio.create_task(reception.answer(HOLDS, False, stays, str(n))) for n in range(READERS)]
        await until(lambda: len(decoders.at_work) == READERS)
        answering.open.set()
        assert (await good)["heat"]
        for one in bad:
            one.cancel()
        await asyncio.wait(bad)

    within(answering, work, decoders)


def test_closing_ends_what_is_decoded_or_answered_in_seconds() -> None:
    answering, decoders = FakeAnswering(), FakeDecoders()
    answering.open.clear()

    async def work(reception: Reception) -> None:
        good = asyncio.create_task(reception.answer(film_png(), False, stays))
        await until(lambda: bool(answering.batches))
        bad = [asyncio.create_task(reception.answer(HOLDS, False, stays, str(n))) for n in range(READERS + 1)]
        await until(lambda: len(decoders.at_work) == READERS)
        start = time.monotonic()
        reception.close()
        assert time.monotonic() - start < 3
        for one in bad:
            with pytest.raises(WebError, match="the server is closing"):
                await one
        for asked in (reception.check_ready(), reception.answer(film_png(), False, stays)):
            with pytest.raises(WebError, match="the server is closing"):
                await asked
        answering.open.set()
        with pytest.raises(WebError, match="the server is closing"):
            await good

    within(answering, work, decoders)


def test_a_server_is_ready_while_a_reader_and_a_thread_of_the_network_are_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "READY_SECONDS", 0.2)
    answering, decoders = FakeAnswering(), FakeDecoders()

    async def work(reception: Reception) -> None:
        await reception.check_ready()
        gone = asyncio.Event()
        bad = [asyncio.create_task(reception.answer(HOLDS, False, gone.wait, str(n))) for n in range(READERS)]
        await until(lambda: len(decoders.at_work) == READERS)
        with pytest.raises(WebError, match=r"no reader is free within 0\.2 seconds") as caught:
            await reception.check_ready()
        assert caught.value.status == 503
        gone.set()
        await asyncio.wait(bad)
        for one in bad:
            assert isinstance(one.exception(), ClientDisconnect)
        await reception.check_ready()
        answering.open.clear()
        good = asyncio.create_task(reception.answer(film_png(), False, stays))
        await until(lambda: bool(answering.batches))
        with pytest.raises(WebError, match="no thread of the network is free"):
            await reception.check_ready()
        answering.open.set()
        await good
        await reception.check_ready()

    within(answering, work, decoders)


# A machine without memory


SHORT = [
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    OSError(errno.ENOSPC, "No space left on device"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("can't start new thread"),
    RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc"),
    cv2.error("OpenCV(4.11.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 99 bytes"),
]


@pytest.mark.parametrize("error", SHORT, ids=[repr(error)[:30] for error in SHORT])
def test_a_machine_without_memory_is_not_the_image_s_fault(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: Any) -> Any:
        raise error

    assert short_of_memory(error)
    for answering, decoders in (
        (FakeAnswering(), FakeDecoders(error=error)),
        (FakeAnswering(error=error), FakeDecoders()),
        (FakeAnswering(), FakeDecoders()),
    ):
        if answering.error is None and decoders.error is None:
            monkeypatch.setattr(module, "answer_json", fails)
        with pytest.raises(WebError, match="short of memory") as caught:
            within(answering, lambda reception: reception.answer(film_png(first=13), False, stays), decoders)
        assert (caught.value.status, caught.value.code) == (503, "busy")
        assert caught.value.headers["Retry-After"]


def test_an_image_that_needs_too_much_is_refused_itself() -> None:
    decoders = FakeDecoders(error=ImageRefusedError("upload", "needed more than 1.5 GB", "export it smaller"))
    with pytest.raises(WebError, match=r"needed more than 1\.5 GB") as caught:
        within(FakeAnswering(), lambda reception: reception.answer(film_png(), False, stays), decoders)
    assert caught.value.status == 422
    assert not short_of_memory(ValueError("bad header"))
    assert not short_of_memory(FileNotFoundError(errno.ENOENT, "No such file"))


def test_what_fails_inside_is_logged_by_its_place_and_not_by_its_text(caplog: pytest.LogCaptureFixture) -> None:
    answering = FakeAnswering(error=RuntimeError("patient Anna, /home/anna/film.png"))
    with caplog.at_level(logging.INFO), pytest.raises(WebError) as caught:
        within(answering, lambda reception: reception.answer(film_png(first=13), False, stays))
    assert caught.value.status == 500
    told = caplog.text + str(caught.value.body())
    assert "RuntimeError in tests.serving.web.fakes, line" in caplog.text
    assert "anna" not in told.lower()
    assert "Traceback" not in told


def test_the_place_of_an_error_that_was_never_raised() -> None:
    assert place_of(ValueError("x")) == "ValueError"
