"""No command reaches for the network unasked, but for weights that model.weights=auto may download."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import covidnet
from tests.conftest import PROJECT

# In a network of their own, which has no way out: the kernel counts what is tried, and it reaches nobody. A resolver on
# this machine, which is asked at a socket in a file, would not be counted: names are looked up at a server far away.
ALONE = [
    "unshare", "--map-root-user", "--net", "--mount", "sh", "-ec",
    'mount --bind "$1" /etc/resolv.conf; mount --bind "$2" /etc/nsswitch.conf; shift 2; exec "$@"', "sh",
]  # fmt: skip
# One that libraries know continuous integration or tests by, and are silent in.
SILENCING = ("CI", "TF_BUILD", "GITHUB_ACTIONS", "ORT_RUNNING_UNIT_TESTS", "WANDB_MODE", *covidnet.QUIET)

SESSION = """
import time
import onnx
from onnx import TensorProto, helper
from covidnet.models.onnx_session import onnx_session
from tests.network_chain import attempts
values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", values[:1], values[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
session = onnx_session(model.SerializeToString(), 1)
end = time.monotonic() + 60
while not attempts() and time.monotonic() < end:
    time.sleep(0.1)
raise SystemExit(not attempts())
"""

ASKED = """
import contextlib, socket
from tests.network_chain import attempts, loopback_up
loopback_up()
for host in ("192.0.2.1", "2001:db8::1", "covidnet.example", "127.0.0.1", "::1", "localhost"):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        before = attempts()
        with contextlib.suppress(OSError):
            where = socket.getaddrinfo(host, 9, type=kind)[0]
            with socket.socket(*where[:3]) as line:
                line.connect(where[4])
                line.send(b"x")
        print(host, attempts() > before)
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The words before a command that run it in a network of its own."""
    folder = tmp_path_factory.mktemp("etc")
    # An address of the block set aside for documentation.
    (folder / "resolv.conf").write_text("nameserver 192.0.2.53\n")
    (folder / "nsswitch.conf").write_text("hosts: files dns\n")
    words = [*ALONE, str(folder / "resolv.conf"), str(folder / "nsswitch.conf")]
    try:
        able = subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        able = False
    if not able:
        pytest.skip("a network of one's own is not to be had here")
    return words


def environment(home: Path, **more: str) -> dict[str, str]:
    """That of a user who has set nothing."""
    kept: Mapping[str, str] = {name: value for name, value in os.environ.items() if name not in SILENCING}
    return {**kept, "HOME": str(home), "COVIDNET_CACHE": str(home / "cache"), "PYTHONPATH": str(PROJECT), **more}


def test_a_library_may_speak_where_the_user_says_so() -> None:
    code = "import os, covidnet; print(*(os.environ[name] for name in covidnet.QUIET))"
    given = {**os.environ, "PYTHONPATH": str(PROJECT), "ORT_DISABLE_TELEMETRY": "0"}
    said = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, check=True).stdout
    assert said.split() == [v if name != "ORT_DISABLE_TELEMETRY" else "0" for name, v in covidnet.QUIET.items()]


def test_what_leaves_this_machine_is_counted_and_nothing_else(alone: list[str]) -> None:
    words, given = [*alone, sys.executable, "-c", ASKED], {**os.environ, "PYTHONPATH": str(PROJECT)}
    said = subprocess.run(words, env=given, capture_output=True, text=True, check=True).stdout
    away, here = ("192.0.2.1", "2001:db8::1", "covidnet.example"), ("127.0.0.1", "::1", "localhost")
    # Each by TCP and by UDP.
    assert said.splitlines() == [f"{host} {host in away}" for host in (*away, *here) for _ in range(2)]


@pytest.mark.slow
def test_no_command_reaches_for_the_network(tmp_path: Path, alone: list[str]) -> None:
    """The count is proved by a session of ONNX Runtime whose telemetry the user has switched on.

    COVIDNET_OFFLINE=1 holds for all commands but one, which may look for the default network's weights.
    """
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    home, other, seen = tmp_path / "home", tmp_path / "other", tmp_path / "seen"
    home.mkdir()
    other.mkdir()
    control = subprocess.Popen(
        [*alone, sys.executable, "-c", SESSION],
        env=environment(other, ORT_DISABLE_TELEMETRY="0"), cwd=other, start_new_session=True,
    )  # fmt: skip
    chain = subprocess.Popen(
        [*alone, sys.executable, "-m", "tests.network_chain", str(home), str(seen)],
        env=environment(home), cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        assert control.wait(120) == 0
        seen.touch()
        counted, errors = chain.communicate(timeout=300)
    finally:
        for process in (control, chain):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert chain.returncode == 0, errors
    tried = json.loads(counted.splitlines()[-1])
    assert {name for name, times in tried.items() if times} == {"auto"}, tried
    assert (other / ".cache/Microsoft").exists()
    assert not (home / ".cache/Microsoft").exists()
