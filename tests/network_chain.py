"""Every command, one after the other, on little data: run under a tracer by test_network.py.

Before each command a socket is asked for at a path of that name, so that the trace says which command it belongs to.
"""

from __future__ import annotations

import os
import socket
import sys
import time
import urllib.request
from pathlib import Path

from tests.commands import command
from tests.conftest import QUICK, quickly
from tests.serving.web.commands import command as serving

MARK = "/covidnet-command/"


def mark(name: str) -> None:
    """Leave a line in the trace that says what comes now."""
    with socket.socket(socket.AF_UNIX) as line:
        # A path holds 107 bytes.
        line.connect_ex((MARK + name)[:100])


def chain(home: Path, until: Path) -> None:
    """Run the commands.

    Args:
        home: an empty folder, where all that they write goes.
        until: a file; the server stays up until it is there.
    """

    def run(name: str, *words: str) -> None:
        mark(f"{name} {' '.join(words)}")
        done = command(f"covidnet.{name}", *words, cwd=home)
        assert done.returncode == 0, f"{name} {words}: {done.stderr}"

    data = [word for word in QUICK if word.startswith(("data.", "progress="))]
    run("prepare", *data)
    run("features", *data, *QUICK[:2], "features.engine=torch")
    run("train", *quickly("logger=many"), "hydra.run.dir='sweep/fold=0'")
    run("crossval", "sweep_dir=sweep", "resamples=100")
    # Trained on images, and exported in a moment.
    run("train", *quickly("model=resnet8", "trainer.max_epochs=1", "explain=off"), "hydra.run.dir=small")
    images = next(home.glob("cache/**/*.png")).parent
    run("export", "checkpoint=small", f"check={images}", "out=model.onnx")
    run("predict", "checkpoint=sweep/fold=0", f"input={images}/*-3.png", "out=torch", "gate=warn", "panels=true")
    run("predict", "checkpoint=model.onnx", f"input={images}/*-3.png", "out=onnx", "gate=warn")
    run("explain", "checkpoint=small", f"input={images}/*-3.png", "out=maps")
    run("evaluate", "checkpoint=model.onnx", "data.images_per_class=33", "data.phantom_size=96", "out=external")
    # The one thing that is asked for unasked, see README: weights of the default network.
    mark("auto")
    allowed = {name: value for name, value in os.environ.items() if name != "COVIDNET_OFFLINE"}
    few = [*data, "data.images_per_class=11", "data.image_size=32"]
    assert command("covidnet.features", *few, "features.engine=torch", cwd=home, env=allowed).returncode == 0
    mark("app")
    with serving(Path("model.onnx"), "engine=onnx", "gate=warn", cwd=home) as server:
        image = next(images.glob("*.png")).read_bytes()
        with urllib.request.urlopen(f"{server.address.rstrip('/')}/v1/predict", image, timeout=60) as answer:
            assert answer.status == 200
        end = time.monotonic() + 60
        while not until.exists() and time.monotonic() < end:
            time.sleep(0.1)


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    chain(Path(sys.argv[1]), Path(sys.argv[2]))
