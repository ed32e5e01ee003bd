"""Hostile files are refused by a cheap check before decoding, or read within limits."""

from __future__ import annotations

import io
import json
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

from covidnet.base.errors import ImageRefusedError
from covidnet.data.reading.decoders import Decoders
from covidnet.data.reading.dicom import identifiers_of, read_header
from covidnet.data.reading.images import decode_image
from tests.data.reading import hostile


class Case(NamedTuple):
    """A function in `hostile`, its size, and words of the refusal; empty if the file is read."""

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
    Case("bmp_runs", (20_000_000,), "run-length coded"),
    Case("webp_chunks", (500_000,), "WebP chunks"),
    Case("webp_size", (16_384,), "268 megapixels"),
    Case("avif_size", (2_000,), "every pixel is 0"),
    Case("avif_brands", (20_000_000,), "not a supported format"),
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
    """The outcome for a file: its refusal or nothing, seconds of processor time, and growth of peak memory."""

    refusal: str
    seconds: float
    megabytes: float


def _peak(what: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1024


def measure(paths: list[str]) -> None:
    """Read each file in this process and print what it took; runs in a separate process."""
    decode_image(hostile.written(hostile.image()), "warm.dcm")  # imports the libraries
    decode_image(hostile.saved(hostile.RAMP, "PNG"), "warm.png")
    for path in paths:
        data, refusal = Path(path).read_bytes(), ""
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak to current use
        held, start = _peak("VmRSS"), time.process_time()
        try:
            decode_image(data, path)
        except ImageRefusedError as error:
            refusal = str(error)
        print(json.dumps([refusal, time.process_time() - start, _peak("VmHWM") - held]), flush=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """The files of all cases, by function name."""
    folder = tmp_path_factory.mktemp("hostile")
    for case in CASES:
        (folder / case.maker).write_bytes(getattr(hostile, case.maker)(*case.sizes))
    yield {case.maker: folder / case.maker for case in CASES}
    shutil.rmtree(folder)  # 200 MB, which pytest would keep


@pytest.fixture(scope="module")
def outcomes(files: dict[str, Path]) -> dict[str, Outcome]:
    """The outcomes of all cases, from one separate process."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("peak memory is measured only on Linux")
    code = "import sys; from tests.data.reading.test_hostile import measure; measure(sys.argv[1:])"
    command = [sys.executable, "-c", code, *(str(files[case.maker]) for case in CASES)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
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


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    with Decoders(1, max_memory=0.6, max_seconds=10) as pool:
        yield pool


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.maker)
def test_hostile_files_are_refused_or_read_by_the_decoders(
    case: Case, files: dict[str, Path], decoders: Decoders
) -> None:
    if not case.cause:
        assert decoders.read(files[case.maker]).pixels.size
        return
    with pytest.raises(ImageRefusedError) as caught:
        decoders.read(files[case.maker])
    assert case.cause in caught.value.cause
    assert caught.value.path == str(files[case.maker])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("maker", "sizes", "limits", "cause"),
    [
        ("jpeg_scans", (100, 8_000), {"max_seconds": 0.5}, "took more than 0.5 s to decode"),
        ("rle_window", (8_000,), {"max_memory": 0.4}, "needed more than 0.4 GB"),
        # libjpeg reports a failed allocation as broken data.
        ("jpeg_scans", (10, 8_000), {"max_memory": 0.3}, "memory than a decoder may use"),
    ],
)
def test_decoders_stop_files_that_no_check_catches(
    maker: str, sizes: tuple[int, ...], limits: dict[str, float], cause: str
) -> None:
    data = getattr(hostile, maker)(*sizes)
    with Decoders(1, **limits) as pool:  # type: ignore[arg-type]
        with pytest.raises(ImageRefusedError) as caught:
            pool.decode(data, "image.dcm" if data[128:132] == b"DICM" else "image")
        assert cause in caught.value.cause
        assert np.array_equal(pool.decode(hostile.saved(hostile.RAMP, "PNG"), "good.png").pixels, hostile.RAMP)


def test_a_run_length_coded_image_with_a_window_takes_less_than_six_bytes_per_pixel(
    outcomes: dict[str, Outcome],
) -> None:
    assert outcomes["rle_window"].megabytes * 2**20 / 3_200**2 < 6


@pytest.mark.parametrize("maker", ["dicom_items", "deflated_items"])
def test_reading_only_headers_has_the_same_limits(maker: str, tmp_path: Path) -> None:
    data, path = getattr(hostile, maker)(40_000), tmp_path / "image.dcm"
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
    stream[table : table + 16] = b"\xff" * 16  # not a valid code
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
    assert "pydicom.pixels.decoders.base" in {record.name for record in caplog.records}  # restored for others
