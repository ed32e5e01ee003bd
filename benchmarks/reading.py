"""What it costs to decode images in processes of their own: python benchmarks/reading.py [--films 40] [--rounds 5]

The same good images are read in this process, by a thread per core as before, and through the pool of decoders, in
turns: phantoms of several sizes as JPEG, PNG and DICOM, or the files that are given. Beside the reading alone the scan
of `covidnet.prepare` is timed, which hashes every file, makes a thumbnail and asks the fixed rules. The ratio of the
medians is printed; above 1 the pool is slower. The pixels of both ways are compared.
"""

from __future__ import annotations

import argparse
import os
import statistics
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

from covidnet.data.decoders import Decoders
from covidnet.data.images import Film, read_film
from covidnet.data.phantom import draw_film
from covidnet.data.thumbnails import thumbnail
from covidnet.labels import CLASSES
from covidnet.progress import available_cores
from covidnet.quality import fixed_rules

KINDS = ("jpg", "png", "dcm")


def write_dicom(file: Path, grey: np.ndarray) -> None:
    """A film of 12 bits with a window, uncompressed."""
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


def write_films(folder: Path, films: int, sides: Sequence[int]) -> dict[str, list[Path]]:
    """Phantoms by size and kind; large ones are few."""
    found: dict[str, list[Path]] = {}
    for side in sides:
        count = max(2, films * sides[0] // side)
        drawn = [draw_film(CLASSES[n % 3], 7000 + n, 0, size=320).image for n in range(min(count, 6))]
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


def look(film: Film) -> Any:
    """What a scan does with a film once it is decoded."""
    return thumbnail(film.pixels), fixed_rules(film)


def seconds(files: list[Path], threads: ThreadPoolExecutor, work: Callable[[Path], Any]) -> float:
    start = time.perf_counter()
    for _ in threads.map(work, files):
        pass
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--films", type=int, default=40, help="of the smallest size, and fewer of larger ones")
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
            sets = write_films(Path(home), given.films, given.sides)
        sets["all"] = [file for files in sets.values() for file in files]
        for name, files in sets.items():
            for one in (files[0], files[-1]):
                mine, theirs = read_film(one), decoders.read(one)
                assert np.array_equal(mine.pixels, theirs.pixels), one
                assert mine.facts == theirs.facts, one
            words = []
            for what, after in (("read", lambda film: None), ("scan", look)):
                old, new = [], []
                for _ in range(given.rounds):
                    old.append(seconds(files, here, lambda file, after=after: after(read_film(file))))
                    new.append(seconds(files, there, lambda file, after=after: after(decoders.read(file))))
                each = [1000 * statistics.median(times) / len(files) for times in (old, new)]
                words.append(
                    f"{what} {each[0]:.1f} ms here, {each[1]:.1f} ms in decoders, ratio {each[1] / each[0]:.3f}"
                )
            print(f"{name}, {len(files)} images: {'; '.join(words)}")


if __name__ == "__main__":
    main()
