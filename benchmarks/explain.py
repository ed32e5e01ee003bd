"""What a heat map costs beside a forward pass: python benchmarks/explain.py [--rounds 15] [--side 224]

One image through DenseNet121 (random weights), and one map of it by each method, image in and picture out: forward,
backward, overlay. Then a sheet of fifteen images as a PNG. What the explanations of a run cost is told by
benchmarks/sweep.py (panels).
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.progress import available_cores
from covidnet.data.loading.transforms import Normalise, SquareFit
from covidnet.data.phantoms.phantom import draw_image
from covidnet.models.classifier import build_classifier
from covidnet.models.saliency import METHODS, saliency
from covidnet.report.plots.sheet import image_panels, overlay, save_figure


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="repetitions; the median is printed")
    parser.add_argument("--side", type=int, default=224, help="side of an image in pixels")
    given = parser.parse_args()
    torch.manual_seed(0)
    classifier = build_classifier(standardise=True).eval()
    normalise = Normalise(tuple(classifier.spec.mean), tuple(classifier.spec.std))
    fit = SquareFit(given.side)
    images = [fit(draw_image(CLASSES[n % 3], n, 0).image) for n in range(15)]
    tensors = torch.from_numpy(np.stack([normalise(image) for image in images])).to(memory_format=torch.channels_last)
    one = tensors[:1]

    def forward() -> None:
        with torch.no_grad():
            classifier(one)

    def mapped(method: str) -> None:
        overlay(images[0], saliency(classifier, one, None, method)[0])

    def sheet() -> None:
        figure = image_panels(images, list(saliency(classifier, tensors)), ["a title"] * len(images), columns=5)
        with tempfile.TemporaryDirectory() as folder:
            save_figure(figure, Path(folder) / "sheet.png")

    warnings.simplefilter("ignore")
    works: dict[str, Callable[[], object]] = {"forward": forward, **{m: (lambda m=m: mapped(m)) for m in METHODS}}
    for work in works.values():
        work()
    # Taken in turn, so that a busy moment of the machine falls on all of them.
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(given.rounds):
        for name, work in works.items():
            # Threads of the work before, such as those of a singular value decomposition, still spin for a while.
            forward()
            taken[name].append(seconds(work))
    base = statistics.median(taken["forward"])
    print(f"{available_cores()} cores, load {os.getloadavg()[0]:.1f}, {given.side} pixels, medians of {given.rounds}")
    print(f"forward pass of one image: {1000 * base:.0f} ms")
    for name in METHODS:
        middle = statistics.median(taken[name])
        print(f"one map with overlay, {name}: {1000 * middle:.0f} ms, {middle / base:.2f} x a forward pass")
    sheet()
    print(f"a sheet of {len(images)} images: {statistics.median(seconds(sheet) for _ in range(3)):.1f} s")


if __name__ == "__main__":
    main()
