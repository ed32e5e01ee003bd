"""The chest that a phantom image shows: one patient's shapes, and their projection onto the image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Points = NDArray[np.float64]
Stroke = tuple[list[Points] | Points, float, float]

# Body coordinates: one unit is half the width of the rib cage. u grows to the right of the image (the patient's left),
# v grows downwards, and (0, 0) is at the height of the hila. Shapes on one side are given for u > 0 and mirrored.
_CHEST_WALL = ((0.22, -1.10), (0.38, -1.10), (0.58, -0.97), (0.73, -0.72), (0.83, -0.38), (0.89, 0.0), (0.92, 0.36))
_MEDIAL_WALL = ((0.05, 0.48), (0.05, 0.0), (0.05, -0.6), (0.10, -0.98))
_SUPERIOR = ((-0.14, -1.6), (-0.15, -0.88), (-0.17, -0.55), (-0.18, -0.26))
_RIGHT_HEART = ((-0.25, 0.0), (-0.31, 0.2), (-0.30, 0.42), (-0.22, 0.62))
_LEFT_HEART = ((0.25, 0.84), (0.48, 0.72), (0.59, 0.58), (0.57, 0.42), (0.49, 0.22), (0.37, 0.02), (0.27, -0.14))
_GREAT_VESSELS = (
    (0.24, -0.28),
    (0.19, -0.40),
    (0.25, -0.50),
    (0.25, -0.61),
    (0.16, -0.74),
    (0.14, -0.95),
    (0.13, -1.6),
)
_NECK = ((0.37, -2.4), (0.37, -1.45), (0.50, -1.27), (0.95, -1.16))
_FLANK = ((1.30, -0.42), (1.14, -0.15), (1.09, 0.2), (1.08, 0.7), (1.13, 1.3), (1.18, 2.4))
_ARM = ((0.95, -1.16), (1.30, -1.05), (1.56, -0.7), (1.66, 0.1), (1.7, 2.2), (1.42, 2.2), (1.26, 0.1), (1.1, -0.45))
_CLAVICLE = ((0.10, -0.80), (0.22, -0.85), (0.42, -0.97), (0.66, -1.04), (0.90, -1.10), (1.12, -1.13))
_SCAPULA = (
    (0.72, -1.0),
    (1.02, -1.08),
    (1.2, -0.98),
    (1.05, -0.55),
    (0.93, -0.08),
    (0.86, -0.02),
    (0.78, -0.5),
    (0.72, -1),
)
_HUMERUS = ((1.27, -0.93), (1.38, -0.6), (1.43, 0.0), (1.46, 0.8))

TRAITS: dict[str, tuple[float, float]] = {
    "aspect": (0.85, 1.2), "zoom": (0.94, 1.14), "tall": (0.90, 1.12), "heart": (0.86, 1.2), "aorta": (0.8, 1.3),
    "upper": (0.85, 1.3), "dome": (0.18, 0.36), "tilt": (-0.02, 0.1), "base": (-0.08, 0.08), "fat": (0.0, 0.22),
    "girth": (0.90, 1.2), "air": (0.92, 1.14), "bone": (0.75, 1.25), "ribs": (0.8, 1.2), "slope": (0.30, 0.46),
    "vessels": (0.7, 1.3), "breast": (-0.22, 0.28), "breast_v": (0.26, 0.5), "breast_u": (0.40, 0.56),
    "breast_r": (0.34, 0.48), "shoulder": (-0.10, 0.10), "clavicle": (-0.08, 0.06), "bubble": (-1.0, 1.0),
    "spine": (-0.03, 0.03), "scapula": (0.4, 1.0), "mottle": (0.6, 1.4),
}  # fmt: skip
"""Body measures and their ranges: ratios around 1, densities, or lengths in body units."""


def curve(points: Sequence[Sequence[float]] | Points, *, closed: bool = False, steps: int = 6) -> Points:
    """A smooth line (Catmull-Rom spline) through the points.

    Args:
        points: at least three points, shape (n, 2).
        closed: join the last point to the first.
        steps: points drawn from each point to the next.

    Returns:
        Points of the line, shape (m, 2).

    Example:
        >>> curve([(0.0, 0.0), (1.0, 1.0), (2.0, 0.0)], steps=2).tolist()
        [[0.0, 0.0], [0.4375, 0.5625], [1.0, 1.0], [1.5625, 0.5625], [2.0, 0.0]]
    """
    p = np.asarray(points, dtype=np.float64)
    p = np.concatenate([p[-1:], p, p[:2]]) if closed else np.concatenate([p[:1], p, p[-1:]])
    a, b, c, d = p[:-3, None], p[1:-2, None], p[2:-1, None], p[3:, None]
    t = (np.arange(steps) / steps)[:, None]
    line = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    line = line.reshape(-1, 2)
    return line if closed else np.concatenate([line, p[-2:-1]])


def cloud(rng: np.random.Generator, cells: Sequence[int], side: int = 128) -> Floats:
    """Smooth random texture over the body square [-1.6, 1.6] x [-1.6, 1.6].

    Args:
        rng: the source of the texture.
        cells: grid sizes of the layers, coarse to fine; each layer has 0.6 of the previous layer's weight.
        side: height and width of the texture; grids finer than half of it look like tiles.

    Returns:
        Texture of shape (side, side), mean about 0, standard deviation about 0.8.
    """
    total = np.zeros((side, side), np.float32)
    for layer, n in enumerate(cells):
        noise = rng.standard_normal((n, n), dtype=np.float32)
        total += np.float32(0.6**layer) * cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)
    return total


def ramp(x: Floats, low: float, high: float) -> Floats:
    """A smooth step from 0 at `low` to 1 at `high`.

    Example:
        >>> ramp(np.array([0.0, 1.0, 1.5, 3.0], np.float32), 1.0, 2.0).tolist()
        [0.0, 0.0, 0.5, 1.0]
    """
    t = np.clip((x - np.float32(low)) * np.float32(1 / (high - low)), 0, 1)
    return t * t * (3 - 2 * t)


def blur(image: Floats, sigma: float) -> Floats:
    """Gaussian blur at a cost independent of `sigma` (pixels): wide blurs run on a shrunk copy."""
    height, width = image.shape
    shrink = 1
    while sigma / shrink > 4:
        shrink *= 2
    if shrink == 1:
        return np.asarray(cv2.GaussianBlur(image, (0, 0), max(sigma, 0.3)), np.float32)
    small = cv2.resize(image, (max(2, width // shrink), max(2, height // shrink)), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(cv2.GaussianBlur(small, (0, 0), sigma / shrink), (width, height)), np.float32)


@dataclass(frozen=True)
class View:
    """Where the body is on an image.

    Args:
        matrix: from body coordinates to pixels, shape (2, 3).
        shape: (height, width) of the image in pixels.
    """

    matrix: Points
    shape: tuple[int, int]

    @property
    def scale(self) -> float:
        """Pixels of one body unit."""
        return float(np.hypot(self.matrix[0, 0], self.matrix[1, 0]))

    def small(self, side: int = 64) -> View:
        """The same view on an image with this short side, for drawing smooth structures."""
        ratio = side / min(self.shape)
        height, width = (round(n * ratio) for n in self.shape)
        by = np.array([[width / self.shape[1]], [height / self.shape[0]]])
        matrix = self.matrix * by
        matrix[:, 2:] += 0.5 * by - 0.5
        return View(matrix, (height, width))

    def grown(self, small: Floats) -> Floats:
        """Resize an image of the `small` view to the size of this one."""
        return np.asarray(cv2.resize(small, self.shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)

    def pixels(self, points: Points) -> NDArray[np.int32]:
        """Points (of any number of lines) in sixteenths of a pixel, as OpenCV's drawing functions expect."""
        return np.rint((points @ self.matrix[:, :2].T + self.matrix[:, 2]) * 16).astype(np.int32)

    def grid(self) -> tuple[Floats, Floats]:
        """Body coordinates (u, v) of every pixel."""
        back = cv2.invertAffineTransform(self.matrix).astype(np.float32)
        y, x = np.arange(self.shape[0], dtype=np.float32)[:, None], np.arange(self.shape[1], dtype=np.float32)
        return back[0, 0] * x + back[0, 1] * y + back[0, 2], back[1, 0] * x + back[1, 1] * y + back[1, 2]

    def filled(self, outlines: Iterable[Points], soft: float = 0.0, level: int = 255) -> Floats:
        """Filled outlines, 1 inside and 0 outside, with an edge blurred by `soft` body units."""
        canvas = np.zeros(self.shape, np.uint8)
        for outline in outlines:
            cv2.fillPoly(canvas, [self.pixels(outline)], level, cv2.LINE_AA, 4)
        return self._finished(canvas, soft)

    def drawn(self, strokes: Iterable[Stroke], soft: float = 0.0) -> Floats:
        """Draw strokes over one another; a stroke is (lines, width in body units, brightness 0..1)."""
        canvas = np.zeros(self.shape, np.uint8)
        for lines, width, level in strokes:
            thin = width * self.scale
            thick = max(1, round(thin))
            # A line thinner than one pixel is drawn one pixel wide, but fainter.
            shade = int(255 * level * min(1.0, thin / thick))
            cv2.polylines(
                canvas,
                list(map(self.pixels, lines)) if isinstance(lines, list) else list(self.pixels(lines)),
                False,
                shade,
                thick,
                cv2.LINE_AA,
                4,
            )
        return self._finished(canvas, soft)

    def textured(self, texture: Floats) -> Floats:
        """A `cloud` over the image, fixed to the body."""
        cell = 3.2 / len(texture)
        place = np.array([[cell, 0, -1.6], [0, cell, -1.6], [0, 0, 1]])
        matrix = np.vstack([self.matrix, [0, 0, 1]]) @ place
        size = self.shape[::-1]
        return np.asarray(cv2.warpAffine(texture, matrix[:2], size, borderMode=cv2.BORDER_REFLECT), np.float32)

    def _finished(self, canvas: Bytes, soft: float) -> Floats:
        image = canvas.astype(np.float32) * np.float32(1 / 255)
        return blur(image, soft * self.scale) if soft else image


def _vessels(rng: np.random.Generator) -> list[tuple[float, Points]]:
    drawn: list[tuple[float, Points]] = []
    for side in (-1, 1):
        heading = np.linspace(-1.25, 1.5, 9) + rng.normal(0, 0.12, 9)
        start = np.array([0.20, -0.12 - 0.05 * side]) + rng.normal(0, 0.03, (9, 2))
        length, width = rng.uniform(0.38, 0.62, 9), 0.038
        for forks in (3, 3, 1, 0):
            angle = heading[:, None] + rng.normal(0, 0.16, (len(heading), 8)).cumsum(axis=1)
            step = (length / 8)[:, None]
            path = np.stack([np.cos(angle) * step, np.sin(angle) * step], axis=-1).cumsum(axis=1)
            path = np.concatenate([start[:, None], start[:, None] + path], axis=1)
            lines = path * np.array([side, 1.0])
            drawn += [(width, lines[:, :4]), (width * 0.65, lines[:, 3:])]
            fork = rng.integers(3, 9, (len(heading), forks))
            start = np.take_along_axis(path, fork[..., None], axis=1).reshape(-1, 2)
            turn = rng.choice([-1.0, 1.0], fork.shape) * rng.uniform(0.3, 0.9, fork.shape)
            heading = (np.take_along_axis(angle, fork - 1, axis=1) + turn).reshape(-1)
            length, width = np.repeat(length, forks) * rng.uniform(0.4, 0.65, len(heading)), width * 0.52
    return drawn[::-1]


@dataclass(frozen=True)
class Anatomy:
    """What all images of a patient share.

    Args:
        traits: the measures named in `TRAITS`.
        vessels: lung vessels as (width, lines), thin ones first; lines have shape (n, points, 2).
        lung_texture: uneven density of the lungs, see `cloud`.
        soft_texture: uneven density of muscle and fat, see `cloud`.
    """

    traits: dict[str, float]
    vessels: list[tuple[float, Points]]
    lung_texture: Floats
    soft_texture: Floats

    @classmethod
    def random(cls, rng: np.random.Generator) -> Anatomy:
        """A random patient, drawn from their own random stream."""
        traits = {name: float(rng.uniform(*bounds)) for name, bounds in TRAITS.items()}
        return cls(traits, _vessels(rng), cloud(rng, (6, 14, 30, 60)), cloud(rng, (5, 11, 24)))

    @property
    def floor(self) -> float:
        """Height of the outer corner of the right lung, before the stretch by `tall`."""
        return 0.66 + self.traits["base"]

    def wall(self, v: float) -> float:
        """Distance of the chest wall from the middle at a height, before the stretch by `tall`."""
        return float(np.interp(v, [p[1] for p in _CHEST_WALL[1:]], [p[0] for p in _CHEST_WALL[1:]]))

    def lung(self, side: int, breath: float) -> Points:
        """Outline of one lung, including the part hidden by the heart.

        Args:
            side: -1 for the patient's right lung (left on the image), 1 for the left.
            breath: how far the diaphragm moves down from its usual place, in body units.
        """
        floor, rise = self.floor + breath + (self.traits["tilt"] if side > 0 else 0.0), self.traits["dome"]
        top = floor - rise
        dome = ((0.92, floor - 0.12), (0.905, floor), (0.80, top + 0.42 * rise), (0.62, top + 0.06 * rise))
        inner = ((0.42, top), (0.24, top + 0.12 * rise), (0.10, top + 0.3 * rise))
        wall = [p for p in _CHEST_WALL if p[1] < floor - 0.22]
        medial = [p for p in _MEDIAL_WALL if p[1] < top - 0.05]
        return self.placed(curve([*wall, *dome, *inner, *medial], closed=True), side)

    def mediastinum(self, breath: float) -> Points:
        """Outline of the heart and the great vessels; the heart widens as the diaphragm rises."""
        t = self.traits
        heart, drop = np.array([t["heart"] * (1 - 0.25 * breath), 1.0]), np.array([0.0, t["base"] + 0.6 * breath])
        upper, knob = np.array([t["upper"], 1.0]), np.array([(t["upper"] * t["aorta"]) ** 0.5, 1.0])
        parts = (_SUPERIOR * upper, _RIGHT_HEART * heart + drop, _LEFT_HEART * heart + drop, _GREAT_VESSELS * knob)
        return self.placed(curve(np.concatenate(parts), closed=True))

    def ribs(self) -> tuple[list[Points], list[Points]]:
        """Centre lines of the posterior and the anterior parts of the ribs: tilted half rings seen from behind."""
        rear, front = [], []
        turn = np.linspace(0.1, np.pi * 0.86, 30)
        for i in range(10):
            at = -1.12 + 0.165 * i
            width = np.interp(at + self.traits["slope"], [-1.1, -0.85, -0.4, 0.1, 0.6], [0.30, 0.58, 0.84, 0.93, 0.96])
            fall = self.traits["slope"] * np.interp(i, [0, 3, 10], [0.55, 0.9, 1.15])
            v = at + fall * (1 - np.cos(turn)) - 0.06 * np.sin(turn) ** 2
            line = np.stack([width * np.sin(turn) ** 0.85, v], axis=1)
            rear += [self.placed(line[:19], side) for side in (-1, 1)]
            if 0 < i < 8:
                front += [self.placed(line[16:], side) for side in (-1, 1)]
        return rear, front

    def pair(self, shape: Sequence[Sequence[float]], trait: str, fat: float = 0.0) -> list[Points]:
        """Both sides of a bone. A trait gives its height; the fatter the body, the further out it is."""
        line = curve(np.asarray(shape) * [1 + fat * self.traits["fat"], 1.0] + [0.0, self.traits[trait]])
        return [self.placed(line, side) for side in (-1, 1)]

    def body(self) -> tuple[Points, list[Points]]:
        """Outline of the neck and torso, and of both arms with the shoulders."""
        out, lift = np.array([1.0 + self.traits["fat"], 1.0]), np.array([0.0, self.traits["shoulder"]])
        half = curve(np.concatenate([_NECK + lift, _FLANK * out]))
        arm = curve(_ARM * out + lift, closed=True)
        torso = np.concatenate([self.placed(half), self.placed(half, -1)[::-1]])
        return torso, [self.placed(arm, side) for side in (-1, 1)]

    def placed(self, points: Points, side: int = 1) -> Points:
        """Points given for the left side, on the requested side and stretched to the patient's height."""
        return points * np.array([float(side), self.traits["tall"]])


@dataclass(frozen=True)
class Projection:
    """What the rays meet on their way to the image, per pixel.

    Args:
        depth: optical depth, about 0 beside the body, 0.5 in the lungs and 2.5 at the spine.
        air: the depth missing because of air in the lungs, which a lesion can fill.
        lungs: where the image shows lung not hidden by heart or diaphragm.
    """

    depth: Floats
    air: Floats
    lungs: NDArray[np.bool_]


def _rounded(inside: Floats, radius: float) -> Floats:
    """Thickness of a body with a round edge: 0 at the outline, 1 from `radius` pixels inwards."""
    pad = 24
    grown = cv2.copyMakeBorder((inside > 0.5).astype(np.uint8), pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    away = cv2.distanceTransform(grown, cv2.DIST_L2, 5)
    round_edge = np.sqrt(1 - (1 - np.minimum(away / radius, 1)) ** 2)
    return np.asarray(cv2.GaussianBlur(round_edge, (0, 0), 1.2)[pad:-pad, pad:-pad], np.float32)


def _bones(a: Anatomy, view: View, u: Floats, v: Floats) -> Floats:
    t = a.traits
    rear, front = a.ribs()
    cage = view.drawn([(rear, 0.078 * t["ribs"], 1.0), (rear, 0.045 * t["ribs"], 0.6)])
    ends = view.drawn([(front, 0.085 * t["ribs"], 0.8), (front, 0.05 * t["ribs"], 0.55)])
    covered = 1 - 0.75 * ramp(v, 0.50 * t["tall"], 0.85 * t["tall"])
    bones = cage * view.grown((0.23 + 0.10 * ramp(np.abs(u), 0.5, 0.9)) * covered)
    bones += ends * view.grown(0.14 * ramp(np.abs(u), 0.35, 0.6) * covered)
    collar = a.pair(_CLAVICLE, "clavicle")
    bones += (
        0.26
        * view.drawn([(collar, 0.095, 1.0), (collar, 0.05, 0.65)])
        * view.grown(1 - 0.6 * ramp(np.abs(u), 0.8, 1.1))
    )
    blade, arm = a.pair(_SCAPULA, "shoulder", 0.4), a.pair(_HUMERUS, "shoulder", 0.8)
    bones += 0.10 * t["scapula"] * (view.filled(blade) + view.drawn([(blade, 0.03, 1.0)]))
    bones += 0.28 * view.drawn([(arm, 0.16, 0.75), (arm, 0.10, 0.6)])
    heights = np.arange(-1.7, 1.7, 0.165)
    middle = np.stack([t["spine"] * np.sin(1.4 * heights), heights], axis=1)
    discs = a.placed(middle[:, None] + np.array([(-0.12, 0.0), (0.12, 0.0)]))
    wings = a.placed(middle[:, None] + np.array([(-0.20, 0.08), (0.20, -0.08)]))
    column: list[Stroke] = [
        (wings, 0.05, 0.5),
        ([a.placed(middle)], 0.28, 0.85),
        (discs, 0.035, 0.5),
        ([a.placed(middle)], 0.03, 1.0),
    ]
    bones += 0.32 * view.drawn(column)
    return blur(np.asarray(t["bone"] * bones, np.float32), 0.010 * view.scale)


def project(a: Anatomy, view: View, breath: float) -> Projection:
    """Project the patient's chest, without lesions, onto one image.

    Args:
        a: the patient.
        view: the patient's position on the image.
        breath: how much lower than usual the diaphragm is, in body units.
    """
    t, low = a.traits, view.small()
    u, v = low.grid()
    torso, arms = a.body()
    outlines = [a.lung(-1, breath), a.lung(1, breath)]
    heart = view.filled([a.mediastinum(breath)])
    whole = view.filled(outlines)
    clear = whole * (1 - heart)
    edge = blur(clear, 0.010 * view.scale)

    front = 1.5 + 0.28 * ramp(v, 0.3, 1.0) - 0.3 * ramp(-v, 0.9, 1.4)
    soft = t["girth"] * front * _rounded(low.filled([torso]), 0.85 * low.scale) + 0.12
    soft += 0.55 * low.filled(arms, 0.06) * ramp(np.abs(u), 0.7, 1.15) + 0.06 * low.textured(a.soft_texture)
    if t["breast"] > 0:
        for side in (-1, 1):
            across, down = u - side * t["breast_u"], v - t["breast_v"]
            inside = 1 - np.hypot(across, down / 0.9) / t["breast_r"]
            lower = ramp(down, -0.35, 0.2)
            soft += t["breast"] * ramp(inside / (0.25 + 0.6 * (1 - lower)), 0.0, 1.0) * (0.4 + 0.6 * lower)
    depth = view.filled([torso, *arms], 0.012) * view.grown(np.asarray(soft, np.float32))

    full = 0.45 + 0.55 * _rounded(low.filled(outlines), 0.30 * low.scale)
    full *= t["air"] * (1.12 - 0.10 * ramp(v, 0.0, 0.8))
    air = edge * view.grown(full)
    hila = sum((np.exp(-(((u - 0.24 * s) / 0.13) ** 2) - ((v + 0.08 + 0.05 * s) / 0.24) ** 2) for s in (-1, 1)), 0 * u)
    vessels = view.drawn([(lines, width, 0.3 + 0.7 * min(1.0, width / 0.03)) for width, lines in a.vessels], 0.006)
    uneven = 0.075 * t["mottle"] * view.textured(a.lung_texture)
    depth += edge * (0.20 * t["vessels"] * vessels + view.grown(np.float32(0.22) * hila)) - air * (1 - uneven)

    belly = 0.22 * ramp(v, a.floor - 0.25, a.floor + 0.25)
    if t["bubble"] > 0:
        under = (a.floor + t["tilt"] + breath - t["dome"] + 0.24) * t["tall"]
        belly -= 0.4 * t["bubble"] * ramp(1 - ((u - 0.5) / 0.2) ** 2 - ((v - under) / 0.12) ** 2, 0.0, 0.4)
    solid = blur(heart, 0.012 * view.scale) * (0.12 + 0.16 * blur(heart, 0.12 * view.scale))
    depth += np.maximum(solid, (1 - edge) * view.grown(belly))
    depth += _bones(a, view, u, v)
    pipe = np.array([(0.01, -1.8), (0.015, -0.9), (0.02, -0.5)])
    twigs = [np.array([(0.02, -0.5), (s * 0.2 + 0.02, -0.28)]) for s in (-1, 1)]
    depth -= 0.30 * view.drawn([([a.placed(p) for p in twigs], 0.07, 0.7), ([a.placed(pipe)], 0.11, 1.0)], 0.015)
    return Projection(depth, np.maximum(air, 0), clear > 0.5)
