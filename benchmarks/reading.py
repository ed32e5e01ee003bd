"""What it costs to decode images in worker processes: python benchmarks/reading.py [--images 96] [--rounds 5]

The same good images are read alternately in this process, with one thread per core, and through the pool of decoders,
several files at once: phantoms of several sizes as JPEG, PNG and DICOM, or the files in a folder. `scan` adds what
`covidnet.prepare` does with each image: a thumbnail and the fixed rules. Printed are the medians of the time that
passes and of processor time, and the median over the rounds of the ratio of both ways; above 1 the pool is slower. The
pixels of both ways are compared.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.progress import available_cores
from covidnet.data.phantoms.phantom import draw_image
from covidnet.data.reading.decoders import Decoders
from covidnet.data.reading.images import Radiograph, read_radiograph
from covidnet.data.reading.thumbnails import thumbnail
from covidnet.gate import fixed_rules

KINDS = ("jpg", "png", "dcm")


def write_dicom(file: Path, grey: np.ndarray) -> None:
    """An image of 12 bits with a window, uncompressed."""
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SOPClassUID, header.SOPInstanceUID, header.Modality = "1.2.840.10008.5.1.4.1.1.1", "1.2.3.4", "CR"
    header.Rows, header.Columns = grey.shape
    header.SamplesPerPixel, header.PhotometricInterpretation, header.PixelRepresentation = 1, "MONOCHROME2", 0
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 12, 11
    header.WindowCenter, header.WindowWidth = 2048, 4000
    header.PixelData = (grey.astype("<u2") * 16).tobytes()
    header["PixelData"].VR = "OW"
    pydicom.dcmwrite(file, header, enforce_file_format=True)


def write_images(folder: Path, images: int, sides: Sequence[int]) -> dict[str, list[Path]]:
    """Phantoms by size and kind; large ones are few."""
    found: dict[str, list[Path]] = {}
    for side in sides:
        count = max(2, images * sides[0] // side)
        drawn = [draw_image(CLASSES[n % 3], 7000 + n, 0, size=320).image for n in range(min(count, 6))]
        for kind in KINDS:
            files = found.setdefault(f"{kind} {side} x {side}", [])
            for n in range(count):
                grey = np.asarray(Image.fromarray(drawn[n % len(drawn)]).resize((side, side), Image.Resampling.BICUBIC))
                noise = np.random.default_rng(n).integers(0, 4, grey.shape, np.uint8)
                grey = np.clip(grey, 0, 251) + noise
                file = folder / f"{side}-{n}.{kind}"
                if kind == "dcm":
                    write_dicom(file, grey)
                else:
                    Image.fromarray(grey).save(file)
                files.append(file)
    return found


def look(image: Radiograph) -> Any:
    """What a scan does with an image once it is decoded."""
    return thumbnail(image.pixels), fixed_rules(image)


def processor() -> float:
    """Seconds of processor time that this process and its children have taken; Linux alone tells."""
    children = [pid for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()]
    return (
        time.process_time() + sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in children) / 1e9
    )


def milliseconds(work: Callable[[], Any], files: int) -> np.ndarray:
    """Milliseconds per file that pass, and of processor time."""
    start = np.array([time.perf_counter(), processor()])
    work()
    return 1000 * (np.array([time.perf_counter(), processor()]) - start) / files


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, default=96, help="of the smallest size, and fewer of larger ones")
    parser.add_argument("--sides", type=int, nargs="+", default=[320, 1024, 2500], help="in pixels, the smallest first")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="files to read instead of phantoms")
    given = parser.parse_args()
    cores = available_cores()
    print(f"{cores} cores, load {os.getloadavg()[0]:.1f}")
    with (
        tempfile.TemporaryDirectory() as home,
        Decoders() as decoders,
        ThreadPoolExecutor(cores) as here,
        ThreadPoolExecutor(2 * cores) as there,
    ):
        if given.folder is not None:
            sets = {str(given.folder): sorted(path for path in given.folder.rglob("*") if path.is_file())}
        else:
            sets = write_images(Path(home), given.images, given.sides)
        sets["all"] = [file for files in sets.values() for file in files]
        for name, files in sets.items():
            for one, theirs in zip(files, decoders.read_several(files), strict=True):
                mine = read_radiograph(one)
                assert isinstance(theirs, Radiograph), theirs
                assert np.array_equal(mine.pixels, theirs.pixels), one
                assert mine.facts == theirs.facts, one
            for what, after in (("read", lambda image: None), ("scan", look)):

                def own(files: list[Path] = files, after: Callable[[Any], Any] = after) -> None:
                    list(here.map(lambda file: after(read_radiograph(file)), files))

                def pool(files: list[Path] = files, after: Callable[[Any], Any] = after) -> None:
                    def work(group: Sequence[Path]) -> None:
                        for image in decoders.read_several(group):
                            after(image)

                    list(there.map(work, decoders.groups(files)))

                pool()  # both processes have started
                each = np.array([[milliseconds(way, len(files)) for way in (own, pool)] for _ in range(given.rounds)])
                ratios = np.median(each[:, 1] / each[:, 0], axis=0)
                (old, old_cpu), (new, new_cpu) = np.median(each, axis=0)
                print(
                    f"{name}, {len(files)} images, {what}: {old:.2f} ms here, {new:.2f} ms in decoders, "
                    f"ratio {ratios[0]:.2f}; processor {old_cpu:.2f} ms, {new_cpu:.2f} ms, ratio {ratios[1]:.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
