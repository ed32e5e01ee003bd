"""DICOM images as they are meant to be displayed, and DICOM files without an image."""

from __future__ import annotations

import hashlib
import io
import logging
import random
import struct
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_windowing
from pydicom.pixels.decoders.base import Decoder
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForProcessing,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from covidnet.base.errors import ImageRefusedError
from covidnet.data.reading.dicom import read_header
from covidnet.data.reading.images import decode_image, inspect_image, read_image
from tests.data.reading.both_ways import pixels_both_ways

pytestmark = pytest.mark.filterwarnings("error")

RAMP = np.add.outer(np.arange(80), np.arange(96)).astype(np.uint8)
GRADIENT12 = np.linspace(0, 4095, 80 * 96).round().astype(np.uint16).reshape(80, 96)
GREY12 = np.round(GRADIENT12 / 4095 * 255)


def image(values: np.ndarray, bits: int | None = None, **tags: object) -> Dataset:
    """A computed-radiography image with the given values."""
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SOPClassUID, header.SOPInstanceUID, header.Modality = "1.2.840.10008.5.1.4.1.1.1", "1.2.3.4", "CR"
    header.Rows, header.Columns = values.shape[:2]
    header.SamplesPerPixel = 1 if values.ndim == 2 else 3
    header.PhotometricInterpretation = "MONOCHROME2" if values.ndim == 2 else "RGB"
    if values.ndim == 3:
        header.PlanarConfiguration = 0
    header.BitsAllocated = values.dtype.itemsize * 8
    header.BitsStored = bits or header.BitsAllocated
    header.HighBit = header.BitsStored - 1
    header.PixelRepresentation = int(values.dtype.kind == "i")
    for name, value in tags.items():
        setattr(header, name, value)
    header.PixelData = values.astype(values.dtype.newbyteorder("<")).tobytes()
    header["PixelData"].VR = "OW" if header.BitsAllocated > 8 else "OB"
    return header


def written(header: Dataset, **options: object) -> bytes:
    file = io.BytesIO()
    header.save_as(file, **{"enforce_file_format": True, **options})
    return file.getvalue()


def pixels(data: Dataset | bytes, name: str = "image.dcm", max_megapixels: float = 64.0) -> np.ndarray:
    data = data if isinstance(data, bytes) else written(data)
    return pixels_both_ways(data, name, max_megapixels=max_megapixels)


def refusal(data: Dataset | bytes, name: str = "image.dcm", max_megapixels: float = 64.0) -> str:
    with pytest.raises(ImageRefusedError) as caught:
        pixels(data, name, max_megapixels)
    assert caught.value.path == name
    assert "\n" not in str(caught.value)
    return caught.value.cause


def lookup(entries: np.ndarray, first: int, bits: int) -> list[Dataset]:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries), first, bits])
    item.add_new("LUTData", "US", entries.tolist())
    return [item]


# Values


def test_8_bit_image_comes_back_exactly() -> None:
    assert np.array_equal(pixels(image(RAMP)), RAMP)


def test_12_bits_stored_in_16_fill_the_range() -> None:
    assert np.array_equal(pixels(image(GRADIENT12, 12)), GREY12)


def test_bits_stored_go_before_the_measured_depth() -> None:
    assert np.array_equal(pixels(image(GRADIENT12 // 8, 12)), np.round((GRADIENT12 // 8) / 4095 * 255))


def test_container_size_is_no_statement_of_depth() -> None:
    assert np.array_equal(pixels(image(GRADIENT12)), GREY12)


def test_signed_image_equals_its_unsigned_twin() -> None:
    assert np.array_equal(pixels(image((GRADIENT12.astype(int) - 2048).astype(np.int16), 12)), GREY12)


@pytest.mark.parametrize("window", [{}, {"WindowCenter": 1500, "WindowWidth": 2000}])
def test_monochrome1_equals_its_monochrome2_twin(window: dict[str, int]) -> None:
    twin = {**window, "WindowCenter": 4095 - window["WindowCenter"] + 1} if window else {}
    negative = image(4095 - GRADIENT12, 12, PhotometricInterpretation="MONOCHROME1", **twin)
    found = pixels(negative)
    assert np.array_equal(found, pixels(image(GRADIENT12, 12, **window)))
    assert found[0, 0] < found[-1, -1]


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("rescale", [None, (1, -1024), (2.5, 100)])
def test_window_agrees_with_pydicom(function: str | None, rescale: tuple[float, float] | None) -> None:
    tags: dict[str, object] = {"WindowCenter": [1200, 40], "WindowWidth": [1501, 80]}
    tags |= {"VOILUTFunction": function} if function else {}
    tags |= {"RescaleSlope": rescale[0], "RescaleIntercept": rescale[1]} if rescale else {}
    header = image(GRADIENT12, 12, **tags)
    slope, intercept = rescale or (1, 0)
    reference = apply_windowing(apply_modality_lut(GRADIENT12, header), header)
    expected = (reference - intercept) / (4095 * slope) * 255
    assert np.abs(pixels(header) - expected).max() <= 0.501


@pytest.mark.parametrize(("function", "width"), [("LINEAR", 1), ("LINEAR", 0), ("SIGMOID", 0)])
def test_window_without_width_is_passed_over(function: str, width: int) -> None:
    assert np.array_equal(
        pixels(image(GRADIENT12, 12, WindowCenter=5, WindowWidth=width, VOILUTFunction=function)), GREY12
    )


def test_rescaled_image_without_window_takes_its_measured_range() -> None:
    values = GRADIENT12 // 2 + 700
    found = pixels(image(values, 12, RescaleSlope=0.5, RescaleIntercept=-1000))
    expected = (values - values.min()) / (values.max() - values.min()) * 255
    assert np.abs(found - expected).max() <= 0.501


def test_identity_rescale_changes_nothing() -> None:
    assert np.array_equal(pixels(image(RAMP, RescaleSlope=1, RescaleIntercept=0)), RAMP)


def test_voi_lookup_table_is_applied_before_a_window() -> None:
    table = np.linspace(0, 255, 4096)[::-1].round().astype(int) ** 2 // 16
    found = pixels(image(GRADIENT12, 12, VOILUTSequence=lookup(table, 0, 12), WindowCenter=9, WindowWidth=9))
    assert np.array_equal(found, np.round(table[GRADIENT12] / 4095 * 255))


def test_voi_lookup_table_of_8_bits_does_not_wrap_12_bit_values() -> None:
    table = np.linspace(0, 255, 4096).round().astype(int)
    assert np.array_equal(pixels(image(GRADIENT12, 12, VOILUTSequence=lookup(table, 0, 8))), table[GRADIENT12])


def test_values_outside_a_lookup_table_take_its_ends() -> None:
    table = np.arange(0, 1024)
    found = pixels(image(GRADIENT12, 12, VOILUTSequence=lookup(table, 1000, 10)))
    assert np.array_equal(found, np.round(np.clip(GRADIENT12.astype(int) - 1000, 0, 1023) / 1023 * 255))


def test_modality_lookup_table_agrees_with_pydicom() -> None:
    header = image(GRADIENT12, 12, ModalityLUTSequence=lookup(np.arange(4096)[::-1] * 16, 0, 16))
    header.ModalityLUTSequence[0].ModalityLUTType = "US"
    assert np.array_equal(pixels(header), np.round(apply_modality_lut(GRADIENT12, header) / 65535 * 255))


def test_colour_becomes_luma() -> None:
    colour = np.stack([RAMP, RAMP[::-1], 255 - RAMP], axis=2)
    assert np.abs(pixels(image(colour)) - colour @ np.array([0.299, 0.587, 0.114])).max() <= 0.51
    assert np.array_equal(pixels(image(np.stack([RAMP] * 3, axis=2))), RAMP)


def test_luminance_and_chrominance_become_grey() -> None:
    neutral = np.dstack([RAMP, np.full_like(RAMP, 128), np.full_like(RAMP, 128)])
    assert np.array_equal(pixels(image(neutral, PhotometricInterpretation="YBR_FULL")), RAMP)


def test_palette_colour_becomes_grey() -> None:
    header = image(RAMP, PhotometricInterpretation="PALETTE COLOR")
    for name in ("Red", "Green", "Blue"):
        header.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [256, 0, 16])
        header.add_new(f"{name}PaletteColorLookupTableData", "OW", (np.arange(256)[::-1] * 257).astype("<u2").tobytes())
    assert np.array_equal(pixels(header), 255 - RAMP)


# Padding


def padded(values: np.ndarray, pad: int, bits: int | None = None, **tags: object) -> Dataset:
    """An image whose upper ten rows are padding."""
    values = values.copy()
    values[:10] = np.array(pad).astype(values.dtype)
    return image(values, bits, **{"PixelPaddingValue": pad, **tags})


TABLE = np.linspace(0, 255, 4096)[::-1].round().astype(int) * 16
WAYS: list[dict[str, object]] = [
    {},
    {"RescaleSlope": 2, "RescaleIntercept": -1000},
    {"RescaleSlope": -1, "RescaleIntercept": 0},
    {"WindowCenter": 1200, "WindowWidth": 1501},
    {"VOILUTSequence": lookup(TABLE, 0, 12)},
    {"ModalityLUTSequence": lookup(TABLE, 0, 12)},
]


@pytest.mark.parametrize("kind", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: "+".join(way) or "plain")
@pytest.mark.parametrize(("bits", "pad"), [(16, 63536), (12, 63536), (16, 65535)])
def test_padding_takes_no_part_in_the_range_and_is_black(
    way: dict[str, object], kind: str, bits: int, pad: int
) -> None:
    found = pixels(padded(GRADIENT12, pad, bits, PhotometricInterpretation=kind, **way))
    # The same image without padding; its upper rows have a value that also occurs elsewhere.
    twin = GRADIENT12.copy()
    twin[:10] = twin[10, 0]
    expected = pixels(image(twin, bits, PhotometricInterpretation=kind, **way))
    assert np.array_equal(found[10:], expected[10:])
    assert found[10:].mean() > 40
    assert not found[:10].any()


def test_a_image_beside_padding_of_63536_is_not_nearly_black() -> None:
    values = np.linspace(0, 4080, 80 * 96).round().astype(np.uint16).reshape(80, 96)
    assert pixels(padded(values, 63536))[10:].mean() == pytest.approx(np.round(values[10:] / 4095 * 255).mean())


@pytest.mark.parametrize("pad", [-2000, 63536, -32768])
def test_signed_padding_is_recognised_however_the_header_writes_it(pad: int) -> None:
    values = (GRADIENT12.astype(int) - 1000).astype(np.int16)
    header = padded(values, pad if pad < 0 else pad - 65536)
    del header.PixelPaddingValue
    header.add_new("PixelPaddingValue", "SS" if pad < 0 else "US", pad)
    found = pixels(header)
    twin = values.copy()
    twin[:10] = values[10, 0]
    assert np.array_equal(found[10:], pixels(image(twin))[10:])
    assert not found[:10].any()


@pytest.mark.parametrize("ends", [(63536, 65535), (65535, 63536)])
def test_everything_between_padding_and_its_limit_is_padding(ends: tuple[int, int]) -> None:
    values = GRADIENT12.copy()
    values[:10] = np.linspace(63536, 65535, 96).astype(np.uint16)
    found = pixels(image(values, PixelPaddingValue=ends[0], PixelPaddingRangeLimit=ends[1]))
    assert np.array_equal(found[10:], GREY12[10:])
    assert not found[:10].any()


@pytest.mark.parametrize("pad", [65535, 300, -300])
def test_padding_that_the_pixels_cannot_hold_changes_nothing(pad: int) -> None:
    header = image(RAMP)
    header.add_new("PixelPaddingValue", "SS" if pad < 0 else "US", pad)
    assert np.array_equal(pixels(header), RAMP)


def test_a_image_of_padding_alone_is_refused_by_that_name() -> None:
    header = image(np.where(np.arange(96) < 9, 7, 63536).astype(np.uint16).repeat(80).reshape(96, 80))
    header.PixelPaddingValue = 63536
    assert refusal(header) == "no information: every pixel is 7 or padding according to its header"
    header.PixelPaddingRangeLimit = 0
    assert refusal(header) == "no information: every pixel is padding according to its header"


# Headers that name something else


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        ("Modality", "CT"),
        ("Modality", "MR"),
        ("Modality", "US"),
        ("BodyPartExamined", "HAND"),
        ("BodyPartExamined", "HANDS"),
        ("BodyPartExamined", "ABDOMEN"),
        ("BodyPartExamined", "C SPINE"),
        ("BodyPartExamined", "LOWER LEG"),
        ("BodyPartExamined", "BRAIN"),
        ("ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        ("ImageType", "LOCALIZER"),
    ],
)
def test_a_header_that_names_something_else_is_refused_by_that_name(tag: str, value: str | list[str]) -> None:
    cause = refusal(image(RAMP, **{tag: value}))
    assert cause.startswith("not a ")
    assert f"{tag} {(value if isinstance(value, str) else value[-1])}" in cause


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("1.2.840.10008.5.1.4.1.1.2", "CT Image Storage"),
        ("1.2.840.10008.5.1.4.1.1.4.1", "Enhanced MR Image Storage"),
        ("1.2.840.10008.5.1.4.1.1.6.1", "Ultrasound Image Storage"),
        ("1.2.840.10008.5.1.4.1.1.1.2", "Digital Mammography X-Ray Image Storage - For Presentation"),
    ],
)
def test_a_header_without_a_modality_is_judged_by_its_sop_class(kind: str, name: str) -> None:
    cause = refusal(image(RAMP, Modality="", SOPClassUID=kind))
    assert cause == f"not a radiograph according to its header: {name}"


@pytest.mark.parametrize(
    "tags", [{"SOPClassUID": DigitalXRayImageStorageForProcessing}, {"PresentationIntentType": "FOR PROCESSING"}]
)
def test_values_of_a_detector_for_processing_are_refused(tags: dict[str, str]) -> None:
    # Stored as they are measured: not inverted, no window, and no image that anybody looks at.
    cause = refusal(image(RAMP, Modality="DX", **tags))
    assert cause == "for processing, not for presentation, according to its header"


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        ("Modality", "DX"),
        ("Modality", "OT"),
        ("Modality", ""),
        ("BodyPartExamined", "CHEST"),
        ("BodyPartExamined", "CHESTABDOMEN"),
        ("BodyPartExamined", "PORT CHEST"),
        ("BodyPartExamined", "RIB"),
        ("SOPClassUID", "1.2.840.10008.5.1.4.1.1.1.1"),
        ("PresentationIntentType", "FOR PRESENTATION"),
        ("BodyPartExamined", ""),
        ("ImageType", ["DERIVED", "SECONDARY"]),
    ],
)
def test_headers_of_radiographs_are_accepted(tag: str, value: str | list[str]) -> None:
    assert np.array_equal(pixels(image(RAMP, **{tag: value})), RAMP)


# Encodings


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEG2000Lossless]
)
def test_every_lossless_encoding_gives_the_same_image(syntax: str) -> None:
    header = image(GRADIENT12, 12)
    if syntax in (RLELossless, JPEG2000Lossless):
        header.compress(syntax)
    header.file_meta.TransferSyntaxUID = syntax
    assert np.array_equal(pixels(header), GREY12)


def test_big_endian_image_is_read() -> None:
    header = image(GRADIENT12, 12)
    header.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    header.PixelData = GRADIENT12.astype(">u2").tobytes()
    assert np.array_equal(pixels(header), GREY12)


def compressed(stream: bytes, values: np.ndarray = RAMP) -> Dataset:
    header = image(values)
    header.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    header.PixelData = encapsulate([stream])
    header["PixelData"].VR = "OB"
    header["PixelData"].is_undefined_length = True
    return header


def jpeg(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "JPEG", quality=95)
    return file.getvalue()


def test_jpeg_inside_dicom_equals_the_jpeg() -> None:
    assert np.array_equal(pixels(compressed(jpeg(RAMP))), np.asarray(Image.open(io.BytesIO(jpeg(RAMP)))))


def test_image_without_preamble_is_read_by_its_suffix() -> None:
    header = image(GRADIENT12, 12)
    del header.file_meta
    data = written(header, enforce_file_format=False, implicit_vr=True, little_endian=True)
    assert data[:2] == b"\x08\0"
    assert np.array_equal(pixels(data), GREY12)


def test_image_without_suffix_is_told_by_its_magic(tmp_path: Path) -> None:
    path = tmp_path / "IM0001"
    path.write_bytes(data := written(image(RAMP)))
    assert np.array_equal(read_image(path), RAMP)
    facts = inspect_image(path)
    assert (facts.sha256, facts.width, facts.height) == (hashlib.sha256(data).hexdigest(), 96, 80)
    assert facts.mode == "MONOCHROME2"


# Refusals


def test_plan_without_pixels_is_refused() -> None:
    header = image(RAMP, Modality="RTPLAN")
    del header.PixelData
    assert refusal(header) == "no image: RTPLAN without pixels"


def test_image_without_pixels_is_refused() -> None:
    header = image(RAMP)
    del header.PixelData
    assert "no image" in refusal(header)


def test_truncated_image_is_refused_wherever_it_is_cut() -> None:
    data = written(image(GRADIENT12, 12))
    for cut in [*range(140, 700, 7), len(data) // 2, len(data) - 1]:
        assert "no image" in refusal(data[:cut])
    assert "no image: truncated" in refusal(data[:-100])


@pytest.mark.parametrize("cut", [8, 200])
def test_truncated_compressed_image_is_refused(cut: int) -> None:
    assert "no image" in refusal(written(compressed(jpeg(RAMP)))[:-cut])


def test_compressed_image_whose_stream_stops_is_refused() -> None:
    cause = refusal(compressed(jpeg(RAMP)[:-300]))
    assert "truncated" in cause


def test_multi_frame_image_is_refused_with_its_number() -> None:
    header = image(RAMP, NumberOfFrames=3)
    header.PixelData = header.PixelData * 3
    assert "3 frames" in refusal(header)


def test_400_megapixels_are_refused_before_decoding() -> None:
    assert "400 megapixels" in refusal(image(RAMP, Rows=20_000, Columns=20_000))


def test_compressed_stream_larger_than_the_header_is_refused_before_decoding() -> None:
    stream = bytearray(jpeg(RAMP))
    start = stream.index(b"\xff\xc0") + 5
    stream[start : start + 4] = struct.pack(">HH", 20_000, 20_000)
    assert "400 megapixels" in refusal(compressed(bytes(stream)))
    stream[start : start + 4] = struct.pack(">HH", 100, 100)
    assert "100 x 100 in the compressed image" in refusal(compressed(bytes(stream)))


def test_jpeg_2000_stream_larger_than_the_header_is_refused_before_decoding() -> None:
    header = image(RAMP)
    header.compress(JPEG2000Lossless)
    data = bytearray(written(header))
    start = data.index(b"\xff\x4f\xff\x51") + 8
    assert struct.unpack_from(">II", data, start) == (96, 80)
    data[start : start + 8] = struct.pack(">II", 20_000, 20_000)
    assert "400 megapixels" in refusal(bytes(data))


def test_deflated_bomb_is_refused_before_it_is_inflated() -> None:
    header = image(RAMP)
    header.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data = written(header)
    start = 144 + int.from_bytes(data[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    assert pixels(data).shape == (80, 96)
    bomb = data[:start] + packer.compress(bytes(40_000_000)) + packer.flush()
    assert "more than 16,000 elements" in refusal(bomb)


def test_small_constant_and_1_bit_images_are_refused() -> None:
    assert "too small" in refusal(image(RAMP[:40]))
    assert "no information" in refusal(image(np.full((80, 96), 7, np.uint16), 12))
    assert "1-bit" in refusal(image(RAMP, 1))


def test_unknown_photometric_interpretation_is_refused() -> None:
    assert "HSV" in refusal(image(RAMP, PhotometricInterpretation="HSV"))


def test_compression_without_any_decoder_is_refused_naming_the_remedy() -> None:
    header = compressed(jpeg(RAMP))
    header.file_meta.TransferSyntaxUID = MPEG2MPML
    with pytest.raises(ImageRefusedError, match=r"MPEG2 .* cannot be decompressed; export it as uncompressed DICOM"):
        pixels(header)


def test_compression_whose_plugin_is_missing_is_refused_naming_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    data = written(compressed(jpeg(RAMP)))
    monkeypatch.setattr(Decoder, "is_available", property(lambda self: False))
    with pytest.raises(ImageRefusedError, match=r'no decoder for JPEG Baseline .*; pip install "covidnet\[dicom\]"'):
        decode_image(data, "image.dcm")


def test_without_pydicom_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "image.dcm"
    path.write_bytes(written(image(RAMP)))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    for reader in (read_image, read_header):
        with pytest.raises(ImageRefusedError, match=r'pip install "covidnet\[dicom\]"'):
            reader(path)


@pytest.mark.parametrize("data", [b"", b"<html></html>", bytes(4000), b"\x08\0" + bytes(300)])
def test_other_bytes_named_dcm_are_refused(data: bytes) -> None:
    assert refusal(data)


# Warnings, threads, damage


def doubtful() -> bytes:
    """A good image that pydicom warns about."""
    header = image(GRADIENT12, 12)
    header.PixelData = header.PixelData + bytes(200)
    data = written(header)
    with pytest.warns(UserWarning, match="excess padding"):
        assert pydicom.dcmread(io.BytesIO(data)).pixel_array.shape == (80, 96)
    return data


def test_no_warning_of_pydicom_escapes(caplog: pytest.LogCaptureFixture) -> None:
    data = doubtful()
    caplog.clear()
    before = list(warnings.filters)
    assert np.array_equal(pixels(data), GREY12)
    assert warnings.filters == before
    assert not caplog.records
    with pytest.warns(UserWarning, match="excess padding"):  # and it may warn others again
        _ = pydicom.dcmread(io.BytesIO(data)).pixel_array
    assert logging.getLogger("pydicom").filters == []


def test_threads_read_the_same_as_one_and_restore_the_filters() -> None:
    data = [doubtful(), written(image(RAMP)), written(compressed(jpeg(RAMP)))]
    alone = [pixels(item) for item in data]
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        for found, expected in zip(pool.map(pixels, data * 20), alone * 20, strict=True):
            assert np.array_equal(found, expected)
    assert warnings.filters == before


def test_damaged_images_raise_only_refusals() -> None:
    window = {"WindowCenter": 2000, "WindowWidth": 3000, "RescaleSlope": 1, "RescaleIntercept": -9}
    seeds = [written(image(GRADIENT12, 12, **window)), written(image(RAMP)), written(compressed(jpeg(RAMP)))]
    rng, refused = random.Random(3), 0
    for number in range(150):
        data = bytearray(seeds[number % len(seeds)])
        for _ in range(rng.choice([1, 3, 8])):
            place = rng.randrange(132, rng.choice([700, len(data)]))
            data[place] = rng.choice([0, 1, 0x7F, 0xFF, rng.randrange(256)])
        try:
            found = pixels(bytes(data), max_megapixels=4)
        except ImageRefusedError:
            refused += 1
        else:
            assert found.dtype == np.uint8
            assert found.ndim == 2
    assert 20 < refused < 150


# Header


@pytest.mark.parametrize(
    ("view", "expected"), [("PA", "PA"), ("AP", "AP"), ("LL", "L"), ("RL", "L"), ("RLO", "RLO"), ("", None)]
)
def test_header_names_patient_and_view(tmp_path: Path, view: str, expected: str | None) -> None:
    path = tmp_path / "image"
    path.write_bytes(written(image(RAMP, PatientID="p 17 ", ViewPosition=view)))
    assert read_header(path) == {"patient_id": "p 17", "view": expected}


def test_a_patient_id_that_a_spreadsheet_would_run_is_made_harmless(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(written(image(RAMP, PatientID="=cmd|'/c calc'!A1")))
    assert read_header(path)["patient_id"] == "'=cmd|'/c calc'!A1"


def test_header_without_patient_and_view_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "image.dcm"
    path.write_bytes(written(image(RAMP)))
    assert read_header(path) == {"patient_id": None, "view": None}


def test_a_placeholder_is_not_a_patient(tmp_path: Path) -> None:
    path = tmp_path / "image.dcm"
    path.write_bytes(written(image(RAMP, PatientID="Anonymous")))
    assert read_header(path)["patient_id"] is None


def test_header_is_read_without_pixels(tmp_path: Path) -> None:
    path = tmp_path / "image.dcm"
    path.write_bytes(written(image(RAMP, PatientID="p1"))[:-3000])
    assert read_header(path)["patient_id"] == "p1"


def test_the_header_of_a_file_that_is_not_dicom_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.dcm"
    path.write_bytes(b"text")
    with pytest.raises(ImageRefusedError, match="not a readable DICOM file"):
        read_header(path)
    with pytest.raises(ImageRefusedError, match="cannot be read"):
        read_header(tmp_path / "none.dcm")
