"""The ways in which a file can be wrong, and in which its pixels can be stored."""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import os
import random
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from covidnet.base.errors import ImageRefusedError
from covidnet.data.reading import images
from covidnet.data.reading.grey_levels import to_eight_bits
from covidnet.data.reading.images import ImageFacts, decode_image, inspect_image, is_image_file, read_image
from tests.conftest import PROJECT
from tests.data.reading.both_ways import pixels_both_ways

pytestmark = pytest.mark.filterwarnings("error")

KIT = PROJECT.parent / "shared/data/cxr-kit"
RAMP = np.add.outer(np.arange(80), np.arange(96)).astype(np.uint8)  # grey, 80 rows, 96 columns
GRADIENT16 = np.linspace(0, 65535, 80 * 96).round().astype(np.uint16).reshape(80, 96)
GRADIENT12 = np.linspace(0, 4095, 80 * 96).round().astype(np.uint16).reshape(80, 96)
COLOUR = np.stack([RAMP, RAMP[::-1], 255 - RAMP], axis=2)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(rows: np.ndarray, bits: int, colour: int, *extra: bytes, size: tuple[int, int] | None = None) -> bytes:
    """A PNG written from the specification; rows are the bytes of each line."""
    width, height = size or (rows.shape[1], rows.shape[0])
    lines = np.hstack([np.zeros((rows.shape[0], 1), np.uint8), rows.view(np.uint8).reshape(rows.shape[0], -1)])
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)), *extra]
    parts += [chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def png16(values: np.ndarray, *extra: bytes) -> bytes:
    return png(values.astype(">u2"), 16, 0, *extra)


def tiff(values: bytes, width: int, height: int, tags: dict[int, tuple[int, int]], order: str = "<") -> bytes:
    """A one-strip TIFF written from the specification; tags are (type, value)."""
    entries = {256: (4, width), 257: (4, height), 259: (3, 1), 273: (4, 8), 277: (3, 1), 278: (4, height)}
    entries = {**entries, 279: (4, len(values)), **tags}
    words = {3: lambda value: struct.pack(order + "HH", value, 0), 4: lambda value: struct.pack(order + "I", value)}
    body = b"".join(struct.pack(order + "HHI", tag, t, 1) + words[t](v) for tag, (t, v) in sorted(entries.items()))
    magic = {"<": b"II*\0", ">": b"MM\0*"}[order]
    directory = struct.pack(order + "H", len(entries)) + body + bytes(4)
    return magic + struct.pack(order + "I", 8 + len(values)) + values + directory


def saved(image: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind, **options)
    return file.getvalue()


def pixels(data: bytes, name: str = "image.png", **limits: float) -> np.ndarray:
    return pixels_both_ways(data, name, **limits)  # type: ignore[arg-type]


def refusal(data: bytes, name: str = "image.png", **limits: float) -> str:
    with pytest.raises(ImageRefusedError) as caught:
        pixels(data, name, **limits)
    assert caught.value.path == name
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    return caught.value.cause


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_logged", set())


# Ordinary files


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_lossless_grey_is_read_exactly(kind: str) -> None:
    assert np.array_equal(pixels(saved(RAMP, kind)), RAMP)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiff_is_read_exactly(compression: str) -> None:
    assert np.array_equal(pixels(saved(RAMP, "TIFF", compression=compression)), RAMP)


def test_big_tiff_is_read_exactly() -> None:
    data = saved(RAMP, "TIFF", big_tiff=True)
    assert data[:4] == b"II+\0"
    assert np.array_equal(pixels(data), RAMP)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_jpeg_equals_pillow(options: dict[str, object]) -> None:
    data = saved(RAMP, "JPEG", quality=88, **options)
    assert np.array_equal(pixels(data), np.asarray(Image.open(io.BytesIO(data))))


def test_colour_becomes_itu_r_601_luma() -> None:
    luma = COLOUR @ np.array([0.299, 0.587, 0.114])
    assert np.abs(pixels(saved(COLOUR, "PNG")) - luma).max() <= 0.51


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_colour_with_equal_channels_equals_the_channel(kind: str) -> None:
    assert np.array_equal(pixels(saved(np.stack([RAMP] * 3, axis=2), kind)), RAMP)


def test_result_is_writeable_contiguous_bytes() -> None:
    found = pixels(saved(RAMP, "PNG", exif=orientation(6)))
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    assert found.flags.writeable


def test_the_bytes_and_not_the_name_decide_the_format() -> None:
    assert np.array_equal(pixels(saved(RAMP, "PNG"), "image.jpg"), RAMP)


def test_profiles_and_gamma_change_nothing() -> None:
    gamma = chunk(b"gAMA", struct.pack(">I", 100000)) + chunk(b"iCCP", b"x\0\0broken")
    assert np.array_equal(pixels(png(RAMP, 8, 0, gamma)), RAMP)
    assert np.array_equal(pixels(saved(RAMP, "TIFF", icc_profile=b"broken")), RAMP)


def test_huge_text_is_ignored() -> None:
    bomb = zlib.compress(bytes(50_000_000), 9)
    text = chunk(b"zTXt", b"Comment\0\0" + bomb) + chunk(b"tEXt", b"Comment\0" + b"x" * 3_000_000)
    with pytest.raises(ValueError, match="too large"):
        PngImagePlugin.PngImageFile(io.BytesIO(png(RAMP, 8, 0, text))).load()
    assert np.array_equal(pixels(png(RAMP, 8, 0, text)), RAMP)


# Depth


def test_full_16_bit_range_becomes_0_to_255() -> None:
    assert np.array_equal(pixels(png16(GRADIENT16)), np.round(GRADIENT16 / 257.0))


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_measured_depth_is_the_smallest_that_holds_the_values(bits: int) -> None:
    top = 2**bits - 1
    values = np.linspace(0, top, 80 * 96).round().astype(np.uint16).reshape(80, 96)
    found = pixels(png16(values))
    assert np.array_equal(found, np.round(values / top * 255))
    assert (found.min(), found.max()) == (0, 255)


def test_declared_depth_of_a_png_overrides_the_measured_one() -> None:
    dark = (GRADIENT12 // 8).astype(np.uint16)  # fits 10 bits
    assert np.array_equal(pixels(png16(dark, chunk(b"sBIT", b"\x0c"))), np.round(dark / 4095 * 255))


def test_declared_depth_below_the_values_is_ignored() -> None:
    # The specification tells writers to scale 12-bit data to 16 bits and to set sBIT to 12.
    assert np.array_equal(pixels(png16(GRADIENT16, chunk(b"sBIT", b"\x0c"))), np.round(GRADIENT16 / 257.0))


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_tiff_in_both_byte_orders(order: str) -> None:
    data = tiff(GRADIENT12.astype(order + "u2").tobytes(), 96, 80, {258: (3, 16), 262: (3, 1)}, order)
    assert np.array_equal(pixels(data), np.round(GRADIENT12 / 4095 * 255))


def test_declared_depth_of_a_tiff_overrides_the_measured_one() -> None:
    dark = (GRADIENT12 // 8).astype("<u2")
    data = tiff(dark.tobytes(), 96, 80, {258: (3, 16), 262: (3, 1), 281: (3, 4095)})
    assert np.array_equal(pixels(data), np.round(dark / 4095 * 255))


@pytest.mark.parametrize("order", ["<", ">"])
def test_white_is_zero_tiff_is_inverted_at_every_depth(order: str) -> None:
    negative = {262: (3, 0)}
    eight = tiff((255 - RAMP).tobytes(), 96, 80, {258: (3, 8), **negative}, order)
    sixteen = tiff((65535 - GRADIENT16).astype(order + "u2").tobytes(), 96, 80, {258: (3, 16), **negative}, order)
    assert np.array_equal(pixels(eight), RAMP)
    assert np.array_equal(pixels(sixteen), np.round(GRADIENT16 / 257.0))


def test_signed_16_bit_tiff_equals_its_unsigned_twin() -> None:
    signed = (GRADIENT16.astype(np.int32) - 32768).astype("<i2")
    data = tiff(signed.tobytes(), 96, 80, {258: (3, 16), 262: (3, 1), 339: (3, 2)})
    assert np.array_equal(pixels(data), np.round(GRADIENT16 / 257.0))


def test_signed_tiff_without_negative_values_is_read_by_its_depth() -> None:
    data = tiff(GRADIENT12.astype("<i2").tobytes(), 96, 80, {258: (3, 16), 262: (3, 1), 339: (3, 2)})
    assert np.array_equal(pixels(data), np.round(GRADIENT12 / 4095 * 255))


def test_12_bit_tiff_keeps_its_depth() -> None:
    pairs = (GRADIENT12 // 8).reshape(-1, 2)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=1)
    data = tiff(packed.astype(np.uint8).tobytes(), 96, 80, {258: (3, 12), 262: (3, 1)})
    assert np.array_equal(pixels(data), np.round((GRADIENT12 // 8) / 4095 * 255))


def test_32_bit_values_beyond_16_bits_are_refused_naming_the_range() -> None:
    wide = np.where(RAMP > 90, 1_000_000, 5).astype(np.int32)
    assert "from 5 to 1e+06" in refusal(saved(Image.fromarray(wide), "TIFF"))


@pytest.mark.parametrize("top", [1.0, 255.0, 4095.0, 65535.0])
def test_float_tiff_is_scaled_by_its_range(top: float) -> None:
    values = np.linspace(0, top, 80 * 96, dtype=np.float32).reshape(80, 96)
    found = pixels(saved(Image.fromarray(values), "TIFF"))
    assert np.abs(found - values.astype(float) / top * 255).max() <= 0.501
    assert (found.min(), found.max()) == (0, 255)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(-1.5, 1.0, "-1.5 to 1"), (0.0, 1e6, "0 to 1e+06"), (0.0, np.inf, "inf"), (0.0, np.nan, "nan")],
)
def test_float_tiff_of_unknown_range_is_refused_naming_it(low: float, high: float, words: str) -> None:
    values = np.full((80, 96), 0.5, np.float32)
    values[0, :2] = low, high
    cause = refusal(saved(Image.fromarray(values), "TIFF"))
    assert words in cause
    assert "float" in cause or "fit no depth" in cause


def test_scaling_of_unsigned_32_bit_arrays() -> None:
    assert to_eight_bits(np.array([0, 65535], np.uint32), "image").tolist() == [0, 255]


@pytest.mark.parametrize("colour", [0, 3])
def test_1_bit_png_is_refused(colour: int) -> None:
    palette = chunk(b"PLTE", bytes([0, 0, 0, 255, 255, 255])) if colour == 3 else b""
    rows = np.tile(np.array([0xAA, 0x0F], np.uint8), (80, 6))
    assert "1-bit" in refusal(png(rows, 1, colour, palette, size=(96, 80)))


@pytest.mark.parametrize("kind", ["TIFF", "BMP"])
def test_1_bit_tiff_and_bmp_are_refused(kind: str) -> None:
    assert "1-bit" in refusal(saved(Image.fromarray(RAMP > 80), kind))


@pytest.mark.parametrize(("bits", "step"), [(2, 85), (4, 17)])
def test_2_and_4_bit_greys_fill_the_range(bits: int, step: int) -> None:
    levels = RAMP[:, : 96 // (8 // bits) * (8 // bits)] % (1 << bits)
    packed = np.zeros((80, 96 * bits // 8), np.uint8)
    for place in range(8 // bits):
        packed |= levels[:, place :: 8 // bits] << (8 - bits * (place + 1))
    assert np.array_equal(pixels(png(packed, bits, 0, size=(96, 80))), levels * step)


def test_16_bit_colour_keeps_its_range() -> None:
    rows = np.stack([GRADIENT16] * 3, axis=2).astype(">u2")
    assert np.abs(pixels(png(rows, 16, 2, size=(96, 80))) - GRADIENT16 / 257.0).max() <= 1


def test_12_bit_data_in_16_bit_colour_is_refused_and_not_shown_black() -> None:
    rows = np.stack([GRADIENT12] * 3, axis=2).astype(">u2")
    assert "16-bit colour" in refusal(png(rows, 16, 2, size=(96, 80)))


# Transparency, colour models, orientation


def test_transparency_becomes_black_and_is_logged_once(told: None, caplog: pytest.LogCaptureFixture) -> None:
    alpha = np.zeros_like(RAMP)
    alpha[:, 40:] = 255
    alpha[:, 60:] = 128
    data = saved(np.dstack([RAMP, RAMP, RAMP, alpha]), "PNG")
    with caplog.at_level(logging.WARNING, logger="covidnet.data.reading.images"):
        found = pixels(data)
        pixels(data)
    assert not found[:, :40].any()
    assert np.array_equal(found[:, 40:60], RAMP[:, 40:60])
    assert np.array_equal(found[:, 60:], np.round(RAMP[:, 60:] * (128 / 255)))
    assert [record.message.count("black") for record in caplog.records] == [1]


def test_transparent_grey_becomes_black() -> None:
    alpha = np.where(RAMP > 60, 255, 0).astype(np.uint8)
    assert np.array_equal(pixels(saved(np.dstack([RAMP, alpha]), "PNG")), np.where(RAMP > 60, RAMP, 0))


def test_opaque_alpha_changes_nothing_and_is_not_logged(told: None, caplog: pytest.LogCaptureFixture) -> None:
    assert np.array_equal(pixels(saved(np.dstack([RAMP] * 3 + [np.full_like(RAMP, 255)]), "PNG")), RAMP)
    assert not caplog.records


def test_image_that_is_transparent_everywhere_has_no_information() -> None:
    assert "no information" in refusal(saved(np.dstack([RAMP] * 3 + [np.zeros_like(RAMP)]), "PNG"))


def test_palette_becomes_the_luma_of_its_colours() -> None:
    palette = np.stack([np.arange(256), np.arange(256)[::-1], np.full(256, 9)], axis=1).astype(np.uint8)
    found = pixels(png(RAMP, 8, 3, chunk(b"PLTE", palette.tobytes())))
    assert np.abs(found - palette[RAMP] @ np.array([0.299, 0.587, 0.114])).max() <= 0.51


def test_palette_transparency_becomes_black(told: None, caplog: pytest.LogCaptureFixture) -> None:
    palette = chunk(b"PLTE", np.repeat(np.arange(256), 3).astype(np.uint8).tobytes())
    clear = chunk(b"tRNS", bytes([255] * 100 + [0] * 156))
    assert np.array_equal(pixels(png(RAMP, 8, 3, palette, clear)), np.where(RAMP < 100, RAMP, 0))
    assert [record.name for record in caplog.records] == ["covidnet.data.reading.images"]


@pytest.mark.parametrize("bits", [8, 16])
def test_a_single_transparent_grey_becomes_black(bits: int) -> None:
    values = (RAMP.astype(int) + (40_000 if bits == 16 else 0)).astype(f">u{bits // 8}")
    clear = chunk(b"tRNS", struct.pack(">H", values[0, 90]))
    found = pixels(png(values, bits, 0, clear))
    clear_pixels = values == values[0, 90]
    assert not found[clear_pixels].any()
    assert found[~clear_pixels & (values > values[0, 0])].all()


def test_cmyk_jpeg_is_converted_and_logged_once(told: None, caplog: pytest.LogCaptureFixture) -> None:
    data = saved(
        Image.merge("CMYK", [Image.new("L", (96, 80))] * 3 + [Image.fromarray(255 - RAMP)]), "JPEG", quality=98
    )
    assert b"Adobe" in data
    found = pixels(data)
    pixels(data)
    assert np.abs(found.astype(int) - RAMP).max() <= 4
    assert ["CMYK" in record.message for record in caplog.records] == [True]


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_orientation_is_applied(kind: str, value: int) -> None:
    data = saved(RAMP, kind, exif=orientation(value))
    plain = Image.fromarray(pixels(saved(RAMP, kind)))
    plain.getexif()[0x0112] = value
    expected = np.asarray(ImageOps.exif_transpose(plain))
    found, facts = decode_image(data, "image", max_megapixels=64, min_side=64)
    assert np.array_equal(found, expected)
    assert (facts.height, facts.width) == expected.shape


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"])
def test_broken_exif_is_ignored(exif: bytes) -> None:
    data = saved(RAMP, "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    assert np.array_equal(pixels(data[:2] + segment + data[2:]), pixels(data))


# Several images in one file


def test_multi_frame_tiff_is_refused_with_its_number() -> None:
    pages = [Image.fromarray(RAMP + i) for i in range(3)]
    assert "3 frames" in refusal(saved(pages[0], "TIFF", save_all=True, append_images=pages[1:]))


def test_animated_png_is_refused_with_its_number() -> None:
    pages = [Image.fromarray(RAMP + i) for i in range(4)]
    assert "4 frames" in refusal(saved(pages[0], "PNG", save_all=True, append_images=pages[1:]))


@pytest.mark.parametrize("first", ["image", "thumbnail"])
def test_thumbnail_page_of_a_tiff_is_not_a_second_image(first: str) -> None:
    image, small = Image.fromarray(RAMP), Image.fromarray(RAMP[::2, ::2].copy())
    small.encoderinfo = {"tiffinfo": {254: 1}}
    file = io.BytesIO()
    if first == "image":
        image.save(file, "TIFF", save_all=True, append_images=[small])
    else:
        small.save(file, "TIFF", save_all=True, append_images=[image], tiffinfo={254: 1})
        # Pillow writes the tags of the first page on all of them.
        data = bytearray(file.getvalue())
        second = data.rfind(struct.pack("<HHII", 254, 4, 1, 1))
        data[second + 8] = 0
        file = io.BytesIO(bytes(data))
    with Image.open(io.BytesIO(file.getvalue())) as check:
        check.seek(1)
        assert check.n_frames == 2
    assert np.array_equal(pixels(file.getvalue()), RAMP)


def test_mpo_is_read_as_its_image() -> None:
    data = saved(RAMP, "MPO", save_all=True, append_images=[Image.fromarray(255 - RAMP)])
    assert data.count(b"\xff\xd8\xff") == 2
    assert np.array_equal(pixels(data), pixels(saved(RAMP, "JPEG")))


# Damage


def test_empty_file_is_refused() -> None:
    assert "empty file" in refusal(b"")


@pytest.mark.parametrize("text", [b"<!DOCTYPE html><html>404</html>", b"\n  <HTML><body>sign in</body>"])
def test_html_named_jpg_is_refused(text: bytes) -> None:
    assert refusal(text, "image.jpg") == "not an image: HTML"


def test_text_named_jpg_is_refused() -> None:
    assert refusal("Röntgenbild\n".encode(), "image.jpg") == "not an image: text"


def test_git_lfs_pointer_is_refused_with_its_own_remedy() -> None:
    with pytest.raises(ImageRefusedError, match="git lfs pull"):
        pixels(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "image.png")


def test_bytes_of_unknown_format_are_refused() -> None:
    assert "not an image" in refusal(bytes(5000))


@pytest.mark.parametrize(("kind", "name"), [("GIF", "GIF"), ("JPEG2000", "JPEG 2000")])
def test_other_formats_are_refused_naming_the_supported(kind: str, name: str) -> None:
    cause = refusal(saved(RAMP, kind), "image.jpg")
    assert cause == f"{name} is not a supported format, supported: JPEG, PNG, TIFF, BMP, WebP, AVIF, DICOM"


@pytest.mark.parametrize("start", [b"PK\x03\x04", b"\x1f\x8b\x08\x00"])
def test_an_archive_is_to_be_unpacked(start: bytes) -> None:
    with pytest.raises(ImageRefusedError, match=r"is not a supported format.*; unpack it"):
        pixels(start + bytes(500), "image.dcm")


# WebP and AVIF


def test_lossless_webp_is_read_exactly_whatever_its_name() -> None:
    assert np.array_equal(pixels(saved(RAMP, "WEBP", lossless=True), "image.png"), RAMP)


@pytest.mark.parametrize("kind", ["WEBP", "AVIF"])
def test_lossy_formats_equal_pillow_and_are_like_the_image(kind: str) -> None:
    data = saved(RAMP, kind, quality=95)
    found = pixels(data, "image.png")
    assert np.array_equal(found, np.asarray(Image.open(io.BytesIO(data)).convert("L")))
    assert np.abs(found.astype(int) - RAMP).mean() < 3


@pytest.mark.parametrize("kind", ["WEBP", "AVIF"])
def test_orientation_and_transparency_are_as_in_other_formats(kind: str) -> None:
    exif = Image.Exif()
    exif[274] = 6
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100}
    turned = pixels(saved(RAMP, kind, exif=exif, **options), "image.png")
    assert turned.shape == RAMP.shape[::-1]
    assert np.abs(turned.astype(int) - np.rot90(RAMP, -1)).max() < 8
    alpha = np.where(np.arange(RAMP.shape[1]) < 20, 0, 255).astype(np.uint8) * np.ones_like(RAMP)
    clear = Image.merge("LA", [Image.fromarray(RAMP), Image.fromarray(alpha)]).convert("RGBA")
    assert not pixels(saved(clear, kind, **options), "image.png")[:, :16].any()


@pytest.mark.parametrize("kind", ["WEBP", "AVIF"])
def test_animations_are_refused_with_their_number_of_frames(kind: str) -> None:
    frames = [Image.fromarray(np.roll(RAMP, 9 * n, axis=0)) for n in range(3)]
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    assert refusal(data, "image.png") == "3 frames in one file"


@pytest.mark.parametrize("kind", ["WEBP", "AVIF"])
def test_their_size_is_refused_before_they_are_decoded(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        f"PIL.{'WebP' if kind == 'WEBP' else 'Avif'}ImagePlugin.{'WebP' if kind == 'WEBP' else 'Avif'}ImageFile.load",
        lambda self: pytest.fail("was decoded"),
    )
    data = saved(RAMP, kind)
    assert "too large" in refusal(data, "image.png", max_megapixels=0.001)
    assert "too small" in refusal(data, "image.png", min_side=1000)


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}])
def test_webp_that_claims_more_pixels_is_refused_before_its_decoder_is_made(options: dict[str, object]) -> None:
    data = bytearray(saved(RAMP, "WEBP", **options))
    at = {b"VP8 ": 26, b"VP8L": 21, b"VP8X": 24}[bytes(data[12:16])]
    data[at : at + 4] = b"\xff\x3f\xff\x3f" if at == 26 else b"\xff\xff\xff\x0f" if at == 21 else b"\xff\x3f\0\xff"
    if at == 24:
        data[27:30] = b"\xff\x3f\0"
    assert "268 megapixels" in refusal(bytes(data), "image.png")


@pytest.mark.parametrize("kind", ["WEBP", "AVIF"])
def test_they_are_refused_wherever_they_are_cut(kind: str) -> None:
    data = saved(RAMP, kind)
    for cut in [*range(13, len(data) - 1, max(1, len(data) // 40)), len(data) - 1]:
        refusal(data[:cut], "image.webp")
    assert "truncated" in refusal(data[: len(data) // 2], "image.webp")


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_cut_in_half_is_refused(progressive: bool) -> None:
    data = saved(RAMP, "JPEG", progressive=progressive)
    assert "truncated" in refusal(data[: len(data) // 2])


def test_jpeg_without_end_marker_is_refused() -> None:
    data = saved(RAMP, "JPEG")
    assert data.endswith(b"\xff\xd9")
    assert "truncated" in refusal(data[:-2])
    assert "truncated" in refusal(data[:-2] + bytes(5000))


def test_jpeg_without_end_marker_is_refused_though_its_thumbnail_has_one() -> None:
    data, thumbnail = saved(RAMP, "JPEG"), saved(RAMP[::4, ::4].copy(), "JPEG")
    body = b"Exif\0\0" + thumbnail
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]
    assert np.array_equal(pixels(data), pixels(saved(RAMP, "JPEG")))
    assert "truncated" in refusal(data[:-2])


def test_cut_jpeg_followed_by_another_image_is_refused() -> None:
    data = saved(RAMP, "JPEG")
    assert "truncated" in refusal(data[:-40] + data)


@pytest.mark.parametrize("tail", [bytes(4096), b"\r\n", b"camera notes \xff\xd8\xff"])
def test_bytes_after_the_end_of_a_jpeg_are_ignored(tail: bytes) -> None:
    data = saved(RAMP, "JPEG")
    assert np.array_equal(pixels(data + tail), pixels(data))


@pytest.mark.parametrize("kind", [b"IHDR", b"IDAT", b"tEXt"])
def test_png_with_a_bad_crc_is_refused_as_corrupt(kind: bytes) -> None:
    data = bytearray(png(RAMP, 8, 0, chunk(b"tEXt", b"a\0b")))
    data[data.index(kind) + 4 + int.from_bytes(data[data.index(kind) - 4 : data.index(kind)], "big")] ^= 1
    cause = refusal(bytes(data))
    assert "corrupt" in cause
    assert kind.decode() in cause


def test_png_whose_pixels_were_damaged_before_the_checksum_is_refused() -> None:
    good = png(RAMP, 8, 0)
    packed = bytearray(zlib.compress(np.hstack([np.zeros((80, 1), np.uint8), RAMP]).tobytes(), 9))
    packed[len(packed) // 2] ^= 0xFF
    ends = good.index(b"IDAT") - 4
    assert refusal(good[:ends] + chunk(b"IDAT", bytes(packed)) + chunk(b"IEND", b""))


@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
def test_png_cut_short_is_refused_as_truncated(share: float) -> None:
    data = png(RAMP, 8, 0)
    assert "truncated" in refusal(data[: int(len(data) * share)])


@pytest.mark.parametrize("lines", [1, 40, 79])
def test_png_with_too_few_lines_is_refused_as_truncated(lines: int) -> None:
    data = png(RAMP[:lines], 8, 0, size=(96, 80))
    assert not np.asarray(Image.open(io.BytesIO(data)))[lines:].any()  # Pillow's result
    assert "truncated" in refusal(data)


def test_png_whose_last_lines_are_black_is_read() -> None:
    black = np.where(np.arange(80)[:, None] < 40, RAMP, 0).astype(np.uint8)
    assert np.array_equal(pixels(saved(black, "PNG")), black)


@pytest.mark.parametrize("missing", [0, 1, 30])
def test_interlaced_png_is_counted_by_its_passes(missing: int) -> None:
    body = b""
    for left, top, across, down in ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2)):
        body += b"".join(b"\0" + row.tobytes() for row in RAMP[top::down, left::across])
    body += b"".join(b"\0" + row.tobytes() for row in RAMP[1::2])
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 96, 80, 8, 0, 0, 0, 1))
    lines = chunk(b"IDAT", zlib.compress(body[: len(body) - missing])) + chunk(b"IEND", b"")
    data = b"\x89PNG\r\n\x1a\n" + header + lines
    if missing:
        assert "truncated" in refusal(data)
    else:
        assert np.array_equal(pixels(data), RAMP)


def test_png_whose_compressed_stream_stops_is_refused_as_truncated() -> None:
    lines = zlib.compress(np.hstack([np.zeros((80, 1), np.uint8), RAMP]).tobytes(), 9)
    good = png(RAMP, 8, 0)
    start = good[: good.index(b"IDAT") - 4]
    assert "truncated" in refusal(start + chunk(b"IDAT", lines[: len(lines) // 2]) + chunk(b"IEND", b""))


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "jpeg"])
def test_tiff_cut_short_is_refused_as_truncated(compression: str | None) -> None:
    data = saved(RAMP, "TIFF", compression=compression)
    for share in (0.5, 0.95):
        assert "truncated" in refusal(data[: int(len(data) * share)])


def test_tiff_whose_pixels_end_early_is_refused_as_truncated() -> None:
    data = tiff(RAMP.tobytes(), 96, 80, {258: (3, 8), 262: (3, 1), 273: (4, 4000)})
    assert "truncated" in refusal(data)


def test_bmp_cut_short_is_refused_as_truncated() -> None:
    data = saved(COLOUR, "BMP")
    assert "truncated" in refusal(data[:-500])


def test_changed_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(saved(RAMP, "PNG"))
    then = hashlib.sha256(path.read_bytes()).hexdigest()
    assert np.array_equal(read_image(path, sha256=then.upper()), RAMP)
    path.write_bytes(saved(RAMP + 1, "PNG"))
    with pytest.raises(ImageRefusedError, match="does not match the manifest's sha256"):
        read_image(path, sha256=then)


# Size and content


def test_144_megapixels_in_18_kilobytes_are_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    packer = zlib.compressobj(9)
    lines = b"".join(packer.compress(bytes(1501)) for _ in range(12_000)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 12_000, 12_000, 2, 0, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", lines) + chunk(b"IEND", b"")
    assert len(data) < 60_000
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: pytest.fail("decoded"))
    assert "144 megapixels" in refusal(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP"])
def test_400_megapixels_are_refused_before_decoding(kind: str) -> None:
    data = bytearray(saved(RAMP, kind))
    if kind == "PNG":
        data = bytearray(png(RAMP, 8, 0, size=(20_000, 20_000)))
    elif kind == "JPEG":
        start = data.index(b"\xff\xc0") + 5
        data[start : start + 4] = struct.pack(">HH", 20_000, 20_000)
    elif kind == "TIFF":
        data = bytearray(tiff(RAMP.tobytes(), 20_000, 20_000, {258: (3, 8), 262: (3, 1)}))
    else:
        data[18:26] = struct.pack("<II", 20_000, 20_000)
    assert "400 megapixels" in refusal(bytes(data))


def test_limit_on_pixels_is_a_setting_and_not_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "too large" in refusal(saved(RAMP, "PNG"), max_megapixels=0.007)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for kind in ("PNG", "JPEG", "TIFF", "BMP"):
        assert pixels(saved(RAMP, kind), max_megapixels=0.008).shape == RAMP.shape


@pytest.mark.parametrize("size", [(1, 1), (63, 200), (200, 63)])
def test_small_images_are_refused(size: tuple[int, int]) -> None:
    assert "too small" in refusal(saved(Image.new("L", size), "PNG"))


def test_smallest_allowed_side_is_allowed() -> None:
    assert pixels(saved(RAMP[:64, :64].copy(), "PNG")).shape == (64, 64)
    assert pixels(saved(RAMP[:8, :8].copy(), "PNG"), min_side=8).shape == (8, 8)


@pytest.mark.parametrize("value", [0, 77, 255])
def test_constant_image_has_no_information(value: int) -> None:
    assert "no information" in refusal(saved(np.full((80, 96), value, np.uint8), "PNG"))


def test_colour_photograph_is_read_here() -> None:
    assert pixels(saved(COLOUR, "JPEG")).shape == (80, 96)


# Files


def test_facts_are_those_of_the_stored_file(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    path.write_bytes(data := saved(COLOUR, "JPEG", exif=orientation(6)))
    assert inspect_image(path) == ImageFacts(hashlib.sha256(data).hexdigest(), 80, 96, "RGB", len(data))


def test_missing_file_folder_and_pipe_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for name, cause in (("none.png", "no such file"), (".", "a folder"), ("pipe.png", "not a file"), ("a\0b", "read")):
        with pytest.raises(ImageRefusedError, match=cause):
            read_image(tmp_path / name)


def test_permission_denied_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(saved(RAMP, "PNG"))

    def denied(self: Path, mode: str) -> bytes:
        raise PermissionError(13, "Permission denied")

    # Tests may run as root, which may read everything.
    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(ImageRefusedError, match="permission denied"):
        read_image(path)


def test_file_larger_than_its_pixels_can_be_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    with path.open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(ImageRefusedError, match="too large: 2147 MB"):
        read_image(path)


def test_decoder_out_of_memory_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object) -> None:
        raise MemoryError

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", full)
    with pytest.raises(ImageRefusedError, match="does not fit in memory"):
        decode_image(saved(RAMP, "PNG"), "image.png")


def test_suffix_or_first_bytes_decide_what_is_an_image_file(tmp_path: Path) -> None:
    for name in ("1.2.840.113619", "IM0001", "DICOMDIR"):
        (tmp_path / name).write_bytes(bytes(128) + b"DICM")
    for kind in ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "AVIF", "GIF"):
        (tmp_path / kind).write_bytes(saved(RAMP, kind))
    (tmp_path / "LICENSE").write_text("text")
    (tmp_path / "BMW").write_text("BM is how a bitmap begins, and words")
    (tmp_path / "folder.png").mkdir()
    yes = ["a.jpg", "a.JPEG", "a.Png", "a.tif", "a.tiff", "a.bmp", "a.dcm", "a.dicom", "a.webp", "a.AVIF", "a.jfif"]
    yes += ["1.2.840.113619", "IM0001", "JPEG", "PNG", "TIFF", "BMP", "WEBP", "AVIF"]
    no = ["LICENSE", "BMW", "GIF", "DICOMDIR", "a.gif", "a.csv", "._a.jpg", ".png", "folder.png", "absent"]
    assert [name for name in yes + no if is_image_file(tmp_path / name)] == yes


# The whole


def test_threads_read_the_same_as_one(tmp_path: Path) -> None:
    files = []
    for number in range(24):
        kind = ("PNG", "JPEG", "TIFF", "BMP")[number % 4]
        files.append(tmp_path / f"{number}.{kind.lower()}")
        files[-1].write_bytes(saved(RAMP + number, kind))
    alone = [read_image(path) for path in files]
    with ThreadPoolExecutor(8) as pool:
        for found, expected in zip(pool.map(read_image, files * 4), alone * 4, strict=True):
            assert np.array_equal(found, expected)


def mutated(data: bytes, rng: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(rng.choice([1, 1, 3, 10])):
        place = rng.randrange(min(len(found), rng.choice([64, 400, len(found)])))
        found[place] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
    if rng.random() < 0.2:
        del found[rng.randrange(1, len(found)) :]
    if found.startswith(b"\x89PNG") and rng.random() < 0.7:
        found = bytearray(with_checksums(bytes(found)))
    return bytes(found)


def with_checksums(data: bytes) -> bytes:
    """Correct the checksums, so that damage reaches the decoder."""
    parts, at = [data[:8]], 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        parts += [data[at:end], zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")]
        at = end + 4
    return b"".join(parts)


def test_damaged_files_raise_only_refusals() -> None:
    palette = chunk(b"PLTE", bytes(range(256)) * 3)
    seeds = [
        saved(RAMP, "JPEG", exif=orientation(6)),
        saved(COLOUR, "JPEG", progressive=True),
        png(RAMP, 8, 3, palette, chunk(b"tRNS", bytes(90))),
        png16(GRADIENT12, chunk(b"sBIT", b"\x0c")),
        saved(RAMP, "TIFF"),
        saved(COLOUR, "TIFF", compression="tiff_lzw"),
        saved(COLOUR, "TIFF", compression="jpeg"),
        tiff(GRADIENT16.tobytes(), 96, 80, {258: (3, 16), 262: (3, 0)}),
        saved(RAMP, "BMP"),
        saved(COLOUR, "BMP"),
    ]
    rng, refused = random.Random(20), 0
    for number in range(200):
        try:
            found = pixels(mutated(seeds[number % len(seeds)], rng), max_megapixels=4)
        except ImageRefusedError:
            refused += 1
        else:
            assert found.dtype == np.uint8
            assert found.ndim == 2
    assert 40 < refused < 200


def test_reading_leaves_the_warning_filters_alone() -> None:
    before = list(warnings.filters)
    pixels(saved(COLOUR, "TIFF"))
    assert warnings.filters == before


@pytest.mark.skipif(not KIT.is_dir(), reason="the kit of real images is not on this machine")
def test_every_real_image_is_read_as_its_table_says() -> None:
    with (KIT / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1157
    for row in rows:
        image = read_image(KIT / row["filename"], sha256=row["sha256"])
        assert image.shape == (int(row["height"]), int(row["width"]))
