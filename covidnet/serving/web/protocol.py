"""Uvicorn's HTTP with patience that ends: connections that say nothing, or do not take their answer, are closed."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from covidnet.serving.web.guard import HEADERS
from covidnet.serving.web.web_error import WebError, busy

WAIT_SECONDS = 10.0
"""How long the head of a request may take, and how long an answer may stay untaken."""


class FilmProtocol(H11Protocol):
    """One connection. `connections_limit` is how many there may be."""

    connections_limit = 64
    _silence: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a request, or say no where there are too many."""
        super().connection_made(transport)
        # asyncio does so for sockets that it makes itself. Without it the body of an answer waits 40 ms for the client
        # to confirm the head (Nagle's algorithm and delayed acknowledgements).
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if len(self.connections) > self.connections_limit:
            self._refuse(busy("too many connections"))
            return
        self._listen()

    def data_received(self, data: bytes) -> None:
        """Take a piece of a request."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        self._listen()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        for timer in (self._silence, self._stall):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not take its answer."""
        super().pause_writing()
        self._stall = self.loop.call_later(WAIT_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The client takes it after all."""
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP as everything else is answered."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._refuse(WebError(400, "no_http", "the request is no HTTP, or its head is too long", "use HTTP/1.1"))
        else:
            self.transport.close()

    def _listen(self) -> None:
        """Run the clock while no request is at work."""
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

    def _refuse(self, problem: WebError) -> None:
        body = json.dumps(problem.body()).encode()
        head = {
            **HEADERS,
            **problem.headers,
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Connection": "close",
        }
        lines = [f"HTTP/1.1 {problem.status} {'Bad Request' if problem.status == 400 else 'Service Unavailable'}"]
        lines += [f"{name}: {value}" for name, value in head.items()]
        self.transport.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        self.transport.close()
