"""The lock of the server: a token, users, and a limit on failed attempts."""

from __future__ import annotations

import asyncio
import http.client
import io
import shutil
import ssl
import subprocess
import sys
from base64 import b64encode
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from covidnet.app import _log_access, _tls
from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.errors import DataError, SettingError
from covidnet.serving.web import lock as module
from covidnet.serving.web.guard import Access, access_of
from covidnet.serving.web.limits import WebLimits
from covidnet.serving.web.lock import TOKEN_USER, Lock, Password, read_token, read_users
from covidnet.serving.web.server import create_app
from covidnet.serving.web.web_error import WebError
from covidnet.serving.web.worklist import Worklist
from tests.serving.web.fakes import FakeDecoders, FakeModel, FakePredictor
from tests.serving.web.servers import image_png, serving, talk

TOKEN = "0123456789abcdef"
SECRET = "correct horse é:"
# Hashed as cheaply as the file may have it.
ANNA = Password(1 << 14, 8, 1, bytes(16), module._scrypt(SECRET.encode(), bytes(16), 1 << 14, 8, 1))


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COST", 1 << 14)
    monkeypatch.setattr(module, "_PARALLEL", 1)


def basic(name: str, password: str) -> str:
    return "Basic " + b64encode(f"{name}:{password}".encode()).decode()


def user(lock: Lock, authorization: str, client: str = "10.0.0.9") -> str | int:
    """The user whom a lock lets in, or the status of its refusal."""
    try:
        return asyncio.run(lock.user(authorization, client))
    except WebError as problem:
        return problem.status


# Every route


INVALID: dict[str, dict[str, Any]] = {
    "none": {},
    "wrong token": {"authorization": f"Bearer {TOKEN[:-1]}F"},
    "no token": {"authorization": "Bearer"},
    "token in another encoding": {"authorization": "Bearer é".encode()},
    "the password as a token": {"authorization": f"Bearer {SECRET[:7]}"},
    "wrong password": {"authorization": basic("anna", "correct horse")},
    "unknown user": {"authorization": basic("otto", SECRET)},
    "no password": {"authorization": basic("anna", "")},
    "no name": {"authorization": basic("", SECRET)},
    "no colon": {"authorization": "Basic " + b64encode(b"anna").decode()},
    "no base64": {"authorization": "Basic anna:secret"},
    "another scheme": {"authorization": f"Digest {TOKEN}"},
    "the token alone": {"authorization": TOKEN},
    "cookie": {"cookie": f"token={TOKEN}"},
    "another header": {"x-api-key": TOKEN, "x-forwarded-user": "anna", "x-remote-user": "anna"},
}
BOTH = Access(lock=Lock(TOKEN, {"anna": ANNA}))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No limit on failed attempts, and no wait for passwords: these tests send hundreds."""
    monkeypatch.setattr(module.RateLimit, "wait", lambda self, key: 0.0)
    known: dict[bytes, bytes] = {}

    def remembered(password: bytes, salt: bytes, *rest: int) -> bytes:
        key = password + b"\0" + salt
        if key not in known:
            known[key] = plain(password, salt, *rest)
        return known[key]

    plain = module._scrypt
    monkeypatch.setattr(module, "_scrypt", remembered)


@pytest.mark.usefixtures("quick")
def test_every_route_refuses_a_request_without_a_valid_login(tmp_path: Path) -> None:
    worklist = Worklist(tmp_path / "verdicts.sqlite", "", "fake", CLASSES, WebLimits())
    guard: Any = create_app(FakeModel(), FakePredictor(), FakeDecoders(), access=BOTH, worklist=worklist)
    app: FastAPI = guard._app
    routes = [(str(getattr(route, "path", "")), getattr(route, "methods", None) or {"GET"}) for route in app.routes]
    assert {"/", "/v1/model", "/v1/predict", "/openapi.json", "/metrics", "/health", "/ready", "/v1/verdicts"} <= {
        p for p, _ in routes
    }
    asked = {(method, path) for path, methods in routes for method in {*methods, "GET", "POST", "PUT", "OPTIONS"}}
    asked |= {
        ("GET", path) for path in ("/nothing", "/health/", "//health", "/HEALTH", "/docs", f"/v1/model?token={TOKEN}")
    }
    with TestClient(guard, base_url="http://127.0.0.1") as ask:
        for (kind, headers), (method, path) in product(INVALID.items(), sorted(asked)):
            answer = ask.request(method, path, headers=headers)
            if path in ("/health", "/ready"):
                assert answer.status_code in (200, 405), (kind, method, path)
                continue
            assert (kind, method, path, answer.status_code) == (kind, method, path, 401)
            assert method == "HEAD" or answer.json()["error"]["code"] == "no_login"
            assert answer.headers["www-authenticate"] == 'Basic realm="covidnet", charset="UTF-8"'


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("login", [f"Bearer {TOKEN}", f"bearer  {TOKEN} ", basic("anna", SECRET)])
def test_a_valid_login_opens_every_route(login: str) -> None:
    guard: Any = create_app(FakeModel(), FakePredictor(), FakeDecoders(), WebLimits(), access=BOTH)
    with TestClient(guard, base_url="http://127.0.0.1", headers={"authorization": login}) as ask:
        for path in ("/", "/app.js", "/style.css", "/v1/model", "/openapi.json", "/metrics", "/health", "/ready"):
            assert ask.get(path).status_code == 200, path
        assert ask.get("/nothing").status_code == 404
        assert ask.post("/v1/predict", content=image_png()).status_code == 200


def test_an_upload_without_a_login_is_refused_before_it_is_read() -> None:
    decoders = FakeDecoders()
    with serving(access=BOTH, decoders=decoders) as port:
        head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n"
        assert talk(port, head + b"Connection: close\r\n\r\n").startswith(b"HTTP/1.1 401")
    assert not decoders.seconds


# Who is let in


def test_the_token_is_a_password_of_any_name_unless_there_are_users() -> None:
    assert user(Lock(TOKEN), basic("otto", TOKEN)) == user(Lock(TOKEN), basic("", TOKEN)) == TOKEN_USER
    assert user(Lock(TOKEN, {"anna": ANNA}), basic("otto", TOKEN)) == 401
    assert user(Lock(TOKEN, {"anna": ANNA}), f"Bearer {TOKEN}") == TOKEN_USER
    assert user(Lock("", {"anna": ANNA}), basic("anna", SECRET)) == "anna"
    for empty in ("Bearer", "Bearer ", basic("", ""), basic(" ", "")):
        assert user(Lock(TOKEN), empty) == user(Lock("", {"anna": ANNA}), empty) == 401


def test_a_password_is_hashed_once_and_an_unknown_name_takes_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[tuple[int, ...]] = []
    plain = module._scrypt
    monkeypatch.setattr(module, "_scrypt", lambda *given: hashed.append(given[2:]) or plain(*given))
    lock = Lock("", {"anna": ANNA})
    for _ in range(3):
        assert user(lock, basic("anna", SECRET)) == "anna"
    assert len(hashed) == 1
    assert user(lock, basic("otto", SECRET)) == user(lock, basic("anna", "wrong")) == 401
    assert hashed[0] == hashed[1] == hashed[2]


def test_failed_logins_are_limited_by_name_and_address() -> None:
    now = [0.0]
    lock = Lock(TOKEN, {}, clock=lambda: now[0])
    good, bad = f"Bearer {TOKEN}", f"Bearer {TOKEN[::-1]}"
    assert [user(lock, bad) for _ in range(11)] == [401] * 10 + [429]
    # Right or wrong: otherwise guesses would go on.
    assert user(lock, good) == 429
    assert user(lock, good, "10.0.0.8") == TOKEN_USER
    assert user(lock, basic("anna", TOKEN)) == TOKEN_USER
    now[0] = 6.0
    assert [user(lock, good) for _ in range(30)] == [TOKEN_USER] * 30
    assert [user(lock, bad) for _ in range(2)] == [401, 429]
    # Many names from one address.
    assert [user(lock, basic(f"user{n}", "x"), "10.0.0.7") for n in range(61)] == [401] * 60 + [429]
    # A request without a login is no attempt.
    assert [user(lock, "", "10.0.0.6") for _ in range(100)] == [401] * 100


# Files


def test_passwords_are_hashed_as_owasp_recommends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    found = Password.of("correct horse")
    assert (found.cost, found.block, found.parallel, len(found.salt), len(found.key)) == (1 << 15, 8, 3, 16, 32)
    assert Password.read(found.line("anna").removeprefix("anna:")) == found


def test_a_line_of_the_command_is_a_user_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(SECRET + "\n"))
    assert module.main(["anna"]) == 0
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert SECRET not in line
    (tmp_path / "users").write_text(f"# radiology\n\n{line}{ANNA.line('Otto Maier')}\n")
    users = read_users(tmp_path / "users")
    assert list(users) == ["anna", "Otto Maier"]
    assert users["anna"].matches(SECRET.encode())
    assert not users["anna"].matches(b"")
    assert users["anna"].salt != users["Otto Maier"].salt
    assert users["Otto Maier"] == ANNA
    assert "key" not in repr(ANNA)


@pytest.mark.parametrize(
    ("arguments", "typed", "words"),
    [
        ([], "", "usage: "),
        (["--help"], "", "usage: "),
        (["a:b"], "long enough", "usage: "),
        (["anna"], "short\n", "8 to 256 characters"),
        (["anna"], "x" * 257, "8 to 256 characters"),
    ],
)
def test_the_command_refuses_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], typed: str, words: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    assert module.main(arguments) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert words in said.err


LINE = ANNA.line("anna")


@pytest.mark.parametrize(
    "line",
    [
        "anna:secret",
        "anna",
        ":secret",
        LINE.replace("scrypt", "plain"),
        LINE.replace("16384", "2"),
        LINE.replace("16384", "16383"),
        LINE.replace("16384", "1073741824"),
        LINE.replace(":8:", ":1:"),
        LINE.replace(":8:1:", ":8:0:"),
        LINE[:-4],
        LINE.removeprefix("anna"),
        f"{LINE}\n{LINE}",
    ],
)
def test_an_invalid_line_of_the_users_is_named_by_its_number_alone(tmp_path: Path, line: str) -> None:
    (tmp_path / "users").write_text(f"{ANNA.line('otto')}\n{line}\n")
    with pytest.raises(DataError, match=r"users: .*line [23]\b") as caught:
        read_users(tmp_path / "users")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"# nobody\n", b"\xff"])
def test_a_file_without_users_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "users").write_bytes(content)
    with pytest.raises(SettingError, match=r"users=.*must be a file with a line for each user"):
        read_users(tmp_path / "users")


@pytest.mark.parametrize("text", [b"", b"short", b"0123456789 abcdef", b"\xff" * 20, b"a" * 5000, b"a" * 20 + b"\nb"])
def test_an_invalid_token_is_rejected_in_one_line_that_does_not_reveal_it(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(text)
    for path in (tmp_path / "token", tmp_path / "nowhere", tmp_path):
        with pytest.raises(SettingError, match="token=") as caught:
            read_token(path)
        assert "\n" not in str(caught.value)
        assert "abcdef" not in str(caught.value)


# TLS


OPENSSL = shutil.which("openssl")


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate and its key, the same in one file, and an encrypted key."""
    folder = tmp_path_factory.mktemp("tls")
    if OPENSSL is None:
        pytest.skip("there is no openssl on this machine")
    for command in (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost "
        "-addext subjectAltName=DNS:localhost -keyout key -out certificate",
        "ec -in key -aes256 -passout pass:secret -out encrypted",
        "ecparam -name prime256v1 -genkey -noout -out other",
        "req -new -key key -subj /CN=localhost -out request",
        "x509 -req -in request -signkey key -days -1 -out expired",
    ):
        subprocess.run([OPENSSL, *command.split()], check=True, capture_output=True, cwd=folder)
    (folder / "both").write_text((folder / "key").read_text() + (folder / "certificate").read_text())
    return folder


@pytest.mark.parametrize(("certificate", "key"), [("certificate", "key"), ("both", None)])
def test_requests_and_uploads_are_answered_over_tls(pems: Path, certificate: str, key: str | None) -> None:
    tls = _tls(str(pems / certificate), str(pems / key) if key else None)
    trusting = ssl.create_default_context(cafile=str(pems / "certificate"))
    with serving(access=BOTH, tls=tls) as port:
        line = http.client.HTTPSConnection("localhost", port, timeout=10, context=trusting)
        for _ in range(2):
            line.request("POST", "/v1/predict", image_png(1500), {"Authorization": f"Bearer {TOKEN}"})
            answer = line.getresponse()
            assert answer.status == 200
            assert b'"prediction"' in answer.read()
        assert line.sock.version() == "TLSv1.3"  # type: ignore[union-attr]
        line.close()
        # Without TLS nothing is answered.
        assert talk(port, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n") == b""
        old = ssl.create_default_context(cafile=str(pems / "certificate"))
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(ssl.SSLError):
            http.client.HTTPSConnection("localhost", port, timeout=10, context=old).request("GET", "/health")


def test_a_body_of_tiny_chunks_is_refused_over_tls_too(pems: Path) -> None:
    trusting = ssl.create_default_context(cafile=str(pems / "certificate"))
    with serving(tls=_tls(str(pems / "both"), None)) as port:
        line = http.client.HTTPSConnection("localhost", port, timeout=10, context=trusting)
        line.putrequest("POST", "/v1/predict")
        line.putheader("Transfer-Encoding", "chunked")
        line.endheaders(b"1\r\nx\r\n" * 20000)
        answer = line.getresponse()
        assert (answer.status, b"small_chunks" in answer.read()) == (400, True)
        line.close()


def test_an_expired_certificate_and_secrets_for_all_are_warned_of(
    pems: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _tls(str(pems / "certificate"), str(pems / "key"))
    users = tmp_path / "users.txt"
    for mode in (0o600, 0o440, 0o644):
        users.touch()
        users.chmod(mode)
        _log_access("0.0.0.0", access_of("127.0.0.1"), tls=True, secrets={"users": str(users), "token": None})
        assert len(caplog.messages) == (mode == 0o644)
    assert f"users={users}: every user of this machine can read it; chmod 600 {users}" in caplog.messages[0]
    _tls(str(pems / "expired"), str(pems / "key"))
    assert "expired: certificate has expired; browsers and programs will refuse it" in caplog.messages[1]


@pytest.mark.parametrize(
    ("certificate", "key", "words"),
    [
        (None, "key", "key=.*must be given with certificate=FILE"),
        ("nowhere", "key", "certificate=.*No such file"),
        ("certificate", "nowhere", "key=.*No such file"),
        ("certificate", None, "certificate=.*must be a PEM file"),
        ("certificate", "other", "certificate=.*must be a PEM file"),
        ("certificate", "encrypted", "certificate=.*without a password"),
        ("key", "key", "certificate=.*must be a PEM file"),
    ],
)
def test_files_that_are_no_certificate_and_key_are_refused(
    pems: Path, certificate: str | None, key: str | None, words: str
) -> None:
    given = [str(pems / name) if name else None for name in (certificate, key)]
    with pytest.raises(SettingError, match=words) as caught:
        _tls(*given)
    assert "\n" not in str(caught.value)
