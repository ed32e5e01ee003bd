"""Servers that stop at once."""

from __future__ import annotations

import socketserver
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package", autouse=True)
def stops_at_once() -> Iterator[None]:
    """Servers of pynetdicom look twice a second whether they should stop, and each test stops two."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socketserver.BaseServer.serve_forever, "__defaults__", (0.01,))
        yield
