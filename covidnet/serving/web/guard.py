"""What holds for every request whatever it asks: who may ask, how many at once, and the headers of each answer."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from covidnet.serving.web.reception import place_of
from covidnet.serving.web.web_error import WebError, busy, internal

_LOG = logging.getLogger(__name__)

HEADERS: dict[str, str] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Headers of every answer: nothing is kept, nothing is framed, and the page loads nothing from elsewhere."""

_RAW = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
_LOCAL = ("localhost", "127.0.0.1", "::1")


class Guard:
    """An ASGI application around the true one.

    Args:
        app: the application.
        hosts: names that the server answers to, in the header ``Host``; none allows any. A page elsewhere whose name
            was turned to this machine (DNS rebinding) would send its own name.
        connections: requests at work at once.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str] = (), connections: int = 64) -> None:
        self._app = app
        self._hosts = frozenset(host.lower().strip("[]") for host in hosts)
        self._connections = connections
        self._busy = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": [*message.get("headers", ()), *_RAW]}
            await send(message)

        self._busy += 1
        try:
            self._check(scope)
            await self._app(scope, receive, guarded)
        except WebError as problem:
            await problem.response()(scope, receive, guarded)
        except ClientDisconnect:
            pass
        except Exception as error:
            _LOG.error("internal error on a request: %s", place_of(error))
            if not started:
                await internal().response()(scope, receive, guarded)
        finally:
            self._busy -= 1

    def _check(self, scope: Scope) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        if self._busy > self._connections:
            raise busy("too many requests at once")
        if self._hosts and _name_of(host) not in self._hosts:
            raise WebError(400, "wrong_host", "the header Host names another machine", "use the address it was given")
        if scope["method"] not in ("GET", "HEAD"):
            site, origin = headers.get("sec-fetch-site", "none"), headers.get("origin")
            if site not in ("none", "same-origin") or (origin is not None and urlsplit(origin).netloc != host):
                raise WebError(403, "cross_site", "a page of another site asks", "use the page of this server")


def allowed_hosts(host: str, more: Iterable[str] = ()) -> list[str]:
    """The names to give to `Guard` for a server at an address.

    Args:
        host: the address or name that the server is bound to.
        more: names that it is known by, such as that of a proxy before it.

    Returns:
        No name, and so any, where the server is open to other machines and no name is given.

    Example:
        >>> allowed_hosts("127.0.0.1"), allowed_hosts("0.0.0.0"), allowed_hosts("0.0.0.0", ["films.example"])
        (['localhost', '127.0.0.1', '::1'], [], ['films.example', 'localhost', '127.0.0.1', '::1'])
    """
    own = [] if host in _LOCAL or not host or _any(host) else [host]
    names = [*more, *own, *_LOCAL]
    return names if is_loopback(host) or list(more) else []


def is_loopback(host: str) -> bool:
    """Whether an address or name is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _any(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return False


def _name_of(host: str) -> str:
    """The header Host without its port."""
    try:
        return (urlsplit("//" + host).hostname or "").lower()
    except ValueError:
        return ""
