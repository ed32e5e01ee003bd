"""Rules for every request: who may send it, how many at once, and the headers of each response."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from covidnet.base.atomic import WriteError
from covidnet.base.errors import SettingError
from covidnet.serving.audit_log import AuditLog
from covidnet.serving.web.lock import Lock, read_token, read_users
from covidnet.serving.web.metrics import Metrics
from covidnet.serving.web.rate import client_of
from covidnet.serving.web.request_handler import short_of_memory
from covidnet.serving.web.web_error import WebError, busy, internal, place_of

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
"""Headers of every response: no caching, no framing, and no resources from other sites."""

PROBES = frozenset({"/health", "/ready"})
"""Answered to anyone, even with too many connections or requests."""

_RAW = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
_LOCAL = ("localhost", "127.0.0.1", "::1")
_NAME = re.compile(r"[a-z0-9_][a-z0-9_.-]*")
_LONGEST_USER = 128
# The request came from a trusted proxy.
_BEHIND = "covidnet.behind"


@dataclass(frozen=True)
class Access:
    """Who may send requests, and to which host names; `access_of` builds it from the settings.

    Args:
        hosts: host names accepted in the header ``Host``; empty accepts any. In a DNS rebinding attack, a page on
            another site whose name resolves to this machine sends its own name.
        names: the subset of `hosts` from the settings. A proxy may use another ``Host`` for a page under one of them.
        proxies: addresses and networks whose ``X-Forwarded-For``, ``-Proto``, ``-Host`` and, without a lock, ``-User``
            are trusted.
        lock: required for everything but `PROBES`; None requires no login.
        only_proxies: whether others than the proxies get nothing but `PROBES`, since a proxy checks the users.
    """

    hosts: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    proxies: tuple[str, ...] = ()
    lock: Lock | None = None
    only_proxies: bool = False

    def trusts(self, address: str) -> bool:
        """Whether an address belongs to a trusted proxy."""
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
    users: str | Path | None = None,
) -> Access:
    """The access rules of a server.

    Args:
        host: the address or name that the server is bound to.
        hosts: its other host names, such as that of a proxy in front of it; a single one may be a string.
        proxies: addresses or networks of proxies.
        token: a file with a token on one line.
        users: a file with users and their hashed passwords.

    Raises:
        SettingError: an invalid name, network or token; or the server is open to other machines without a lock, and
            there is no proxy that could check users either.
        DataError: a line of the file of users is not valid.

    Example:
        >>> sorted(access_of("127.0.0.1").hosts), sorted(access_of("::1", ["images.example"]).names)
        (['127.0.0.1', '::1', 'localhost'], ['images.example'])
    """
    names = frozenset(_checked_name(name) for name in _listed(hosts))
    trusted = tuple(_checked_network(proxy) for proxy in _listed(proxies))
    lock = None
    if token is not None or users is not None:
        lock = Lock(
            "" if token is None else read_token(Path(token)), None if users is None else read_users(Path(users))
        )
    alone = is_loopback(host)
    if not alone and lock is None:
        if not trusted:
            raise SettingError(
                "host", host, "127.0.0.1",
                "to serve other machines, give users=FILE or token=FILE, or proxies=[ADDRESS] if a proxy checks users",
            )  # fmt: skip
        for proxy in trusted:
            if ipaddress.ip_network(proxy).prefixlen == 0:
                raise SettingError("proxies", proxy, "the addresses of proxies", "anyone could use the server")
    own = set() if _any(host) or not host else {host.lower().strip("[]")}
    # Without names, a server that other machines reach cannot know by which of its own it is called.
    known = frozenset({*names, *own, *_LOCAL}) if alone or names else frozenset()
    return Access(known, names, trusted, lock, not alone and lock is None)


class Guard:
    """ASGI middleware that enforces the access rules and limits.

    Args:
        app: the application.
        access: who may send requests.
        connections: concurrent requests.
        per_address: concurrent requests of one client address.
        audit_log: where failed logins are recorded.
        metrics: where responses are counted.
    """

    def __init__(
        self,
        app: ASGIApp,
        access: Access | None = None,
        connections: int = 64,
        per_address: int = 8,
        audit_log: AuditLog | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._app = app
        self._access = access or Access()
        self._audit_log = audit_log
        self._metrics = metrics
        self._connections = connections
        self._per_address = per_address
        self._busy: Counter[str] = Counter()
        # It reads X-Forwarded-For from the end, where the proxies wrote, and takes the first address that is no proxy.
        self._behind = ProxyHeadersMiddleware(self._guarded, list(self._access.proxies))  # type: ignore[arg-type]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, or reject it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            # There are no WebSockets here.
            await send({"type": "websocket.close", "code": 1008})
        elif self._access.trusts(_address_of(scope)):
            behind = _with_forwarded_host({**scope, _BEHIND: True})
            await self._behind(behind, receive, send)  # type: ignore[arg-type]
        else:
            await self._guarded(scope, receive, send)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                if self._metrics:
                    self._metrics.responded(scope, message["status"])
                message = {**message, "headers": [*message.get("headers", ()), *_RAW]}
            await send(message)

        client = client_of(_address_of(scope))
        self._busy[client] += 1
        try:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            self._check(scope, headers, client)
            if scope["path"] not in PROBES:
                scope["user"] = await self._user(scope, headers, client)
            await self._app(scope, receive, guarded)
        except WebError as problem:
            await problem.response()(scope, receive, guarded)
        except ClientDisconnect:
            pass
        except asyncio.CancelledError:
            # The server is closing and no longer waits for this request.
            if not started:
                await busy("the server is closing").response()(scope, receive, guarded)
            raise
        except Exception as error:
            short = short_of_memory(error)
            _LOG.error("%s: %s", "short of memory" if short else "internal error on a request", place_of(error))
            if not started:
                answer = busy("the server is short of memory") if short else internal()
                await answer.response()(scope, receive, guarded)
        finally:
            self._busy[client] -= 1
            if not self._busy[client]:
                del self._busy[client]

    def _check(self, scope: Scope, headers: Mapping[str, str], client: str) -> None:
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
                raise busy("too many requests from one address at once")
        if access.hosts and _name_of(host) not in access.hosts:
            raise WebError(400, "wrong_host", "the header Host names another machine", "use an address of this server")
        if scope["method"] not in ("GET", "HEAD"):
            site, origin = headers.get("sec-fetch-site", "none"), headers.get("origin")
            if site not in ("none", "same-origin") or (origin is not None and not self._same(origin, host)):
                raise WebError(403, "cross_site", "the request comes from another site", "use this server's own page")

    async def _user(self, scope: Scope, headers: Mapping[str, str], client: str) -> str | None:
        """The name of the user, or None if the server knows none."""
        lock, behind = self._access.lock, scope.get(_BEHIND, False)
        if lock is None:
            if self._access.only_proxies and not behind:
                raise WebError(403, "no_proxy", "only the proxy of this server may send requests", "use its address")
            return (behind and headers.get("x-forwarded-user", "")[:_LONGEST_USER]) or None
        given = headers.get("authorization", "")
        try:
            return await lock.user(given, client)
        except WebError as problem:
            if given and self._audit_log and problem.status == 401:
                try:
                    self._audit_log.write("denied", address=_address_of(scope))
                except WriteError as error:
                    _LOG.error("%s", error)
            raise

    def _same(self, origin: str, host: str) -> bool:
        """Whether a page's origin is this server: the request's Host, or behind a proxy a name from the settings."""
        shown = origin.partition("://")[2]
        names = self._access.names
        return bool(shown) and (shown == host or (_name_of(shown) in names and _name_of(host) not in names))


def is_loopback(host: str) -> bool:
    """Whether an address or name is reachable only from this machine."""
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
            allowed = "a host name or address without scheme and port, such as images.example"
            raise SettingError("hosts", name, allowed) from None
    return found


def _checked_network(proxy: object) -> str:
    try:
        return str(ipaddress.ip_network(str(proxy), strict=False))
    except ValueError:
        raise SettingError("proxies", proxy, "an address or network such as 127.0.0.1 or 10.1.0.0/16") from None


def _address_of(scope: Scope) -> str:
    return scope["client"][0] if scope.get("client") else ""


def _with_forwarded_host(scope: Scope) -> Scope:
    """A request with the Host that the proxy received, if it forwards it."""
    forwarded = [value for name, value in scope["headers"] if name == b"x-forwarded-host"]
    if forwarded:
        # The nearest proxy writes last.
        host = forwarded[-1].split(b",")[-1].strip()
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
