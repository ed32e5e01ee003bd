"""The application behind a real server in a thread, for tests of the HTTP connection."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import uvicorn
from PIL import Image
from starlette.testclient import TestClient

from covidnet.serving.audit_log import AuditLog
from covidnet.serving.web.guard import Access, access_of
from covidnet.serving.web.limits import WebLimits
from covidnet.serving.web.protocol import UploadProtocol
from covidnet.serving.web.server import create_app
from tests.serving.web.fakes import FakeDecoders, FakeModel, FakePredictor

LOCAL = access_of("127.0.0.1")


def image_png(side: int = 96, first: int = 40, seed: int = 0) -> bytes:
    """Noise as a PNG; `first` is its first pixel."""
    values = np.random.default_rng(seed).integers(20, 230, (side, side), dtype=np.uint8)
    values[0, 0] = first
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


@contextmanager
def client(
    predictor: Any = None,
    model: Any = None,
    decoders: Any = None,
    access: Access | None = None,
    audit_log: AuditLog | None = None,
    **limits: Any,
) -> Iterator[TestClient]:
    """A client that calls the application without a network."""
    given = WebLimits(**limits)
    decoders = decoders or FakeDecoders(max_megapixels=given.max_megapixels, min_side=given.min_side)
    predictor = predictor or FakePredictor()
    model = model or getattr(predictor, "model", FakeModel())
    app = create_app(model, predictor, decoders, given, card="# Model card: fake", access=access, audit_log=audit_log)
    with TestClient(app, raise_server_exceptions=False) as found:
        yield found


class Server(uvicorn.Server):
    """As uvicorn's, which looks a hundred times a second whether it should end."""

    async def main_loop(self) -> None:
        count = 0
        while not await self.on_tick(count):
            count += 1
            await asyncio.sleep(0.01)


@contextmanager
def serving(
    predictor: Any = None,
    access: Access = LOCAL,
    decoders: Any = None,
    worklist: Any = None,
    tls: ssl.SSLContext | None = None,
    **limits: Any,
) -> Iterator[int]:
    """The port of a server at 127.0.0.1."""
    given = WebLimits(**limits)

    class Protocol(UploadProtocol):
        pass

    Protocol.limits, Protocol.access = given, access
    app = create_app(
        FakeModel(), predictor or FakePredictor(), decoders or FakeDecoders(), given, access=access, worklist=worklist
    )
    # As the command does; otherwise requests interrupted at its end are logged.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    config = uvicorn.Config(
        app, http=Protocol, ws="none", log_config=None, access_log=False, timeout_graceful_shutdown=2,
        proxy_headers=False, loop="asyncio", backlog=64,
    )  # fmt: skip
    config.load()
    config.ssl = tls
    server = Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)


def talk(port: int, *pieces: bytes, seconds: float = 10.0, pause: float = 0.0, once: bool = False) -> bytes:
    """Send pieces unchanged, and read until the server closes the connection or sends no more.

    Args:
        port: of the server.
        pieces: of the request.
        seconds: to wait for more.
        pause: seconds after each piece.
        once: whether to read no more than the first response.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as line:
        try:
            for piece in pieces:
                line.sendall(piece)
                time.sleep(pause)
        except (BrokenPipeError, ConnectionResetError):
            pass
        found = b""
        try:
            while not (once and _whole(found)) and (piece := line.recv(65536)):
                found += piece
        except (TimeoutError, ConnectionResetError):
            pass
        return found


def _whole(response: bytes) -> bool:
    head, end, body = response.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    return bool(end and length) and len(body) >= int(length[1])


def fetched(port: int, path: str) -> tuple[int, Any, Any]:
    """The status, the headers and the JSON of a page."""
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    line.request("GET", path)
    answer = line.getresponse()
    found = answer.status, answer.headers, json.load(answer)
    line.close()
    return found
