"""What the input gate refuses: python benchmarks/gate.py [--images FOLDER] [--per-kind 40] [--parts 10] [--cache FILE]

Phantoms always; real images where FOLDER holds them with a metadata.csv (filename, patient_id, view). Images are split
in ten parts by patient: eight are fitted, one is held out, one is judged, ten times over. For each kind of input the
share that is refused before the network (rules and thumbnails) and in all (features of a frozen DenseNet121 with random
weights too), with its 95 % Wilson interval, and the share of the refused that is told the right cause.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import cv2
import numpy as np
import pandas as pd
import torch
from sklearn.model_selection import GroupKFold

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.data.loading.transforms import Normalise, SquareFit
from covidnet.data.phantoms.phantom import draw_image
from covidnet.data.reading.colour import colour_of
from covidnet.data.reading.images import ImageFacts, Radiograph, read_image
from covidnet.data.reading.thumbnails import thumbnail
from covidnet.evaluation.intervals import wilson
from covidnet.gate import InputGate
from covidnet.models.backbones import build_backbone
from tests.gate import planted

FRONTAL = ("PA", "AP", "AP Supine")
Picture = np.ndarray


def _scaled(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Picture], Picture]:
    table = np.clip(np.round(255 * change(np.arange(256) / 255.0)), 0, 255).astype(np.uint8)
    return lambda image: table[image]


def _noisy_tint(image: Picture) -> Picture:
    """As scanned in colour: a tint, noise in each channel, and a stamp in red."""
    rng = np.random.default_rng(int(image[::16].sum()))
    tinted = image[..., None] * np.array([0.93, 0.97, 1.0]) + 3 * rng.standard_normal((*image.shape, 3))
    coloured = np.clip(tinted, 0, 255).astype(np.uint8)
    cv2.putText(coloured, "PORTABLE 10:42", (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 30, 30), 2)
    cv2.arrowedLine(coloured, (150, 200), (110, 160), (255, 255, 0), 3)
    # Chroma at half the resolution, as JPEG stores it.
    yuv = cv2.cvtColor(coloured, cv2.COLOR_RGB2YCrCb)
    half = cv2.resize(yuv[..., 1:], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    yuv[..., 1:] = cv2.resize(half, image.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return cv2.cvtColor(yuv, cv2.COLOR_YCrCb2RGB)


PASSES: dict[str, Callable[[Picture], Picture]] = {
    "mirrored": lambda image: image[:, ::-1],
    "tinted, with coloured marks": _noisy_tint,
    "gamma 0.7": _scaled(lambda v: v**0.7),
    "gamma 1.5": _scaled(lambda v: v**1.5),
    "twice the size": lambda image: cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC),
}
"""Changes of an image that must pass."""

FAULTS: dict[str, tuple[Callable[[Picture], Picture], tuple[str, ...]]] = {
    "inverted": (lambda image: 255 - image, ("inverted",)),
    "turned clockwise": (lambda image: np.rot90(image, 3), ("rotated_90",)),
    "upside down": (lambda image: np.rot90(image, 2), ("rotated_180",)),
    "turned anticlockwise": (lambda image: np.rot90(image, 1), ("rotated_270",)),
    "inverted, turned": (lambda image: 255 - np.rot90(image, 1), ("inverted_and_rotated",)),
    "flipped upside down": (lambda image: image[::-1], ("rotated_180",)),
    "under-exposed (x 0.2)": (_scaled(lambda v: 0.2 * v), ("dark",)),
    "dark (gamma 6)": (_scaled(lambda v: v**6), ("dark",)),
    "clipped dark": (_scaled(lambda v: 2 * v - 1.2), ("dark", "page")),
    "bright (gamma 0.15)": (_scaled(lambda v: v**0.15), ("bright",)),
    "over-exposed (x 4, clipped)": (_scaled(lambda v: 4 * v), ("bright", "page")),
    "washed out (8 % contrast)": (_scaled(lambda v: 0.5 + 0.08 * v), ("flat",)),
}
"""Changes of an image that must be refused, and what the answer may call them."""

CHANGES = {**{name: (change, ()) for name, change in PASSES.items()}, **FAULTS}
GIVEN = {"REAL FRONTAL, held out": (), "view unknown, held out": (), "real lateral": ("lateral",)}

LIKE_PAGES = ("page", "noise", "not_frontal", "unlike", "shape")
DRAWN = {
    "text page": LIKE_PAGES,
    "chart": LIKE_PAGES,
    "noise": LIKE_PAGES,
    "clouds": LIKE_PAGES,
    "drawn CT slice": ("ct",),
    "drawn lateral": ("lateral", "not_frontal", "unlike"),
    "photograph, colour": ("colour",),
    "photograph, grey": LIKE_PAGES,
    "drawn scene, colour": ("colour",),
    "drawn scene, grey": LIKE_PAGES,
}


class Backbone:
    def __init__(self, side: int) -> None:
        self.net = build_backbone("densenet121", "random").eval().to(memory_format=torch.channels_last)
        self.normalise = Normalise(tuple(self.net.spec.mean), tuple(self.net.spec.std))
        self.fit = SquareFit(side)

    def __call__(self, images: list[Picture]) -> np.ndarray:
        found = []
        for start in range(0, len(images), 8):
            batch = np.stack(
                [self.normalise(self.fit(np.ascontiguousarray(image))) for image in images[start : start + 8]]
            )
            with torch.inference_mode():
                tensors = torch.from_numpy(batch).contiguous(memory_format=torch.channels_last)
                found.append(self.net(tensors).numpy())
        return np.concatenate(found)


def as_radiograph(picture: Picture) -> Radiograph:
    grey, colour = picture, 0.0
    if picture.ndim == 3:
        grey = planted.luma(picture)
        colour = colour_of(cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA))
    grey = np.ascontiguousarray(grey)
    return Radiograph(grey, ImageFacts("", grey.shape[1], grey.shape[0], "L", grey.size), colour)


def drawn(count: int) -> Iterator[tuple[str, list[Picture]]]:
    rng = np.random.default_rng(0)
    for name, draw in planted.DRAWN.items():
        yield name, [draw(rng) for _ in range(count)]
    crops = planted.photographs(rng)
    photographs = [next(crops) for _ in range(count)]
    yield "photograph, colour", photographs
    yield "photograph, grey", [planted.luma(picture) for picture in photographs]
    scenes = [planted.scene(rng) for _ in range(count)]
    yield "drawn scene, colour", scenes
    yield "drawn scene, grey", [planted.luma(picture) for picture in scenes]


class Counts:
    """Refusals of one kind of input."""

    def __init__(self) -> None:
        self.looked = self.before = self.named = self.compared = self.refused = 0
        self.codes: Counter[str] = Counter()

    def add(
        self, gate: InputGate, images: Iterable[Radiograph], names: tuple[str, ...], features: dict[int, np.ndarray]
    ) -> None:
        """Count images; features of some of them by their places."""
        for place, image in enumerate(images):
            codes = [flag.code for flag in gate.look(image) if flag.refuses]
            self.looked += 1
            self.before += bool(codes)
            self.named += bool(codes) and codes[0] in names
            if place in features:
                compared = [flag.code for flag in gate.compare(features[place][None])[0] if flag.refuses]
                self.compared += 1
                self.refused += bool(codes or compared)
                codes += compared
            self.codes.update(codes[:1])

    def line(self, name: str) -> str:
        def share(part: int, whole: int) -> str:
            low, high = wilson(part, whole) or (0.0, 1.0)
            return f"{whole:6} {100 * part / max(whole, 1):6.1f} [{100 * low:5.1f}, {100 * high:5.1f}]"

        named = f"{100 * self.named / self.before:6.1f}" if self.before else "     -"
        codes = ", ".join(f"{code} {n}" for code, n in self.codes.most_common(4))
        return f"{name:30}{share(self.before, self.looked)} {named} {share(self.refused, self.compared)}   {codes}"


def judge(title: str, images: list[Picture], patients: list[str], views: list[str], given: argparse.Namespace) -> None:
    cache, count, parts = given.cache, given.per_kind, given.parts
    kept = dict(np.load(cache)) if cache and cache.is_file() else {}
    backbone = Backbone(given.side)

    def features(name: str, pictures: list[Picture]) -> np.ndarray:
        key = f"{title}/{name}/{len(pictures)}"
        if key not in kept:
            kept[key] = backbone([p if p.ndim == 2 else planted.luma(p) for p in pictures])
            if cache:
                np.savez(cache, **kept)
        return kept[key]

    view = np.array(views)
    frontal, lateral = np.isin(view, FRONTAL), view == "L"
    whole = features("images", images)
    small, aspects = (
        np.stack([thumbnail(image) for image in images]),
        np.array([f.shape[1] / f.shape[0] for f in images]),
    )
    part = np.zeros(len(images), int)
    for n, (_, at) in enumerate(GroupKFold(parts, shuffle=True, random_state=0).split(images, groups=patients)):
        part[at] = n
    tried = np.random.default_rng(0).permutation(np.flatnonzero(frontal))[:count]
    known = {name: features(name, [change(images[at]) for at in tried]) for name, (change, _) in CHANGES.items()}
    others = dict(drawn(count))
    known |= {name: features(name, pictures) for name, pictures in others.items()}
    seconds = []
    for mode in ("limits from training and held-out images", "limits from training images alone"):
        counts = {name: Counts() for name in (*GIVEN, *CHANGES, *others)}
        for n in range(parts):
            test = part == n
            held = frontal & (part == (n + 1) % parts) if "held-out" in mode else np.zeros(len(images), bool)
            train = frontal & ~test & ~held
            start = time.perf_counter()
            gate = InputGate.fit(
                small[train],
                whole[train],
                held_out=(small[held], whole[held]) if held.any() else None,
                aspects=aspects[train],
            )
            seconds.append(time.perf_counter() - start)
            groups = (test & frontal, test & ~frontal & ~lateral, test & lateral)
            for (name, names), group in zip(GIVEN.items(), map(np.flatnonzero, groups), strict=True):
                counts[name].add(
                    gate, (as_radiograph(images[at]) for at in group), names, dict(enumerate(whole[group]))
                )
            mine = np.flatnonzero(test & frontal)
            place = {at: place for place, at in enumerate(mine)}
            for name, (change, names) in CHANGES.items():
                rows = {place[at]: known[name][row] for row, at in enumerate(tried) if at in place}
                counts[name].add(gate, (as_radiograph(change(images[at])) for at in mine), names, rows)
            for name, pictures in others.items() if n % 3 == 0 else ():
                counts[name].add(gate, map(as_radiograph, pictures), DRAWN[name], dict(enumerate(known[name])))
        print(f"\n{title}: {int(frontal.sum())} frontal images of {len(set(patients))} patients; {mode}")
        print(f"{'':30}{'before the network':^30} {'named':>6} {'with features':^30}")
        print(f"{'kind':30}{'n':>6} {'refused %':>22} {'%':>6} {'n':>6} {'refused %':>22}   first cause")
        for name, found in counts.items():
            if found.looked:
                print(found.line(name))
    large = as_radiograph(cv2.resize(images[0], (1024, 1024)))
    looks = []
    for _ in range(50):
        start = time.perf_counter()
        gate.look(large)
        looks.append(time.perf_counter() - start)
    size = sum(array.nbytes for array in gate.arrays().values())
    print(
        f"fit {np.median(seconds):.2f} s, look {1000 * np.median(looks):.1f} ms at 1024 x 1024, "
        f"arrays {size / 1e3:.0f} kB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=Path, help="folder with metadata.csv: filename, patient_id, view")
    parser.add_argument("--per-kind", type=int, default=40, help="pictures of each kind that the backbone sees")
    parser.add_argument("--phantoms", type=int, default=300, help="phantoms, three of a patient; 0 for none")
    parser.add_argument("--cache", type=Path, help="where features are kept; for the same images alone")
    parser.add_argument(
        "--parts", type=int, default=10, help="parts of patients: all but two are fitted, one is judged"
    )
    parser.add_argument("--side", type=int, default=224, help="pixels of a side of what the backbone sees")
    given = parser.parse_args()
    if given.phantoms:
        images = [draw_image(CLASSES[n % 3], n // 3, n % 3).image for n in range(given.phantoms)]
        patients = [str(n // 3) for n in range(given.phantoms)]
        judge("phantoms", images, patients, ["PA"] * len(images), given)
    if given.images:
        table = pd.read_csv(given.images / "metadata.csv", dtype=str)
        images = [read_image(given.images / name) for name in table["filename"]]
        judge(
            "real images",
            images,
            list(table["patient_id"]),
            list(table["view"].fillna("")),
            given,
        )


if __name__ == "__main__":
    main()
