"""The way of one film through the server: read, answered, drawn, within a time and with a limit on those who wait."""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import re
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from starlette.requests import ClientDisconnect

from covidnet.data.decoders import DecoderError, ShortOfMemoryError
from covidnet.errors import ImageRefusedError
from covidnet.names import counted
from covidnet.serving.web.answer_json import answer_json
from covidnet.serving.web.limits import WebLimits
from covidnet.serving.web.pictures import preview_of
from covidnet.serving.web.web_error import WebError, busy, internal
from covidnet.serving.web.worker import Answers, LeftError, Worker

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from covidnet.data.decoders import Decoders
    from covidnet.data.images import Film
    from covidnet.data.transforms import SquareFit
    from covidnet.serving.facts import ModelFacts

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")

READERS = 3
"""Files that are decoded at once, of one client one less: its files may be made to hold whatever reads them."""

READY_SECONDS = 2.0
"""How long a reader and a thread of the network may take to be free in a server that is ready."""

_SETTINGS = {"data.max_megapixels": "max_megapixels of the server", "use gate=warn": "start the server with gate=warn"}

# Libraries that say in words alone that the machine has no more memory, or no more threads.
_SHORT = re.compile(
    "can.?t allocate|cannot allocate|failed to allocate|bad_alloc|out of memory|insufficient memory|not enough memory"
    "|can.?t start new thread",
    re.IGNORECASE,
)
_SHORT_NUMBERS = {errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ENOBUFS}


@dataclass(eq=False)
class _Visit:
    """One request; whoever works for it looks first whether somebody still waits."""

    data: bytes
    heat: bool
    client: str
    end: float
    left: threading.Event = field(default_factory=threading.Event)
    asked: Future[Any] | None = None

    def leave(self) -> None:
        """Nobody waits any more: what has begun is stopped where it can be, and what has not is not begun."""
        self.left.set()
        if self.asked is not None:
            self.asked.cancel()


class Reception:
    """Takes uploads and gives answers.

    Args:
        answering: the model and its input gate.
        decoders: decode films; closed with it.
        fit: how a film becomes the network's square.
        facts: of the model.
        limits: of the server.
        workers: threads that call `answering` at once.
    """

    def __init__(
        self,
        answering: Answers,
        decoders: Decoders,
        fit: SquareFit,
        facts: ModelFacts,
        limits: WebLimits,
        workers: int = 1,
    ) -> None:
        self._decoders = decoders
        self._fit = fit
        self._facts = facts
        self._limits = limits
        self._worker = Worker(answering, workers)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="reader")
        # Of its own: an answer that is there does not wait for files that are being decoded.
        self._drawers = ThreadPoolExecutor(READERS, thread_name_prefix="drawer")
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._visits: set[asyncio.Task[dict[str, Any]]] = set()
        self._closing = False

    def close(self) -> None:
        """End whatever is at work within seconds; requests that wait get an error."""
        self._closing = True
        self._decoders.close()
        for threads in (self._readers, self._drawers):
            threads.shutdown(wait=False, cancel_futures=True)
        self._worker.close()

    def check_room(self) -> None:
        """Say no before an upload is taken in.

        Raises:
            WebError: as many films as may wait do so, or the server is closing.
        """
        if self._closing:
            raise busy("the server is closing")
        if len(self._visits) >= self._limits.queue:
            raise busy(f"{counted(len(self._visits), 'image is', 'images are')} waiting already")

    async def check_ready(self) -> None:
        """Wait until an image that came now would be taken up.

        Raises:
            WebError: no reader or no thread of the network was free within `READY_SECONDS`, or the server is closing.
        """
        if self._closing:
            raise busy("the server is closing")
        what = "reader"
        try:
            async with asyncio.timeout(READY_SECONDS):
                await asyncio.wrap_future(self._readers.submit(int))
                what = "thread of the network"
                await asyncio.wrap_future(self._worker.free())
        except (TimeoutError, LeftError):
            raise busy(f"no {what} is free within {READY_SECONDS:g} seconds") from None

    async def answer(
        self, data: bytes, heat: bool, gone: Callable[[], Awaitable[object]], client: str = ""
    ) -> dict[str, Any]:
        """The answer on one file.

        Args:
            data: the file.
            heat: whether a heat map is wanted.
            gone: returns when the client has left.
            client: whose file it is.

        Raises:
            WebError: the file is refused, too many wait, or it takes too long.
            ClientDisconnect: the client has left.
        """
        self.check_room()
        seconds = self._limits.answer_seconds
        visit = _Visit(data, heat, client, time.monotonic() + seconds)
        work = asyncio.create_task(self._work(visit))
        # It keeps its place until its threads are done with it, which is soon where nobody waits any more.
        self._visits.add(work)
        work.add_done_callback(self._visits.discard)
        watch = asyncio.ensure_future(gone())
        try:
            await asyncio.wait({work, watch}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                if work.cancelled():
                    raise busy("the server is closing")
                return work.result()
            if watch.done():
                raise ClientDisconnect
            raise _timed_out(seconds)
        finally:
            watch.cancel()
            if not work.done():
                visit.leave()
                if visit.asked is None:
                    # It waits for its turn.
                    work.cancel()
                # Nobody asks for the result any more, and an error that nobody asks for would be logged.
                work.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _work(self, visit: _Visit) -> dict[str, Any]:
        try:
            turn = self._turns.setdefault(visit.client, asyncio.Semaphore(READERS - 1))
            async with turn:
                film, preview = await self._within(visit, self._readers, lambda: self._decode(visit))
            if visit.left.is_set():
                raise LeftError
            visit.asked = self._worker.submit(film, visit.heat)
            answer = await asyncio.wrap_future(visit.asked)
            if isinstance(answer, ImageRefusedError):
                raise _refused("unsuitable_film", answer)
            draw = functools.partial(answer_json, answer, film.facts, preview, self._fit, self._facts)
            return await self._within(visit, self._drawers, draw)
        except ShortOfMemoryError:
            _LOG.error("short of memory: the decoder of an image")
            raise busy("the server is short of memory") from None
        except ImageRefusedError as error:
            if time.monotonic() >= visit.end:
                # It waited for a reader, so that the time was not the file's alone.
                raise _timed_out(self._limits.answer_seconds) from None
            raise _refused("unreadable_file", error) from None
        except (WebError, asyncio.CancelledError):
            raise
        except Exception as error:
            if self._closing or visit.left.is_set() or isinstance(error, LeftError):
                raise busy("the server is closing") from None
            if isinstance(error, DecoderError):
                _LOG.error("%s", error)
                raise busy("no decoder is free") from None
            if short_of_memory(error):
                _LOG.error("short of memory: %s", place_of(error))
                raise busy("the server is short of memory") from None
            # Neither the text nor the traceback: they might tell of what was uploaded.
            _LOG.error("internal error on a film: %s", place_of(error))
            raise internal() from None

    async def _within(self, visit: _Visit, threads: ThreadPoolExecutor, work: Callable[[], _T]) -> _T:
        def checked() -> _T:
            if visit.left.is_set():
                raise LeftError
            return work()

        future = threads.submit(checked)
        visit.asked = future
        return await asyncio.wrap_future(future)

    def _decode(self, visit: _Visit) -> tuple[Film, npt.NDArray[np.uint8]]:
        data, visit.data = visit.data, b""
        # A data set without DICOM's preamble is known by a name alone; no other format begins like this.
        name = "upload.dcm" if data[:2] in (b"\x08\0", b"\x02\0") else "upload"
        film = self._decoders.decode(data, name, seconds=visit.end - time.monotonic(), left=visit.left)
        return film, preview_of(film.pixels)


def short_of_memory(error: BaseException) -> bool:
    """Whether what failed is the machine, which has no more memory, threads or files, and not the work.

    Args:
        error: of a library; some tell it in words alone.
    """
    if isinstance(error, OSError):
        return error.errno in _SHORT_NUMBERS
    return isinstance(error, MemoryError) or bool(_SHORT.search(str(error)))


def _timed_out(seconds: float) -> WebError:
    return WebError(503, "timed_out", f"no answer within {seconds:g} seconds", "try again later", retry=seconds)


def _refused(code: str, error: ImageRefusedError) -> WebError:
    # What is a setting of a command elsewhere is one of the server here.
    remedy = error.remedy
    for setting, here in _SETTINGS.items():
        remedy = remedy.replace(setting, here)
    return WebError(422, code, error.cause, remedy)


def place_of(error: BaseException) -> str:
    """The type of an error and where it arose, without its text."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" in {trace.tb_frame.f_globals.get('__name__')}, line {trace.tb_lineno}" if trace is not None else ""
    return f"{type(error).__name__}{where}"
