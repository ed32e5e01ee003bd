"""What holds for every request whatever it asks: who may ask, how many at once, and the headers of each answer."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from covidnet.errors import SettingError
from covidnet.serving.web.rate import client_of
from covidnet.serving.web.reception import place_of, short_of_memory
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

PROBES = frozenset({"/health", "/ready"})
"""Answered also where there are too many connections or requests."""

_OPEN = PROBES | {"/", "/app.js", "/style.css"}
_RAW = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
_LOCAL = ("localhost", "127.0.0.1", "::1")
_NAME = re.compile(r"[a-z0-9_][a-z0-9_.-]*")
_SHORTEST_TOKEN = 16


@dataclass(frozen=True)
class Access:
    """Who may ask, and under which names; `access_of` makes one of the settings.

    Args:
        hosts: names that the server answers to, in the header ``Host``; none allows any. A page elsewhere whose name
            was turned to this machine (DNS rebinding) would send its own name.
        names: those of them that a person gave. A proxy may ask under a name of its own for a page of one of them.
        proxies: addresses and networks whose ``X-Forwarded-For``, ``-Proto`` and ``-Host`` are believed.
        token: what ``Authorization: Bearer`` must hold for everything but the page's files and `PROBES`; empty asks for
            none.
    """

    hosts: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    proxies: tuple[str, ...] = ()
    token: str = ""

    def trusts(self, address: str) -> bool:
        """Whether an address is that of a proxy."""
        try:
            known = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(known in ipaddress.ip_network(proxy) for proxy in self.proxies)


def access_of(
    host: str,
    hosts: Iterable[object] | str | None = (),
    proxies: Iterable[object] | str | None = (),
    token: str | Path | None = None,
) -> Access:
    """Who may ask a server at an address.

    Args:
        host: the address or name that the server is bound to.
        hosts: more names that it is known by, such as that of a proxy before it; one alone may be a text.
        proxies: addresses or networks of proxies.
        token: a file with a token on one line.

    Raises:
        SettingError: what is no name, no network or no token; or the server is open to other machines, and neither
            its names nor a token are given.

    Example:
        >>> sorted(access_of("127.0.0.1").hosts), sorted(access_of("0.0.0.0", ["films.example"]).names)
        (['127.0.0.1', '::1', 'localhost'], ['films.example'])
    """
    names = frozenset(_checked_name(name) for name in _listed(hosts))
    secret = "" if token is None else _read_token(Path(token))
    trusted = tuple(_checked_network(proxy) for proxy in _listed(proxies))
    if not is_loopback(host) and not names and not secret:
        raise SettingError(
            "host", host, "127.0.0.1",
            "other machines reach the server only with hosts=[NAME,...], the names it is asked by, or token=FILE",
        )  # fmt: skip
    if not is_loopback(host) and not names:
        return Access(proxies=trusted, token=secret)
    own = set() if _any(host) or not host else {host.lower().strip("[]")}
    return Access(frozenset({*names, *own, *_LOCAL}), names, trusted, secret)


class Guard:
    """An ASGI application around the true one.

    Args:
        app: the application.
        access: who may ask.
        connections: requests at work at once.
        per_address: of these, of one client address.
    """

    def __init__(self, app: ASGIApp, access: Access | None = None, connections: int = 64, per_address: int = 8) -> None:
        self._app = app
        self._access = access or Access()
        self._connections = connections
        self._per_address = per_address
        self._busy: Counter[str] = Counter()
        # It reads X-Forwarded-For from its end, where the proxies wrote, and takes the first address that is none.
        self._behind = ProxyHeadersMiddleware(self._guarded, list(self._access.proxies))  # type: ignore[arg-type]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._access.trusts(_address_of(scope)):
            await self._behind(_as_asked({**scope}), receive, send)  # type: ignore[arg-type]
        else:
            await self._guarded(scope, receive, send)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": [*message.get("headers", ()), *_RAW]}
            await send(message)

        client = client_of(_address_of(scope))
        self._busy[client] += 1
        try:
            self._check(scope, client)
            await self._app(scope, receive, guarded)
        except WebError as problem:
            await problem.response()(scope, receive, guarded)
        except ClientDisconnect:
            pass
        except asyncio.CancelledError:
            # The server ends, and waits for no answer any more.
            if not started:
                await busy("the server is closing").response()(scope, receive, guarded)
            raise
        except Exception as error:
            short = short_of_memory(error)
            _LOG.error("%s: %s", "short of memory" if short else "internal error on a request", place_of(error))
            if not started:
                said = busy("the server is short of memory") if short else internal()
                await said.response()(scope, receive, guarded)
        finally:
            self._busy[client] -= 1
            if not self._busy[client]:
                del self._busy[client]

    def _check(self, scope: Scope, client: str) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        access, path = self._access, scope["path"]
        if path not in PROBES:
            if scope.get("state", {}).get("reserved"):
                raise WebError(
                    503, "busy", "too many connections", "try again in a moment", retry=2,
                    headers={"Connection": "close"},
                )  # fmt: skip
            if self._busy.total() > self._connections:
                raise busy("too many requests at once")
            if self._busy[client] > self._per_address:
                raise busy("too many requests of one address at once")
        if access.hosts and _name_of(host) not in access.hosts:
            raise WebError(400, "wrong_host", "the header Host names another machine", "use the address it was given")
        if scope["method"] not in ("GET", "HEAD"):
            site, origin = headers.get("sec-fetch-site", "none"), headers.get("origin")
            if site not in ("none", "same-origin") or (origin is not None and not self._same(origin, host)):
                raise WebError(403, "cross_site", "a page of another site asks", "use the page of this server")
        if access.token and path not in _OPEN:
            kind, _, given = headers.get("authorization", "").partition(" ")
            same = hmac.compare_digest(given.strip().encode("latin-1"), access.token.encode())
            if kind.lower() != "bearer" or not same:
                raise WebError(
                    401, "no_token", "the server asks for a token", "send the header Authorization: Bearer TOKEN",
                    headers={"WWW-Authenticate": "Bearer"},
                )  # fmt: skip

    def _same(self, origin: str, host: str) -> bool:
        """Whether a page's origin is the server as the request names it, or as a person does where a proxy does not."""
        shown = origin.partition("://")[2]
        names = self._access.names
        return bool(shown) and (shown == host or (_name_of(shown) in names and _name_of(host) not in names))


def is_loopback(host: str) -> bool:
    """Whether an address or name is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _listed(values: Iterable[object] | str | None) -> Iterable[object]:
    return [values] if isinstance(values, str) else values or ()


def _checked_name(name: object) -> str:
    found = str(name).lower().strip("[]")
    try:
        ipaddress.ip_address(found)
    except ValueError:
        if not _NAME.fullmatch(found):
            allowed = "a name or address as the browser shows it, without scheme and port, such as films.example"
            raise SettingError("hosts", name, allowed) from None
    return found


def _checked_network(proxy: object) -> str:
    try:
        return str(ipaddress.ip_network(str(proxy), strict=False))
    except ValueError:
        raise SettingError("proxies", proxy, "an address or network such as 127.0.0.1 or 10.1.0.0/16") from None


def _read_token(path: Path) -> str:
    allowed = f"a file with one line of at least {_SHORTEST_TOKEN} letters, digits or signs, without spaces"
    try:
        # More than a token can have is nobody's token, perhaps a whole disk.
        with path.open("rb") as file:
            token = file.read(4097).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise SettingError("token", path, allowed, f"the system says: {why}") from None
    if not _SHORTEST_TOKEN <= len(token) <= 4096 or not all("!" <= character <= "~" for character in token):
        raise SettingError("token", path, allowed, "write one with: openssl rand -hex 32")
    return token


def _address_of(scope: Scope) -> str:
    return scope["client"][0] if scope.get("client") else ""


def _as_asked(scope: Scope) -> Scope:
    """A request as a proxy that tells the name it was asked by received it."""
    told = [value for name, value in scope["headers"] if name == b"x-forwarded-host"]
    if told:
        # The nearest proxy writes last.
        host = told[-1].split(b",")[-1].strip()
        scope["headers"] = [(name, host if name == b"host" else value) for name, value in scope["headers"]]
    return scope


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
