"""The command that serves a model."""

from __future__ import annotations

import http.client
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from covidnet import app
from covidnet.app import main
from covidnet.base.errors import CovidnetError, SettingError, WeightsError
from covidnet.launch.command import compose
from covidnet.serving.web.limits import WebLimits
from covidnet.serving.web.request_handler import READERS
from tests.serving.web.commands import children_of, command
from tests.serving.web.servers import fetched, image_png


@pytest.fixture(scope="module")
def run(trained: Callable[..., Path]) -> Path:
    return trained("fold=3", "explain=off", "trainer.max_epochs=1")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A file that is opened only after all settings were looked at."""
    path = tmp_path / "best.ckpt"
    path.write_bytes(b"no checkpoint")
    return path


def serve(*settings: str) -> None:
    main(compose(settings, "app"))


def shell(*settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "covidnet.app", *settings], capture_output=True, text=True, timeout=60, check=False
    )


def test_help_comes_in_a_moment_and_shows_the_settings() -> None:
    start = time.perf_counter()
    done = shell("--help")
    # 2 s on a quiet machine.
    assert time.perf_counter() - start < 10
    assert done.returncode == 0
    assert "curl --data-binary" in done.stdout
    assert "Research use only; not a medical device." in done.stdout
    own = ("checkpoint", "host: 127.0.0.1", "port: 8000", "hosts", "token", "proxies", "reading")
    for name in (*own, *WebLimits.__dataclass_fields__):
        assert f"\n{name}" in done.stdout


def test_defaults_are_those_of_the_limits() -> None:
    cfg = compose((), "app")
    assert WebLimits(**{name: cfg[name] for name in WebLimits.__dataclass_fields__}) == WebLimits()


@pytest.mark.parametrize("given", [(), ("checkpoint=",), ("checkpoint=null",)])
def test_without_a_checkpoint_one_line_says_how_to_get_one(given: tuple[str, ...]) -> None:
    done = shell(*given)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "make demo" in done.stderr
    assert "checkpoint=" in done.stderr


def test_what_is_no_checkpoint_is_refused_in_one_line(checkpoint: Path) -> None:
    done = shell(f"checkpoint={checkpoint}", "port=0")
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
        serve(f"checkpoint={checkpoint}", "port=0", "hosts=[images.example]", setting)


def test_a_gate_that_does_not_exist_is_refused(run: Path) -> None:
    with pytest.raises(SettingError, match="gate=maybe: must be one of refuse, warn, off"):
        serve(f"checkpoint={run}", "port=0", "gate=maybe")


def test_missing_libraries_are_named_with_the_remedy(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.importlib.util, "find_spec", lambda name: None if name == "fastapi" else object())
    with pytest.raises(CovidnetError, match=r'needs fastapi: pip install "covidnet\[app\]"'):
        serve(f"checkpoint={checkpoint}")


@pytest.mark.slow
def test_a_server_on_this_machine_answers_says_nothing_more_and_ends_quietly(run: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "cwd").mkdir()
    with command(run, "gate=warn", cwd=tmp_path / "cwd", home=tmp_path / "home") as server:
        assert server.address.startswith("http://127.0.0.1:")
        assert not any("warning" in line for line in server.lines)
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
        status, _, answer = fetched(port, "/ready")
        assert (status, answer["error"]["code"]) == (503, "busy")
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
        (("host=0.0.0.0",), "host=0.0.0.0: must be 127.0.0.1; .*hosts=.*token=FILE"),
        (("host=0.0.0.0", "hosts=[images.example:80]"), "hosts=images.example:80: must be a host name"),
        (("hosts=http://images",), "hosts=http://images: must be a list"),
        (("proxies=nginx",), "proxies=nginx: must be a list"),
        (("proxies=[nginx]",), "proxies=nginx: must be an address or network"),
        ((f"token={tmp_path}/token",), "token=.*openssl rand"),
        (("token=nowhere",), "token=nowhere: must be a file .*No such file"),
    ):
        with pytest.raises(SettingError, match=words) as caught:
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


@pytest.mark.parametrize(("host", "warns"), [("0.0.0.0", True), ("127.0.0.1", False), ("localhost", False)])
def test_a_server_that_others_reach_says_so(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, host: str, warns: bool
) -> None:
    served: list[socket.socket] = []
    monkeypatch.setattr(app, "_serve", lambda app, listener, limits, access: served.append(listener))
    with caplog.at_level(logging.INFO):
        serve(f"checkpoint={run}", "port=0", f"host={host}", "hosts=[images.example]")
    assert len(served) == 1
    assert any("no users and no TLS" in text for text in caplog.messages) is warns
    assert any(text.startswith("http://") and "(Ctrl-C ends)" in text for text in caplog.messages)
