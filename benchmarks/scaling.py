"""What grows with the archive: python benchmarks/scaling.py [NAME=VALUE ...] [--images 1000 10000 100000]

A study from files to report, by the commands that a user types: drawn images of 64 x 64 pixels, one to six of a
patient; `prepare` with its search for copies, `features` with a tiny network, the ten folds with their report, and the
report again. For every command: seconds, seconds of processor time, and the memory of its largest process. From the
second size on, the exponent by which the processor time has grown: 1 is proportional to the images. NAME=VALUE go to
the commands that read images.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.progress import available_cores

SIDE = 64
SETTINGS = ("data=folder", "data.image_size=32", "model=torchvision", "model.backbone=squeezenet1_1",
            "model.weights=random", "trainer.accelerator=cpu", "progress=false")  # fmt: skip


def write_images(root: Path, images: int) -> None:
    """Smooth noise, brighter at a place of its class; one class for all images of a patient."""
    rng = np.random.default_rng(0)
    for label in CLASSES:
        (root / label).mkdir(parents=True)
    lines, patient = ["filename,label,patient_id"], 0
    while len(lines) <= images:
        label = CLASSES[rng.integers(len(CLASSES))]
        for _ in range(min(rng.integers(1, 7), images + 1 - len(lines))):
            coarse = rng.integers(40, 180, (12, 12)).astype(np.uint8)
            coarse[3 * CLASSES.index(label) + 2, 5:8] += 50
            name = f"{label}/{len(lines)}.png"
            cv2.imwrite(str(root / name), cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC))
            lines.append(f"{name},{label},p{patient}")
        patient += 1
    (root / "metadata.csv").write_text("\n".join(lines) + "\n")


def run(module: str, *words: str) -> tuple[float, float, float]:
    """Seconds, seconds of processor time, and peak memory in GiB of the largest process of a command."""
    start = time.perf_counter()
    command = [sys.executable, "-m", f"covidnet.{module}", *words]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(said.read().decode(errors="replace")[-2000:])
    return time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20


def study(home: Path, images: int, folds: str, settings: list[str]) -> Iterator[tuple[str, tuple[float, float, float]]]:
    """Yield what each command of a study of so many images takes, as it ends; `folds` are those of the sweep."""
    write_images(home / "images", images)
    data = [f"data.root={home / 'images'}", f"cache_dir={home / 'cache'}", *settings]
    # It has no network.
    plain = [word for word in data if word.startswith(("data", "split", "reading", "cache_dir", "progress"))]
    sweep = home / "sweep"
    yield "prepare", run("prepare", *plain)
    yield "features", run("features", *data)
    yield "ten folds and report", run("train", "-m", folds, f"hydra.sweep.dir={sweep}", *data)
    yield "report", run("crossval", f"sweep_dir={sweep}", f"report_dir={home / 'report'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10000, 100000])
    parser.add_argument("settings", nargs="*", metavar="NAME=VALUE", default=[])
    given = parser.parse_args()
    folds = next((word for word in given.settings if word.startswith("fold=")), "fold=range(0,10)")
    settings = [*SETTINGS, *(word for word in given.settings if word != folds)]
    print(f"{available_cores()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    last: dict[str, tuple[int, float]] = {}
    for images in given.images:
        with tempfile.TemporaryDirectory() as home:
            for name, (seconds, processor, memory) in study(Path(home), images, folds, settings):
                line = (
                    f"{images:,} images, {name}: {seconds:.1f} s, {processor:.1f} s of the processor, {memory:.2f} GiB"
                )
                if name in last:
                    before, took = last[name]
                    line += f", grows by the power {math.log(processor / took) / math.log(images / before):.2f}"
                last[name] = images, processor
                print(line, flush=True)


if __name__ == "__main__":
    main()
