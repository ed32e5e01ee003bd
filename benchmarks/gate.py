"""What the input gate refuses: python benchmarks/gate.py [--films FOLDER] [--per-kind 60] [--cache FILE]

Phantoms always; real films where FOLDER holds them with a metadata.csv (filename, patient_id, view). Films are split in
ten parts by patient: eight are fitted, one is held out, one is judged, ten times over. For each kind of input the share
that is refused before the network (rules and thumbnails) and in all (features of a frozen DenseNet121 with random
weights too), with its 95 % Wilson interval, and the share of the refused that is told the right cause.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import cv2
import numpy as np
import pandas as pd
import torch
from sklearn.model_selection import GroupKFold

from covidnet.data.colour import colour_of
from covidnet.data.images import Film, ImageFacts, read_image
from covidnet.data.phantom import draw_film
from covidnet.data.thumbnails import thumbnail
from covidnet.data.transforms import Normalise, SquareFit
from covidnet.evaluation.intervals import wilson
from covidnet.labels import CLASSES
from covidnet.models.backbones import build_backbone
from covidnet.quality import InputGate
from tests.quality import planted

PARTS = 10
FRONTAL = ("PA", "AP", "AP Supine")
Picture = np.ndarray


def _scaled(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Picture], Picture]:
    table = np.clip(np.round(255 * change(np.arange(256) / 255.0)), 0, 255).astype(np.uint8)
    return lambda film: table[film]


def _noisy_tint(film: Picture) -> Picture:
    """As scanned in colour: a tint, noise in each channel, and a stamp in red."""
    rng = np.random.default_rng(int(film[::16].sum()))
    tinted = film[..., None] * np.array([0.93, 0.97, 1.0]) + 3 * rng.standard_normal((*film.shape, 3))
    coloured = np.clip(tinted, 0, 255).astype(np.uint8)
    cv2.putText(coloured, "PORTABLE 10:42", (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 30, 30), 2)
    cv2.arrowedLine(coloured, (150, 200), (110, 160), (255, 255, 0), 3)
    # Chroma at half the resolution, as JPEG stores it.
    yuv = cv2.cvtColor(coloured, cv2.COLOR_RGB2YCrCb)
    half = cv2.resize(yuv[..., 1:], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    yuv[..., 1:] = cv2.resize(half, film.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return cv2.cvtColor(yuv, cv2.COLOR_YCrCb2RGB)


PASSES: dict[str, Callable[[Picture], Picture]] = {
    "as it is": lambda film: film,
    "mirrored": lambda film: film[:, ::-1],
    "tinted, with coloured marks": _noisy_tint,
    "gamma 0.7": _scaled(lambda v: v**0.7),
    "gamma 1.5": _scaled(lambda v: v**1.5),
    "twice the size": lambda film: cv2.resize(film, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC),
}
"""Changes of a film that must pass."""

FAULTS: dict[str, tuple[Callable[[Picture], Picture], tuple[str, ...]]] = {
    "inverted": (lambda film: 255 - film, ("inverted",)),
    "turned clockwise": (lambda film: np.rot90(film, 3), ("rotated_90",)),
    "upside down": (lambda film: np.rot90(film, 2), ("rotated_180",)),
    "turned anticlockwise": (lambda film: np.rot90(film, 1), ("rotated_270",)),
    "inverted, turned": (lambda film: 255 - np.rot90(film, 1), ("inverted_and_rotated",)),
    "flipped upside down": (lambda film: film[::-1], ("rotated_180",)),
    "under-exposed (x 0.2)": (_scaled(lambda v: 0.2 * v), ("dark",)),
    "dark (gamma 6)": (_scaled(lambda v: v**6), ("dark",)),
    "clipped dark": (_scaled(lambda v: 2 * v - 1.2), ("dark", "page")),
    "bright (gamma 0.15)": (_scaled(lambda v: v**0.15), ("bright",)),
    "over-exposed (x 4, clipped)": (_scaled(lambda v: 4 * v), ("bright", "page")),
    "washed out (8 % contrast)": (_scaled(lambda v: 0.5 + 0.08 * v), ("flat",)),
}
"""Changes of a film that must be refused, and what the answer may call them."""

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
    def __init__(self) -> None:
        self.net = build_backbone("densenet121", "random").eval().to(memory_format=torch.channels_last)
        self.normalise = Normalise(tuple(self.net.spec.mean), tuple(self.net.spec.std))
        self.fit = SquareFit(224)

    def __call__(self, films: list[Picture]) -> np.ndarray:
        found = []
        for start in range(0, len(films), 8):
            batch = np.stack([self.normalise(self.fit(np.ascontiguousarray(film))) for film in films[start : start + 8]])
            with torch.inference_mode():
                images = torch.from_numpy(batch).contiguous(memory_format=torch.channels_last)
                found.append(self.net(images).numpy())
        return np.concatenate(found)


def as_film(picture: Picture) -> Film:
    grey, colour = picture, 0.0
    if picture.ndim == 3:
        grey = planted.luma(picture)
        colour = colour_of(cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA))
    grey = np.ascontiguousarray(grey)
    return Film(grey, ImageFacts("", grey.shape[1], grey.shape[0], "L", grey.size), colour)


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
        self.n = self.before = self.refused = self.named = 0

    def add(self, gate: InputGate, films: list[Film], features: np.ndarray, names: tuple[str, ...]) -> list[bool]:
        told = []
        for film, compared in zip(films, gate.compare(features), strict=True):
            look = [flag.code for flag in gate.look(film) if flag.refuses]
            codes = look + [flag.code for flag in compared if flag.refuses]
            self.n += 1
            self.before += bool(look)
            self.refused += bool(codes)
            self.named += bool(codes) and codes[0] in names
            told.append(bool(codes))
        return told

    def line(self, name: str) -> str:
        low, high = wilson(self.refused, self.n)
        share = f"{100 * self.refused / self.n:6.1f} [{100 * low:5.1f}, {100 * high:5.1f}]"
        named = f"{100 * self.named / self.refused:6.1f}" if self.refused else "     -"
        return f"{name:32} {self.n:5} {100 * self.before / self.n:6.1f} {share} {named}"


def judge(title: str, films: list[Picture], patients: list[str], views: list[str], count: int, cache: Path) -> None:
    kept = dict(np.load(cache)) if cache.is_file() else {}
    backbone = Backbone()

    def features(name: str, pictures: list[Picture]) -> np.ndarray:
        key = f"{title}/{name}/{len(pictures)}"
        if key not in kept:
            kept[key] = backbone([p if p.ndim == 2 else planted.luma(p) for p in pictures])
            np.savez(cache, **kept)
        return kept[key]

    view = np.array(views)
    frontal, lateral = np.isin(view, FRONTAL), view == "L"
    whole = features("films", films)
    small, aspects = np.stack([thumbnail(film) for film in films]), np.array([f.shape[1] / f.shape[0] for f in films])
    part = np.zeros(len(films), int)
    for n, (_, at) in enumerate(GroupKFold(PARTS, shuffle=True, random_state=0).split(films, groups=patients)):
        part[at] = n
    tried = np.random.default_rng(0).permutation(np.flatnonzero(frontal))[:count]
    changed = {
        name: ([change(films[at]) for at in tried], names)
        for name, (change, names) in {**{k: (v, ()) for k, v in PASSES.items()}, **FAULTS}.items()
    }
    seconds = []
    counts: dict[str, Counts] = {}
    others = dict(drawn(count))
    for mode in ("limits from training and held-out films", "limits from training films alone"):
        counts.clear()
        for n in range(PARTS):
            held, test = part == (n + 1) % PARTS, part == n
            train = frontal & ~test & ~(held if mode.startswith("limits from training and") else False)
            out = (small[held & frontal], whole[held & frontal]) if mode.startswith("limits from training and") else None
            start = time.perf_counter()
            gate = InputGate.fit(small[train], whole[train], held_out=out, aspects=aspects[train])
            seconds.append(time.perf_counter() - start)

            def add(name: str, films: list[Picture], found: np.ndarray, names: tuple[str, ...], gate: InputGate = gate) -> None:
                if len(films):
                    counts.setdefault(name, Counts()).add(gate, [as_film(film) for film in films], found, names)

            add("REAL FRONTAL, held out", [films[at] for at in np.flatnonzero(test & frontal)], whole[test & frontal], ())
            rest = test & ~frontal & ~lateral
            add("view unknown, held out", [films[at] for at in np.flatnonzero(rest)], whole[rest], ())
            at = np.flatnonzero(test & lateral)
            add("real lateral", [films[a] for a in at], whole[at], ("lateral",))
            mine = np.flatnonzero(part[tried] == n)
            for name, (pictures, names) in changed.items():
                add(name, [pictures[m] for m in mine], features(name, pictures)[mine], names)
            if n % 3 == 0:
                for name, pictures in others.items():
                    add(name, pictures, features(name, pictures), DRAWN[name])
        print(f"\n{title}: {int(frontal.sum())} frontal films of {len(set(patients))} patients; {mode}")
        print(f"{'kind':32} {'n':>5} {'before':>6} {'refused %':>22} {'named':>6}")
        for name, count_of in counts.items():
            print(count_of.line(name))
    large = as_film(cv2.resize(films[0], (1024, 1024)))
    looks = []
    for _ in range(50):
        start = time.perf_counter()
        gate.look(large)
        looks.append(time.perf_counter() - start)
    size = sum(array.nbytes for array in gate.arrays().values())
    print(f"fit {np.median(seconds):.2f} s, look {1000 * np.median(looks):.1f} ms at 1024 x 1024, arrays {size / 1e3:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--films", type=Path, help="folder with metadata.csv: filename, patient_id, view")
    parser.add_argument("--per-kind", type=int, default=60, help="pictures of each drawn kind")
    parser.add_argument("--phantoms", type=int, default=600, help="phantoms, three of a patient; 0 for none")
    parser.add_argument("--cache", type=Path, default=Path("/tmp/gate_features.npz"), help="where features are kept")
    given = parser.parse_args()
    if given.phantoms:
        films = [draw_film(CLASSES[n % 3], n // 3, n % 3).image for n in range(given.phantoms)]
        patients = [str(n // 3) for n in range(given.phantoms)]
        judge("phantoms", films, patients, ["PA"] * len(films), given.per_kind, given.cache)
    if given.films:
        table = pd.read_csv(given.films / "metadata.csv", dtype=str)
        films = [read_image(given.films / name) for name in table["filename"]]
        judge("real films", films, list(table["patient_id"]), list(table["view"].fillna("")), given.per_kind, given.cache)


if __name__ == "__main__":
    main()
