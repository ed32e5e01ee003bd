"""Decoding in worker processes with limits on time and memory: a file made to do harm affects only itself.

A file of a few kilobytes can take a decoder minutes, or all memory, and no list of known tricks is ever complete. So
every file is parsed and decoded in a child process whose address space is limited and that is killed and replaced if
it takes too long. A child gets an open file, bytes or several paths through a socket, and returns the pixels in shared
memory that has no name and is reused. Everything else that it returns is JSON.

Images listed in a manifest are decoded in the process itself if their sha256 is checked first, as
`covidnet.data.loading.dataset.ImageDataset` does: those bytes were decoded within the limits when the manifest was
made.
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
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

import covidnet
from covidnet.base.errors import CovidnetError, ImageRefusedError, SettingError
from covidnet.base.progress import available_cores
from covidnet.data.reading import images
from covidnet.data.reading.images import ImageFacts, Radiograph

try:
    import fcntl
    import resource
except ImportError:  # Windows, which passes no open files either: images are decoded in the process, without limits
    fcntl = resource = None  # type: ignore[assignment]

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "import covidnet.data.reading.decoders as decoders; decoders.serve(*sys.argv[2:])"
)
_START_SECONDS = 120.0
_LEAST_MEMORY = 0.25  # GB; a child that has decoded nothing yet takes half of it
_LOOK_SECONDS = 0.1  # between checks whether a caller still waits for an image
_SEVERAL = 16  # files per message, so that sending them to another process costs little
# An answer with several images is sent once it has this many bytes of pixels or took this long.
_BLOCK = 2**22
_BLOCK_SECONDS = 0.05
_NEAR = 0.9  # share of the memory limit; a failure above it is a lack of memory
# Word boundaries, since DICOM has an element BitsAllocated.
_FAILED_ALLOCATION = re.compile(r"bad_alloc|MemoryError|\bmemory\b|\ballocat(e|ion)\b", re.IGNORECASE)
# Threads of OpenBLAS reserve address space and have nothing to do here.
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)
Pixels = npt.NDArray[np.uint8]
Name = TypeVar("Name", str, Path)
# Memory is kept from one image to the next: getting it from the system again takes as long as decoding a JPEG.
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**26), "MALLOC_TRIM_THRESHOLD_": str(2**27)}
_HEAD = struct.Struct("<I")
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


_STATUS = "/proc/self/status"


class DecoderError(CovidnetError, RuntimeError):
    """An image was not decoded, through no fault of its own: no decoder was free in time, or they are closed."""


class ShortOfMemoryError(ImageRefusedError):
    """The machine had too little memory for an image that was within the decoder's limit."""


class Decoders:
    """A pool of processes that decode images. They start when they are first needed and keep running.

    Any number of threads may use it; a thread waits while all processes are busy. A forked or spawned process shares
    none of them: its copy of this object starts its own.

    Args:
        count: the most processes; None is one per available core.
        max_memory: address space of each, in GB; enforced only on Linux. Windows enforces neither limit: images are
            decoded in the process itself.
        max_seconds: for one image.
        max_megapixels: larger images are refused before they are decoded.
        min_side: images with a shorter side, in pixels, are refused.

    Raises:
        SettingError: a limit too low to decode anything.

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
        """Start without children: in a new pool, and in a process that was forked from the one that owns them."""
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

    def read(self, path: str | Path, *, sha256: str | None = None) -> Radiograph:
        """One image as `covidnet.data.reading.images.read_radiograph` reads it, within the limits.

        Args:
            path: a JPEG, PNG, TIFF, BMP, WebP, AVIF or DICOM file.
            sha256: the file's hash in the manifest; None checks nothing.

        Raises:
            ImageRefusedError: the file is faulty, exceeded a limit or crashed its decoder.
            DecoderError: the pool is closed, or no decoder can be started.
        """
        with images.open_image(path, self._limits["max_megapixels"]) as file:
            return self._image(path, {"do": "image", "sha256": sha256}, file.fileno())

    def groups(self, paths: Sequence[Name]) -> list[Sequence[Name]]:
        """Files in groups for `read_several`, large enough to save time, small enough to give every process work.

        Args:
            paths: any number of files.

        Example:
            >>> [len(group) for group in Decoders(2).groups(["image.png"] * 20)]
            [3, 3, 3, 3, 3, 3, 2]
        """
        size = min(_SEVERAL, math.ceil(len(paths) / (4 * self._count))) or 1
        return [paths[start : start + size] for start in range(0, len(paths), size)]

    def read_several(self, paths: Sequence[str | Path]) -> Iterator[Radiograph | ImageRefusedError]:
        """Images as `read` returns them, or their refusals, in order; faster than one by one for small files.

        One process decodes as many as it can in 0.05 s before it answers. If it crashes or has to be killed, each
        file without an answer is decoded again on its own, so that only the file at fault is refused.

        Args:
            paths: JPEG, PNG, TIFF, BMP, WebP, AVIF or DICOM files; one of the groups that `groups` makes.

        Raises:
            DecoderError: the pool is closed, or no decoder can be started.
        """
        rest = list(paths)
        while len(rest) > 1 and (found := self._first_of(rest)):
            yield from found
            rest = rest[len(found) :]
        for path in rest:
            try:
                image: Radiograph | ImageRefusedError = self.read(path)
            except ImageRefusedError as error:
                image = error
            except DecoderError:
                raise
            except Exception as error:
                image = images.unreadable(path, error)
            yield image

    def decode(
        self, data: bytes, name: str | Path, *, seconds: float | None = None, left: threading.Event | None = None
    ) -> Radiograph:
        """One image as `covidnet.data.reading.images.decode_radiograph` decodes it, within the limits.

        Args:
            data: the whole file.
            name: the name that errors give it.
            seconds: the most time in all, including the wait for a free decoder.
            left: once it is set, the image is no longer needed and its decoder is killed.

        Raises:
            ImageRefusedError: the bytes are faulty, exceeded a limit or crashed their decoder.
            ShortOfMemoryError: the machine has less memory than the limit allows.
            DecoderError: the pool is closed, no decoder can be started, none was free in time, or `left` is set.
        """
        return self._image(name, {"do": "image"}, data, seconds, left)

    def identifiers(self, path: str | Path) -> list[str]:
        """As `covidnet.data.reading.dicom.identifiers_of`, within the limits; empty if the file exceeds them."""
        from covidnet.data.reading.dicom import IDENTIFIERS

        try:
            with images.open_image(path, math.inf) as file:
                reply, _ = self._ask(path, {"do": "identifiers"}, file.fileno(), None)
        except ImageRefusedError:
            return [""] * len(IDENTIFIERS)
        return [str(value) for value in reply["identifiers"]]

    def source(self, path: str | Path) -> dict[str, Any]:
        """As `covidnet.data.reading.dicom_source.source_of`, within the limits.

        Args:
            path: the file.

        Raises:
            ImageRefusedError: results in DICOM cannot refer to it, or it exceeded a limit or crashed its decoder.
            DecoderError: the pool is closed, or no decoder can be started.
        """
        with images.open_image(path, self._limits["max_megapixels"]) as file:
            reply, _ = self._ask(path, {"do": "source"}, file.fileno(), None)
        return dict(reply["source"])

    def source_in(self, data: bytes, name: str, *, seconds: float | None = None) -> dict[str, Any]:
        """As `source`, of bytes.

        Args:
            data: the whole file.
            name: the name that errors give it.
            seconds: the most time in all.
        """
        reply, _ = self._ask(name, {"do": "source"}, data, seconds)
        return dict(reply["source"])

    def mask(self, path: str | Path, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """One mask as `covidnet.data.reading.images.decode_mask` decodes it, within the limits.

        Args:
            path: the file.
            shape: (H, W) of its image.

        Raises:
            ImageRefusedError: the file is faulty, exceeded a limit or crashed its decoder.
            DecoderError: the pool is closed, or no decoder can be started.
        """
        with images.open_image(path, self._limits["max_megapixels"]) as file:
            _, pixels = self._ask(path, {"do": "mask", "shape": [int(side) for side in shape]}, file.fileno(), None)
        assert pixels is not None  # a mask has them
        return pixels.reshape(shape).astype(np.bool_)

    def close(self) -> None:
        """Kill all processes at once; callers whose images are being decoded get a DecoderError."""
        with self._free:
            self._closed = True
            children, self._children, self._idle = self._children, set(), []
            self._free.notify_all()
        for child in children:
            child.kill()

    def _image(
        self,
        name: str | Path,
        message: dict[str, Any],
        given: int | bytes,
        seconds: float | None = None,
        left: threading.Event | None = None,
    ) -> Radiograph:
        reply, pixels = self._ask(name, message, given, seconds, left)
        assert pixels is not None  # an image has them
        return _radiograph(reply, pixels)

    def _first_of(self, paths: list[str | Path]) -> list[Radiograph | ImageRefusedError]:
        """The first images of several, at least one; none if the process that decodes them had to be replaced."""
        if fcntl is None:
            return []
        names, files = [str(path) for path in paths], [str(Path(path).absolute()) for path in paths]
        child = self._take(math.inf)
        try:
            with self._replaced_after_errors(child):
                message = {"do": "several", "names": names, "files": files}
                reply, pixels = child.ask(message, b"", self._limits["max_seconds"])
        except (TimeoutError, EOFError, ConnectionError):
            return []
        self._put_back(child, reply)
        found: list[Radiograph | ImageRefusedError] = []
        at = 0
        for path, one in zip(paths, reply["several"], strict=False):
            if error := self._refusal(path, one):
                found.append(error)
                continue
            assert pixels is not None  # an image has them
            size = one["facts"]["height"] * one["facts"]["width"]
            found.append(_radiograph(one, pixels[at : at + size]))
            at += size
        return found

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
                raise DecoderError("decoders: none was free within the time limit; try again later")
            try:
                with self._replaced_after_errors(child):
                    reply, pixels = child.ask(message, given, most, left)
            except TimeoutError:
                if left is not None and left.is_set():
                    raise DecoderError("decoders: the image is no longer needed") from None
                took = (
                    self._limits["max_seconds"] if end == math.inf else min(self._limits["max_seconds"], seconds or 0)
                )
                raise _too_long(name, took) from None
            except (EOFError, ConnectionError):
                # Killed from outside: try once more. A file that uses up all memory ends the second one too.
                if child.ended in (-signal.SIGKILL, -signal.SIGTERM) and not last:
                    continue
                raise self._died(name, child) from None
            break
        self._put_back(child, reply)
        if error := self._refusal(name, reply):
            raise error
        return reply, pixels

    @contextlib.contextmanager
    def _replaced_after_errors(self, child: _Child) -> Iterator[None]:
        """Replace a child that did not answer: a late answer would be taken for that of the next image."""
        try:
            yield
        except BaseException as error:
            self._replace(child)
            if isinstance(error, OSError | EOFError):
                self._check_open()  # `close` makes a call that is under way fail with one of these
            raise

    def _put_back(self, child: _Child, reply: dict[str, Any]) -> None:
        if reply.get("worn"):
            self._replace(child)
        else:
            self._give_back(child)

    def _refusal(self, name: str | Path, reply: dict[str, Any]) -> ImageRefusedError | None:
        if "refused" in reply:
            return ImageRefusedError(name, *reply["refused"])
        if "short" in reply:
            return _machine_short(name)
        return self._too_much(name) if "memory" in reply else None

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
                    raise DecoderError("decoders: none was free within the time limit; try again later")
        try:
            child.wait_ready(min(_START_SECONDS, end - time.monotonic()))
        except TimeoutError:
            if end < math.inf:
                self._give_back(child)  # it continues to start
                raise DecoderError("decoders: none started within the time limit; try again later") from None
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
                    # It starts while others work.
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
            # A machine short of memory kills the largest process. Both decoders were within their own limit.
            return _machine_short(name)
        if _FAILED_ALLOCATION.search(words):
            return self._too_much(name)
        try:
            how = signal.Signals(-(child.ended or 0)).name
        except ValueError:
            how = f"exit code {child.ended}"
        return ImageRefusedError(name, f"crashed its decoder ({how})", images.SAVE)


def check_limits(max_memory: object, max_seconds: object) -> None:
    """Refuse limits that are too low to decode anything.

    Args:
        max_memory: in GB.
        max_seconds: for one image.

    Raises:
        SettingError: naming the setting.
    """
    for name, value, least in (("max_memory", max_memory, _LEAST_MEMORY), ("max_seconds", max_seconds, 0.1)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
            raise SettingError(f"reading.{name}", value, f"a number of at least {least:g}")


_POOLS: weakref.WeakSet[Decoders] = weakref.WeakSet()
_SHARED: dict[tuple[float, ...], Decoders] = {}
_SHARED_LOCK = threading.Lock()


def shared_decoders(
    *, max_memory: float = 1.5, max_seconds: float = 20.0, max_megapixels: float = 64.0, min_side: int = 64
) -> Decoders:
    """This process's decoders with these limits (arguments of `Decoders`); closed when it ends."""
    limits = (max_memory, max_seconds, max_megapixels, min_side)
    with _SHARED_LOCK:
        if limits not in _SHARED:
            _SHARED[limits] = Decoders(
                max_memory=max_memory, max_seconds=max_seconds, max_megapixels=max_megapixels, min_side=min_side
            )
        return _SHARED[limits]


def _radiograph(reply: dict[str, Any], pixels: Pixels) -> Radiograph:
    for kind, about in reply.get("logged", ()):
        images.log_once(kind, about)
    facts = ImageFacts(**reply["facts"])
    return Radiograph(
        pixels.reshape(facts.height, facts.width), facts, reply["colour"], reply["view"], reply["patient_id"]
    )


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


def _machine_short(name: str | Path) -> ImageRefusedError:
    cause = "the machine has too little memory left to decode it"
    return ShortOfMemoryError(name, cause, "free some, or run less at once, and try again")


def _too_long(name: str | Path, seconds: float) -> ImageRefusedError:
    cause = f"took more than {seconds:g} s to decode"
    return ImageRefusedError(name, cause, "save it again, or raise reading.max_seconds where it can be trusted")


class _Child:
    """One process and the socket to it. The process ends when its standard input is closed."""

    def __init__(self, limits: dict[str, Any]) -> None:
        self._socket, theirs = socket.socketpair()
        self._shared = _SharedPixels.create()
        # What decoders print is read only for a crash: it may say that memory ran out.
        self._log = os.memfd_create("decoder") if hasattr(os, "memfd_create") else os.open(os.devnull, os.O_RDWR)
        home = str(Path(covidnet.__file__).parents[1])
        # An empty entry is the current folder, which may have changed and may hold modules of the same names.
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
        """Wait until it has imported its libraries; no image's time limit includes this.

        Raises:
            TimeoutError, EOFError, ConnectionError: it did not start.
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
        """Its answer, and the pixels of all images in the answer as one flat array; None if it has none.

        Args:
            message: what to do.
            given: an open file, or its bytes.
            seconds: until TimeoutError.
            left: once it is set, nobody waits for the answer, which raises TimeoutError too.

        Raises:
            TimeoutError: no answer.
            EOFError, ConnectionError: the process has ended.
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
        if "pixels" not in reply:
            return reply, None
        pixels = np.empty(reply["pixels"], np.uint8)
        if self._shared.file < 0:
            _receive_into(self._socket, pixels.data)
        else:
            pixels[:] = self._shared.mapped(pixels.size)
        return reply, pixels

    def last_words(self) -> str:
        """The last line that it wrote to its error stream."""
        return self._words

    def kill(self) -> None:
        """End the process, whatever it is doing, and free its resources."""
        with self._killing:
            if self.ended is not None:
                return
            # If it has ended by itself, its exit code says why.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0)
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                # A process in an uninterruptible system call ends only after it.
                self._process.wait(5)
            self.ended = self._process.returncode if self._process.returncode is not None else -signal.SIGKILL
            with contextlib.suppress(OSError):
                lines = os.pread(self._log, 1 << 16, 0).decode(errors="replace").strip().splitlines()
                self._words = lines[-1] if lines else ""
            self.abandon()

    def disown(self) -> None:
        """Close our ends of a child that another process started and waits for."""
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
    """Unnamed memory shared by a child and its parent; it is reused for every answer, which costs least.

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
        # If the memory shrank, the system would kill its reader.
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
        return cls(file)

    def mapped(self, size: int) -> Pixels:
        """Its first `size` bytes; it grows if it is smaller."""
        if self._bytes.size < size and self.file < 0:
            self._bytes = np.concatenate([self._bytes, np.empty(size - self._bytes.size, np.uint8)])
        elif self._bytes.size < size:
            if os.fstat(self.file).st_size < size:
                os.ftruncate(self.file, size)
            self._bytes = np.frombuffer(mmap.mmap(self.file, size), np.uint8)
        return self._bytes[:size]

    def put(self, at: int, pixels: Pixels) -> int:
        """Copy the pixels of one image to offset `at`, and return how many bytes they take."""
        self.mapped(at + pixels.size)[at:] = pixels.reshape(-1)
        return pixels.size

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
    """Send a message, with open files or followed by bytes."""
    body = json.dumps(message).encode()
    frame = _HEAD.pack(len(body)) + body
    sent = socket.send_fds(stream, [frame], files or [])
    if sent < len(frame):
        stream.sendall(frame[sent:])
    if more:
        stream.sendall(more)


def _receive(stream: socket.socket) -> tuple[dict[str, Any], int | None]:
    """Receive a message, and the open file that came with it."""
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
    """The main loop of a child: answer until the parent closes its end.

    Args:
        limits: those of `Decoders`, as JSON.
        shared: file descriptor of the shared memory.
    """
    stream, place = _settle(), _SharedPixels(int(shared))
    most = json.loads(limits)
    sizes = images.Limits("", most["max_megapixels"], most["min_side"])
    logged = _Logged()
    logging.getLogger().addHandler(logged)
    limit = _limit_memory(most["max_memory"], most["max_megapixels"])
    with contextlib.suppress(EOFError, ConnectionError):
        _send(stream, {"ready": True})
        while True:
            message, file = _receive(stream)
            with contextlib.suppress(OSError):  # it may not be a file
                os.ftruncate(2, 0)
            if message["do"] == "several":
                reply, size = _several(message, sizes, limit, logged, place)
            else:
                given = file if file is not None else bytes(_received(stream, message["bytes"]))
                reply, pixels = _guarded(message, given, sizes._replace(path=message["name"]), limit, logged)
                size = 0 if pixels is None else place.put(0, pixels)
                del given, pixels
            if file is not None:
                os.close(file)
            if size:
                reply["pixels"] = size
            # A process's peak never falls, so the next image would be blamed for the memory that this one needed.
            if _peak() >= _NEAR * limit:
                reply["worn"] = True
            _send(stream, reply, more=place.mapped(size).data if size and place.file < 0 else b"")


class _Logged(logging.Handler):
    """Collects what `covidnet.data.reading.images.log_once` says about an image; nobody reads a child's other logs."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        kind, about = getattr(record, "kind", None), getattr(record, "about", None)
        if kind is not None:
            self.lines.append((str(kind), str(about)))


def _several(
    message: dict[str, Any], limits: images.Limits, memory: float, logged: _Logged, place: _SharedPixels
) -> tuple[dict[str, Any], int]:
    """Answers for the first of several images, and how many bytes their pixels take in shared memory."""
    end = time.monotonic() + _BLOCK_SECONDS
    replies: list[dict[str, Any]] = []
    size = 0
    for name, file in zip(message["names"], message["files"], strict=True):
        reply, pixels = _guarded({"do": "image"}, Path(file), limits._replace(path=name), memory, logged)
        if replies and "worn" in reply:
            # An earlier image may have taken the memory, so this one is decoded again in a new process.
            return {"several": replies, "worn": True}, size
        replies.append(reply)
        if pixels is not None:
            size += place.put(size, pixels)
        del pixels  # the next image is decoded into the same memory
        if size > _BLOCK or time.monotonic() > end:
            break
    return {"several": replies} | ({"worn": True} if "worn" in replies[0] else {}), size


def _guarded(
    message: dict[str, Any], given: Path | int | bytes, limits: images.Limits, memory: float, logged: _Logged
) -> tuple[dict[str, Any], Pixels | None]:
    """The answer, whatever happens; a failure that cannot be reported ends this process, which the parent notices."""
    pixels = None
    logged.lines = []
    images.forget_logged()
    try:
        reply, pixels = _work(message, given, limits)
    except Exception as error:
        if _ran_out(error) or _peak() >= _NEAR * memory:
            reply = {"short" if _machine_is_short(memory) else "memory": True, "worn": True}
        else:
            refused = error if isinstance(error, ImageRefusedError) else images.unreadable(limits.path, error)
            reply = {"refused": [refused.cause, refused.remedy]}
    reply["logged"] = logged.lines
    return reply, pixels


def _work(
    message: dict[str, Any], given: Path | int | bytes, limits: images.Limits
) -> tuple[dict[str, Any], Pixels | None]:
    if isinstance(given, Path):
        data = images.image_bytes(given, limits.max_megapixels)
    elif isinstance(given, int):
        with images.reading(limits.path), os.fdopen(given, "rb", closefd=False) as file:
            data = file.read()
    else:
        data = given
    if message["do"] == "identifiers":
        from covidnet.data.reading.dicom import identifiers_of

        return {"identifiers": identifiers_of(data, limits.path)}, None
    if message["do"] == "source":
        from covidnet.data.reading.dicom_source import source_of

        return {"source": source_of(data, limits.path)}, None
    if message["do"] == "mask":
        mask = images.decode_mask(data, limits.path, tuple(message["shape"]))
        return {}, np.require(mask, np.uint8, "C")
    if message.get("sha256") is not None:
        images.check_sha256(data, limits.path, message["sha256"])
    image = images.decode_radiograph(data, limits.path, max_megapixels=limits.max_megapixels, min_side=limits.min_side)
    known = {"colour": image.colour, "view": image.view, "patient_id": image.patient_id}
    return {"facts": vars(image.facts), **known}, image.pixels


def _ran_out(error: BaseException | None) -> bool:
    """Whether an error or its cause is a failed allocation, which C libraries report only in words."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # causes can form a cycle
        seen.add(id(error))
        words = "" if isinstance(error, ImageRefusedError) else str(error)  # names the file
        if isinstance(error, MemoryError) or _FAILED_ALLOCATION.search(words):
            return True
        error = error.__cause__ or error.__context__
    return False


def _settle() -> socket.socket:
    """Ignore every signal but the one that says that the parent has ended, and keep all output off the socket."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # They are meant for the parent, which ends its children itself.
        signal.signal(number, signal.SIG_IGN)
    # The kernel sends SIGIO when the parent has ended, which also ends a decoder in the middle of its work.
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
    """Limit the address space, and return the limit in bytes; infinity without one."""
    most = gigabytes * 1e9
    # No patient's pixels in a core dump, and no endless log.
    files = max_megapixels * 1e6 + _BLOCK + 2**20
    for kind, value in ((resource.RLIMIT_AS, most), (resource.RLIMIT_FSIZE, files), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(kind)[1]
        value = resource.RLIM_INFINITY if value == math.inf else int(value)
        if hard != resource.RLIM_INFINITY and (value == resource.RLIM_INFINITY or value > hard):
            value = hard
        resource.setrlimit(kind, (value, value))
    return most


def _peak() -> float:
    """The peak address space of this process in bytes; 0 if the system does not report it."""
    return _from_status(b"VmPeak")


def _from_status(name: bytes) -> float:
    try:
        status = os.open(_STATUS, os.O_RDONLY)
        try:
            found = re.search(name + rb":\s*(\d+) kB", os.read(status, 2**14))
        finally:
            os.close(status)
    except OSError:
        return 0.0
    return int(found[1]) * 1024.0 if found else 0.0


def _machine_is_short(limit: float) -> bool:
    """Whether the machine has less free memory than the limit allows: then the machine caused the failure."""
    # Some of the memory of the failed attempt may not be free yet.
    room = limit - _from_status(b"VmSize") - 2**26
    if not 0 < room < math.inf:
        return False
    try:
        mmap.mmap(-1, int(room)).close()
    except (OSError, MemoryError):
        return True
    return False
