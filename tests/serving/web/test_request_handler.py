"""Requests that wait, time out, or are abandoned by their client."""

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

from covidnet.base.errors import ImageRefusedError
from covidnet.data.loading.transforms import SquareFit
from covidnet.serving.web import request_handler as module
from covidnet.serving.web.limits import WebLimits
from covidnet.serving.web.request_handler import READERS, RequestHandler, short_of_memory
from covidnet.serving.web.web_error import WebError, place_of
from covidnet.serving.web.worker import Worker
from tests.serving.web.fakes import FACTS, HOLDS, FakeDecoders, FakePredictor
from tests.serving.web.servers import image_png


async def stays() -> None:
    await asyncio.sleep(60)


def within(
    predictor: FakePredictor,
    work: Callable[[RequestHandler], Awaitable[Any]],
    decoders: FakeDecoders | None = None,
    **limits: Any,
) -> Any:
    async def run() -> Any:
        decodes: Any = decoders or FakeDecoders()
        handler = RequestHandler(predictor, decodes, SquareFit(32), FACTS, WebLimits(**limits))
        try:
            return await work(handler)
        finally:
            predictor.open.set()
            handler.close()

    return asyncio.run(run())


def test_an_image_is_answered() -> None:
    found = within(FakePredictor(), lambda handler: handler.answer(image_png(), True, stays))
    assert found["image"] == {"width": 96, "height": 96, "mode": "L"}
    assert found["heat"]["class"] == found["prediction"]


def test_images_beyond_the_queue_are_rejected() -> None:
    predictor = FakePredictor()
    predictor.open.clear()

    async def work(handler: RequestHandler) -> list[Any]:
        waiting = [asyncio.create_task(handler.answer(image_png(), False, stays)) for _ in range(3)]
        await asyncio.sleep(0.1)
        with pytest.raises(WebError, match="3 images are already waiting") as caught:
            await handler.answer(image_png(), False, stays)
        assert (caught.value.status, caught.value.code) == (503, "busy")
        predictor.open.set()
        found = await asyncio.gather(*waiting)
        assert (await handler.answer(image_png(), False, stays))["prediction"]
        return found

    assert len(within(predictor, work, queue=3)) == 3


def test_a_request_times_out_and_keeps_its_place_until_its_work_ends() -> None:
    predictor = FakePredictor()
    predictor.open.clear()

    async def work(handler: RequestHandler) -> None:
        with pytest.raises(WebError, match=r"no answer within 0\.2 seconds") as caught:
            await handler.answer(image_png(), False, stays)
        assert caught.value.status == 503
        assert "Retry-After" in caught.value.headers
        with pytest.raises(WebError, match="1 image is already waiting"):
            handler.check_room()
        predictor.open.set()
        end = time.monotonic() + 5
        while handler._jobs and time.monotonic() < end:
            await asyncio.sleep(0.01)
        handler.check_room()

    within(predictor, work, queue=1, answer_seconds=0.2)


def test_an_abandoned_image_does_not_reach_the_network() -> None:
    predictor = FakePredictor()
    predictor.open.clear()

    async def leaves() -> None:
        await asyncio.sleep(0.2)

    async def work(handler: RequestHandler) -> None:
        first = asyncio.create_task(handler.answer(image_png(), False, stays))
        while not predictor.batches:
            await asyncio.sleep(0.01)
        with pytest.raises(ClientDisconnect):
            await handler.answer(image_png(), False, leaves)
        predictor.open.set()
        await first
        assert (await handler.answer(image_png(), False, stays))["prediction"]

    within(predictor, work)
    assert sum(predictor.batches) == 2


async def until(done: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not done() and time.monotonic() < end:
        await asyncio.sleep(0.01)
    assert done()


# Files that never finish decoding


@pytest.mark.slow
def test_files_that_block_all_readers_time_out_and_the_next_is_answered() -> None:
    decoders = FakeDecoders()

    async def work(handler: RequestHandler) -> None:
        bad = [asyncio.create_task(handler.answer(HOLDS, False, stays, str(n))) for n in range(READERS)]
        await until(lambda: len(decoders.at_work) == READERS)
        await asyncio.sleep(1)
        # Half of its time is left when their decoders are killed.
        assert (await handler.answer(image_png(), False, stays))["prediction"]
        await until(lambda: not decoders.at_work)
        for one in bad:
            with pytest.raises(WebError, match="no answer within 2 seconds") as caught:
                await one
            assert (caught.value.status, caught.value.code) == (503, "timed_out")
        handler.check_room()

    within(FakePredictor(), work, decoders, queue=READERS + 1, answer_seconds=2)
    assert 0 < decoders.seconds[READERS] < 2


def test_the_files_of_one_client_never_block_all_readers() -> None:
    decoders = FakeDecoders()

    async def work(handler: RequestHandler) -> None:
        gone = asyncio.Event()
        bad = [asyncio.create_task(handler.answer(HOLDS, False, gone.wait, "10.0.0.1")) for _ in range(5)]
        await until(lambda: len(decoders.at_work) == READERS - 1)
        assert (await handler.answer(image_png(), False, stays, "10.0.0.2"))["prediction"]
        await handler.check_ready()
        # Waiting requests can be abandoned at once too.
        gone.set()
        await asyncio.wait(bad)
        assert [type(one.exception()) for one in bad] == [ClientDisconnect] * 5
        await until(lambda: not handler._jobs)
        assert len(decoders.seconds) == READERS
        bad.clear()
        gc.collect()
        assert not handler._turns

    within(FakePredictor(), work, decoders)


def test_the_decoder_gets_the_remaining_time() -> None:
    decoders = FakeDecoders()
    within(FakePredictor(), lambda handler: handler.answer(image_png(), False, stays), decoders, answer_seconds=7)
    assert 6 < decoders.seconds[0] <= 7


def test_an_abandoned_request_frees_its_reader_and_its_place() -> None:
    decoders = FakeDecoders()

    async def work(handler: RequestHandler) -> None:
        gone = asyncio.Event()
        bad = [asyncio.create_task(handler.answer(HOLDS, False, gone.wait, str(n % 2))) for n in range(6)]
        await until(lambda: len(decoders.at_work) == READERS)
        with pytest.raises(WebError, match="6 images are already waiting"):
            handler.check_room()
        gone.set()
        for one in bad:
            with pytest.raises(ClientDisconnect):
                await one
        await until(lambda: not handler._jobs)
        assert len(decoders.seconds) == READERS
        assert (await handler.answer(image_png(), False, stays))["prediction"]

    within(FakePredictor(), work, decoders, queue=6)


def test_a_finished_answer_does_not_wait_for_the_readers() -> None:
    predictor, decoders = FakePredictor(), FakeDecoders()
    predictor.open.clear()

    async def work(handler: RequestHandler) -> None:
        good = asyncio.create_task(handler.answer(image_png(), True, stays))
        await until(lambda: bool(predictor.batches))
        bad = [asyncio.create_task(handler.answer(HOLDS, False, stays, str(n))) for n in range(READERS)]
        await until(lambda: len(decoders.at_work) == READERS)
        predictor.open.set()
        assert (await good)["heat"]
        for one in bad:
            one.cancel()
        await asyncio.wait(bad)

    within(predictor, work, decoders)


@pytest.mark.slow
def test_closing_stops_all_work_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker.close, "__defaults__", (0.2,))
    predictor, decoders = FakePredictor(), FakeDecoders()
    predictor.open.clear()

    async def work(handler: RequestHandler) -> None:
        good = asyncio.create_task(handler.answer(image_png(), False, stays))
        await until(lambda: bool(predictor.batches))
        bad = [asyncio.create_task(handler.answer(HOLDS, False, stays, str(n))) for n in range(READERS + 1)]
        await until(lambda: len(decoders.at_work) == READERS)
        start = time.monotonic()
        handler.close()
        assert time.monotonic() - start < 2
        for one in bad:
            with pytest.raises(WebError, match="the server is closing"):
                await one
        for asked in (handler.check_ready(), handler.answer(image_png(), False, stays)):
            with pytest.raises(WebError, match="the server is closing"):
                await asked
        predictor.open.set()
        with pytest.raises(WebError, match="the server is closing"):
            await good

    within(predictor, work, decoders)


def test_a_server_is_ready_while_a_reader_and_a_network_thread_are_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "READY_SECONDS", 0.2)
    predictor, decoders = FakePredictor(), FakeDecoders()

    async def work(handler: RequestHandler) -> None:
        await handler.check_ready()
        gone = asyncio.Event()
        bad = [asyncio.create_task(handler.answer(HOLDS, False, gone.wait, str(n))) for n in range(READERS)]
        await until(lambda: len(decoders.at_work) == READERS)
        with pytest.raises(WebError, match=r"no reader is free within 0\.2 seconds") as caught:
            await handler.check_ready()
        assert caught.value.status == 503
        gone.set()
        await asyncio.wait(bad)
        for one in bad:
            assert isinstance(one.exception(), ClientDisconnect)
        await until(lambda: not decoders.at_work)
        await handler.check_ready()
        predictor.open.clear()
        good = asyncio.create_task(handler.answer(image_png(), False, stays))
        await until(lambda: bool(predictor.batches))
        with pytest.raises(WebError, match="no network thread is free"):
            await handler.check_ready()
        predictor.open.set()
        await good
        await handler.check_ready()

    within(predictor, work, decoders)


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
def test_an_image_is_not_blamed_for_a_machine_without_memory(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: Any) -> Any:
        raise error

    assert short_of_memory(error)
    for predictor, decoders in (
        (FakePredictor(), FakeDecoders(error=error)),
        (FakePredictor(error=error), FakeDecoders()),
        (FakePredictor(), FakeDecoders()),
    ):
        if predictor.error is None and decoders.error is None:
            monkeypatch.setattr(module, "answer_json", fails)
        with pytest.raises(WebError, match="short of memory") as caught:
            within(predictor, lambda handler: handler.answer(image_png(first=13), False, stays), decoders)
        assert (caught.value.status, caught.value.code) == (503, "busy")
        assert caught.value.headers["Retry-After"]


def test_an_image_that_needs_too_much_memory_is_refused() -> None:
    decoders = FakeDecoders(error=ImageRefusedError("upload", "needed more than 1.5 GB", "export it smaller"))
    with pytest.raises(WebError, match=r"needed more than 1\.5 GB") as caught:
        within(FakePredictor(), lambda handler: handler.answer(image_png(), False, stays), decoders)
    assert caught.value.status == 422
    assert not short_of_memory(ValueError("bad header"))
    assert not short_of_memory(FileNotFoundError(errno.ENOENT, "No such file"))


def test_internal_errors_are_logged_by_place_without_their_text(caplog: pytest.LogCaptureFixture) -> None:
    predictor = FakePredictor(error=RuntimeError("patient Anna, /home/anna/image.png"))
    with caplog.at_level(logging.INFO), pytest.raises(WebError) as caught:
        within(predictor, lambda handler: handler.answer(image_png(first=13), False, stays))
    assert caught.value.status == 500
    told = caplog.text + str(caught.value.body())
    assert "RuntimeError in tests.serving.web.fakes, line" in caplog.text
    assert "anna" not in told.lower()
    assert "Traceback" not in told


def test_the_place_of_an_error_that_was_never_raised() -> None:
    assert place_of(ValueError("x")) == "ValueError"
