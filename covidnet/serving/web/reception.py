"""The way of one image through the server: read, answered, drawn, within a time and with a limit on those who wait."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import ClientDisconnect

from covidnet.base.errors import ImageRefusedError
from covidnet.base.names import counted
from covidnet.data.reading.images import decode_radiograph
from covidnet.serving.web.answer_json import answer_json
from covidnet.serving.web.limits import WebLimits
from covidnet.serving.web.pictures import preview_of
from covidnet.serving.web.web_error import WebError, busy, internal, place_of
from covidnet.serving.web.worker import Answers, LeftError, Worker

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from covidnet.data.loading.transforms import SquareFit
    from covidnet.data.reading.images import Radiograph
    from covidnet.serving.facts import ModelFacts

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")

# Decoders give up Python's lock for most of their time, and the network has the cores for the rest.
_READERS = 2

_SETTINGS = {"data.max_megapixels": "max_megapixels of the server", "use gate=warn": "start the server with gate=warn"}


@dataclass(eq=False)
class _Visit:
    """One request; whoever works for it looks first whether somebody still waits."""

    data: bytes
    heat: bool
    left: bool = False
    asked: Future[Any] | None = None


class RequestHandler:
    """Takes uploads and gives answers.

    Args:
        answering: the model and its input gate.
        fit: how an image becomes the network's square.
        facts: of the model.
        limits: of the server.
        workers: threads that call `answering` at once.
    """

    def __init__(
        self, answering: Answers, fit: SquareFit, facts: ModelFacts, limits: WebLimits, workers: int = 1
    ) -> None:
        self._fit = fit
        self._facts = facts
        self._limits = limits
        self._worker = Worker(answering, workers)
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="reader")
        self._visits: set[asyncio.Task[dict[str, Any]]] = set()

    def close(self) -> None:
        """End the threads; requests that wait get an error."""
        self._worker.close()
        self._readers.shutdown(wait=True, cancel_futures=True)

    def check_room(self) -> None:
        """Say no before an upload is taken in.

        Raises:
            WebError: as many images as may wait do so.
        """
        if len(self._visits) >= self._limits.queue:
            raise busy(f"{counted(len(self._visits), 'image is', 'images are')} waiting already")

    async def answer(self, data: bytes, heat: bool, gone: Callable[[], Awaitable[object]]) -> dict[str, Any]:
        """The answer on one file.

        Args:
            data: the file.
            heat: whether a heat map is wanted.
            gone: returns when the client has left.

        Raises:
            WebError: the file is refused, too many wait, or it takes too long.
            ClientDisconnect: the client has left.
        """
        self.check_room()
        visit = _Visit(data, heat)
        work = asyncio.create_task(self._work(visit))
        # It keeps its place until its threads are done with it, also when nobody waits any more.
        self._visits.add(work)
        work.add_done_callback(self._visits.discard)
        watch = asyncio.ensure_future(gone())
        try:
            await asyncio.wait({work, watch}, timeout=self._limits.answer_seconds, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                if work.cancelled():
                    raise busy("the server is closing")
                return work.result()
            if watch.done():
                raise ClientDisconnect
            seconds = self._limits.answer_seconds
            raise WebError(503, "timed_out", f"no answer within {seconds:g} seconds", "try again later", retry=seconds)
        finally:
            watch.cancel()
            if not work.done():
                visit.left = True
                if visit.asked is not None:
                    visit.asked.cancel()
                # Nobody asks for the result any more, and an error that nobody asks for would be logged.
                work.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _work(self, visit: _Visit) -> dict[str, Any]:
        try:
            image, preview = await self._read(visit, self._decode)
            visit.asked = self._worker.submit(image, visit.heat)
            answer = await asyncio.wrap_future(visit.asked)
            if isinstance(answer, ImageRefusedError):
                raise _refused("unsuitable_image", answer)
            draw = functools.partial(answer_json, answer, image.facts, preview, self._fit, self._facts)
            return await self._read(visit, lambda _: draw())
        except ImageRefusedError as error:
            raise _refused("unreadable_file", error) from None
        except (WebError, asyncio.CancelledError):
            raise
        except LeftError:
            raise busy("the server is closing") from None
        except Exception as error:
            # Neither the text nor the traceback: they might tell of what was uploaded.
            _LOG.error("internal error on an image: %s", place_of(error))
            raise internal() from None

    async def _read(self, visit: _Visit, work: Callable[[_Visit], _T]) -> _T:
        def checked() -> _T:
            if visit.left:
                raise LeftError
            return work(visit)

        return await asyncio.get_running_loop().run_in_executor(self._readers, checked)

    def _decode(self, visit: _Visit) -> tuple[Radiograph, npt.NDArray[np.uint8]]:
        data, visit.data = visit.data, b""
        # A data set without DICOM's preamble is known by a name alone; no other format begins like this.
        name = "upload.dcm" if data[:2] in (b"\x08\0", b"\x02\0") else "upload"
        image = decode_radiograph(
            data, name, max_megapixels=self._limits.max_megapixels, min_side=self._limits.min_side
        )
        return image, preview_of(image.pixels)


def _refused(code: str, error: ImageRefusedError) -> WebError:
    # What is a setting of a command elsewhere is one of the server here.
    remedy = error.remedy
    for setting, here in _SETTINGS.items():
        remedy = remedy.replace(setting, here)
    return WebError(422, code, error.cause, remedy)
