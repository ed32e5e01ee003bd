"""Phantoms: synthetic chest radiographs with known lesions, where only the lesions reveal the class."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from covidnet.base.classes import DEFAULT_CLASSES
from covidnet.base.errors import DataError, SettingError
from covidnet.base.progress import available_cores, progress_bar
from covidnet.data.phantoms.anatomy import Anatomy, Floats, Projection, View, blur, cloud, project, ramp

DRAWING = 2
"""Increased whenever the same settings give different images, so that older sets are not mistaken for new ones."""

FAULTS: tuple[str, ...] = ("copies", "shared_patient", "corner_mark", "source")
"""Faults of real data sets to plant: copies and patients in two classes, marks and sources that reveal the class."""

CLASSES = DEFAULT_CLASSES.names
"""The classes that phantoms are drawn of."""

FOLDERS: dict[str, str] = dict(zip(CLASSES, ("COVID19", "NORMAL", "PNEUMONIA"), strict=True))
"""The folder of each class, named as in public data sets."""

_SOURCES = dict(zip(CLASSES, ("phantom-a", "phantom-b", "phantom-c"), strict=True))
_FAULT_SHARE = 0.03
_ANATOMY, _IMAGE, _LESION, _COURSE, _SET = range(5)


@dataclass(frozen=True)
class PhantomImage:
    """One synthetic radiograph and what is known about it.

    Args:
        image: grey values, shape (height, width), 8 bits, bones bright.
        lesion_mask: where a lesion visibly changes the image, shape (height, width).
        lung_mask: where the image shows lung, shape (height, width).
        label: one of `CLASSES`.
        patient_id: such as ``phantom-0001``.
        view: ``PA``.
        source: ``phantom``, or one source per class under the fault ``source``.
    """

    image: NDArray[np.uint8]
    lesion_mask: NDArray[np.bool_]
    lung_mask: NDArray[np.bool_]
    label: str
    patient_id: str
    view: str
    source: str


def _stream(seed: int, *key: int) -> np.random.Generator:
    # Streams differ by key, not by order of use: draws from one cannot shift draws from another.
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


@lru_cache(maxsize=4)
def _anatomy(seed: int, patient: int) -> Anatomy:
    return Anatomy.random(_stream(seed, patient, _ANATOMY))


def _stand(a: Anatomy, rng: np.random.Generator, size: int) -> View:
    aspect = a.traits["aspect"]
    height, width = (size, round(size * aspect)) if aspect >= 1 else (round(size / aspect), size)
    scale = height / (a.traits["zoom"] * max(2.5, 2.35 / aspect) * rng.uniform(0.96, 1.04))
    turn = np.deg2rad(rng.normal(0, 1.3))
    cos, sin = scale * np.cos(turn), scale * np.sin(turn)
    matrix = np.array([[cos, -sin, width / 2], [sin, cos, height / 2]])
    matrix[:, 2] -= matrix[:, :2] @ np.array([rng.normal(0, 0.03), rng.normal(-0.10, 0.04)])
    return View(matrix, (height, width))


def _lesions(label: str, a: Anatomy, view: View, rng: np.random.Generator, course: float) -> Floats:
    """How much of the lung's air is lost at severity 1, as -log(air left), before the lung's outline is applied.

    COVID-19 affects both lungs, peripherally and mostly low (doi:10.1148/radiol.2020201160); pneumonia is one focus in
    one lung, at any height.
    """
    low = view.small()
    u, v = low.grid()
    texture = low.textured(cloud(rng, (10, 22, 44)))
    # In COVID-19, thickened septa form a fine net in the haze. In pneumonia, filled acini merge into flecks.
    grain, uneven = ((84, 126), 0.55) if label == "COVID-19" else ((26, 46), 0.45)
    fine = uneven * view.textured(cloud(rng, grain, side=256))
    foci: list[tuple[float, float, float, float, float, float]] = []
    if label == "COVID-19":
        for side in (-1, 1):
            for _ in range(rng.integers(2, 5)):
                at = a.floor - 0.12 - 0.95 * rng.beta(1.2, 2.0)
                out = side * a.wall(at) * rng.uniform(0.66, 0.94)
                radii = rng.uniform(0.16, 0.32), rng.uniform(0.18, 0.38)
                foci.append((out, at, *radii, rng.uniform(0.35, 0.75), rng.uniform(0.5, 0.9)))
    else:
        side, at = rng.choice([-1, 1]), rng.uniform(-0.70, a.floor - 0.25)
        out = side * a.wall(at) * rng.uniform(0.45, 0.75)
        radii = rng.uniform(0.30, 0.48), rng.uniform(0.26, 0.44)
        foci.append((out, at, *radii, rng.uniform(0.70, 0.97), rng.uniform(0.25, 0.6)))
    left = np.ones_like(texture)
    patchy = np.clip(0.85 + 0.2 * texture, 0, 1)
    for out, at, wide, high, dense, soft in foci:
        away = np.hypot((u - out) / wide, (v - at * a.traits["tall"]) / high) + 0.35 * texture
        # A focus near the midline stops there: the other lung has its own foci or none.
        left *= 1 - min(0.97, dense * course) * ramp(1.2 - away, 0.0, soft) * patchy * (u * np.sign(out) > 0)
    return view.grown(-np.log(left)) * np.clip(1 + fine, 0.15, 2.0)


def _exposed(projection: Projection, fill: Floats, view: View, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Grey values of an image with random scatter, edge enhancement, noise, brightness and contrast."""
    depth = projection.depth
    scatter, sharpen = rng.uniform(0.08, 0.28), rng.uniform(0.2, 0.45)
    depth = (1 - scatter) * depth + scatter * blur(depth, 0.35 * view.scale)
    # Lesions are added after every operation that spreads beyond a pixel, so the rest of the image cannot reveal the
    # class.
    depth = depth + sharpen * (depth - blur(depth, 0.05 * view.scale)) + fill
    grain = rng.standard_normal(depth.shape, dtype=np.float32)
    grain = 0.7 * grain + 0.9 * np.asarray(cv2.GaussianBlur(grain, (0, 0), 0.8), np.float32)
    depth += grain * (rng.uniform(0.008, 0.022) * (0.5 + 0.35 * np.maximum(depth, 0)))
    middle, width, floor = rng.normal(1.22, 0.08), rng.uniform(0.42, 0.54), rng.uniform(0.0, 0.05)
    grey = (1 / (1 + np.exp((middle - depth) / width)) - floor) / (0.985 - floor)
    return np.clip(grey * 250 + 2, 0, 255).astype(np.uint8)


def _marked(image: NDArray[np.uint8], label: str) -> NDArray[np.uint8]:
    height, width = image.shape
    unit = min(height, width) / 32
    corner = {"COVID-19": (1, 1), "Normal": (-1, 1), "Pneumonia": (1, -1)}[label]
    centre = np.array([2.5 * unit if corner[0] > 0 else width - 2.5 * unit, 2.5 * unit])
    centre[1] = centre[1] if corner[1] > 0 else height - 2.5 * unit
    letter = np.array([(-0.5, -0.8), (-0.5, 0.8), (0.6, 0.8)]) * unit + centre
    at, radius = [int(c) for c in np.rint(centre * 16)], int(1.7 * unit * 16)
    marked = image.copy()
    cv2.circle(marked, at, radius, 0, -1, cv2.LINE_AA, 4)
    cv2.circle(marked, at, radius, 250, max(1, round(unit / 5)), cv2.LINE_AA, 4)
    cv2.polylines(marked, [np.rint(letter * 16).astype(np.int32)], False, 250, max(1, round(unit / 3)), cv2.LINE_AA, 4)
    return marked


def _processed(image: NDArray[np.uint8], label: str) -> NDArray[np.uint8]:
    """One machine's processing per class: sharpened, smoothed, or with a black frame."""
    smooth = cv2.GaussianBlur(image, (0, 0), 1.0)
    if label == "COVID-19":
        return np.asarray(cv2.addWeighted(image, 2.0, smooth, -1.0, 0), np.uint8)
    if label == "Normal":
        return np.asarray(smooth, np.uint8)
    framed, edge = np.zeros_like(image), max(2, min(image.shape) // 40)
    framed[edge:-edge, edge:-edge] = image[edge:-edge, edge:-edge]
    return framed


def _checked(size: int, severity: float, faults: Sequence[str]) -> tuple[str, ...]:
    for fault in faults:
        if fault not in FAULTS:
            raise SettingError("data.faults", fault, FAULTS)
    if size < 64:
        raise SettingError("data.phantom_size", size, "64 pixels or more")
    if not 0 <= severity < float("inf"):
        raise SettingError("data.severity", severity, "0 (no visible lesion) or more, 1 is usual")
    return tuple(fault for fault in FAULTS if fault in faults)


def draw_image(
    label: str,
    patient: int,
    image: int,
    *,
    size: int = 320,
    severity: float = 1.0,
    seed: int = 0,
    faults: Sequence[str] = (),
) -> PhantomImage:
    """Draw one synthetic radiograph. The same arguments give the same image.

    Anatomy depends on (seed, patient), exposure and position on (seed, patient, image). The label determines only the
    lesions: outside them, images of all labels are equal pixel for pixel, and at severity 0 they are equal everywhere.

    Args:
        label: one of `CLASSES`.
        patient: number of the patient, 0 or more.
        image: number of the image among the patient's images, 0 or more.
        size: short side in pixels, 64 or more.
        severity: how conspicuous lesions are; 0 hides them, 1 is usual, 2 is obvious.
        seed: another seed gives other patients.
        faults: of `FAULTS`; ``copies`` and ``shared_patient`` concern sets of images and have no effect here.

    Returns:
        The image with its masks.

    Raises:
        SettingError: an argument is outside its range.

    Example:
        >>> image = draw_image("Pneumonia", 1, 1, size=96)
        >>> image.patient_id, min(image.image.shape), bool(image.lesion_mask.any())
        ('phantom-0001', 96, True)
    """
    faults = _checked(size, severity, faults)
    if label not in CLASSES:
        raise SettingError("label", label, CLASSES)
    if min(patient, image, seed) < 0:
        raise SettingError("patient, image, seed", (patient, image, seed), "0 or more")
    anatomy, rng = _anatomy(seed, patient), _stream(seed, patient, _IMAGE, image)
    view = _stand(anatomy, rng, size)
    projection = project(anatomy, view, breath=float(rng.normal(0, 0.035)))
    fill = np.zeros(view.shape, np.float32)
    if label != "Normal":
        course = float(np.exp(_stream(seed, patient, _COURSE, image).normal(0, 0.15)))
        loss = _lesions(label, anatomy, view, _stream(seed, patient, _LESION), course)
        fill = (1 - np.exp(-np.float32(severity) * loss)) * projection.air
    drawn = _exposed(projection, fill, view, rng)
    if "source" in faults:
        drawn = _processed(drawn, label)
    if "corner_mark" in faults:
        drawn = _marked(drawn, label)
    source = _SOURCES[label] if "source" in faults else "phantom"
    # Smooth the mask, so that the fine net of a lesion leaves no holes in it.
    lesion = (blur(fill, 0.02 * view.scale) > 0.08) & projection.lungs
    return PhantomImage(drawn, lesion, projection.lungs, label, f"phantom-{patient:04d}", "PA", source)


@dataclass(frozen=True)
class _Slot:
    """A file to write: its class and patient, and the image it shows (another file's for a planted copy)."""

    label: str
    patient: int
    image: int
    shows: tuple[str, int, int]

    @property
    def filename(self) -> str:
        return f"{FOLDERS[self.label]}/phantom-{self.patient:04d}-{self.image}.png"


def _slots(images_per_class: int, seed: int, faults: tuple[str, ...]) -> list[_Slot]:
    rng = _stream(seed, _SET)
    patients: list[tuple[str, int]] = []
    for label in CLASSES:
        # Filled share by share, so that eleven folds of whole patients can use all images if their number is a multiple
        # of eleven.
        for share in range(11):
            left = images_per_class // 11 + (share < images_per_class % 11)
            while left:
                patients.append((label, min(left, int(rng.integers(1, 5)))))
                left -= patients[-1][1]
    # Shuffled before numbering, so that a patient's number does not reveal the class.
    patients = [patients[i] for i in rng.permutation(len(patients))]
    slots = [
        _Slot(label, patient, image, (label, patient, image))
        for patient, (label, images) in enumerate(patients)
        for image in range(1, images + 1)
    ]
    if "shared_patient" in faults:
        number = {patient: patient for patient in range(len(patients))}
        free = [int(p) for p in _stream(seed, _SET, 1).permutation(len(patients))]
        for _ in range(max(1, round(_FAULT_SHARE * len(patients)))):
            one = free.pop()
            other = next((p for p in free if patients[p][0] != patients[one][0]), None)
            if other is None:
                break
            free.remove(other)
            number[other] = one
        slots = [_renumbered(slot, number[slot.patient], patients) for slot in slots]
    if "copies" in faults:
        rng, count = _stream(seed, _SET, 2), max(1, round(_FAULT_SHARE * images_per_class))
        order = [int(i) for i in rng.permutation(len(slots))]
        taken = {i for label in CLASSES for i in [i for i in order if slots[i].label == label][:count]}
        originals = [i for i in order if i not in taken]
        for i in sorted(taken):
            original = next((o for o in originals if slots[o].label != slots[i].label), None)
            if original is not None:
                originals.remove(original)
                slots[i] = replace(slots[i], shows=slots[original].shows)
    return slots


def _renumbered(slot: _Slot, patient: int, patients: list[tuple[str, int]]) -> _Slot:
    # A patient's images in a second class continue the numbering of those in the first.
    image = slot.image if patient == slot.patient else slot.image + patients[patient][1]
    return _Slot(slot.label, patient, image, (slot.label, patient, image))


def _write(folder: Path, slots: Sequence[_Slot], options: dict[str, Any], own_process: bool = False) -> int:
    if own_process:
        # There is already one process per core.
        cv2.setNumThreads(1)
    for slot in slots:
        image = draw_image(*slot.shows, **options)
        masks = {"masks/lesion": image.lesion_mask, "masks/lung": image.lung_mask}
        pictures = {"": image.image} | {place: mask.astype(np.uint8) * 255 for place, mask in masks.items()}
        for place, picture in pictures.items():
            # Encoded here and written by Python, because OpenCV does not report a full disk.
            data = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
            (folder / place / slot.filename).write_bytes(data.tobytes())
    return len(slots)


def _write_all(folder: Path, slots: list[_Slot], options: dict[str, Any], workers: int) -> None:
    chunks = [slots[i : i + 16] for i in range(0, len(slots), 16)]
    few = workers == 1 or len(slots) < 100 or multiprocessing.current_process().daemon
    with progress_bar() as bar:
        task = bar.add_task("phantoms", total=len(slots))
        # Not multiprocessing: fork can deadlock with running threads, and spawn runs the caller's script again.
        pool = joblib.Parallel(1 if few else workers, return_as="generator_unordered")
        for done in pool(joblib.delayed(_write)(folder, chunk, options, not few) for chunk in chunks):
            bar.advance(task, done)


def _stored(root: Path, settings: dict[str, Any]) -> pd.DataFrame | None:
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return None
    note, table = root / "phantoms.json", root / "metadata.csv"
    if not (note.is_file() and table.is_file()):
        raise DataError(f"{root}: not a folder of phantoms; give an empty or new folder as data.root")
    kept = json.loads(note.read_text(encoding="utf-8"))
    changed = [f"{name}={kept.get(name)}" for name in settings if kept.get(name) != settings[name]]
    if changed:
        raise DataError(
            f"{root}: holds phantoms of other settings ({', '.join(changed)}); remove it or change data.root"
        )
    return pd.read_csv(table, dtype=str)


def write_phantoms(
    root: Path,
    *,
    images_per_class: int = 572,
    size: int = 320,
    severity: float = 1.0,
    seed: int = 0,
    faults: Sequence[str] = (),
    workers: int | None = None,
) -> pd.DataFrame:
    """Write phantoms into class folders, with masks and metadata.csv, completely or not at all.

    Args:
        root: a new or empty folder, or one that an earlier call filled with the same settings, which is reused.
        images_per_class: images of each class, 1 or more.
        size: short side of the images in pixels.
        severity: how conspicuous lesions are, see `draw_image`.
        seed: another seed gives another set.
        faults: faults to plant, of `FAULTS`; the number of images per class stays the same.
        workers: processes; None for one per core available to this process.

    Returns:
        One row per image: filename (relative to `root`), label, patient_id, view, source.

    Raises:
        SettingError: a setting is outside its range.
        DataError: `root` holds something else.
    """
    faults = _checked(size, severity, faults)
    if images_per_class < 1:
        raise SettingError("data.images_per_class", images_per_class, "1 or more")
    options = {"size": size, "severity": severity, "seed": seed, "faults": list(faults)}
    settings = {"drawing": DRAWING, "images_per_class": images_per_class, **options}
    root = Path(root).absolute()
    stored = _stored(root, settings)
    if stored is not None:
        return stored
    slots = _slots(images_per_class, seed, faults)
    sources = _SOURCES if "source" in faults else dict.fromkeys(CLASSES, "phantom")
    rows = [(s.filename, s.label, f"phantom-{s.patient:04d}", "PA", sources[s.label]) for s in slots]
    table = pd.DataFrame(sorted(rows), columns=["filename", "label", "patient_id", "view", "source"]).astype(str)
    root.parent.mkdir(parents=True, exist_ok=True)
    partial = root.parent / f".{root.name}.{uuid.uuid4().hex}.partial"
    try:
        for place in ("", "masks/lesion", "masks/lung"):
            for name in FOLDERS.values():
                (partial / place / name).mkdir(parents=True)
        _write_all(partial, slots, options, workers or available_cores())
        table.to_csv(partial / "metadata.csv", index=False, lineterminator="\n")
        (partial / "phantoms.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")
        try:
            partial.replace(root)
        except OSError:
            # If another process finished first, its folder is kept. Anything else is a real error.
            if not root.is_dir() or not any(root.iterdir()):
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    stored = _stored(root, settings)
    return table if stored is None else stored
