"""Files made to hurt: each is refused by a cheap look before its cost, or read within bounds."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

from covidnet.base.errors import ImageRefusedError
from covidnet.data.reading.dicom import identifiers_of, read_header
from covidnet.data.reading.images import decode_image
from tests.data import hostile


class Case(NamedTuple):
    """A maker in `hostile`, its size, and what the refusal says; nothing where the file is read."""

    maker: str
    sizes: tuple[int, ...]
    cause: str


CASES = [
    Case("tiff_counts", (10_000_000,), "tag 320 claims 5,000,000 values"),
    Case("tiff_chain", (130_000,), "more than 1,000 directories"),
    Case("tiff_overlap", (10_000,), "more than 65,536 tags"),
    Case("tiff_tile", (46_000,), "tiles of 46000 x 46000 pixels"),
    Case("jpeg_scans", (5_000,), "more than 100 scans"),
    Case("jpeg_segments", (500_000,), "JPEG segments"),
    Case("png_chunks", (500_000,), "PNG chunks"),
    Case("png_pixel_chunks", (500_000,), "PNG chunks"),
    Case("png_profile", (30_000_000,), ""),
    Case("bmp_runs", (60_000_000,), "run-length coded"),
    Case("webp_chunks", (500_000,), "WebP chunks"),
    Case("webp_size", (16_384,), "268 megapixels"),
    Case("avif_brands", (60_000_000,), "not a supported format"),
    Case("dicom_elements", (1_000_000,), "more than 16,000 elements"),
    Case("dicom_items", (500_000,), "more than 16,000 elements"),
    Case("dicom_lookup_items", (1_000_000,), "LUTDescriptor"),
    Case("dicom_nested", (100_000,), "nested too deeply"),
    Case("dicom_values", (20_000_000,), "a value of 20,000,000 bytes"),
    Case("dicom_character_sets", (10_000_000,), "a value of 10,000,000 bytes"),
    Case("dicom_fragments", (1_000_000,), "fragments"),
    Case("dicom_jpeg_scans", (2_000,), "more than 100 scans"),
    Case("dicom_jpeg_second_frame", (30_000,), "2 frame headers"),
    Case("j2k_late", (30_000,), "900 megapixels"),
    Case("j2k_components", (16_000,), "16,000 components"),
    Case("j2k_tiles", (255,), "65,025 tiles"),
    Case("j2k_blocks", (8_000,), "code blocks"),
    Case("j2k_precincts", (2_000,), "packets"),
    Case("deflated_zeros", (100_000_000,), "more than 16,000 elements"),
    Case("deflated_items", (1_000_000,), "more than 16,000 elements"),
    Case("deflated_late", (1_000_000,), "more than 16,000 elements"),
    Case("deflated_wrong_length", (100_000_000,), ""),
    Case("deflated_pixels", (100_000_000,), ""),
    Case("rle_overflow", (20_000_000,), "every pixel is 7"),
    Case("rle_window", (3_200,), ""),
]
SECONDS, MEGABYTES = 2, 100


class Outcome(NamedTuple):
    """What became of a file: its refusal or nothing, the processor's seconds and the growth of the peak of memory."""

    refusal: str
    seconds: float
    megabytes: float


def _peak(what: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1024


def measure(cases: list[tuple[str, list[int]]]) -> None:
    """Read each file in this process, and print what it cost; made for a process of its own."""
    decode_image(hostile.written(hostile.image()), "warm.dcm")  # imports its libraries
    decode_image(hostile.saved(hostile.RAMP, "PNG"), "warm.png")
    for maker, sizes in cases:
        data, refusal = getattr(hostile, maker)(*sizes), ""
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts at what is held now
        held, start = _peak("VmRSS"), time.process_time()
        try:
            decode_image(data, "image.dcm" if data[128:132] == b"DICM" else "image")
        except ImageRefusedError as error:
            refusal = str(error)
        print(json.dumps([refusal, time.process_time() - start, _peak("VmHWM") - held]), flush=True)


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    """All cases, in one process of their own."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak of memory is measured on Linux alone")
    cases = [(case.maker, case.sizes) for case in CASES]
    code = f"import json, sys; from tests.data.test_hostile import measure; measure(json.loads({json.dumps(cases)!r}))"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [Outcome(*json.loads(line)) for line in done.stdout.splitlines()]
    return {case.maker: outcome for case, outcome in zip(CASES, found, strict=True)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.maker)
def test_hostile_files_cost_neither_time_nor_memory(case: Case, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[case.maker]
    assert bool(outcome.refusal) == bool(case.cause), outcome
    assert case.cause in outcome.refusal
    assert "\n" not in outcome.refusal
    assert outcome.seconds < SECONDS
    assert outcome.megabytes < MEGABYTES


def test_an_image_in_runs_with_a_window_takes_less_than_six_bytes_a_pixel(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["rle_window"].megabytes * 2**20 / 3_200**2 < 6


@pytest.mark.parametrize(
    "data", [hostile.dicom_items(100_000), hostile.deflated_items(1_000_000)], ids=["items", "deflated"]
)
def test_headers_read_alone_have_the_same_bounds(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "image.dcm"
    path.write_bytes(data)
    with pytest.raises(ImageRefusedError, match=r"more than 16,000 elements in its header.*; export it again"):
        read_header(path)
    assert identifiers_of(data, path) == ["", "", ""]


def test_no_log_record_of_a_decoder_escapes(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    names = ("pydicom", "pydicom.pixels.decoders.base", "pylibjpeg", "openjpeg", "libjpeg")
    before = [(logging.getLogger(name).propagate, list(logging.getLogger(name).handlers)) for name in names]
    header = hostile.image(syntax=JPEGBaseline8Bit)
    stream = bytearray(hostile.saved(hostile.RAMP, "JPEG"))
    table = stream.index(b"\xff\xc4") + 5
    stream[table : table + 16] = b"\xff" * 16  # no such code
    header.PixelData = encapsulate([bytes(stream)])
    header["PixelData"].is_undefined_length = True
    data = hostile.written(header)
    with caplog.at_level(logging.DEBUG), pytest.raises(ImageRefusedError, match="Unable to decode"):
        decode_image(data, "image.dcm")
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
    assert [(logging.getLogger(name).propagate, list(logging.getLogger(name).handlers)) for name in names] == before
    with caplog.at_level(logging.DEBUG), pytest.raises(RuntimeError):
        pydicom.dcmread(io.BytesIO(data)).pixel_array  # noqa: B018
    assert "pydicom.pixels.decoders.base" in {record.name for record in caplog.records}  # as others expect
