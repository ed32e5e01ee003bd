"""Rules for every request."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from covidnet.base.errors import SettingError
from covidnet.serving.web.guard import HEADERS, Access, Guard, access_of, is_loopback
from covidnet.serving.web.lock import Lock, Password
from tests.serving.web.servers import LOCAL


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("hello")(scope, receive, send)


def client(app: object = hello, access: Access = LOCAL, peer: str = "10.0.0.9", **options: int) -> TestClient:
    guard = Guard(app, access, **options)  # type: ignore[arg-type]
    return TestClient(guard, base_url="http://127.0.0.1:8000", client=(peer, 5000))


def test_every_answer_has_the_headers() -> None:
    for answer in (client().get("/"), client().get("/", headers={"host": "evil.example"})):
        for name, value in HEADERS.items():
            assert answer.headers[name] == value
    assert HEADERS["Cache-Control"] == "no-store"
    assert "default-src 'self'" in HEADERS["Content-Security-Policy"]
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8000", "localhost:1", "LOCALHOST", "[::1]:8000", "[::1]"])
def test_requests_to_own_host_names_are_answered(host: str) -> None:
    assert client().get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "[::1", "127.0.0.1@evil.example", "évil"]
)
def test_requests_to_other_host_names_are_rejected(host: str) -> None:
    answer = client().get("/", headers={"host": host.encode()})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "wrong_host"
    assert client(access=Access()).get("/", headers={"host": host.encode()}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9000"},
        {"origin": "http://[::1"},
        {"origin": ""},
        {"origin": "http://127.0.0.1:8000", "sec-fetch-site": "cross-site"},
    ],
)
def test_pages_of_other_sites_cannot_post(headers: dict[str, str]) -> None:
    answer = client().post("/", headers=headers)
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "cross_site"
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "headers", [{}, {"sec-fetch-site": "none"}, {"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}]
)
def test_its_own_page_and_programs_can_post(headers: dict[str, str]) -> None:
    assert client().post("/", headers=headers).status_code == 200


def test_an_internal_error_is_answered_without_details(caplog: pytest.LogCaptureFixture) -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("patient Anna")

    with caplog.at_level(logging.INFO):
        answer = client(fails).get("/")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal"
    assert "Anna" not in answer.text + caplog.text
    assert "RuntimeError in tests.serving.web.test_guard" in caplog.text


def test_a_machine_without_memory_is_a_503(caplog: pytest.LogCaptureFixture) -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise MemoryError

    answer = client(fails).get("/")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "busy")
    assert answer.headers["retry-after"]
    assert "short of memory" in caplog.text


def test_a_client_that_disconnects_is_not_an_error(caplog: pytest.LogCaptureFixture) -> None:
    async def left(scope: Scope, receive: Receive, send: Send) -> None:
        raise ClientDisconnect

    with pytest.raises(AssertionError):  # the client of the tests misses its answer
        client(left).get("/")
    assert not caplog.records


def test_too_many_concurrent_requests_are_rejected_and_all_are_counted() -> None:
    guard = Guard(hello, connections=1)
    inner: list[int] = []

    async def asks_itself(scope: Scope, receive: Receive, send: Send) -> None:
        async def note(message: dict[str, object]) -> None:
            if message["type"] == "http.response.start":
                inner.append(message["status"])  # type: ignore[arg-type]

        await guard(scope, receive, note)  # type: ignore[arg-type]
        await hello(scope, receive, send)

    guard._app = asks_itself
    assert TestClient(guard).get("/").status_code == 200
    assert inner == [503]
    assert not guard._busy


def test_requests_are_limited_per_address_and_probes_are_always_answered() -> None:
    inner: dict[tuple[str, str], int] = {}

    async def asks_again(scope: Scope, receive: Receive, send: Send) -> None:
        for path, peer in (("/", "10.0.0.9"), ("/", "10.0.0.8"), ("/health", "10.0.0.9"), ("/ready", "10.0.0.9")):

            async def note(message: dict[str, object], at: tuple[str, str] = (path, peer)) -> None:
                if message["type"] == "http.response.start":
                    inner[at] = message["status"]  # type: ignore[assignment]

            asked = {**scope, "path": path, "client": (peer, 1)}
            guard._app = hello
            await guard(asked, receive, note)  # type: ignore[arg-type]
        await hello(scope, receive, send)

    guard = Guard(asks_again, LOCAL, per_address=1)
    asking = TestClient(guard, base_url="http://127.0.0.1:8000", client=("10.0.0.9", 5000))
    assert asking.get("/").status_code == 200
    assert inner == {("/", "10.0.0.9"): 503, ("/", "10.0.0.8"): 200, ("/health", "10.0.0.9"): 200,
                     ("/ready", "10.0.0.9"): 200}  # fmt: skip
    assert not guard._busy


# Access


OWN = ["127.0.0.1", "localhost", "::1"]


@pytest.mark.parametrize(
    ("host", "more", "expected"),
    [
        ("127.0.0.1", [], OWN),
        ("localhost", [], OWN),
        ("::1", [], OWN),
        ("127.0.0.5", [], ["127.0.0.5", *OWN]),
        ("127.0.0.1", ["Images.example"], ["images.example", *OWN]),
        ("127.0.0.1", "images.example", ["images.example", *OWN]),
        ("127.0.0.1", ["images.example", "[2001:db8::1]"], ["images.example", "2001:db8::1", *OWN]),
    ],
)
def test_host_names_follow_from_the_address(host: str, more: list[str] | str, expected: list[str]) -> None:
    assert access_of(host, more).hosts == set(expected)


@pytest.mark.parametrize(("host", "own"), [("0.0.0.0", []), ("192.168.1.9", ["192.168.1.9"])])
def test_host_names_of_a_server_that_other_machines_reach(host: str, own: list[str]) -> None:
    assert access_of(host, ["images.example"], ["10.0.0.1"]).hosts == {"images.example", *own, *OWN}
    assert access_of(host, [], ["10.0.0.1"]).hosts == set()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.9", "images.example", ""])
def test_a_server_open_to_other_machines_needs_a_lock_or_a_proxy(host: str, tmp_path: Path) -> None:
    for names in ([], ["images.example"]):
        with pytest.raises(SettingError, match=rf"host={host}: must be 127\.0\.0\.1; .*users=FILE or token=FILE"):
            access_of(host, names)
    (tmp_path / "token").write_text("0123456789abcdef\n")
    (tmp_path / "users").write_text(Password(1 << 14, 8, 1, bytes(16), bytes(32)).line("anna"))
    for given in ({"token": tmp_path / "token"}, {"users": tmp_path / "users"}):
        found = access_of(host, **given)
        assert found.hosts == frozenset()
        assert found.lock is not None
        assert not found.only_proxies
    behind = access_of(host, ["images.example"], ["10.0.0.0/8"])
    assert behind.lock is None
    assert behind.only_proxies
    assert not access_of("127.0.0.1", proxies=["10.0.0.0/8"]).only_proxies
    for everyone in ("0.0.0.0/0", "::/0"):
        with pytest.raises(SettingError, match=r"proxies=.*anyone could use the server"):
            access_of(host, proxies=[everyone])


@pytest.mark.parametrize(
    "name", ["", "*", "http://images.example", "images.example:8000", "images.example/x", "a b", "@"]
)
def test_an_invalid_name_is_rejected(name: str) -> None:
    with pytest.raises(SettingError, match="hosts="):
        access_of("127.0.0.1", [name])


@pytest.mark.parametrize("proxy", ["*", "nginx", "10.0.0.0/99", "", "10.0.0.1:80"])
def test_an_invalid_network_is_rejected(proxy: str) -> None:
    with pytest.raises(SettingError, match="proxies="):
        access_of("127.0.0.1", proxies=[proxy])


# Behind a proxy


def seen(access: Access, peer: str, headers: dict[str, str]) -> tuple[int, Scope]:
    """The status, and the request as the application receives it."""
    scopes: list[Scope] = [{}]

    async def keeps(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await hello(scope, receive, send)

    status = client(keeps, access, peer).post("/", headers=headers).status_code
    return status, scopes[-1]


FORWARDED = {
    "host": "127.0.0.1:8000", "x-forwarded-for": "6.6.6.6, 192.0.2.5", "x-forwarded-proto": "https",
    "x-forwarded-host": "images.example", "origin": "https://images.example",
}  # fmt: skip


def test_a_trusted_proxy_forwards_client_and_host() -> None:
    access = access_of("127.0.0.1", ["images.example"], ["10.0.0.0/8"])
    status, scope = seen(access, "10.0.0.9", FORWARDED)
    assert (status, scope["client"][0], scope["scheme"]) == (200, "192.0.2.5", "https")
    assert dict(scope["headers"])[b"host"] == b"images.example"
    assert seen(access, "10.0.0.9", {**FORWARDED, "x-forwarded-host": "evil.example"})[0] == 400
    assert seen(access, "10.0.0.9", {**FORWARDED, "origin": "https://evil.example"})[0] == 403


@pytest.mark.parametrize("peer", ["11.0.0.9", "2001:db8::1", "testclient"])
def test_forwarded_headers_of_others_are_ignored(peer: str) -> None:
    status, scope = seen(access_of("127.0.0.1", ["images.example"], ["10.0.0.0/8"]), peer, FORWARDED)
    assert (status, scope["client"][0], scope["scheme"]) == (200, peer, "http")
    assert dict(scope["headers"])[b"host"] == b"127.0.0.1:8000"


def test_the_page_behind_a_proxy_that_sends_its_own_host_can_post_if_its_name_is_given() -> None:
    plain = {"host": "127.0.0.1:8000", "origin": "https://images.example"}
    named = access_of("127.0.0.1", ["images.example"])
    assert seen(named, "127.0.0.1", plain)[0] == 200
    assert seen(LOCAL, "127.0.0.1", plain)[0] == 403
    assert seen(named, "127.0.0.1", {**plain, "origin": "https://other.example"})[0] == 403
    assert seen(named, "127.0.0.1", {**plain, "sec-fetch-site": "cross-site"})[0] == 403
    # For its own name, the port must match too.
    assert seen(named, "127.0.0.1", {"host": "images.example", "origin": "http://images.example:9000"})[0] == 403


def test_loopback_addresses() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "LocalHost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "192.168.0.1", "images.example", ""]))


def test_without_a_lock_only_the_proxy_is_answered_and_names_the_user() -> None:
    access = access_of("0.0.0.0", ["images.example"], ["10.0.0.0/8"])
    status, scope = seen(access, "10.0.0.9", {**FORWARDED, "x-forwarded-user": "anna"})
    assert (status, scope["user"]) == (200, "anna")
    for peer in ("11.0.0.9", "127.0.0.1"):
        assert seen(access, peer, {"host": "images.example", "x-forwarded-user": "anna"})[0] == 403
        assert client(access=access, peer=peer).get("/health").status_code == 200
    # A server at 127.0.0.1 answers others on this machine too, but does not believe them.
    status, scope = seen(access_of("127.0.0.1", [], ["10.0.0.0/8"]), "127.0.0.1", {"x-forwarded-user": "anna"})
    assert (status, scope["user"]) == (200, None)
    status, scope = seen(LOCAL, "127.0.0.1", {"x-forwarded-user": "anna"})
    assert (status, scope["user"]) == (200, None)


def test_a_lock_does_not_believe_the_proxy() -> None:
    access = Access(proxies=("10.0.0.0/8",), lock=Lock("0123456789abcdef"))
    assert seen(access, "10.0.0.9", {"x-forwarded-user": "anna"})[0] == 401
    status, scope = seen(access, "10.0.0.9", {"x-forwarded-user": "anna", "authorization": "Bearer 0123456789abcdef"})
    assert (status, scope["user"]) == (200, "token")
