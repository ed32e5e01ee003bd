"""Hostile files: small, but costly to read in time or memory. Each function makes one of the given size."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

RAMP = np.add.outer(np.arange(80), np.arange(96)).astype(np.uint8)
SIDE = 96, 80


def saved(image: np.ndarray, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


# TIFF


def _tiff(entries: dict[int, tuple[int, int, int]], at: int, following: int = 0) -> bytes:
    """A directory; entries are (type, count, value or offset)."""
    body = b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in sorted(entries.items()))
    return struct.pack("<H", len(entries)) + body + struct.pack("<I", following)


def tiff_counts(size: int) -> bytes:
    """Every tag with several values claims the whole file as its values."""
    plain = {256: (4, 1, 96), 257: (4, 1, 80), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 277: (3, 1, 1)}
    greedy = dict.fromkeys((254, 255, 273, 274, 279, 281, 320, 324, 325, 338, 339, 519, 530), (3, size // 2, 8))
    return b"II*\0" + struct.pack("<I", 8 + size) + bytes(size) + _tiff({**plain, **greedy}, 8 + size)


def tiff_chain(directories: int) -> bytes:
    """A chain of empty directories of six bytes each."""
    chain = b"".join(struct.pack("<HI", 0, 8 + 6 * (n + 1)) for n in range(directories - 1))
    return b"II*\0" + struct.pack("<I", 8) + chain + struct.pack("<HI", 0, 0)


def tiff_overlap(directories: int, tags: int = 60_000) -> bytes:
    """A chain of directories that begin four bytes apart and share many tags."""
    counts = struct.pack("<HH", tags, 254) * directories
    first_pointer = 8 + 2 + 12 * tags
    pointers = b"".join(struct.pack("<I", 8 + 4 * n) for n in range(1, directories)) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8) + counts.ljust(first_pointer - 8, b"\xfe") + pointers


def tiff_tile(side: int) -> bytes:
    """A small image whose one tile claims to be huge."""
    entries = {256: (4, 1, 96), 257: (4, 1, 80), 258: (3, 1, 8), 259: (3, 1, 5), 262: (3, 1, 1), 277: (3, 1, 1)}
    tile = {322: (4, 1, side), 323: (4, 1, side), 324: (4, 1, 8), 325: (4, 1, 100)}
    return b"II*\0" + struct.pack("<I", 108) + bytes(100) + _tiff({**entries, **tile}, 108)


# JPEG


def jpeg_scans(scans: int, side: int = 1024) -> bytes:
    """A progressive JPEG whose last scan is repeated many times."""
    data = saved(np.tile(np.arange(side, dtype=np.uint8), (side, 1)) // 8, "JPEG", progressive=True, quality=30)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * (scans - data.count(b"\xff\xda") + 1) + data[-2:]


def jpeg_segments(number: int) -> bytes:
    """Empty comments before the image."""
    data = saved(RAMP, "JPEG")
    return data[:2] + b"\xff\xfe\0\x02" * number + data[2:]


# PNG


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png_with(extra: bytes) -> bytes:
    data = saved(RAMP, "PNG")
    return data[:33] + extra + data[33:]


def png_large(side: int) -> bytes:
    """A valid colour image with few bytes and many pixels."""
    line = bytes(1) + (bytes(range(250)) * (3 * side // 250 + 1))[: 3 * side]
    packer = zlib.compressobj(1)
    lines = b"".join(packer.compress(line) for _ in range(side)) + packer.flush()
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + _chunk(b"IDAT", lines) + _chunk(b"IEND", b"")


def png_chunks(number: int) -> bytes:
    """Empty private chunks."""
    return _png_with(_chunk(b"puNk", b"") * number)


def png_pixel_chunks(number: int) -> bytes:
    """Pixels in a great many empty parts."""
    data = saved(RAMP, "PNG")
    first = data.index(b"IDAT") - 4
    return data[:first] + _chunk(b"IDAT", b"") * number + data[first:]


def png_profile(inflated: int) -> bytes:
    """Text and a colour profile that inflate to a great size; no pixel needs them."""
    bomb = zlib.compress(bytes(inflated), 9)
    return _png_with(_chunk(b"iCCP", b"x\0\0" + bomb) + _chunk(b"zTXt", b"x\0\0" + bomb))


# BMP


def bmp_runs(size: int, side: int = 4096) -> bytes:
    """A run-length coded bitmap that consists only of ends of lines."""
    palette = b"".join(bytes([n, n, n, 0]) for n in range(256))
    start = 14 + 40 + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, size, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", start + size, 0, 0, start) + header + palette + bytes(size)


# WebP, AVIF


def webp_chunks(number: int) -> bytes:
    """Empty unknown chunks."""
    data = saved(RAMP, "WEBP", lossless=True)
    body = b"VP8X" + struct.pack("<IIHBHB", 10, 0, 95, 0, 79, 0) + b"junk\0\0\0\0" * number + data[12:]
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def webp_size(side: int = 16384) -> bytes:
    """A small canvas, and a frame of another size."""
    frame = bytearray(saved(RAMP, "WEBP", lossless=True)[12:])
    frame[9:13] = struct.pack("<I", (side - 1) | (side - 1) << 14)
    body = b"VP8X" + struct.pack("<IIHBHB", 10, 0, 95, 0, 79, 0) + bytes(frame)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def avif_size(side: int) -> bytes:
    """A coded frame of side x side whose container claims 96 x 80."""
    data = saved(np.zeros((side, side), np.uint8), "AVIF", speed=10)
    claimed, real = struct.pack(">II", *SIDE), struct.pack(">II", side, side)
    assert real in data
    return data.replace(real, claimed)


def avif_brands(size: int) -> bytes:
    """A first box with a great many brands."""
    return struct.pack(">I", size) + b"ftyp" + b"mif1" * (size // 4 - 2)


# DICOM


def image(values: np.ndarray = RAMP, syntax: str = ExplicitVRLittleEndian, **tags: object) -> Dataset:
    """A computed-radiography image with the given values."""
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = syntax
    header.SOPClassUID, header.SOPInstanceUID, header.Modality = "1.2.840.10008.5.1.4.1.1.1", "1.2.3.4", "CR"
    header.Rows, header.Columns = values.shape
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated = header.BitsStored = 8 * values.dtype.itemsize
    header.HighBit, header.PixelRepresentation = header.BitsStored - 1, 0
    for name, value in tags.items():
        setattr(header, name, value)
    header.PixelData = values.tobytes()
    header["PixelData"].VR = "OW" if header.BitsAllocated > 8 else "OB"
    return header


def written(header: Dataset) -> bytes:
    file = io.BytesIO()
    header.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _encapsulated(stream: bytes, syntax: str, values: np.ndarray = RAMP, **tags: object) -> bytes:
    header = image(values, syntax, **tags)
    header.PixelData = encapsulate([stream])
    header["PixelData"].VR = "OB"
    header["PixelData"].is_undefined_length = True
    return written(header)


# Header elements of a private group before the pixels, explicit VR.
_PRIVATE = b"\x09\0\x10\0LO\x04\0test"
_PIXELS = b"\xe0\x7f\x10\0"


def _with_elements(extra: bytes, header: Dataset | None = None) -> bytes:
    data = written(header or image())
    at = data.rindex(_PIXELS)
    return data[:at] + extra + data[at:]


def dicom_elements(number: int) -> bytes:
    """A great many empty elements."""
    return _with_elements(b"".join(struct.pack("<HH2sH", 0x0029, n & 0xFFFF, b"LO", 0) for n in range(number)))


def dicom_items(number: int) -> bytes:
    """A sequence of a great many empty items."""
    item = b"\xfe\xff\0\xe0\xff\xff\xff\xff" + b"\xfe\xff\x0d\xe0\0\0\0\0"
    return _with_elements(b"\x29\0\x10\0SQ\0\0\xff\xff\xff\xff" + item * number + b"\xfe\xff\xdd\xe0\0\0\0\0")


def dicom_lookup_items(number: int) -> bytes:
    """A VOI LUT sequence of known length with a great many empty items."""
    data = b"\xfe\xff\0\xe0\0\0\0\0" * number
    return _with_elements(b"\x28\0\x10\x30SQ\0\0" + struct.pack("<I", len(data)) + data)


def dicom_nested(depth: int) -> bytes:
    """Deeply nested sequences."""
    opening = b"\x29\0\x10\0SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\xff\xff\xff\xff"
    return _with_elements(opening * depth + (b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0") * depth)


def dicom_values(size: int, tag: bytes = b"\x18\0\x15\0") -> bytes:
    """One text element (the body part) with a great many values."""
    header = image(syntax=ImplicitVRLittleEndian)
    data = written(header)
    at = data.index(b"\x28\0\x02\0")
    return data[:at] + tag + struct.pack("<I", size) + b"\\" * size + data[at:]


def dicom_character_sets(size: int) -> bytes:
    """A great many character sets, in an item of a sequence."""
    inner = b"\x08\0\x05\0" + struct.pack("<I", size) + b"\\" * size
    data = written(image(syntax=ImplicitVRLittleEndian))
    at = data.index(b"\x28\0\x02\0")
    item = b"\xfe\xff\0\xe0\xff\xff\xff\xff" + inner + b"\xfe\xff\x0d\xe0\0\0\0\0"
    return data[:at] + b"\x10\0\x02\x10\xff\xff\xff\xff" + item + b"\xfe\xff\xdd\xe0\0\0\0\0" + data[at:]


def dicom_fragments(number: int) -> bytes:
    """A compressed image with a great many empty fragments."""
    data = _encapsulated(saved(RAMP, "JPEG"), JPEGBaseline8Bit)
    at = data.rindex(_PIXELS) + 12
    at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")  # after the offset table
    return data[:at] + b"\xfe\xff\0\xe0\0\0\0\0" * number + data[at:]


def dicom_jpeg_scans(scans: int, side: int = 1024) -> bytes:
    """A progressive JPEG with a great many scans in DICOM."""
    return _encapsulated(jpeg_scans(scans, side), JPEGBaseline8Bit, np.zeros((side, side), np.uint8))


def dicom_jpeg_second_frame(side: int) -> bytes:
    """A JPEG whose first frame header has the DICOM header's size, and whose second has another."""
    data = saved(RAMP, "JPEG")
    at = data.index(b"\xff\xc0")
    frame = data[at : at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")]
    second = frame[:5] + struct.pack(">HH", side, side) + frame[9:]
    return _encapsulated(data[: at + len(frame)] + second + data[at + len(frame) :], JPEGBaseline8Bit)


# JPEG 2000 in DICOM


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", 8 + len(body)) + kind + body


def _codestream(**options: object) -> bytearray:
    data = saved(RAMP, "JPEG2000", no_jp2=True, **options)
    assert data.startswith(b"\xff\x4f\xff\x51")
    return bytearray(data)


def j2k_late(side: int) -> bytes:
    """JPEG 2000 in boxes: the first apparent codestream has the header's size, the real one after it another."""
    stream = _codestream()
    decoy = bytes(stream[:50])
    stream[8:16] = stream[24:32] = struct.pack(">II", side, side)
    image = _box(b"ihdr", struct.pack(">IIHBBBB", side, side, 1, 7, 7, 0, 0)) + _box(b"colr", b"\1\0\0\0\0\0\x11")
    boxes = _box(b"jP  ", b"\r\n\x87\n") + _box(b"ftyp", b"jp2 \0\0\0\0jp2 ") + _box(b"free", decoy)
    return _encapsulated(boxes + _box(b"jp2h", image) + _box(b"jp2c", bytes(stream)), JPEG2000Lossless)


def j2k_components(number: int) -> bytes:
    """A codestream with a great many components."""
    stream = _codestream()
    size = int.from_bytes(stream[4:6], "big")
    stream[4:6] = struct.pack(">H", size + 3 * (number - 1))
    stream[40:42] = struct.pack(">H", number)
    return _encapsulated(bytes(stream[:42]) + b"\x07\x01\x01" * number + bytes(stream[45:]), JPEG2000Lossless)


def j2k_tiles(side: int, tile: int = 1) -> bytes:
    """A codestream with a great many tiles."""
    stream = _codestream()
    stream[8:16] = struct.pack(">II", side, side)
    stream[24:32] = struct.pack(">II", tile, tile)
    return _encapsulated(bytes(stream), JPEG2000Lossless, np.zeros((side, side), np.uint8))


def j2k_blocks(side: int) -> bytes:
    """A codestream with the smallest possible code blocks."""
    stream = _codestream()
    stream[8:16] = stream[24:32] = struct.pack(">II", side, side)
    at = stream.index(b"\xff\x52")
    stream[at + 10 : at + 12] = b"\0\0"  # 4 x 4
    return _encapsulated(bytes(stream), JPEG2000Lossless, np.zeros((side, side), np.uint8))


def j2k_precincts(side: int) -> bytes:
    """A codestream with the smallest possible precincts and a great many layers."""
    stream = _codestream(num_resolutions=1)
    stream[8:16] = stream[24:32] = struct.pack(">II", side, side)
    at = stream.index(b"\xff\x52")
    length = int.from_bytes(stream[at + 2 : at + 4], "big")
    stream[at + 4] |= 1  # precinct sizes follow
    stream[at + 2 : at + 4] = struct.pack(">H", length + 1)
    stream[at + 6 : at + 8] = struct.pack(">H", 60_000)
    stream[at + 2 + length : at + 2 + length] = b"\x22"  # 4 x 4
    return _encapsulated(bytes(stream), JPEG2000Lossless, np.zeros((side, side), np.uint8))


# Deflated DICOM


def _deflated(dataset: bytes, meta: bytes | None = None) -> bytes:
    """A file with these bytes, deflated, as its data set."""
    data = written(image(syntax=DeflatedExplicitVRLittleEndian))
    start = 144 + int.from_bytes(data[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return (data[:start] if meta is None else meta) + packer.compress(dataset) + packer.flush()


def _plain_dataset(extra: bytes = b"") -> bytes:
    data = _with_elements(extra)
    return data[144 + int.from_bytes(data[140:144], "little") :]


def deflated_zeros(size: int) -> bytes:
    """Zeros instead of elements."""
    return _deflated(bytes(size))


def deflated_items(number: int) -> bytes:
    """A great many empty items, deflated to almost nothing."""
    item = b"\xfe\xff\0\xe0\xff\xff\xff\xff" + b"\xfe\xff\x0d\xe0\0\0\0\0"
    sequence = b"\x29\0\x10\0SQ\0\0\xff\xff\xff\xff" + item * number + b"\xfe\xff\xdd\xe0\0\0\0\0"
    return _deflated(_plain_dataset(sequence))


def deflated_late(number: int) -> bytes:
    """The same after a transfer syntax that follows 8 kB of other file meta information."""
    data = written(image(syntax=DeflatedExplicitVRLittleEndian))
    start = 144 + int.from_bytes(data[140:144], "little")
    at = data.index(b"\x02\0\x10\0UI")
    filler = b"\x02\0\x03\0OB\0\0" + struct.pack("<I", 8192) + bytes(8192)
    meta = data[:140] + struct.pack("<I", start - 144 + len(filler)) + data[144:at] + filler + data[at:start]
    item = b"\xfe\xff\0\xe0\xff\xff\xff\xff" + b"\xfe\xff\x0d\xe0\0\0\0\0"
    sequence = b"\x29\0\x10\0SQ\0\0\xff\xff\xff\xff" + item * number + b"\xfe\xff\xdd\xe0\0\0\0\0"
    return _deflated(_plain_dataset(sequence), meta)


def deflated_wrong_length(size: int) -> bytes:
    """A length of the file meta information that points behind the deflated zeros."""
    data = bytearray(_deflated(_plain_dataset() + bytes(size)))
    data[140:144] = struct.pack("<I", len(data))
    return bytes(data)


def deflated_pixels(size: int) -> bytes:
    """Far more pixels than the header's rows and columns need."""
    data = _plain_dataset()
    at = data.rindex(_PIXELS)
    return _deflated(data[:at] + _PIXELS + b"OB\0\0" + struct.pack("<I", size) + bytes(range(250)) * (size // 250))


# RLE in DICOM


def rle_window(side: int) -> bytes:
    """A run-length coded 16-bit image with a window: a small file with many pixels, which is read."""
    run = bytes([257 - 128, 0]) * (side * side // 128)
    high = bytes([257 - 128, 3]) * (side * side // 256) + run[: side * side // 128]
    low = bytes([257 - 128, 9]) * (side * side // 128)
    header = struct.pack("<16I", 2, 64, 64 + len(high), *[0] * 13)
    values = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint16), (side, side), (0, 0))
    tags = {"WindowCenter": 500, "WindowWidth": 900}
    small = image(np.zeros((64, 64), np.uint16), RLELossless, **tags)
    small.Rows, small.Columns = values.shape
    small.PixelData = encapsulate([header + high + low])
    small["PixelData"].is_undefined_length = True
    return written(small)


def rle_overflow(size: int) -> bytes:
    """Runs with far more pixels than the header claims."""
    segment = bytes([257 - 128, 7]) * (size // 2)
    return _encapsulated(struct.pack("<16I", 1, 64, *[0] * 14) + segment, RLELossless)
