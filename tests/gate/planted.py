"""Synthetic images that are not upright frontal radiographs, which the input gate must refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Picture = np.ndarray


def _cloud(rng: np.random.Generator, shape: tuple[int, int], coarse: int) -> np.ndarray:
    """Smooth noise of mean 0 and deviation 1, with about `coarse` blobs along each side."""
    values = rng.standard_normal((coarse, coarse)).astype(np.float32)
    values = cv2.resize(values, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return (values - values.mean()) / values.std()


def _bytes(values: np.ndarray) -> Picture:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def text_page(rng: np.random.Generator) -> Picture:
    """A page of lines of text, dark on white or (one in four) white on dark."""
    height, width = int(rng.integers(500, 900)), int(rng.integers(400, 700))
    page = Image.new("L", (width, height), int(rng.integers(235, 256)))
    pen, size = ImageDraw.Draw(page), int(rng.integers(10, 22))
    font = ImageFont.load_default(size)
    letters = list("abcdefghijklmnopqrstuvwxyz    eeeaaatttnnn")
    for top in range(30, height - 40, round(size * rng.uniform(1.3, 2.0))):
        if rng.random() > 0.1:
            line = "".join(rng.choice(letters, int(width / size * rng.uniform(0.5, 1.9))))
            pen.text((25, top), line, fill=int(rng.integers(0, 60)), font=font)
    values = np.asarray(page)
    return 255 - values if rng.random() < 0.25 else values


def chart(rng: np.random.Generator) -> Picture:
    """Axes with curves or bars on white."""
    width, height = int(rng.integers(400, 900)), int(rng.integers(300, 700))
    page = Image.new("L", (width, height), 255)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(14)
    left, bottom = 60, height - 50
    pen.line([(left, 30), (left, bottom), (width - 30, bottom)], fill=0, width=2)
    for n in range(6):
        y = bottom - n * (bottom - 40) // 6
        pen.line([(left, y), (width - 30, y)], fill=210)
        pen.text((20, y - 8), str(n * 10), fill=0, font=font)
    if rng.random() < 0.5:
        step = (width - 100) // 8
        for n in range(8):
            x = left + 10 + n * step
            top = int(rng.uniform(50, bottom - 20))
            pen.rectangle([x, top, x + step * 2 // 3, bottom], fill=int(rng.integers(40, 200)))
    else:
        for _ in range(int(rng.integers(1, 5))):
            ys = np.clip((bottom + 40) / 2 + np.cumsum(rng.normal(0, height / 18, 30)), 40, bottom)
            xs = np.linspace(left, width - 40, 30)
            pen.line(list(zip(xs.tolist(), ys.tolist(), strict=True)), fill=int(rng.integers(0, 140)), width=3)
    return np.asarray(page)


def noise(rng: np.random.Generator) -> Picture:
    """Independent pixels: uniform, normal or salt and pepper."""
    shape = int(rng.integers(200, 500)), int(rng.integers(200, 500))
    kind = rng.integers(0, 3)
    if kind == 0:
        return rng.integers(0, 256, shape, dtype=np.uint8)
    if kind == 1:
        return _bytes(128 + rng.uniform(20, 60) * rng.standard_normal(shape))
    return np.where(rng.random(shape) < 0.5, 0, 255).astype(np.uint8)


def clouds(rng: np.random.Generator) -> Picture:
    """Smooth blobs of several sizes without any order, as of marble or a sky."""
    shape = 320, 360
    scales = np.array([3, 6, 12, 24, 48, 96])
    total = sum(_cloud(rng, shape, int(n)) / n ** rng.uniform(0.5, 1.2) for n in scales)
    return _bytes(128 + 50 * total / np.std(total))


def ct_slice(rng: np.random.Generator) -> Picture:
    """A slice through the chest: an oval body on black with two dark lungs, the spine at the bottom and the table."""
    size = 512
    y, x = np.mgrid[-1:1:512j, -1:1:512j].astype(np.float32)
    a, b = rng.uniform(0.75, 0.92), rng.uniform(0.52, 0.7)
    body = (np.abs(x / a) ** 2.3 + np.abs(y / b) ** 2.3) < 1
    inner = (np.abs(x / (a - 0.09)) ** 2.2 + np.abs(y / (b - 0.1)) ** 2.2) < 1
    lung_window = rng.random() < 0.5
    air, fat, soft, bone = (60, 200, 225, 255) if lung_window else (12, 70, 130, 250)
    values = np.where(body, fat, 0).astype(np.float32)
    values[inner] = soft
    for side in (-1, 1):
        at, out = side * rng.uniform(0.36, 0.42), rng.uniform(0.24, 0.29)
        lung = (((x - at) / out) ** 2 + ((y + 0.02) / (b - 0.17)) ** 2 < 1) & inner
        values[lung] = air + 8 * _cloud(rng, (size, size), 60)[lung]
    heart = ((x + 0.08) / 0.24) ** 2 + ((y + 0.15) / 0.22) ** 2 < 1
    values[heart & inner] = soft + 15
    values[(x / 0.1) ** 2 + ((y - b + 0.2) / 0.12) ** 2 < 1] = bone
    for angle in np.linspace(0, 2 * np.pi, 17)[:-1] + rng.uniform(0, 0.3):
        values[((x - (a - 0.1) * np.cos(angle)) / 0.05) ** 2 + ((y - (b - 0.1) * np.sin(angle)) / 0.03) ** 2 < 1] = bone
    values[np.abs(y - (b + 0.09 + 0.15 * x**2)) < 0.012] = 110
    values += rng.uniform(3, 9) * rng.standard_normal((size, size)) * (values > 0)
    return _bytes(cv2.GaussianBlur(values, (0, 0), 1.0))


def lateral(rng: np.random.Generator) -> Picture:
    """A drawn lateral image: one lung field, the heart low in front, spine and ribs at the back, either way round."""
    height, width = 420, int(rng.integers(320, 420))
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j].astype(np.float32)
    front = 0.16 + 0.1 * np.sin(2.2 * y) + rng.uniform(-0.03, 0.03)
    back = 0.88 - 0.08 * np.cos(3 * (y - 0.4)) + rng.uniform(-0.03, 0.03)
    body = 1 / (1 + np.exp(-(x - front) / 0.02)) / (1 + np.exp((x - back) / 0.02))
    depth = 1.5 * body
    floor = 0.78 - 0.1 * np.cos(2.5 * (x - 0.35)) + 0.12 * (x - 0.5)
    lung = ((x - 0.5) / 0.27) ** 2 + ((y - 0.48) / 0.4) ** 2 < 1
    lung = cv2.GaussianBlur((lung & (y < floor)).astype(np.float32), (0, 0), 8)
    depth -= rng.uniform(0.8, 1.0) * lung
    heart = ((x - 0.38) / 0.17) ** 2 + ((y - 0.62) / 0.16) ** 2 < 1
    depth += 0.55 * cv2.GaussianBlur(heart.astype(np.float32), (0, 0), 10)
    spine = np.exp(-(((x - 0.74 + 0.05 * np.cos(3 * y)) / 0.07) ** 2))
    depth += 0.45 * spine * (1 + 0.25 * np.sign(np.sin(2 * np.pi * 12 * y)))
    depth += 0.5 * np.exp(-(((y - 0.1) / 0.12) ** 2)) * body
    for n in range(9):
        depth += 0.12 * body * np.exp(-((np.abs(y - 0.15 - 0.07 * n - 0.15 * (x - 0.3)) / 0.012) ** 2))
    grey = 255 / (1 + np.exp(-(depth - rng.uniform(0.75, 0.95)) / rng.uniform(0.25, 0.35)))
    grey += 3 * rng.standard_normal((height, width))
    return _bytes(grey if rng.random() < 0.5 else grey[:, ::-1])


def scene(rng: np.random.Generator) -> Picture:
    """A drawn colour photograph: sky, ground, and objects of many hues with shading and texture."""
    height, width = 360, 480
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    horizon = rng.uniform(0.3, 0.7)
    sky, ground = rng.uniform(90, 255, 3) * (0.6, 0.8, 1.0), rng.uniform(40, 180, 3) * (1.0, 0.9, 0.5)
    values = np.where(y < horizon, sky * (0.7 + 0.4 * y), ground * (0.6 + 0.5 * y)) * np.ones((1, width, 1))
    values = np.ascontiguousarray(values, np.float32)
    for _ in range(int(rng.integers(8, 20))):
        colour = tuple(rng.uniform(10, 250, 3).tolist())
        at = int(rng.integers(0, width)), int(rng.integers(height // 4, height))
        if rng.random() < 0.5:
            cv2.ellipse(values, at, (int(rng.integers(15, 90)), int(rng.integers(15, 70))), 0, 0, 360, colour, -1)
        else:
            far = at[0] + int(rng.integers(20, 120)), at[1] + int(rng.integers(30, 150))
            cv2.rectangle(values, at, far, colour, -1)
    values *= 1 + 0.12 * _cloud(rng, (height, width), 40)[..., None]
    return _bytes(cv2.GaussianBlur(values, (0, 0), 1.2) + 4 * rng.standard_normal((height, width, 3)))


def photographs(rng: np.random.Generator) -> Iterator[Picture]:
    """Crops of scikit-learn's two photographs and of matplotlib's portrait, in colour, without end."""
    from matplotlib.cbook import get_sample_data
    from sklearn.datasets import load_sample_images

    with get_sample_data("grace_hopper.jpg") as file:
        whole = [*load_sample_images().images, np.asarray(Image.open(file).convert("RGB"))]
    while True:
        for picture in whole:
            height, width = picture.shape[:2]
            h, w = int(height * rng.uniform(0.5, 1.0)), int(width * rng.uniform(0.5, 1.0))
            top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
            yield np.ascontiguousarray(picture[top : top + h, left : left + w])


def luma(picture: Picture) -> Picture:
    """ITU-R 601, as images are read."""
    return np.asarray(Image.fromarray(picture).convert("L"))


DRAWN: dict[str, Callable[[np.random.Generator], Picture]] = {
    "text page": text_page,
    "chart": chart,
    "noise": noise,
    "clouds": clouds,
    "drawn CT slice": ct_slice,
    "drawn lateral": lateral,
}
"""Grey pictures by kind."""
