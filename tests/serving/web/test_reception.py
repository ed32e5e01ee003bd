"""Those who wait for an answer, those who wait too long, and those who go away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from covidnet.data.loading.transforms import SquareFit
from covidnet.serving.web.limits import WebLimits
from covidnet.serving.web.reception import RequestHandler
from covidnet.serving.web.web_error import WebError, place_of
from tests.serving.web.fakes import FACTS, FakeAnswering
from tests.serving.web.servers import image_png


async def stays() -> None:
    await asyncio.sleep(60)


def within(answering: FakeAnswering, work: Callable[[RequestHandler], Awaitable[Any]], **limits: Any) -> Any:
    async def run() -> Any:
        reception = RequestHandler(answering, SquareFit(32), FACTS, WebLimits(**limits))
        try:
            return await work(reception)
        finally:
            answering.open.set()
            reception.close()

    return asyncio.run(run())


def test_a_image_is_answered() -> None:
    found = within(FakeAnswering(), lambda reception: reception.answer(image_png(), True, stays))
    assert found["image"] == {"width": 96, "height": 96, "mode": "L"}
    assert found["heat"]["class"] == found["prediction"]


def test_more_images_than_may_wait_are_sent_away() -> None:
    answering = FakeAnswering()
    answering.open.clear()

    async def work(reception: RequestHandler) -> list[Any]:
        waiting = [asyncio.create_task(reception.answer(image_png(), False, stays)) for _ in range(3)]
        await asyncio.sleep(0.1)
        with pytest.raises(WebError, match="3 images are waiting already") as caught:
            await reception.answer(image_png(), False, stays)
        assert (caught.value.status, caught.value.code) == (503, "busy")
        answering.open.set()
        found = await asyncio.gather(*waiting)
        assert (await reception.answer(image_png(), False, stays))["prediction"]
        return found

    assert len(within(answering, work, queue=3)) == 3


def test_an_answer_that_takes_too_long_is_given_up_and_keeps_its_place_while_it_is_at_work() -> None:
    answering = FakeAnswering()
    answering.open.clear()

    async def work(reception: RequestHandler) -> None:
        with pytest.raises(WebError, match=r"no answer within 0\.2 seconds") as caught:
            await reception.answer(image_png(), False, stays)
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

    async def work(reception: RequestHandler) -> None:
        first = asyncio.create_task(reception.answer(image_png(), False, stays))
        while not answering.batches:
            await asyncio.sleep(0.01)
        with pytest.raises(ClientDisconnect):
            await reception.answer(image_png(), False, leaves)
        answering.open.set()
        await first
        assert (await reception.answer(image_png(), False, stays))["prediction"]

    within(answering, work)
    assert sum(answering.batches) == 2


def test_what_fails_inside_is_logged_by_its_place_and_not_by_its_text(caplog: pytest.LogCaptureFixture) -> None:
    answering = FakeAnswering(error=RuntimeError("patient Anna, /home/anna/image.png"))
    with caplog.at_level(logging.INFO), pytest.raises(WebError) as caught:
        within(answering, lambda reception: reception.answer(image_png(first=13), False, stays))
    assert caught.value.status == 500
    told = caplog.text + str(caught.value.body())
    assert "RuntimeError in tests.serving.web.fakes, line" in caplog.text
    assert "anna" not in told.lower()
    assert "Traceback" not in told


def test_the_place_of_an_error_that_was_never_raised() -> None:
    assert place_of(ValueError("x")) == "ValueError"
