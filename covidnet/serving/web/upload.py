"""One uploaded file, read into memory alone: Starlette's own form parser would keep larger ones on disk."""

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

# It logs what it stumbles over, and that is of an upload.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)

# What the boundaries and headers of a form with one file may take beside the file.
_FORM = 1 << 16

PATIENCE_SECONDS = 5.0
"""How far an upload may fall behind its lowest rate, so that a pause ends none."""

_HOW = "send one film as the body (curl --data-binary @film.dcm), or as one part named file (curl -F file=@film.png)"


class Memory:
    """The bytes that all uploads together may hold at once, and those of one client half of it.

    Args:
        limit: in bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.used_by: Counter[str] = Counter()

    @contextmanager
    def share(self, client: str = "") -> Iterator[Share]:
        """What one upload takes of it; given back at the end.

        Args:
            client: whose upload it is.
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
    """The bytes that one upload holds."""

    def __init__(self, memory: Memory, client: str) -> None:
        self.memory = memory
        self.client = client
        self.size = 0

    def take(self, size: int) -> None:
        """Take more of it.

        Raises:
            WebError: the uploads of this moment hold it all, or those of this client their half.
        """
        if self.memory.used + size > self.memory.limit:
            raise busy("too many uploads at once")
        if self.memory.used_by[self.client] + size > self.memory.limit // 2:
            raise busy("too many uploads of one address at once")
        self.memory.used += size
        self.memory.used_by[self.client] += size
        self.size += size


async def read_upload(
    stream: AsyncIterator[bytes], headers: Mapping[str, str], limits: WebLimits, share: Share
) -> bytes:
    """The bytes of the one file that a request carries, refused while they come where they are too many.

    Args:
        stream: the body, piece by piece.
        headers: of the request, names in lower case.
        limits: of the server.
        share: what the upload may hold in memory.

    Returns:
        The file, at least one byte. Its name is nowhere kept.

    Raises:
        WebError: nothing was sent, or too much, or too slowly, or in a form that is not understood.
    """
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise WebError(415, "encoded", "the body has a Content-Encoding", "send the file as it is")
    form = _form_of(headers.get("content-type", ""))
    room = limits.max_bytes + (_FORM if form else 0)
    said = headers.get("content-length", "")
    if said.isdecimal() and (len(said) > 15 or int(said) > room):
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
            f"or came more slowly than {limits.upload_rate:g} kB a second"
        )
        raise WebError(408, "too_slow", cause, "send a smaller file, or use a faster connection") from None
    if form:
        parts = form.end()
    data = b"".join(parts)
    if len(data) > limits.max_bytes:
        raise _too_large(limits)
    if not data:
        raise WebError(400, "empty", "no file, or an empty one (0 bytes)", _HOW)
    return data


def _too_large(limits: WebLimits) -> WebError:
    cause = f"the file is larger than {limits.max_megabytes:g} MB"
    return WebError(413, "too_large", cause, "send one film, not an archive or a series, or export it smaller")


def _form_of(content_type: str) -> _Form | None:
    """The reader of a multipart body; None where the body is the file itself."""
    try:
        kind, options = parse_options_header(content_type.encode("latin-1", "replace"))
    except (ValueError, FormParserError):
        return None
    if not kind.startswith(b"multipart/"):
        return None
    if kind != b"multipart/form-data":
        raise WebError(415, "wrong_form", "a multipart body that is no form", _HOW)
    if not options.get(b"boundary"):
        raise _malformed("there is no boundary")
    try:
        return _Form(options[b"boundary"])
    except FormParserError:
        raise _malformed("the boundary is too long") from None


class _Form:
    """A form with one part that is named file; anything else in it is refused as soon as it is seen."""

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
            raise _malformed("it does not keep to its own form") from None

    def end(self) -> list[bytes]:
        if not self._complete:
            raise _malformed("it has no end")
        return self._parts

    def _begin(self) -> None:
        self._number += 1
        if self._number > 1:
            raise WebError(
                400, "several_files", "more than one part", "send one film at a time, as one part named file"
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
            raise WebError(400, "wrong_part", "a part that is not named file", _HOW)

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._parts.append(data[start:end])

    def _end(self) -> None:
        self._complete = True


def _malformed(why: str) -> WebError:
    return WebError(400, "malformed", f"the multipart body is malformed: {why}", _HOW)
