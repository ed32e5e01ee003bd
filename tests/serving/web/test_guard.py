"""What holds for every request."""

from __future__ import annotations

import logging

import pytest
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from covidnet.serving.web.guard import HEADERS, Guard, allowed_hosts, is_loopback
from tests.serving.web.servers import LOCAL


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("hello")(scope, receive, send)


def client(app: object = hello, hosts: tuple[str, ...] = LOCAL, **options: int) -> TestClient:
    return TestClient(Guard(app, hosts, **options), base_url="http://127.0.0.1:8000")  # type: ignore[arg-type]


def test_every_answer_has_the_headers() -> None:
    for answer in (client().get("/"), client().get("/", headers={"host": "evil.example"})):
        for name, value in HEADERS.items():
            assert answer.headers[name] == value
    assert HEADERS["Cache-Control"] == "no-store"
    assert "default-src 'self'" in HEADERS["Content-Security-Policy"]
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8000", "localhost:1", "LOCALHOST", "[::1]:8000", "[::1]"])
def test_own_names_are_answered(host: str) -> None:
    assert client().get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "[::1", "127.0.0.1@evil.example", "évil"]
)
def test_other_names_are_refused(host: str) -> None:
    answer = client().get("/", headers={"host": host.encode()})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "wrong_host"
    assert client(hosts=()).get("/", headers={"host": host.encode()}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9000"},
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
def test_the_own_page_and_programs_can_post(headers: dict[str, str]) -> None:
    assert client().post("/", headers=headers).status_code == 200


def test_what_fails_is_answered_without_a_word_on_it(caplog: pytest.LogCaptureFixture) -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("patient Anna")

    with caplog.at_level(logging.INFO):
        answer = client(fails).get("/")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal"
    assert "Anna" not in answer.text + caplog.text
    assert "RuntimeError in tests.serving.web.test_guard" in caplog.text


def test_a_client_that_has_left_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    async def left(scope: Scope, receive: Receive, send: Send) -> None:
        raise ClientDisconnect

    with pytest.raises(AssertionError):  # the client of the tests misses its answer
        client(left).get("/")
    assert not caplog.records


def test_too_many_requests_at_once_are_sent_away_and_none_is_forgotten() -> None:
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
    assert guard._busy == 0


@pytest.mark.parametrize(
    ("host", "more", "expected"),
    [
        ("127.0.0.1", [], list(LOCAL)),
        ("localhost", [], list(LOCAL)),
        ("::1", [], list(LOCAL)),
        ("127.0.0.5", [], ["127.0.0.5", *LOCAL]),
        ("127.0.0.1", ["films.example"], ["films.example", *LOCAL]),
        ("0.0.0.0", [], []),
        ("::", [], []),
        ("192.168.1.9", [], []),
        ("192.168.1.9", ["films.example"], ["films.example", "192.168.1.9", *LOCAL]),
    ],
)
def test_names_follow_the_address(host: str, more: list[str], expected: list[str]) -> None:
    assert set(allowed_hosts(host, more)) == set(expected)


def test_loopback_is_told_from_other_addresses() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "LocalHost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "192.168.0.1", "films.example", ""]))
