"""Read one uploaded file into memory only; Starlette's form parser would put larger ones on disk."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from covidnet.serving.web.limits import WebLimits
from covidnet.serving.web.web_error import WebError, busy

# It logs the bytes that it cannot parse, which belong to an upload.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)

# Bytes that the boundaries and headers of a form with one file may take besides the file.
_FORM = 1 << 16

PATIENCE_SECONDS = 5.0
"""How far an upload may fall behind the minimum rate, so that a short pause does not end it."""

_HOW = "send one image as the body (curl --data-binary @image.dcm), or as one part named file (curl -F file=@image.png)"


class Memory:
    """A limit on the memory of all uploads together; one client may use half of it.

    Args:
        limit: in bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.used_by: Counter[str] = Counter()

    @contextmanager
    def share(self, client: str = "") -> Iterator[Share]:
        """The share of one upload, released at the end.

        Args:
            client: the client's address.
        """
        share = Share(self, client)
        try:
            yield share
        finally:
            self.used -= share.size
            self.used_by[client] -= share.size
            if not self.used_by[client]:
                del self.used_by[client]


class Share:
    """The memory of one upload."""

    def __init__(self, memory: Memory, client: str) -> None:
        self.memory = memory
        self.client = client
        self.size = 0

    def take(self, size: int) -> None:
        """Reserve more bytes.

        Raises:
            WebError: all of the memory is in use, or this client uses its half.
        """
        if self.memory.used + size > self.memory.limit:
            raise busy("too many uploads at once")
        if self.memory.used_by[self.client] + size > self.memory.limit // 2:
            raise busy("too many uploads from one address at once")
        self.memory.used += size
        self.memory.used_by[self.client] += size
        self.size += size


async def read_upload(
    stream: AsyncIterator[bytes], headers: Mapping[str, str], limits: WebLimits, share: Share, empty: bool = False
) -> bytes:
    """Read the one file of a request, rejecting it as soon as it is too large.

    Args:
        stream: the body, piece by piece.
        headers: of the request, names in lower case.
        limits: of the server.
        share: the upload's share of the memory.
        empty: whether the body may be empty.

    Returns:
        The file's bytes. Its name is not kept.

    Raises:
        WebError: the upload is empty, too large, too slow or malformed.
    """
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise WebError(415, "encoded", "the body has a Content-Encoding", "send the file as it is")
    form = _form_of(headers.get("content-type", ""))
    room = limits.max_bytes + (_FORM if form else 0)
    length = headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 15 or int(length) > room):
        raise _too_large(limits)
    parts: list[bytes] = []
    received = 0
    try:
        start = asyncio.get_running_loop().time()
        async with asyncio.timeout(min(limits.upload_seconds, PATIENCE_SECONDS)) as clock:
            async for piece in stream:
                received += len(piece)
                if received > room:
                    raise _too_large(limits)
                share.take(len(piece))
                if form:
                    form.feed(piece)
                else:
                    parts.append(piece)
                enough = PATIENCE_SECONDS + received / (1000 * limits.upload_rate)
                clock.reschedule(start + min(limits.upload_seconds, enough))
    except TimeoutError:
        cause = (
            f"the upload took longer than {limits.upload_seconds:g} seconds, "
            f"or was slower than {limits.upload_rate:g} kB per second"
        )
        raise WebError(408, "too_slow", cause, "send a smaller file, or use a faster connection") from None
    if form:
        parts = form.end()
    data = b"".join(parts)
    if len(data) > limits.max_bytes:
        raise _too_large(limits)
    if not data and not empty:
        raise WebError(400, "empty", "no file, or an empty one (0 bytes)", _HOW)
    return data


def _too_large(limits: WebLimits) -> WebError:
    cause = f"the file is larger than {limits.max_megabytes:g} MB"
    return WebError(413, "too_large", cause, "send one image, not an archive or a series, or export it smaller")


def _form_of(content_type: str) -> _Form | None:
    """The parser of a multipart body; None if the body is the file itself."""
    try:
        kind, options = parse_options_header(content_type.encode("latin-1", "replace"))
    except (ValueError, FormParserError):
        return None
    if not kind.startswith(b"multipart/"):
        return None
    if kind != b"multipart/form-data":
        raise WebError(415, "wrong_form", "the body is multipart but not form-data", _HOW)
    if not options.get(b"boundary"):
        raise _malformed("there is no boundary")
    try:
        return _Form(options[b"boundary"])
    except FormParserError:
        raise _malformed("the boundary is too long") from None


class _Form:
    """A form with one part named file; anything else is rejected as soon as it appears."""

    def __init__(self, boundary: bytes) -> None:
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_begin": self._header,
                "on_header_field": self._name,
                "on_header_value": self._value,
                "on_headers_finished": self._head,
                "on_part_data": self._data,
                "on_end": self._end,
            },
        )
        self._headers: list[tuple[bytearray, bytearray]] = []
        self._parts: list[bytes] = []
        self._number = 0
        self._complete = False

    def feed(self, piece: bytes) -> None:
        try:
            self._parser.write(piece)
        except FormParserError:
            raise _malformed("its syntax is invalid") from None

    def end(self) -> list[bytes]:
        if not self._complete:
            raise _malformed("it is incomplete")
        return self._parts

    def _begin(self) -> None:
        self._number += 1
        if self._number > 1:
            raise WebError(
                400, "several_files", "more than one part", "send one image at a time, as one part named file"
            )

    def _header(self) -> None:
        self._headers.append((bytearray(), bytearray()))

    def _name(self, data: bytes, start: int, end: int) -> None:
        self._headers[-1][0].extend(data[start:end])

    def _value(self, data: bytes, start: int, end: int) -> None:
        self._headers[-1][1].extend(data[start:end])

    def _head(self) -> None:
        known = {bytes(name).lower(): bytes(value) for name, value in self._headers}
        _, options = parse_options_header(known.get(b"content-disposition", b""))
        if options.get(b"name") != b"file":
            raise WebError(400, "wrong_part", "the part is not named file", _HOW)

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._parts.append(data[start:end])

    def _end(self) -> None:
        self._complete = True


def _malformed(why: str) -> WebError:
    return WebError(400, "malformed", f"the multipart body is malformed: {why}", _HOW)
