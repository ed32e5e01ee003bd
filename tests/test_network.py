"""No command reaches for the network unasked, but for weights that model.weights=auto may download."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

import covidnet
from tests.conftest import PROJECT
from tests.network_chain import MARK

# In a network of their own, which has no way out: what asks for a host is seen, and reaches nobody.
TRACE = [
    "unshare", "--map-root-user", "--net", "strace", "-f", "--seccomp-bpf", "-qq", "-s", "100",
    "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-e", "signal=none", "-o",
]  # fmt: skip
LOOPBACK_UP = (
    "import fcntl, runpy, socket, struct, sys\n"
    "line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    "fcntl.ioctl(line, 0x8914, struct.pack('16sh14s', b'lo', 1, b''))  # SIOCSIFFLAGS, IFF_UP\n"
    "del sys.argv[0]\n"
    "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)\n"
)
# One that libraries know continuous integration or tests by, and are silent in.
SILENCING = ("CI", "TF_BUILD", "GITHUB_ACTIONS", "ORT_RUNNING_UNIT_TESTS", "WANDB_MODE", *covidnet.QUIET)

SESSION = """
import time
import onnx
from onnx import TensorProto, helper
from covidnet.models.onnx_session import onnx_session
values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", values[:1], values[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
session = onnx_session(model.SerializeToString(), 1)
time.sleep(60)
"""


def reached(trace: Path) -> list[str]:
    """What was asked of the network, with the command that asked: calls with an address other than this machine's.

    A look-up of a name counts at any address: a resolver may run on this machine.
    """
    found, now = [], "the start"
    for line in trace.read_text(errors="replace").splitlines():
        if MARK in line:
            now = line.partition(MARK)[2].partition('"')[0]
        elif "sa_family=AF_INET" in line:
            port = re.search(r"sin6?_port=htons\((\d+)\)", line)
            here = re.search(r'inet_addr\("127\.|inet_pton\(AF_INET6, "(::1|::ffff:127\.[^"]*)"', line)
            if here is None or port is None or port[1] == "53":
                found.append(f"{now}: {line}")
        elif "systemd/resolve" in line or "avahi-daemon" in line:
            found.append(f"{now}: {line}")
    return found


def environment(home: Path, **more: str) -> dict[str, str]:
    """That of a user who has set nothing."""
    kept: Mapping[str, str] = {name: value for name, value in os.environ.items() if name not in SILENCING}
    return {**kept, "HOME": str(home), "COVIDNET_CACHE": str(home / "cache"), "PYTHONPATH": str(PROJECT), **more}


def test_a_library_may_speak_where_the_user_says_so() -> None:
    code = "import os, covidnet; print(*(os.environ[name] for name in covidnet.QUIET))"
    given = {**os.environ, "PYTHONPATH": str(PROJECT), "ORT_DISABLE_TELEMETRY": "0"}
    said = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, check=True).stdout
    assert said.split() == [v if name != "ORT_DISABLE_TELEMETRY" else "0" for name, v in covidnet.QUIET.items()]


@pytest.mark.slow
def test_no_command_reaches_for_the_network(tmp_path: Path) -> None:
    """The count is proved by a session of ONNX Runtime whose telemetry the user has switched on.

    COVIDNET_OFFLINE=1 holds for all commands but one, which may look for the default network's weights.
    """
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    try:
        able = subprocess.run([*TRACE, os.devnull, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        able = False
    if not able:
        pytest.skip("strace, or a network of one's own, is not to be had here")
    home, other, seen = tmp_path / "home", tmp_path / "other", tmp_path / "seen"
    home.mkdir()
    other.mkdir()
    speaking, trace = tmp_path / "speaking.trace", tmp_path / "commands.trace"
    control = subprocess.Popen(
        [*TRACE, str(speaking), sys.executable, "-c", SESSION],
        env=environment(other, ORT_DISABLE_TELEMETRY="0"), cwd=other,
        start_new_session=True,
    )  # fmt: skip
    chain = subprocess.Popen(
        [*TRACE, str(trace), sys.executable, "-c", LOOPBACK_UP, "tests.network_chain", str(home), str(seen)],
        env=environment(home), cwd=PROJECT, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        while control.poll() is None and not (speaking.exists() and reached(speaking)):
            time.sleep(0.2)
        assert reached(speaking)
        seen.touch()
        said = chain.communicate(timeout=300)[1]
    finally:
        for process in (control, chain):
            # strace alone would leave its child behind.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert chain.returncode == 0, said
    assert {line.partition(":")[0] for line in reached(trace)} == {"auto"}
    assert (other / ".cache/Microsoft").exists()
    assert not (home / ".cache/Microsoft").exists()
