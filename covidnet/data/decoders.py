"""Decoding in processes of their own, within a limit on time and one on memory: a file made to hurt costs itself alone.

A file of a few kilobytes can take a decoder minutes, or all memory, and no list of known tricks is ever whole. So every
file is parsed and decoded in a child process whose address space is limited and that is killed and replaced where it
takes too long. A child gets an open file, or bytes, through a socket, and gives the pixels back in shared memory that
has no name and is used again. Nothing that it says is more than JSON.

Images that a manifest lists are decoded in the process itself where their sha256 is checked before, as
`covidnet.data.dataset.FilmDataset` does: those bytes were decoded within the limits when the manifest was made.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import math
import mmap
import os
import re
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

import covidnet
from covidnet.data import images
from covidnet.data.images import Film, ImageFacts
from covidnet.errors import CovidnetError, ImageRefusedError, SettingError
from covidnet.progress import available_cores

try:
    import fcntl
    import resource
except ImportError:  # Windows, which passes no open files either: images are decoded in the process, without limits
    fcntl = resource = None  # type: ignore[assignment]

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "import covidnet.data.decoders as decoders; decoders.serve(*sys.argv[2:])"
)
_START_SECONDS = 120.0
_LEAST_MEMORY = 0.25  # GB, of which a child that has decoded nothing yet takes half
_LOOK_SECONDS = 0.1  # between two looks at whether somebody still waits for an image
_NEAR = 0.9  # of the limit on memory: what fails from here on failed for memory
# DICOM has an element BitsAllocated.
_FAILED_ALLOCATION = re.compile(r"bad_alloc|MemoryError|\bmemory\b|\ballocat(e|ion)\b", re.IGNORECASE)
# A thread of OpenBLAS reserves address space, and there is nothing here for it to do.
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)
Pixels = npt.NDArray[np.uint8]
# Memory that one image needed is kept for the next: to get it from the system anew takes as long as a JPEG does.
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**26), "MALLOC_TRIM_THRESHOLD_": str(2**27)}
_HEAD = struct.Struct("<I")
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


_STATUS = Path("/proc/self/status")


class DecoderError(CovidnetError, RuntimeError):
    """An image could not be decoded for a reason that is not the image: none was free in time, or they are closed."""


class ShortOfMemoryError(ImageRefusedError):
    """The machine, not the limit of a decoder, had too little memory for an image."""


class Decoders:
    """A pool of processes that decode images. They are started when they are first needed, and stay.

    Any number of threads may use it; a thread waits where all processes are busy. A process that forks or spawns gets
    none of them: its own copy of this object starts processes of its own.

    Args:
        count: processes at most; None for one per core that may be used.
        max_memory: address space of each, in GB. Only Linux enforces it. Windows has neither limit: images are decoded
            in the process itself.
        max_seconds: for one image.
        max_megapixels: larger images are refused before they are decoded.
        min_side: images with a shorter side, in pixels, are refused.

    Raises:
        SettingError: a limit that nothing could be decoded within.

    Example:
        >>> with Decoders(1) as decoders:
        ...     try:
        ...         decoders.decode(b"no image", "notes.txt")
        ...     except ImageRefusedError as error:
        ...         print(error)
        notes.txt: not an image: text; remove it, or restore the image under this name
    """

    def __init__(
        self,
        count: int | None = None,
        *,
        max_memory: float = 1.5,
        max_seconds: float = 20.0,
        max_megapixels: float = 64.0,
        min_side: int = 64,
    ) -> None:
        check_limits(max_memory, max_seconds)
        self._count = count or available_cores()
        self._limits = {
            "max_memory": max_memory,
            "max_seconds": max_seconds,
            "max_megapixels": max_megapixels,
            "min_side": min_side,
        }
        self._forget()
        _POOLS.add(self)

    def _forget(self) -> None:
        """Begin without children: at first, and in a process that was forked from the one that has them."""
        for child in getattr(self, "_children", ()):
            child.disown()
        self._children: set[_Child] = set()
        self._idle: list[_Child] = []
        self._free = threading.Condition()
        self._closed = getattr(self, "_closed", False)

    def __getstate__(self) -> dict[str, Any]:
        return {"count": self._count, **self._limits}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __enter__(self) -> Decoders:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def read(self, path: str | Path, *, sha256: str | None = None) -> Film:
        """One image as `covidnet.data.images.read_film` reads it, within the limits.

        Args:
            path: a JPEG, PNG, TIFF, BMP, WebP, AVIF or DICOM file.
            sha256: the hash that the file had when the manifest was written; None checks nothing.

        Raises:
            ImageRefusedError: whatever is wrong with the file; or it passed a limit, or crashed its decoder.
            DecoderError: the pool is closed, or no decoder can be started.
        """
        with images.open_film(path, self._limits["max_megapixels"]) as file:
            return self._film(path, {"do": "film", "sha256": sha256}, file.fileno())

    def decode(
        self, data: bytes, name: str | Path, *, seconds: float | None = None, left: threading.Event | None = None
    ) -> Film:
        """One image as `covidnet.data.images.decode_film` decodes it, within the limits.

        Args:
            data: the whole file.
            name: the name that errors give it.
            seconds: at most so long in all, with waiting until a decoder is free.
            left: set where nobody wants the image any more; its decoder is killed then.

        Raises:
            ImageRefusedError: whatever is wrong with the bytes; or they passed a limit, or crashed their decoder.
            ShortOfMemoryError: the machine has not the memory that the limit allows.
            DecoderError: the pool is closed, no decoder can be started, or none was free in time; or nobody wants the
                image any more.
        """
        return self._film(name, {"do": "film"}, data, seconds, left)

    def identifiers(self, path: str | Path) -> list[str]:
        """What `covidnet.data.dicom.identifiers_of` reads, within the limits; empty texts where they are passed."""
        from covidnet.data.dicom import IDENTIFIERS

        try:
            with images.open_film(path, math.inf) as file:
                reply, _ = self._ask(path, {"do": "identifiers"}, file.fileno(), None)
        except ImageRefusedError:
            return [""] * len(IDENTIFIERS)
        return [str(value) for value in reply["identifiers"]]

    def mask(self, path: str | Path, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """One mask as `covidnet.data.images.decode_mask` decodes it, within the limits.

        Args:
            path: the file.
            shape: (H, W) of the film that it is a mask of.

        Raises:
            ImageRefusedError: whatever is wrong with the file; or it passed a limit, or crashed its decoder.
            DecoderError: the pool is closed, or no decoder can be started.
        """
        with images.open_film(path, self._limits["max_megapixels"]) as file:
            _, pixels = self._ask(path, {"do": "mask", "shape": [int(side) for side in shape]}, file.fileno(), None)
        assert pixels is not None  # a mask has them
        return pixels.astype(np.bool_)

    def close(self) -> None:
        """Kill all processes at once, also those at work, whose callers get a DecoderError."""
        with self._free:
            self._closed = True
            children, self._children, self._idle = self._children, set(), []
            self._free.notify_all()
        for child in children:
            child.kill()

    def _film(
        self,
        name: str | Path,
        message: dict[str, Any],
        given: int | bytes,
        seconds: float | None = None,
        left: threading.Event | None = None,
    ) -> Film:
        reply, pixels = self._ask(name, message, given, seconds, left)
        for kind, about in reply.get("told", ()):
            images.tell_once(kind, about)
        assert pixels is not None  # a film has them
        facts = ImageFacts(**reply["facts"])
        return Film(pixels, facts, reply["colour"], reply["view"], reply["patient_id"])

    def _ask(
        self,
        name: str | Path,
        message: dict[str, Any],
        given: int | bytes,
        seconds: float | None,
        left: threading.Event | None = None,
    ) -> tuple[dict[str, Any], Pixels | None]:
        if fcntl is None:
            limits = images.Limits(name, self._limits["max_megapixels"], self._limits["min_side"])
            return _work(message, given, limits)
        end = math.inf if seconds is None else time.monotonic() + seconds
        message |= {"name": str(name)}
        for last in (False, True):
            child = self._take(end)
            most = min(self._limits["max_seconds"], end - time.monotonic())
            if most <= 0:
                self._give_back(child)
                raise DecoderError("decoders: all were busy until the time was over; try again later")
            try:
                reply, pixels = child.ask(message, given, most, left)
            except TimeoutError:
                self._replace(child)
                self._check_open()
                if left is not None and left.is_set():
                    raise DecoderError("decoders: nobody wants the image any more") from None
                took = (
                    self._limits["max_seconds"] if end == math.inf else min(self._limits["max_seconds"], seconds or 0)
                )
                raise _too_long(name, took) from None
            except (EOFError, ConnectionError):
                self._replace(child)
                self._check_open()
                # From outside; a file that makes the system end its decoders for memory ends the second one too.
                if child.ended in (-signal.SIGKILL, -signal.SIGTERM) and not last:
                    continue
                raise self._died(name, child) from None
            except BaseException as error:
                self._replace(child)  # such as Ctrl-C: its answer would be taken for that of the next image
                if isinstance(error, OSError):
                    self._check_open()  # what was closed under it says so in its own way
                raise
            break
        if reply.get("worn"):
            self._replace(child)
        else:
            self._give_back(child)
        if "refused" in reply:
            raise ImageRefusedError(name, *reply["refused"])
        if "short" in reply:
            raise _too_little(name)
        if "memory" in reply:
            raise self._too_much(name)
        return reply, pixels

    def _take(self, end: float) -> _Child:
        with self._free:
            while True:
                if self._closed:
                    raise DecoderError("decoders: closed; nothing more is decoded")
                if self._idle:
                    child = self._idle.pop()
                    break
                if len(self._children) < self._count:
                    child = self._start()
                    break
                if not self._free.wait(None if end == math.inf else max(end - time.monotonic(), 0)):
                    raise DecoderError("decoders: all were busy until the time was over; try again later")
        try:
            child.wait_ready(min(_START_SECONDS, end - time.monotonic()))
        except TimeoutError:
            if end < math.inf:
                self._give_back(child)  # it goes on with starting
                raise DecoderError("decoders: none had started when the time was over; try again later") from None
            self._replace(child, start=False)
            raise DecoderError(f"decoders: none could be started within {_START_SECONDS:g} s") from None
        except (EOFError, ConnectionError):
            self._replace(child, start=False)
            self._check_open()
            cause = child.last_words() or "it ended at once"
            raise DecoderError(f"decoders: none could be started ({cause})") from None
        except BaseException:
            self._replace(child, start=False)
            raise
        return child

    def _start(self) -> _Child:
        child = _Child(self._limits)
        self._children.add(child)
        return child

    def _give_back(self, child: _Child) -> None:
        with self._free:
            if child in self._children:
                self._idle.append(child)
                self._free.notify()

    def _replace(self, child: _Child, *, start: bool = True) -> None:
        child.kill()
        with self._free:
            if child in self._children:
                self._children.discard(child)
                if start:
                    # It gets ready while others work.
                    with contextlib.suppress(OSError):
                        self._idle.append(self._start())
                self._free.notify()

    def _check_open(self) -> None:
        if self._closed:
            raise DecoderError("decoders: closed; nothing more is decoded")

    def _too_much(self, name: str | Path) -> ImageRefusedError:
        cause = f"needed more than {self._limits['max_memory']:g} GB"
        return ImageRefusedError(name, cause, "make it smaller, or raise reading.max_memory where it can be trusted")

    def _died(self, name: str | Path, child: _Child) -> ImageRefusedError:
        words = child.last_words()
        if child.ended == -signal.SIGKILL:
            # The system ends who takes most where memory is short; twice, and below its own limit.
            return _too_little(name)
        if _FAILED_ALLOCATION.search(words):
            return self._too_much(name)
        try:
            how = signal.Signals(-(child.ended or 0)).name
        except ValueError:
            how = f"exit code {child.ended}"
        return ImageRefusedError(name, f"crashed its decoder ({how})", images.SAVE)


def check_limits(max_memory: object, max_seconds: object) -> None:
    """Refuse limits that nothing could be decoded within.

    Args:
        max_memory: in GB.
        max_seconds: of one image.

    Raises:
        SettingError: naming the setting.
    """
    for name, value, least in (("max_memory", max_memory, _LEAST_MEMORY), ("max_seconds", max_seconds, 0.1)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
            raise SettingError(f"reading.{name}", value, f"{least} or more")


_POOLS: weakref.WeakSet[Decoders] = weakref.WeakSet()
_SHARED: dict[tuple[float, ...], Decoders] = {}
_SHARED_LOCK = threading.Lock()


def shared_decoders(
    *, max_memory: float = 1.5, max_seconds: float = 20.0, max_megapixels: float = 64.0, min_side: int = 64
) -> Decoders:
    """The decoders of this process with these limits, as `Decoders` takes them; closed when it ends."""
    limits = (max_memory, max_seconds, max_megapixels, min_side)
    with _SHARED_LOCK:
        if limits not in _SHARED:
            _SHARED[limits] = Decoders(
                max_memory=max_memory, max_seconds=max_seconds, max_megapixels=max_megapixels, min_side=min_side
            )
        return _SHARED[limits]


@atexit.register
def _close_all() -> None:
    for pool in list(_POOLS):
        pool.close()


def _forget_all() -> None:
    global _SHARED_LOCK
    _SHARED_LOCK = threading.Lock()
    for pool in list(_POOLS):
        pool._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


def _too_little(name: str | Path) -> ImageRefusedError:
    cause = "the machine has too little memory left to decode it"
    return ShortOfMemoryError(name, cause, "free some, or do less at once, and try again")


def _too_long(name: str | Path, seconds: float) -> ImageRefusedError:
    cause = f"took more than {seconds:g} s to decode"
    return ImageRefusedError(name, cause, "save it again, or raise reading.max_seconds where it can be trusted")


class _Child:
    """One process and the socket to it. It ends when the other end of its standard input is closed."""

    def __init__(self, limits: dict[str, Any]) -> None:
        self._socket, theirs = socket.socketpair()
        self._shared = _SharedPixels.create()
        # What decoders print is for nobody, but that one ran out of memory before it crashed.
        self._log = os.memfd_create("decoder") if hasattr(os, "memfd_create") else os.open(os.devnull, os.O_RDWR)
        home = str(Path(covidnet.__file__).parents[1])
        # The current folder may be another one by now; what lies in it is no module of ours.
        paths = [path for path in sys.path if path]
        paths = paths if home in paths else [home, *paths]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, json.dumps(paths), json.dumps(limits), str(self._shared.file)],
                pass_fds=[] if self._shared.file < 0 else [self._shared.file],
                stdin=subprocess.PIPE,
                stdout=theirs.fileno(),
                stderr=self._log,
                env={**os.environ, **_ONE_THREAD, **_KEEP_MEMORY, "PYTHONWARNINGS": "ignore"},
            )
        except BaseException:
            self._socket.close()
            self._shared.close()
            os.close(self._log)
            raise
        finally:
            theirs.close()
        self._ready = False
        self._killing = threading.Lock()
        self.ended: int | None = None
        self._words = ""

    def wait_ready(self, seconds: float) -> None:
        """Wait until it has imported what it needs, which is no image's time.

        Raises:
            TimeoutError, EOFError, ConnectionError: it did not.
        """
        if not self._ready:
            _set_timeout(self._socket, seconds)
            _receive(self._socket)
            self._ready = True

    def ask(
        self,
        message: dict[str, Any],
        given: int | bytes,
        seconds: float,
        left: threading.Event | None = None,
    ) -> tuple[dict[str, Any], Pixels | None]:
        """Its answer, and pixels where there are some.

        Args:
            message: what to do.
            given: an open file, or its bytes.
            seconds: until TimeoutError.
            left: set where nobody waits for the answer any more, which is a TimeoutError too.

        Raises:
            TimeoutError: no answer.
            EOFError, ConnectionError: it has died.
        """
        end = time.monotonic() + seconds
        _set_timeout(self._socket, seconds)
        if isinstance(given, int):
            _send(self._socket, message, [given])
        else:
            _send(self._socket, {**message, "bytes": len(given)}, more=given)
        while left is not None and not left.is_set() and time.monotonic() < end:
            if _readable(self._socket, min(_LOOK_SECONDS, end - time.monotonic())):
                break
        _set_timeout(self._socket, end - time.monotonic() if left is None or not left.is_set() else 0)
        reply, _ = _receive(self._socket)
        if "shape" not in reply:
            return reply, None
        pixels = np.empty(reply["shape"], np.uint8)
        if self._shared.file < 0:
            _receive_into(self._socket, pixels.data.cast("B"))
        else:
            pixels.reshape(-1)[:] = self._shared.mapped(pixels.size)
        return reply, pixels

    def last_words(self) -> str:
        """The last line that it wrote to its error stream before it was killed."""
        return self._words

    def kill(self) -> None:
        """End it, whatever it does, and free all that it had."""
        with self._killing:
            if self.ended is not None:
                return
            # Has it died by itself? Then it tells of what.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0)
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                # One that hangs in the system itself ends when that lets it.
                self._process.wait(5)
            self.ended = self._process.returncode if self._process.returncode is not None else -signal.SIGKILL
            with contextlib.suppress(OSError):
                lines = os.pread(self._log, 1 << 16, 0).decode(errors="replace").strip().splitlines()
                self._words = lines[-1] if lines else ""
            self.abandon()

    def disown(self) -> None:
        """Close our ends of the child of another process, which waits for it itself."""
        self._process.returncode = 0
        self.abandon()

    def abandon(self) -> None:
        """Close our ends."""
        for stream in (self._socket, self._process.stdin):
            if stream is not None:
                stream.close()
        self._shared.close()
        os.close(self._log)


class _SharedPixels:
    """Memory of a child and its parent, which has no name and holds one image at a time: what is reused costs least.

    Args:
        file: as `create` opened it; -1 where the system has no such memory.
    """

    def __init__(self, file: int) -> None:
        self.file = file
        self._bytes: Pixels = np.zeros(0, np.uint8)

    @classmethod
    def create(cls) -> _SharedPixels:
        if not hasattr(os, "memfd_create"):
            return cls(-1)
        file = os.memfd_create("pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        # A reader of memory that has become shorter would be ended by the system.
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
        return cls(file)

    def mapped(self, size: int) -> Pixels:
        """Its first bytes, as many as are asked for; it grows where they are more than it has."""
        if self._bytes.size < size:
            if os.fstat(self.file).st_size < size:
                os.ftruncate(self.file, size)
            self._bytes = np.frombuffer(mmap.mmap(self.file, size), np.uint8)
        return self._bytes[:size]

    def close(self) -> None:
        self._bytes = np.zeros(0, np.uint8)
        if self.file >= 0:
            os.close(self.file)
            self.file = -1


def _readable(stream: socket.socket, seconds: float) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        return bool(selector.select(max(0.0, seconds)))


def _set_timeout(stream: socket.socket, seconds: float) -> None:
    if seconds <= 0:
        raise TimeoutError
    stream.settimeout(None if seconds == math.inf else seconds)


def _send(
    stream: socket.socket, message: dict[str, Any], files: list[int] | None = None, more: bytes | memoryview = b""
) -> None:
    """A message, with an open file beside it or bytes behind it."""
    body = json.dumps(message).encode()
    frame = _HEAD.pack(len(body)) + body
    sent = socket.send_fds(stream, [frame], files or [])
    if sent < len(frame):
        stream.sendall(frame[sent:])
    if more:
        stream.sendall(more)


def _receive(stream: socket.socket) -> tuple[dict[str, Any], int | None]:
    """A message, and the open file that came with it."""
    head, files, _, _ = socket.recv_fds(stream, _HEAD.size, 1, _CLOSE_ON_EXEC)
    if not head:
        raise EOFError
    head += _received(stream, _HEAD.size - len(head))
    return json.loads(_received(stream, *_HEAD.unpack(head))), files[0] if files else None


def _received(stream: socket.socket, size: int) -> bytearray:
    found = bytearray(size)
    _receive_into(stream, memoryview(found))
    return found


def _receive_into(stream: socket.socket, place: memoryview) -> None:
    while place:
        got = stream.recv_into(place)
        if not got:
            raise EOFError
        place = place[got:]


def serve(limits: str, shared: str) -> None:
    """What a child does: answer until the other end closes.

    Args:
        limits: those of `Decoders`, as JSON.
        shared: the number of the open file of shared memory.
    """
    stream, place = _settle(), _SharedPixels(int(shared))
    most = json.loads(limits)
    sizes = images.Limits("", most["max_megapixels"], most["min_side"])
    told = _Told()
    logging.getLogger().addHandler(told)
    limit = _limit_memory(most["max_memory"], most["max_megapixels"])
    with contextlib.suppress(EOFError, ConnectionError):
        _send(stream, {"ready": True})
        while True:
            message, file = _receive(stream)
            with contextlib.suppress(OSError):  # where it is no file
                os.ftruncate(2, 0)
            told.lines.clear()
            images.forget_told()
            if file is None:
                given: int | bytes = bytes(_received(stream, message["bytes"]))
            else:
                given = file
            reply, pixels = _guarded(message, given, sizes._replace(path=message["name"]), limit)
            del given
            if file is not None:
                os.close(file)
            reply["told"] = told.lines
            if pixels is None:
                _send(stream, reply)
            elif place.file < 0:
                _send(stream, reply, more=pixels.data.cast("B"))
            else:
                place.mapped(pixels.size)[:] = pixels.reshape(-1)
                _send(stream, reply)
            del pixels


class _Told(logging.Handler):
    """What `covidnet.data.images.tell_once` said of an image; no other log of this process is for anybody."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        kind, about = getattr(record, "kind", None), getattr(record, "about", None)
        if kind is not None:
            self.lines.append((str(kind), str(about)))


def _guarded(
    message: dict[str, Any], given: int | bytes, limits: images.Limits, memory: float
) -> tuple[dict[str, Any], Pixels | None]:
    """The answer, whatever happens; what cannot be told fails, and is told by this process's end."""
    pixels = None
    try:
        reply, pixels = _work(message, given, limits)
    except Exception as error:
        if _ran_out(error) or _peak() >= _NEAR * memory:
            reply = {"short" if _machine_is_short(memory) else "memory": True}
        else:
            refused = error if isinstance(error, ImageRefusedError) else images.unreadable(limits.path, error)
            reply = {"refused": [refused.cause, refused.remedy]}
    # The peak of a process never falls, so that the next image would seem to need what this one did.
    if not {"memory", "short"}.isdisjoint(reply) or _peak() >= _NEAR * memory:
        reply["worn"] = True
    return reply, pixels


def _work(message: dict[str, Any], given: int | bytes, limits: images.Limits) -> tuple[dict[str, Any], Pixels | None]:
    if isinstance(given, int):
        with images.reading(limits.path), os.fdopen(given, "rb", closefd=False) as file:
            data = file.read()
    else:
        data = given
    if message["do"] == "identifiers":
        from covidnet.data.dicom import identifiers_of

        return {"identifiers": identifiers_of(data, limits.path)}, None
    if message["do"] == "mask":
        mask = images.decode_mask(data, limits.path, tuple(message["shape"]))
        return {"shape": mask.shape}, np.require(mask, np.uint8, "C")
    if message.get("sha256") is not None:
        images.check_sha256(data, limits.path, message["sha256"])
    film = images.decode_film(data, limits.path, max_megapixels=limits.max_megapixels, min_side=limits.min_side)
    told = {"colour": film.colour, "view": film.view, "patient_id": film.patient_id}
    return {"facts": vars(film.facts), **told, "shape": film.pixels.shape}, film.pixels


def _ran_out(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, is of an allocation that failed: libraries of C have words alone."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # causes can go round in a circle
        seen.add(id(error))
        words = "" if isinstance(error, ImageRefusedError) else str(error)  # which names the file
        if isinstance(error, MemoryError) or _FAILED_ALLOCATION.search(words):
            return True
        error = error.__cause__ or error.__context__
    return False


def _settle() -> socket.socket:
    """Be bound to the parent and to nothing else."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # They are meant for the parent, which takes its children with it.
        signal.signal(number, signal.SIG_IGN)
    # The kernel's own word that the parent is gone, which ends a decoder in the middle of its work too.
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
    stream = socket.socket(fileno=os.dup(1))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    fcntl.fcntl(2, fcntl.F_SETFL, fcntl.fcntl(2, fcntl.F_GETFL) | os.O_APPEND)
    warnings.simplefilter("ignore")
    return stream


def _limit_memory(gigabytes: float, max_megapixels: float) -> float:
    """Bytes that may be taken in all; infinite without a limit."""
    most = gigabytes * 1e9
    # Neither pixels of patients in a core dump, nor a log without an end.
    files = max_megapixels * 1e6 + 2**20
    for kind, value in ((resource.RLIMIT_AS, most), (resource.RLIMIT_FSIZE, files), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(kind)[1]
        value = resource.RLIM_INFINITY if value == math.inf else int(value)
        if hard != resource.RLIM_INFINITY and (value == resource.RLIM_INFINITY or value > hard):
            value = hard
        resource.setrlimit(kind, (value, value))
    return most


def _peak() -> float:
    """The most address space that this process ever had, in bytes; 0 where the system does not tell."""
    return _told_by_system(b"VmPeak")


def _told_by_system(name: bytes) -> float:
    try:
        with _STATUS.open("rb", 0) as status:
            found = re.search(name + rb":\s*(\d+) kB", status.read())
    except OSError:
        return 0.0
    return int(found[1]) * 1024.0 if found else 0.0


def _machine_is_short(limit: float) -> bool:
    """Whether less memory can be had than the limit leaves: then what failed did so for the machine."""
    # What failed may have been told in little steps, and some of it is not free yet.
    room = limit - _told_by_system(b"VmSize") - 2**26
    if not 0 < room < math.inf:
        return False
    try:
        mmap.mmap(-1, int(room)).close()
    except (OSError, MemoryError):
        return True
    return False
