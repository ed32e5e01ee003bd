"""Checks compressed DICOM frames against the header before a decoder takes memory for the size that they claim."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from covidnet.data.reading.containers import TooManyPartsError, check_parts, jpeg_segments

_ITEM, _END = 0xE000FFFE, 0xE0DDFFFE
# Limits for one JPEG 2000 image. 64 megapixels in tiles of 128 x 128 or code blocks of 16 x 16 stay below them.
_TILES, _SEGMENTS, _BLOCKS, _PRECINCTS, _PACKETS = 2**14, 2**16, 2**20, 2**18, 2**24


def only_frame(value: bytes, *, to_the_end: bool) -> bytes:
    """The one compressed frame of a pixel element.

    Args:
        value: the element's value and, if its length is unknown, what follows.
        to_the_end: whether the fragments fill the value instead of ending with a delimiter.

    Raises:
        EOFError: no delimiter, or a fragment that ends outside the value.
        TooManyPartsError: too many tiny fragments.
    """
    from pydicom.encaps import get_frame

    at = number = 0
    while not (to_the_end and at >= len(value)):
        if at + 8 > len(value):
            raise EOFError("truncated within the compressed pixels")
        tag, length = struct.unpack_from("<II", value, at)
        if tag == _END:
            break
        if tag != _ITEM:
            raise ValueError("the compressed pixels are not a sequence of fragments")
        number += 1
        check_parts(number, len(value), "fragments")
        at += 8 + length
    return get_frame(value[:at], 0, number_of_frames=1)


def frame_size(frame: bytes, expected: tuple[int, int]) -> tuple[int, int]:
    """Width and height of a JPEG, JPEG-LS or JPEG 2000 image; the whole image is searched for a second size.

    Args:
        frame: the compressed image.
        expected: the header's width and height; an image of another size is not checked further.

    Raises:
        TooManyPartsError: more scans, components, tiles or packets than an image needs.
        EOFError: the image ends early.
        ValueError: not such an image, or several sizes in one.
    """
    return _jpeg_size(frame) if frame.startswith(b"\xff\xd8") else _jpeg_2000_size(frame, expected)


def _jpeg_size(frame: bytes) -> tuple[int, int]:
    sizes = []
    for marker, start, _ in jpeg_segments(frame):
        # Frame headers: C0 to CF without tables and arithmetic conditioning, and F7 for JPEG-LS.
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            sizes.append(struct.unpack_from(">HHB", frame, start + 5))
        # A number of lines after the frame header, hierarchical images, an image within an image, sizes above 16 bits.
        late = marker in (0xDC, 0xDE, 0xDF) or (marker == 0xEB and frame[start + 4 : start + 6] == b"JP")
        if late or (marker == 0xF8 and frame[start + 4 : start + 5] == b"\4"):
            raise ValueError(f"JPEG segment {marker:X} may change the size")
    if len(sizes) != 1:
        raise ValueError(f"{len(sizes)} frame headers in one JPEG")
    height, width, components = sizes[0]
    if components > 4:
        raise TooManyPartsError(f"{components} components in one JPEG")
    return width, height


def _jpeg_2000_size(frame: bytes, expected: tuple[int, int]) -> tuple[int, int]:
    """The size in the SIZ segment (ISO 15444-1, A.5.1), after a check of the number of parts."""
    start = _codestream(frame)
    right, bottom, left, top, across, down, tile_left, tile_top = struct.unpack_from(">8I", frame, start + 8)
    width, height = right - left, bottom - top
    if (width, height) != expected:
        return width, height
    components = int.from_bytes(frame[start + 40 : start + 42], "big")
    if components > 4:
        raise TooManyPartsError(f"{components:,} components in one JPEG 2000 image")
    if not across or not down:
        raise ValueError("JPEG 2000 tiles of size 0")
    tiles = -(-(right - tile_left) // across) * -(-(bottom - tile_top) // down)
    if tiles > _TILES:
        raise TooManyPartsError(f"{tiles:,} tiles in one JPEG 2000 image, the most is {_TILES:,}")
    for marker, at in _markers(frame, start + 2):
        if marker == 0x51 and at != start + 2:
            raise ValueError("a second size in one JPEG 2000 image")
        if marker in (0x52, 0x53):  # COD, COC: for the image, a tile or a component
            layers = int.from_bytes(frame[at + 6 : at + 8], "big") if marker == 0x52 else 1
            style = frame[at + 4 if marker == 0x52 else at + 5]
            body = at + (9 if marker == 0x52 else 6)
            _check_coding(frame[body : body + 38], style & 1 == 1, width, height, components, tiles, layers)
    return width, height


def _codestream(frame: bytes) -> int:
    """Where the codestream starts: at the first byte, or in the first codestream box."""
    at = number = 0
    if frame.startswith(b"\0\0\0\x0cjP  "):
        while True:
            number += 1
            check_parts(number, len(frame), "boxes")
            length, kind = struct.unpack_from(">I4s", frame, at)
            head = 8
            if length == 1:
                length, head = int.from_bytes(frame[at + 8 : at + 16], "big"), 16
            length = length or len(frame) - at
            if kind == b"jp2c":
                at += head
                break
            if length < head or (kind == b"jp2h" and b"pclr" in frame[at : at + length]):
                raise ValueError("JPEG 2000 with a palette, or a damaged box")
            at += length
    if frame[at : at + 4] != b"\xff\x4f\xff\x51":
        raise ValueError("the compressed pixels are neither JPEG nor JPEG 2000")
    return at


def _markers(frame: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Marker segments of the main header and all tile parts: (second byte, offset of the marker)."""
    number, part = 0, 0
    while at + 4 <= len(frame) and frame[at] == 0xFF and frame[at + 1] != 0xD9:
        number += 1
        if number > _SEGMENTS:
            raise TooManyPartsError(f"more than {_SEGMENTS:,} segments in one JPEG 2000 image")
        marker = frame[at + 1]
        if marker == 0x93:  # coded data, up to the next tile part
            length = int.from_bytes(frame[part + 6 : part + 10], "big")
            if not part or not length:
                return
            if part + length <= at:
                raise ValueError("JPEG 2000 tile parts that overlap")
            at = part + length
            continue
        if marker == 0x90:
            part = at
        yield marker, at
        at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")


def _check_coding(
    body: bytes, own_precincts: bool, width: int, height: int, components: int, tiles: int, layers: int
) -> None:
    """Refuse more code blocks or precincts than any image needs, since each takes memory (ISO 15444-1, A.6.1, B.6)."""
    levels, across, down = body[0], body[1] + 2, body[2] + 2
    if levels > 32 or across > 10 or down > 10:
        raise ValueError("JPEG 2000 coding parameters outside their range")
    precincts, blocks = tiles * (levels + 1), 0
    for level in range(levels + 1):
        sizes = body[5 + level] if own_precincts else 0xFF
        columns, rows = (-(-side >> (levels - level)) for side in (width, height))
        precincts += -(-columns >> (sizes & 15)) * -(-rows >> (sizes >> 4))
        blocks += (columns >> min(across, sizes & 15)) * (rows >> min(down, sizes >> 4))
    for number, most, what in (
        (blocks * components, _BLOCKS, "code blocks"),
        (precincts * components, _PRECINCTS, "precincts"),
        (precincts * components * layers, _PACKETS, "packets"),
    ):
        if number > most:
            raise TooManyPartsError(f"{number:,} {what} in one JPEG 2000 image, the most is {most:,}")


def run_lengths(frame: bytes, pixels: int, samples: int, size: int) -> bytes:
    """Decode RLE Lossless, and stop once all pixels are decoded (DICOM PS3.5 annex G).

    Args:
        frame: the compressed image.
        pixels: its number of pixels.
        samples: samples per pixel.
        size: bytes per sample.

    Returns:
        Little-endian samples, one plane after the other (planar configuration 1).

    Raises:
        ValueError: the wrong number of segments, or too few pixels in one.
    """
    number, *starts = struct.unpack_from("<16I", frame)
    if number != samples * size:
        raise ValueError(f"{number} RLE segments, expected {samples * size}")
    planes = np.empty((samples, pixels, size), np.uint8)
    ends = [*starts[1:number], len(frame)]
    for index in range(number):
        plane = _unpacked(frame[starts[index] : ends[index]], pixels)
        # The most significant bytes come first.
        planes[index // size, :, size - 1 - index % size] = np.frombuffer(plane, np.uint8, pixels)
    return planes.tobytes()


def _unpacked(segment: bytes, size: int) -> bytearray:
    found, at = bytearray(), 0
    while len(found) < size and at < len(segment):
        head = segment[at]
        if head < 128:
            found += segment[at + 1 : at + 2 + head]
            at += 2 + head
        else:
            if head > 128:
                found += segment[at + 1 : at + 2] * (257 - head)
                at += 1
            at += 1
    if len(found) < size:
        raise ValueError(f"{len(found)} of {size} bytes in an RLE segment")
    return found
