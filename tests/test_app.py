"""The command that serves a model."""

from __future__ import annotations

import http.client
import json
import logging
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from covidnet import app
from covidnet.app import main
from covidnet.base.errors import CovidnetError, SettingError, WeightsError
from covidnet.launch.command import compose
from covidnet.serving.web import warm
from covidnet.serving.web.limits import WebLimits
from covidnet.serving.web.request_handler import READERS
from tests.commands import command as run_command
from tests.serving.web.commands import children_of, command
from tests.serving.web.servers import fetched, image_png


@pytest.fixture(scope="module")
def run(trained: Callable[..., Path]) -> Path:
    return trained("fold=0", "explain=off", "trainer.max_epochs=2")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A file that is opened only after all settings were looked at."""
    path = tmp_path / "best.ckpt"
    path.write_bytes(b"no checkpoint")
    return path


def serve(*settings: str) -> None:
    main(compose(settings, "app"))


def test_defaults_are_those_of_the_limits() -> None:
    cfg = compose((), "app")
    assert WebLimits(**{name: cfg[name] for name in WebLimits.__dataclass_fields__}) == WebLimits()


@pytest.mark.parametrize("given", [(), ("checkpoint=",), ("checkpoint=null",)])
def test_without_a_checkpoint_one_line_says_how_to_get_one(given: tuple[str, ...], tmp_path: Path) -> None:
    done = run_command("covidnet.app", *given, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "make demo" in done.stderr
    assert "checkpoint=" in done.stderr


def test_what_is_no_checkpoint_is_refused_in_one_line(checkpoint: Path, tmp_path: Path) -> None:
    done = run_command("covidnet.app", f"checkpoint={checkpoint}", "port=0", cwd=tmp_path)
    assert done.returncode == 1
    assert "not a covidnet checkpoint" in done.stderr
    assert "Traceback" not in done.stderr
    with pytest.raises(WeightsError, match="no such file"):
        serve("checkpoint=nowhere.ckpt")


def test_a_port_in_use_is_told_before_the_model_is_loaded(checkpoint: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingError, match=f"port={port}.*in use; try port={port + 1}"):
            serve(f"checkpoint={checkpoint}", f"port={port}")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("port=70000", "port=70000: must be 0 to 65535"),
        ("port=http", "port=http: must be 0 to 65535"),
        ("host=no.such.machine.invalid", "host=no.such.machine.invalid: must be an address"),
        ("host=192.0.2.7", "host=192.0.2.7: must be an address of this machine"),
        ("queue=0", "queue=0: must be an integer of at least 1"),
        ("rate=-1", "rate=-1: must be a number of at least 0"),
        ("engine=jax", "engine=jax: must be"),
    ],
)
def test_a_setting_that_is_not_allowed_is_refused_by_its_name(checkpoint: Path, setting: str, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        serve(f"checkpoint={checkpoint}", "port=0", "proxies=[10.0.0.1]", f"audit_log={checkpoint}.audit", setting)


def test_a_gate_that_does_not_exist_is_refused(run: Path) -> None:
    with pytest.raises(SettingError, match="gate=maybe: must be one of refuse, warn, off"):
        serve(f"checkpoint={run}", "port=0", "gate=maybe")


def test_missing_libraries_are_named_with_the_remedy(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.importlib.util, "find_spec", lambda name: None if name != "uvicorn" else object())
    words = r'needs fastapi, python-multipart, prometheus-client: pip install "covidnet\[app\]"'
    with pytest.raises(CovidnetError, match=words):
        serve(f"checkpoint={checkpoint}")


@pytest.mark.slow
def test_a_server_on_this_machine_answers_says_nothing_more_and_ends_quietly(run: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "cwd").mkdir()
    with command(run, "gate=warn", cwd=tmp_path / "cwd", home=tmp_path / "home") as server:
        assert server.address.startswith("http://127.0.0.1:")
        assert not any("warning" in line for line in server.lines)
        assert any("reachable only from this machine" in line for line in server.lines)
        said, kept = len(server.lines), files_in(tmp_path)
        line = http.client.HTTPConnection(urlsplit(server.address).netloc)
        for method, path, body in (
            ("GET", "/", None),
            ("POST", "/v1/predict", image_png()),
            ("POST", "/v1/predict", b"<html>"),
            ("PUT", "/anna-muster.png", image_png()),
            ("GET", "/v1/model", None),
        ):
            line.request(method, path, body)
            answer = line.getresponse()
            text = answer.read().decode()
            assert answer.status in (200, 404, 422)
        assert "## Intended use" in text.replace("\\n", "\n")
        assert str(run) not in text
        # The connection stays open: the server does not wait for it.
        assert server.end() == 0
        assert len(server.lines) == said, server.lines
        assert files_in(tmp_path) == kept
        log = (tmp_path / "cwd" / "outputs" / "app" / "audit.jsonl").read_text().splitlines()
        assert [json.loads(entry)["event"] for entry in log] == ["start", "image", "image"]
        assert "anna" not in "".join(log)
        line.close()


@pytest.mark.slow
def test_sigterm_ends_the_server_in_seconds_whatever_is_decoded(run: Path, tmp_path: Path) -> None:
    (tmp_path / "cwd").mkdir()
    with command(run, "gate=warn", "answer_seconds=60", cwd=tmp_path / "cwd") as server, ExitStack() as held:
        port = urlsplit(server.address).port
        children = children_of(server.process.pid)
        assert len(children) == READERS
        # A file that takes for ever, whatever files do so today.
        for child in children:
            os.kill(child, signal.SIGSTOP)
        for number in range(READERS + 1):
            line = http.client.HTTPConnection("127.0.0.1", port, source_address=(f"127.0.0.{1 + number % 2}", 0))
            line.request("POST", "/v1/predict", image_png())
            held.callback(line.close)
        assert fetched(port, "/health")[0] == 200
        ask = http.client.HTTPConnection("127.0.0.1", port)
        held.callback(ask.close)
        end, said = time.monotonic() + 20, b""
        while f"covidnet_waiting_images {READERS + 1}.0".encode() not in said and time.monotonic() < end:
            ask.request("GET", "/metrics")
            said = ask.getresponse().read()
        assert time.monotonic() < end, said
        start = time.monotonic()
        server.end(signal.SIGTERM)
        assert time.monotonic() - start < 10
        assert not any(alive(child) for child in children)
        assert not any("Traceback" in text for text in server.lines)


def alive(process: int) -> bool:
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def files_in(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_settings_of_who_may_ask_are_refused_in_one_line_before_the_model_is_loaded(
    checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("short")
    for settings, words in (
        (("host=0.0.0.0",), "host=0.0.0.0: must be 127.0.0.1; .*users=FILE or token=FILE"),
        (("host=0.0.0.0", "hosts=[images.example]"), "host=0.0.0.0: must be 127.0.0.1; .*users=FILE"),
        (("users=nowhere",), "users=nowhere: must be a file .*No such file"),
        (("certificate=nowhere",), "certificate=nowhere: must be a PEM file; .*No such file"),
        (("audit_log=null",), "audit_log=null: must be"),
        (("audit_log=false",), "audit_log=false: must be"),
        (("audit_log=/dev/null/audit.jsonl",), "/dev/null/audit.jsonl: not written"),
        (("hosts=[images.example:80]",), "hosts=images.example:80: must be a host name"),
        (("hosts=http://images",), "hosts=http://images: must be a list"),
        (("proxies=nginx",), "proxies=nginx: must be a list"),
        (("proxies=[nginx]",), "proxies=nginx: must be an address or network"),
        ((f"token={tmp_path}/token",), "token=.*openssl rand"),
        (("token=nowhere",), "token=nowhere: must be a file .*No such file"),
    ):
        with pytest.raises(CovidnetError, match=words) as caught:
            serve(f"checkpoint={checkpoint}", "port=0", *settings)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("files", "most"), [(64, 12), (256, 152), (40, 0)])
def test_more_connections_than_files_are_refused_with_both_remedies(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, files: int, most: int
) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (files, files))
    words = f"connections=200: must be {f'1 to {most}' if most else '0'} with {files} open files; .*ulimit -n 304"
    with pytest.raises(SettingError, match=words):
        serve(f"checkpoint={checkpoint}", "port=0", "connections=200")
    if most:
        app._check_files(most)
    with pytest.raises(SettingError):
        app._check_files(most + 1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("host=0.0.0.0", "proxies=[10.0.0.1]"), ["proxies=10.0.0.1/32 must check who uses", "not encrypted"]),
        (("host=0.0.0.0", "token=TOKEN"), ["not encrypted"]),
        (("host=127.0.0.1",), ["reachable only from this machine"]),
        (("host=localhost", "hosts=[images.example]"), ["reachable only from this machine"]),
        (("host=127.0.0.1", "token=TOKEN"), []),
        (("host=127.0.0.1", "token=TOKEN", "audit_log=off"), ["audit log: off, by audit_log=off"]),
    ],
)
def test_a_server_says_who_can_use_it_and_where_it_keeps_its_record(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    settings: tuple[str, ...], words: list[str],
) -> None:  # fmt: skip
    (tmp_path / "token").write_text("0123456789abcdef")
    served: list[object] = []
    monkeypatch.setattr(app, "_serve", lambda *given: served.append(given))
    for name in ("warm_up", "warm_decoders"):
        monkeypatch.setattr(warm, name, lambda *given: None)
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.INFO):
        serve(f"checkpoint={run}", "port=0", *(text.replace("TOKEN", f"{tmp_path}/token") for text in settings))
    assert len(served) == 1
    shown = [one for one in caplog.messages if "audit log: /" not in one]
    known = ("must check who uses", "not encrypted", "reachable only", "audit log: off")
    assert [any(part in one for part in known) for one in shown].count(True) == len(words)
    assert all(any(part in one for one in shown) for part in words)
    assert any(text.startswith("http://") and "(Ctrl-C ends)" in text for text in caplog.messages)
    assert (tmp_path / "outputs/app/audit.jsonl").exists() is ("audit_log=off" not in settings)


@pytest.mark.slow
def test_a_server_with_users_and_tls_answers_those_with_a_password_alone(run: Path, tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl on this machine")
    made = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost -keyout k -out c"
    subprocess.run([openssl, *made.split()], check=True, capture_output=True, cwd=tmp_path)
    line = subprocess.run(
        [sys.executable, "-m", "covidnet.serving.web.lock", "anna"],
        input="correct horse\n", capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    (tmp_path / "users").write_text(line)
    trusting = ssl.create_default_context(cafile=str(tmp_path / "c"))
    trusting.check_hostname = False
    settings = ("users=users", "certificate=c", "key=k", "host=0.0.0.0", "audit_log=who.jsonl", "gate=warn")
    with command(run, *settings, cwd=tmp_path) as server:
        assert server.address.startswith("https://0.0.0.0:")
        assert not any("warning: no" in text for text in server.lines)
        port = urlsplit(server.address).port
        found = {}
        for secret in ("correct horse", "wrong password"):
            ask = http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=trusting)
            login = b64encode(f"anna:{secret}".encode()).decode()
            ask.request("POST", "/v1/predict", image_png(side=300), {"Authorization": f"Basic {login}"})
            answer = ask.getresponse()
            found[secret] = answer.status
            answer.read()
            ask.close()
        assert server.end() == 0
    assert found == {"correct horse": 200, "wrong password": 401}
    log = [json.loads(entry) for entry in (tmp_path / "who.jsonl").read_text().splitlines()]
    assert [(entry["event"], entry.get("user")) for entry in log] == [
        ("start", None), ("image", "anna"), ("denied", None),
    ]  # fmt: skip
