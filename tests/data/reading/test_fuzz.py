"""Damaged files of every format: each is read or refused, in bounded time and memory, and leaves nothing behind."""

from __future__ import annotations

import ctypes
import gc
import io
import json
import os
import random
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from covidnet.base.errors import ImageRefusedError
from covidnet.data.reading.images import decode_radiograph
from tests.data.reading import hostile

GREY16 = np.linspace(0, 4095, 80 * 96).round().astype(np.uint16).reshape(80, 96)
COLOUR = np.stack([hostile.RAMP, hostile.RAMP[::-1], 255 - hostile.RAMP], axis=2)
WORDS = (
    b"\0\0",
    b"\xff\xff",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\0\0\0\1",
    b"\1\0\0\0",
    b"\0\x80",
)
SECONDS = 5.0


def seeds() -> list[bytes]:
    """A good file of each format and compression."""
    tags = {"WindowCenter": 2000, "WindowWidth": 3000, "RescaleSlope": 1, "RescaleIntercept": -9}
    dicom = [hostile.image(GREY16, PixelPaddingValue=7, **tags)]
    for syntax in (RLELossless, JPEG2000Lossless):
        dicom.append(hostile.image(GREY16, **tags))
        dicom[-1].compress(syntax)
    for syntax in (DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian):
        dicom.append(hostile.image(GREY16, syntax))
    exif = Image.Exif()
    exif[274] = 6
    runs = bytearray(hostile.bmp_runs(80 * 98, 80))
    runs[-80 * 98 :] = bytes(value for row in range(80) for value in [*(1, row) * 48, 0, 0])
    return [
        hostile.saved(hostile.RAMP, "JPEG", exif=exif),
        hostile.saved(COLOUR, "JPEG", progressive=True, quality=60),
        hostile.saved(hostile.RAMP, "PNG", exif=exif),
        hostile.saved(GREY16, "PNG"),
        hostile.saved(COLOUR, "BMP"),
        bytes(runs),
        *(hostile.saved(GREY16, "TIFF", compression=kind) for kind in (None, "tiff_lzw", "tiff_adobe_deflate")),
        hostile.saved(COLOUR, "TIFF", compression="jpeg"),
        hostile.saved(hostile.RAMP, "WEBP", lossless=True, exif=exif),
        hostile.saved(COLOUR, "WEBP", quality=50),
        hostile.saved(hostile.RAMP, "AVIF", speed=10),
        *map(hostile.written, dicom),
        hostile.dicom_jpeg_scans(6, 96),
    ]


def damaged(good: bytes, other: bytes, chance: random.Random) -> bytes:
    """Change a few bytes, mostly near the start, where the headers are; or move, remove or insert a part."""
    data = bytearray(good)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        place = chance.randrange(min(len(data), chance.choice((64, 512, 2048, len(data)))))
        kind = chance.randrange(8)
        length = chance.choice((1, 2, 4, 16, 64, 512))
        if kind < 3:
            data[place] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, data[place] ^ (1 << chance.randrange(8))))
        elif kind < 5:
            word = chance.choice(WORDS)
            data[place : place + len(word)] = word
        elif kind == 5:
            del data[place : place + length]
        elif kind == 6:
            data[place:place] = data[place : place + length] * chance.choice((1, 2, 50))
        else:
            start = chance.randrange(len(other))
            data[place : place + length] = other[start : start + length]
        if not data:
            return bytes(good[:1])
    return bytes(data if chance.random() < 0.9 else data[: chance.randrange(1, len(data) + 1)])


def mended(data: bytes) -> bytes:
    """A PNG with corrected chunk checksums, so that damage reaches the decoder."""
    parts, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        parts += data[at:end] + zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(parts)


def _held() -> int:
    """Bytes of memory in use, without those that were freed but that the C library keeps."""
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run(files: int, seed: int) -> None:
    """Read this many damaged files and print the outcomes; runs in a separate process."""
    chance, good = random.Random(seed), seeds()
    for data in good:
        decode_radiograph(data, "image.dcm" if data[128:132] == b"DICM" else "image")
    refused, slowest, before = 0, 0.0, 0
    for number in range(files):
        if number == files // 4:
            before = _held()
        data = damaged(good[number % len(good)], chance.choice(good), chance)
        if data.startswith(b"\x89PNG\r\n\x1a\n") and chance.random() < 0.8:
            data = mended(data)
        Path(os.environ["FUZZED"]).write_bytes(data)  # kept for inspection if the process dies
        start = time.process_time()
        try:
            image = decode_radiograph(data, "image.dcm" if good[number % len(good)][128:132] == b"DICM" else "image")
        except ImageRefusedError as refusal:
            refused += 1
            if not (refusal.cause and refusal.remedy and str(refusal).isprintable()):
                raise
        else:
            assert image.pixels.dtype == np.uint8
            assert image.pixels.ndim == 2
        slowest = max(slowest, time.process_time() - start)
    print(json.dumps([refused, slowest, _held() / before]))


@pytest.mark.parametrize(("files", "seed"), [(300, 1), pytest.param(1200, 2, marks=pytest.mark.slow)])
def test_damaged_files_are_read_or_refused_and_leave_nothing(files: int, seed: int, tmp_path: Path) -> None:
    if not Path("/proc/self/statm").exists():
        pytest.skip("memory is measured on Linux alone")
    home, fuzzed = tmp_path / "home", tmp_path / "fuzzed"
    home.mkdir()
    command = [sys.executable, "-c", f"from tests.data.reading.test_fuzz import run; run({files}, {seed})"]
    places = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "COVIDNET_CACHE"), str(home))
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, **places, "PYTHONPATH": root, "PYTHONDONTWRITEBYTECODE": "1", "FUZZED": str(fuzzed)}
    environment["MPLCONFIGDIR"] = str(tmp_path)
    done = subprocess.run(
        command, cwd=home, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS * files
    )
    assert done.returncode == 0, f"{done.stderr[-2000:]}\nthe file: {fuzzed}"
    refused, slowest, growth = json.loads(io.StringIO(done.stdout).readlines()[-1])
    assert files * 0.2 < refused < files
    assert slowest < SECONDS
    assert growth < 1.1
    assert "Traceback" not in done.stderr  # libtiff writes there too
    assert list(home.iterdir()) == []
