"""How many planted copies of real images are found, how many images of different patients are taken for one, how long.

python benchmarks/overlap.py [FOLDER] [--phantoms 1000 2000 4000 8000]

FOLDER: class folders with a metadata.csv that tells patients; by default the kit beside the repository.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.data.collection.sources import folder_source
from covidnet.data.phantoms.phantom import draw_image
from covidnet.data.reading.images import read_image
from covidnet.data.reading.thumbnails import thumbnail
from covidnet.data.recognition.overlap import ImageSet, find_copies, find_overlap, likeness_limit

KIT = Path(__file__).parents[2] / "shared/data/cxr-kit"

GROWTH = (1000, 2000, 4000, 8000)

Radiograph = np.ndarray
rng = np.random.default_rng(0)


def saved(image: Radiograph, quality: int = 50) -> Radiograph:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def halved(image: Radiograph) -> Radiograph:
    return cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def mirrored(image: Radiograph) -> Radiograph:
    return np.ascontiguousarray(image[:, ::-1])


def inverted(image: Radiograph) -> Radiograph:
    return 255 - image


def changed(image: Radiograph) -> Radiograph:
    """Other brightness, contrast and gamma, within what leaves an image readable."""
    values = 255.0 * (image / 255.0) ** rng.uniform(0.7, 1.4) * rng.uniform(0.7, 1.2) + rng.uniform(-20, 20)
    return np.clip(values, 0, 255).astype(np.uint8)


def cropped(share: float) -> Callable[[Radiograph], Radiograph]:
    """A share of height and of width is off, divided between the two ends at random."""

    def crop(image: Radiograph) -> Radiograph:
        height, width = image.shape
        down, across = round(height * share), round(width * share)
        top, left = rng.integers(0, down + 1), rng.integers(0, across + 1)
        return np.ascontiguousarray(image[top : height - (down - top), left : width - (across - left)])

    return crop


def tilted(degrees: float) -> Callable[[Radiograph], Radiograph]:
    """Turned by so many degrees to either side, with black corners."""

    def turn(image: Radiograph) -> Radiograph:
        height, width = image.shape
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees * rng.choice([-1, 1]), 1.0)
        return cv2.warpAffine(image, matrix, (width, height))

    return turn


def bordered(image: Radiograph) -> Radiograph:
    """A black border of 5 to 15% of the height and of the width on each side."""
    height, width = image.shape
    down, across = round(height * rng.uniform(0.05, 0.15)), round(width * rng.uniform(0.05, 0.15))
    return cv2.copyMakeBorder(image, down, down, across, across, cv2.BORDER_CONSTANT, value=0)


PLANTED: dict[str, tuple[Callable[[Radiograph], Radiograph], ...]] = {
    "JPEG q50": (saved,),
    "half the size": (halved,),
    "mirrored": (mirrored,),
    "inverted": (inverted,),
    "mirrored, inverted": (mirrored, inverted),
    "brightness, contrast": (changed,),
    "cropped 5%": (cropped(0.05),),
    "cropped 10%": (cropped(0.10),),
    "cropped 20%": (cropped(0.20),),
    "mirrored, cropped 10%": (mirrored, cropped(0.10)),
    "mirrored, cropped 20%": (mirrored, cropped(0.20)),
    "inverted, cropped 20%": (inverted, cropped(0.20)),
    "mirrored, inverted, cropped 20%": (mirrored, inverted, cropped(0.20)),
    "brightness, cropped 20%, q50": (changed, cropped(0.20), saved),
    "all of it, half, cropped 15%": (halved, mirrored, inverted, changed, cropped(0.15), saved),
    "tilted by 3 degrees": (tilted(3),),
    "tilted by 10 degrees, q50": (tilted(10), saved),
    "bordered, q50": (bordered, saved),
    "turned by 90 degrees": (lambda image: np.ascontiguousarray(np.rot90(image)),),
}


def planted(images: list[Radiograph], steps: tuple[Callable[[Radiograph], Radiograph], ...]) -> np.ndarray:
    small = []
    for image in images:
        for step in steps:
            image = step(image)
        small.append(thumbnail(image))
    return np.stack(small)


def names(kind: str, count: int) -> np.ndarray:
    # Hashes of files that are all different, so that pixels alone tell.
    return np.array([f"{kind}-{n}" for n in range(count)])


def main() -> None:
    cv2.setNumThreads(1)
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=KIT, help="class folders with a metadata.csv")
    parser.add_argument("--phantoms", type=int, nargs="+", default=GROWTH, help="sizes of the sets that are timed")
    given = parser.parse_args()
    source = folder_source(given.folder)
    images = [read_image(source.root / path) for path in source.files["path"]]
    patients = source.files["patient_id"].to_numpy()
    known = ImageSet(names("image", len(images)), np.stack([thumbnail(image) for image in images]))
    limit = likeness_limit(known)
    print(f"{len(images)} images of {len(set(patients))} patients, limit {limit:.2f}\n")

    print(f"{'planted':34s} found  as it is  another image  another patient's  usual kind")
    for kind, steps in PLANTED.items():
        table = find_overlap(ImageSet(names(kind, len(images)), planted(images, steps)), known, progress=False)
        right = table["image"] == table["other"]
        wrong = table[~right]
        other = (patients[wrong["image"]] != patients[wrong["other"]]).sum()
        shares = f"{len(table) / len(images):7.1%} {right.sum() / len(images):8.1%}"
        kind_found = next(iter(table[right]["kind"].mode()), "none")
        print(f"{kind:32s} {shares} {len(wrong):12d} {other:18d}  {kind_found}")

    print("\nimages of the set that are taken for one")
    table = find_copies(known, progress=False)
    same = patients[table["image"]] == patients[table["other"]]
    pairs = len(images) * (len(images) - 1) // 2
    print(f"of one patient: {same.sum()} pairs; of different patients: {(~same).sum()}, of {pairs:,} pairs in all")
    paths = source.files["path"].to_numpy()
    for row in table[~same].itertuples():
        print(f"  {row.similarity:.3f} {row.kind}: {paths[row.image]} and {paths[row.other]}")

    print("\ncopies within one set                  seconds  of the processor, per 1,000  pairs found")
    timed("the images above", known)
    drawn = np.stack([thumbnail(draw_image(CLASSES[n % 3], n, 0, size=96).image) for n in range(max(given.phantoms))])
    for count in given.phantoms:
        # Each of another patient, so that every pair is a wrong one.
        timed("phantoms", ImageSet(names("phantom", count), drawn[:count]))


def timed(name: str, images: ImageSet) -> None:
    start, work = time.perf_counter(), time.process_time()
    pairs = len(find_copies(images, progress=False))
    wall, own = time.perf_counter() - start, time.process_time() - work
    print(
        f"{len(images):6,d} {name:30s} {wall:8.1f} {own:16.1f} {1000 * own / len(images):11.2f} {pairs:12d}", flush=True
    )


if __name__ == "__main__":
    main()
