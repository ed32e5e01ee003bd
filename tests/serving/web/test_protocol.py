"""Connections that send nothing, too much, or invalid data."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress

import pytest

from covidnet.serving.web import protocol, upload
from covidnet.serving.web.guard import access_of
from tests.conftest import PROJECT
from tests.serving.web.fakes import FakePredictor
from tests.serving.web.servers import image_png, serving, talk


def test_a_silent_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "WAIT_SECONDS", 0.3)
    with serving() as port:
        start = time.monotonic()
        assert talk(port) == b""
        assert talk(port, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: ") == b""
        assert time.monotonic() - start < 5


def test_a_slow_head_is_closed_even_after_a_response(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "WAIT_SECONDS", 0.4)
    ask = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
    with serving() as port:
        start = time.monotonic()
        found = talk(port, ask + b"\r\n", *[ask[n : n + 1] for n in range(30)], pause=0.05)
        assert found.count(b"200 OK") == 1
        assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "data", [b"\x16\x03\x01 hello\r\n\r\n", b"GET /" + b"x" * 100_000, b"GET / HTTP/1.1\r\nX: " + b"y" * 70_000]
)
def test_an_invalid_or_too_long_request_is_answered_in_json(data: bytes) -> None:
    with serving() as port:
        head, _, body = talk(port, data).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400")
        assert json.loads(body)["error"]["code"] == "no_http"
        assert b"no-store" in head
        assert b"200 OK" in talk(port, b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")


def test_too_many_connections_are_rejected() -> None:
    with serving(connections=3) as port:
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
        time.sleep(0.2)
        head, _, body = talk(port, b"GET /v1/model HTTP/1.1\r\nHost: localhost\r\n\r\n").partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503")
        assert b"retry-after" in head
        assert b"no-store" in head
        assert json.loads(body)["error"]["code"] == "busy"
        assert_healthy(port)
        for line in held:
            line.close()
        time.sleep(0.2)
        assert b"200 OK" in talk(port, b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")


def test_a_body_without_length_is_rejected_while_it_arrives() -> None:
    piece = b"10000\r\n" + bytes(65536) + b"\r\n"
    head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with serving(max_megabytes=0.3) as port:
        # It has no end: waiting for it would take forever.
        found = talk(port, head, *[piece] * 6, seconds=1)
        assert found.startswith(b"HTTP/1.1 413")


def test_a_too_large_length_is_rejected_before_the_body() -> None:
    head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000000\r\nExpect: 100-continue\r\n\r\n"
    with serving(max_megabytes=0.3) as port:
        found = talk(port, head, once=True)
        assert found.startswith(b"HTTP/1.1 413")
        assert b"100 Continue" not in found


def test_no_more_of_a_body_is_read_than_its_length() -> None:
    data = image_png()
    head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data) // 2}\r\n\r\n".encode()
    with serving() as port:
        found = talk(port, head + data, once=True)
        assert found.startswith(b"HTTP/1.1 422")


@pytest.mark.parametrize(
    ("line", "status"),
    [(b"POST /v1/predict HTTP/1.0\r\nOrigin: http://evil.example", 403), (b"GET /" + b"x" * 70_000, 400)],
)
def test_a_response_is_not_lost_because_its_request_still_arrives(line: bytes, status: int) -> None:
    """As a proxy sends a request, with its defaults: all of it, and it reads the response after that."""
    rest = bytes(200_000)
    head = line + b"\r\nHost: localhost\r\nContent-Length: 400000\r\n\r\n"
    with serving() as port, socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        for piece in (head, rest, rest):
            client.sendall(piece)
            time.sleep(0.1)
        found = b"".join(iter(lambda: client.recv(65536), b""))
        assert found.startswith(f"HTTP/1.1 {status}".encode())
        assert json.loads(found.partition(b"\r\n\r\n")[2])["error"]["code"] in ("cross_site", "no_http")


def test_a_request_that_arrives_without_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "LINGER_SECONDS", 0.3)
    head = b"POST / HTTP/1.0\r\nOrigin: http://evil.example\r\nHost: localhost\r\nContent-Length: 4000000\r\n\r\n"
    with serving() as port, socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(head)
        start = time.monotonic()
        with suppress(ConnectionError):
            while time.monotonic() - start < 5:
                client.sendall(b"a")
                time.sleep(0.02)
        assert 0.2 < time.monotonic() - start < 5


SLOW = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\na"


@pytest.mark.slow
def test_a_slow_upload_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(upload_seconds=0.3) as port:
        assert talk(port, SLOW, once=True).startswith(b"HTTP/1.1 408")
    monkeypatch.setattr(upload, "PATIENCE_SECONDS", 0.3)
    with serving(upload_rate=0.05) as port:
        # 20 bytes per second are too slow, 200 are enough.
        assert talk(port, SLOW, *[b"a"] * 10, pause=0.05, once=True).startswith(b"HTTP/1.1 408")
        assert talk(port, SLOW, *[b"a" * 10] * 10, seconds=0.1, pause=0.05) == b""


def test_70_slow_uploads_of_one_address_leave_room_for_others_and_for_the_probes() -> None:
    data = image_png()
    with serving(per_address=3) as port:
        with ExitStack() as held:
            for _ in range(70):
                line = held.enter_context(socket.create_connection(("127.0.0.1", port)))
                with suppress(OSError):
                    line.sendall(SLOW)
            for _ in range(3):
                assert_healthy(port)
            assert asked_from("127.0.0.2", port, "POST", "/v1/predict", data)[0] == 200
            status, answer = asked_from("127.0.0.1", port, "POST", "/v1/predict", data)
            assert (status, json.loads(answer)["error"]["code"]) == (503, "busy")
        # Closed connections are no longer counted.
        time.sleep(0.3)
        assert asked_from("127.0.0.1", port, "POST", "/v1/predict", data)[0] == 200


def test_silent_connections_do_not_block_the_reserved_places() -> None:
    with serving(connections=2) as port, ExitStack() as held:
        for _ in range(40):
            held.enter_context(socket.create_connection(("127.0.0.1", port)))
            assert_healthy(port)


def test_an_address_with_many_connections_displaces_its_own_connections() -> None:
    with serving(connections=1) as port, ExitStack() as held:
        held.enter_context(socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.2", 0)))
        time.sleep(0.1)
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        line.connect()
        for _ in range(3 * protocol.RESERVED):
            held.enter_context(socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.2", 0)))
        time.sleep(0.2)
        line.request("GET", "/health")
        assert line.getresponse().status == 200
        line.close()


def test_a_trusted_proxy_may_hold_all_connections() -> None:
    with serving(access=access_of("127.0.0.1", proxies=["127.0.0.1"]), per_address=1) as port, ExitStack() as held:
        for _ in range(10):
            held.enter_context(socket.create_connection(("127.0.0.1", port)))
        ask = {"X-Forwarded-For": "192.0.2.5"}
        assert asked_from("127.0.0.1", port, "POST", "/v1/predict", image_png(), ask)[0] == 200


@pytest.mark.parametrize("query", ["", "?heat=perhaps"])
def test_a_body_in_tiny_chunks_is_rejected_and_delays_nobody(query: str) -> None:
    head = f"POST /v1/predict{query} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    with serving(rate=0) as port:
        start = time.monotonic()
        talk(port, head, *[b"1\r\na\r\n" * 5000] * 400, seconds=10)
        # Reading all of it would take minutes.
        assert time.monotonic() - start < 5
        assert talk(port, head + b"1\r\na\r\n" * 100 + b"0\r\n\r\n", once=True).startswith(b"HTTP/1.1 4")
        assert_healthy(port)


def test_a_body_in_normal_chunks_is_read() -> None:
    data = image_png(side=400)
    head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    for size in (100, 4096, 65536):
        cut = [data[at : at + size] for at in range(0, len(data), size)]
        body = b"".join(f"{len(one):x}\r\n".encode() + one + b"\r\n" for one in cut) + b"0\r\n\r\n"
        with serving() as port:
            assert talk(port, head + body, seconds=5).startswith(b"HTTP/1.1 200")


STARVED = """
import resource, sys, threading, time
sys.path.insert(0, {root!r})
from tests.serving.web.servers import serving
with serving(connections=500, per_address=500) as port:
    print(port, flush=True)
    resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))
    sys.stdin.read()
"""


@pytest.mark.slow
def test_a_server_without_file_handles_logs_it_once_and_recovers() -> None:
    script = STARVED.format(root=str(PROJECT), limit=64)
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stderr is not None
        port = int(server.stdout.readline())
        with ExitStack() as held:
            for _ in range(100):
                held.enter_context(socket.create_connection(("127.0.0.1", port)))
            time.sleep(1.5)
        end = time.monotonic() + 10
        while not healthy(port) and time.monotonic() < end:
            time.sleep(0.1)
        assert_healthy(port)
        server.stdin.close()
        lines = server.stderr.read().splitlines()
    assert len([line for line in lines if "Too many open files" in line]) == 1, lines
    assert len(lines) < 5, lines


def healthy(port: int) -> bool:
    with suppress(OSError):
        return asked_from("127.0.0.1", port, "GET", "/health")[0] == 200
    return False


def assert_healthy(port: int) -> None:
    start = time.monotonic()
    assert asked_from("127.0.0.1", port, "GET", "/health")[0] == 200
    assert time.monotonic() - start < 2


def asked_from(
    address: str, port: int, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=10, source_address=(address, 0))
    try:
        line.request(method, path, body, {"Host": "127.0.0.1", **(headers or {})})
        answer = line.getresponse()
        return answer.status, answer.read()
    finally:
        line.close()


def test_a_client_that_disconnects_is_forgotten() -> None:
    predictor = FakePredictor()
    data = image_png()
    head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode()
    with serving(predictor, queue=2) as port:
        for _ in range(10):
            with socket.create_connection(("127.0.0.1", port)) as line:
                line.sendall(head + data)
            with socket.create_connection(("127.0.0.1", port)) as line:
                line.sendall(head + data[:50])
        time.sleep(0.3)
        line = http.client.HTTPConnection("127.0.0.1", port)
        line.request("POST", "/v1/predict", data)
        assert line.getresponse().status == 200
        line.close()


def test_several_images_go_over_one_connection_and_from_several_clients() -> None:
    predictor = FakePredictor(seconds=0.01)
    statuses: list[int] = []

    def ask(port: int, seed: int) -> None:
        line = http.client.HTTPConnection("127.0.0.1", port)
        for number in range(5):
            line.request("POST", "/v1/predict", image_png(seed=10 * seed + number))
            answer = line.getresponse()
            answer.read()
            statuses.append(answer.status)
        line.close()

    with serving(predictor, rate=0) as port:
        threads = [threading.Thread(target=ask, args=(port, seed)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert statuses == [200] * 20
    assert sum(predictor.batches) == 20
    assert len(predictor.threads) == 1


@pytest.mark.slow
def test_a_client_that_does_not_read_its_responses_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "WAIT_SECONDS", 0.4)
    ask = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with serving() as port, socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        line.settimeout(10)
        line.connect(("127.0.0.1", port))
        line.sendall(ask * 5000)
        time.sleep(1.5)
        received, closed = 0, False
        while not closed:
            try:
                piece = line.recv(1 << 20)
            except ConnectionResetError:
                piece = b""
            received, closed = received + len(piece), not piece
        # Each response is several kilobytes.
        assert received < 5000 * 2000
        assert b"200 OK" in talk(port, b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")


def test_a_response_on_an_open_connection_does_not_wait_for_an_acknowledgement() -> None:
    with serving(rate=0) as port:
        line = http.client.HTTPConnection("127.0.0.1", port)
        taken = []
        for _ in range(15):
            start = time.perf_counter()
            line.request("GET", "/v1/model")
            line.getresponse().read()
            taken.append(time.perf_counter() - start)
        line.close()
    # Delayed acknowledgements take 40 ms; a busy machine may be that slow once, not each time.
    assert sorted(taken)[2] < 0.03
