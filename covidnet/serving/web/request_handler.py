"""Handle uploads: decode, predict and draw an image within a time limit, with a limited queue."""

from __future__ import annotations

import asyncio
import errno
import functools
import hashlib
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

from covidnet.base.errors import ImageRefusedError
from covidnet.base.names import counted
from covidnet.data.reading.decoders import DecoderError, ShortOfMemoryError
from covidnet.serving.web.answer_json import answer_json
from covidnet.serving.web.limits import WebLimits
from covidnet.serving.web.pictures import preview_of
from covidnet.serving.web.web_error import WebError, busy, internal, place_of
from covidnet.serving.web.worker import AbandonedError, Answers, Worker

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from covidnet.data.loading.transforms import SquareFit
    from covidnet.data.reading.decoders import Decoders
    from covidnet.data.reading.images import Radiograph
    from covidnet.serving.facts import ModelFacts

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")

READERS = 3
"""Files decoded at once; one client gets one less, so that malicious files cannot block all decoders."""

READY_SECONDS = 2.0
"""How long a reader and a network thread may take to become free in a server that is ready."""

_SETTINGS = {"data.max_megapixels": "max_megapixels of the server", "use gate=warn": "start the server with gate=warn"}

# Some libraries report a lack of memory or threads only in the text of an error.
_SHORT = re.compile(
    "can.?t allocate|cannot allocate|failed to allocate|bad_alloc|out of memory|insufficient memory|not enough memory"
    "|can.?t start new thread",
    re.IGNORECASE,
)
_SHORT_NUMBERS = {errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ENOBUFS}


@dataclass(eq=False)
class _Job:
    """One request; each step first checks whether the client still waits."""

    data: bytes
    heat: bool
    client: str
    end: float
    left: threading.Event = field(default_factory=threading.Event)
    pending: Future[Any] | None = None

    def abandon(self) -> None:
        """The client no longer waits: stop the current step if possible, and start no further one."""
        self.left.set()
        if self.pending is not None:
            self.pending.cancel()


class RequestHandler:
    """Handle uploads.

    Args:
        predictor: the model and its input gate.
        decoders: decode images; closed together with the handler.
        fit: how an image is made square for the network.
        facts: of the model.
        limits: of the server.
        workers: threads that call `predictor` concurrently.
    """

    def __init__(
        self,
        predictor: Answers,
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
        self._worker = Worker(predictor, workers)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="reader")
        # Separate from the readers: a finished answer does not wait for files being decoded.
        self._drawers = ThreadPoolExecutor(READERS, thread_name_prefix="drawer")
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._jobs: set[asyncio.Task[dict[str, Any]]] = set()
        self._closing = False

    def close(self) -> None:
        """Stop all work within seconds; waiting requests get an error."""
        self._closing = True
        self._decoders.close()
        for threads in (self._readers, self._drawers):
            threads.shutdown(wait=False, cancel_futures=True)
        self._worker.close()

    @property
    def waiting(self) -> int:
        """How many images wait for an answer."""
        return len(self._jobs)

    def check_room(self) -> None:
        """Reject a request before its upload is read.

        Raises:
            WebError: the queue is full, or the server is closing.
        """
        if self._closing:
            raise busy("the server is closing")
        if len(self._jobs) >= self._limits.queue:
            raise busy(f"{counted(len(self._jobs), 'image is', 'images are')} already waiting")

    async def check_ready(self) -> None:
        """Wait until a new image would be processed at once.

        Raises:
            WebError: no reader or no network thread became free within `READY_SECONDS`, or the server is closing.
        """
        if self._closing:
            raise busy("the server is closing")
        what = "reader"
        try:
            async with asyncio.timeout(READY_SECONDS):
                await asyncio.wrap_future(self._readers.submit(int))
                what = "network thread"
                await asyncio.wrap_future(self._worker.free())
        except (TimeoutError, AbandonedError):
            raise busy(f"no {what} is free within {READY_SECONDS:g} seconds") from None

    async def answer(
        self, data: bytes, heat: bool, gone: Callable[[], Awaitable[object]], client: str = ""
    ) -> dict[str, Any]:
        """The response for one file.

        Args:
            data: the file's content.
            heat: whether to compute a heat map.
            gone: returns when the client has disconnected.
            client: the client's address.

        Raises:
            WebError: the file is refused, the queue is full, or it takes too long.
            ClientDisconnect: the client has disconnected.
        """
        self.check_room()
        seconds = self._limits.answer_seconds
        job = _Job(data, heat, client, time.monotonic() + seconds)
        work = asyncio.create_task(self._work(job))
        # A job keeps its place in the queue until its threads are done, which is soon if it was abandoned.
        self._jobs.add(work)
        work.add_done_callback(self._jobs.discard)
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
                job.abandon()
                if job.pending is None:
                    # It still waits for its turn.
                    work.cancel()
                # Retrieve the error: asyncio logs errors that are never retrieved.
                work.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _work(self, job: _Job) -> dict[str, Any]:
        try:
            turn = self._turns.setdefault(job.client, asyncio.Semaphore(READERS - 1))
            async with turn:
                image, preview, sha256 = await self._within(job, self._readers, lambda: self._decode(job))
            if job.left.is_set():
                raise AbandonedError
            job.pending = self._worker.submit(image, job.heat)
            answer = await asyncio.wrap_future(job.pending)
            if isinstance(answer, ImageRefusedError):
                raise _refused("unsuitable_image", answer)
            draw = functools.partial(answer_json, answer, image.facts, preview, self._fit, self._facts)
            return {**await self._within(job, self._drawers, draw), "sha256": sha256}
        except ShortOfMemoryError:
            _LOG.error("short of memory: the decoder of an image")
            raise busy("the server is short of memory") from None
        except ImageRefusedError as error:
            if time.monotonic() >= job.end:
                # It waited for a reader, so the file alone did not take that long.
                raise _timed_out(self._limits.answer_seconds) from None
            raise _refused("unreadable_file", error) from None
        except (WebError, asyncio.CancelledError):
            raise
        except Exception as error:
            if self._closing or job.left.is_set() or isinstance(error, AbandonedError):
                raise busy("the server is closing") from None
            if isinstance(error, DecoderError):
                _LOG.error("%s", error)
                raise busy("no decoder is free") from None
            if short_of_memory(error):
                _LOG.error("short of memory: %s", place_of(error))
                raise busy("the server is short of memory") from None
            # Neither the text nor the traceback: they might reveal parts of the upload.
            _LOG.error("internal error on an image: %s", place_of(error))
            raise internal() from None

    async def _within(self, job: _Job, threads: ThreadPoolExecutor, work: Callable[[], _T]) -> _T:
        def checked() -> _T:
            if job.left.is_set():
                raise AbandonedError
            return work()

        future = threads.submit(checked)
        job.pending = future
        return await asyncio.wrap_future(future)

    def _decode(self, job: _Job) -> tuple[Radiograph, npt.NDArray[np.uint8], str]:
        data, job.data = job.data, b""
        sha256 = hashlib.sha256(data).hexdigest()
        # A DICOM data set without the preamble is recognised only by its name; no other format begins like this.
        name = "upload.dcm" if data[:2] in (b"\x08\0", b"\x02\0") else "upload"
        image = self._decoders.decode(data, name, seconds=job.end - time.monotonic(), left=job.left)
        return image, preview_of(image.pixels), sha256


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
    # Remedies name settings of commands; here they are settings of the server.
    remedy = error.remedy
    for setting, here in _SETTINGS.items():
        remedy = remedy.replace(setting, here)
    return WebError(422, code, error.cause, remedy)
