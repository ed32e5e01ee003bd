"""Every command, one after the other, on little data: run in a network of its own by test_network.py.

The kernel counts what has no way out; the last line printed says how often each command tried.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

from tests.commands import command
from tests.conftest import QUICK, quickly
from tests.serving.web.commands import command as serving

FEW = [word.replace("per_class=33", "per_class=11") for word in QUICK]


def loopback_up() -> None:
    """Switch on the one interface of a new network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        fcntl.ioctl(line, 0x8914, struct.pack("16sh14s", b"lo", 1, b""))  # SIOCSIFFLAGS, IFF_UP


def attempts() -> int:
    """How often this network was asked for an address that it has no route to."""
    names, values = (line.split() for line in Path("/proc/net/snmp").read_text().splitlines()[:2])
    count = int(values[names.index("OutNoRoutes")])
    six = Path("/proc/net/snmp6")
    lines = six.read_text().splitlines() if six.exists() else []
    return count + sum(int(line.split()[1]) for line in lines if line.startswith("Ip6OutNoRoutes"))


def chain(home: Path, until: Path) -> Counter[str]:
    """Run the commands.

    Args:
        home: an empty folder, where all that they write goes.
        until: a file; the server stays up until it is there.

    Returns:
        How often each reached for the network.
    """
    tried: Counter[str] = Counter()

    def note(name: str) -> None:
        tried[name] += attempts() - tried.total()

    def run(name: str, *words: str) -> None:
        done = command(f"covidnet.{name}", *words, cwd=home)
        note(f"{name} {' '.join(words)}")
        assert done.returncode == 0, f"{name} {words}: {done.stderr}"

    data = [word for word in FEW if word.startswith(("data.", "progress="))]
    run("prepare", *data)
    run("features", *data, *FEW[:2], "features.engine=torch")
    # A network that is exported in a moment.
    small = quickly("model=resnet8", "trainer.max_epochs=1", "logger=many", defaults=FEW)
    run("train", *small, "hydra.run.dir='sweep/fold=0'")
    run("crossval", "sweep_dir=sweep", "resamples=100")
    images = next(home.glob("cache/**/*.png")).parent
    run("export", "checkpoint=sweep/fold=0", f"check={images}", "out=model.onnx")
    run(
        "predict",
        "checkpoint=sweep/fold=0",
        f"input={images}/phantom-000*.png",
        "out=torch",
        "gate=warn",
        "panels=true",
    )
    run("predict", "checkpoint=model.onnx", f"input={images}/phantom-000*.png", "out=onnx", "gate=warn")
    run("explain", "checkpoint=sweep/fold=0", f"input={images}/phantom-000*.png", "out=maps")
    run("evaluate", "checkpoint=model.onnx", *data[:1], "data.phantom_size=96", "out=external")
    # The one thing that is asked for unasked, see README: weights of the default network.
    allowed = {name: value for name, value in os.environ.items() if name != "COVIDNET_OFFLINE"}
    words = [*data, "data.image_size=32"]
    assert command("covidnet.features", *words, "features.engine=torch", cwd=home, env=allowed).returncode == 0
    note("auto")
    with serving(Path("model.onnx"), "engine=onnx", "gate=warn", cwd=home) as server:
        image = next(images.glob("*.png")).read_bytes()
        with urllib.request.urlopen(f"{server.address.rstrip('/')}/v1/predict", image, timeout=60) as answer:
            assert answer.status == 200
        end = time.monotonic() + 60
        while not until.exists() and time.monotonic() < end:
            time.sleep(0.1)
    note("app")
    return tried


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    loopback_up()
    print(json.dumps(chain(Path(sys.argv[1]), Path(sys.argv[2]))))
