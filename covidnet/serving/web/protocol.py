"""Uvicorn's HTTP protocol with timeouts: silent connections, and those that do not read their response, are closed."""

from __future__ import annotations

import asyncio
import asyncio.constants
import json
import socket
from collections import Counter
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from covidnet.serving.web.guard import HEADERS, Access
from covidnet.serving.web.limits import WebLimits
from covidnet.serving.web.rate import client_of
from covidnet.serving.web.web_error import WebError

WAIT_SECONDS = 10.0
"""Maximum time for the head of a request to arrive, and for a response to stay unread."""

LINGER_SECONDS = 2.0
"""Maximum time between the response and the end of a connection on which a request still arrives."""

RESERVED = 8
"""Connections beyond the limit, only for /health and /ready; a new one replaces the oldest of the address that holds
most of them."""

# Bytes per read, which increase while a body of known length arrives, and bytes that chunk lengths may take besides a
# body. Python parses chunk by chunk and serves nobody else meanwhile; chunks of one byte are almost only overhead.
_READ, _LONGEST_READ = 1 << 12, 1 << 16
_FRAMING = 1 << 13


def limit_handshakes() -> None:
    """Let a TLS handshake take no longer than the head of a request; asyncio's default is a minute."""
    # Uvicorn does not pass the argument of asyncio's create_server on.
    vars(asyncio.constants)["SSL_HANDSHAKE_TIMEOUT"] = WAIT_SECONDS


class _Lingering:
    """A transport that stays open for a moment after `close` while a request still arrives.

    A socket that is closed with unread data resets the connection, and the client, such as a proxy, may lose the
    response that it has not read yet. So the client is told that no more comes, and what it sends is discarded.

    Args:
        transport: of the connection.
        closes: called at `close`; whether a request still arrives.
    """

    def __init__(self, transport: asyncio.Transport, closes: Callable[[], bool]) -> None:
        self._transport, self._closes, self._lingers = transport, closes, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._lingers or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        if not self._lingers:
            self._transport.write(data)

    def close(self) -> None:
        if self.is_closing() or not self._closes():
            self._transport.close()
            return
        self._lingers = True
        self._transport.resume_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()


class UploadProtocol(H11Protocol):
    """One connection. `limits` sets how many there may be; those of proxies in `access` are not counted by address."""

    limits = WebLimits()
    access = Access()
    reserved = False
    client_key = ""
    since = 0.0
    _silence: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None
    _end: asyncio.TimerHandle | None = None
    _framing = 0

    def connection_made(self, transport: Any) -> None:
        """Start waiting for a request; with too many connections, only for a probe."""
        super().connection_made(_Lingering(transport, self._closes))  # type: ignore[arg-type]
        self._socket = transport
        # asyncio does this only for sockets that it creates. Otherwise the body of a response waits 40 ms for the
        # client to acknowledge the head (Nagle's algorithm and delayed acknowledgements).
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.max_size = _READ
        self._find_place()
        self._listen()

    def data_received(self, data: bytes) -> None:
        """Process a piece of a request; TLS delivers longer ones than a read of the socket."""
        start = 0
        while start < len(data) and not self.transport.is_closing():
            end = start + getattr(self.transport, "max_size", _READ)
            self._received(data[start:end])
            start = end

    def _received(self, data: bytes) -> None:
        cycle = self.cycle
        before = len(cycle.body) if cycle else 0
        super().data_received(data)
        if self.cycle is not cycle:
            before, self._framing = 0, 0
        if self.cycle:
            if self._mostly_framing(len(data), len(self.cycle.body) - before):
                self._refuse_chunks()
                return
            plain = self._framing == 0 and not self.cycle.response_complete and not self._chunked()
            # asyncio reads up to max_size bytes at once.
            self._socket.max_size = min(2 * self._socket.max_size, _LONGEST_READ) if plain else _READ
        self._listen()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers."""
        for timer in (self._silence, self._stall, self._end):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read its response: start the timer."""
        super().pause_writing()
        self._stall = self.loop.call_later(WAIT_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again: cancel the timer."""
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def send_400_response(self, msg: str) -> None:
        """Answer an invalid request with the same JSON as other errors."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._refuse(
                WebError(400, "no_http", "the request is not valid HTTP, or its head is too long", "use HTTP/1.1")
            )
        else:
            self.transport.close()

    def _mostly_framing(self, size: int, gained: int) -> bool:
        """Whether a body is mostly chunk lengths; a piece of `size` bytes contained `gained` bytes of the body."""
        if not self.cycle.response_complete:
            # Chunk lengths take a fifth of the bytes for chunks of 24 bytes.
            self._framing = max(0, self._framing + size - gained * 5 // 4)
        elif self._chunked():
            # Data after the response are discarded, chunk by chunk.
            self._framing += size
        return self._framing > _FRAMING

    def _chunked(self) -> bool:
        return any(name == b"transfer-encoding" for name, _ in self.cycle.scope["headers"])

    def _find_place(self) -> None:
        """Count the connections, and take a reserved place if there are too many."""
        address = self.client[0] if self.client else ""
        self.client_key, self.since = client_of(address), self.loop.time()
        # All connections of this server are of this class.
        everyone: Any = self.connections
        others = [one for one in everyone if one is not self and not one._socket.is_closing()]
        taken = [one for one in others if not one.reserved]
        mine = 0 if self.access.trusts(address) else sum(one.client_key == self.client_key for one in taken)
        self.reserved = len(taken) >= self.limits.connections or mine >= 2 * self.limits.per_address
        if self.reserved:
            # With this the guard answers only probes.
            self.app_state = {**self.app_state, "reserved": True}
            kept = sorted((one for one in others if one.reserved), key=lambda one: one.since)
            if len(kept) >= RESERVED:
                held = Counter(one.client_key for one in [*kept, self])
                max(kept, key=lambda one: held[one.client_key]).transport.abort()

    def _closes(self) -> bool:
        """Whether a request still arrives on a connection that is closed: if so, the timer of its end starts."""
        if self.conn.their_state not in (h11.SEND_BODY, h11.ERROR):
            return False
        if self.cycle and not self.cycle.response_complete:
            # The application gets no more of this request.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._end = self.loop.call_later(LINGER_SECONDS, self.transport.close)
        return True

    def _listen(self) -> None:
        """Run the timer while no request is being processed."""
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self._silence is None and not self.transport.is_closing():
            self._silence = self.loop.call_later(WAIT_SECONDS, self._give_up)
        elif not idle and self._silence is not None:
            self._silence.cancel()
            self._silence = None

    def _give_up(self) -> None:
        self._silence = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def _refuse_chunks(self) -> None:
        if self.cycle.response_started:
            self.transport.close()
        else:
            problem = WebError(400, "small_chunks", "the body arrives in tiny chunks", "send the file in one piece")
            self._refuse(problem)

    def _refuse(self, problem: WebError) -> None:
        body = json.dumps(problem.body()).encode()
        head = {
            **HEADERS,
            **problem.headers,
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Connection": "close",
        }
        lines = [f"HTTP/1.1 {problem.status} Bad Request"]
        lines += [f"{name}: {value}" for name, value in head.items()]
        self.transport.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        self.transport.close()
