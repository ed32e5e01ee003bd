"""Checks JPEG, PNG, TIFF, BMP, WebP and AVIF files part by part, before any decoder sees them.

Truncation, checksums, frames, depth and orientation are checked here. The result is an image that is opened but not yet
decoded, and consists only of the parts that affect pixels.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from covidnet.base.errors import ImageRefusedError

SUPPORTED = "JPEG, PNG, TIFF, BMP, WebP, AVIF, DICOM"

AGAIN = "copy or download it again"
"""The remedy for a damaged file."""
SAVE = "save it as an 8-bit or 16-bit grey PNG"
"""The remedy for an undamaged file of a kind that cannot be read."""


SCANS = 100
"""The most scans in one JPEG; a progressive one has about 10, and each takes a pass over all pixels.

libtiff sets the same limit (LIBTIFF_JPEG_MAX_ALLOWED_SCAN_NUMBER).
"""
_DIRECTORIES, _TAGS = 1000, 2**16  # in one TIFF file; in a hostile one they can share bytes
_RUNS = 2**24  # bytes, or 4-bit pixels, of a run-length coded bitmap, which Pillow decodes in Python


class TooManyPartsError(ValueError):
    """A file has more parts than any image needs; the text is the cause of the refusal."""


def check_parts(number: int, size: int, what: str) -> None:
    """Refuse a file that is split into tiny parts, which take longer to check than an image takes to decode.

    Args:
        number: parts found so far.
        size: bytes of the whole file.
        what: the plural name of the parts.

    Raises:
        TooManyPartsError: more than 1,000, and on average less than 256 bytes each.

    Example:
        >>> check_parts(1000, 10, "chunks")
    """
    if number > 1000 + size // 256:
        raise TooManyPartsError(f"split into more than {number - 1:,} {what} in {size:,} bytes")


@dataclass
class OpenedImage:
    """An image that is opened but not yet decoded, and what its container says about its pixels."""

    image: ImageFile.ImageFile
    orientation: int = 1
    depth: int | None = None
    deep: bool = False  # several channels of 16 bits; Pillow keeps the upper 8
    white_is_zero: bool = False
    packed: list[memoryview] = field(default_factory=list)  # a PNG's compressed lines
    pixel_bits: int = 8
    interlaced: bool = False


def open_container(data: bytes, path: str | Path, check: Callable[[int, int], None]) -> OpenedImage:
    """Check and open a container of the format that its first bytes name.

    Args:
        data: the whole file.
        path: the name that errors give it.
        check: refuses a width and height in pixels; called before a decoder takes memory for them.

    Returns:
        The image, opened but not yet decoded.

    Raises:
        ImageRefusedError: not a supported format, or the container shows that it is not a usable image.
        EOFError: the file ends before its container does.
        Exception: any other error caused by a damaged container; the caller turns it into a refusal.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return _open_jpeg(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _open_png(data, path)
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _open_tiff(data, path)
    if data.startswith(b"BM"):
        return _open_bmp(data, path)
    if re.match(rb"RIFF....WEBP", data, re.DOTALL):
        return _open_webp(data, path, check)
    if is_avif(data):
        return _open_avif(data, path)
    raise ImageRefusedError(path, *_what_else(data))


def is_container(head: bytes) -> bool:
    r"""Whether a file begins like one of the formats here; DICOM is not one of them.

    Args:
        head: its first 132 bytes, or more.

    Example:
        >>> is_container(b"\xff\xd8\xff\xe0"), is_container(b"BMW and other words")
        (True, False)
    """
    starts = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    bitmap = head[:2] == b"BM" and head[6:10] == bytes(4)  # two letters alone can begin a text
    return head.startswith(starts) or bitmap or (head[:4] == b"RIFF" and head[8:12] == b"WEBP") or is_avif(head)


def is_avif(head: bytes) -> bool:
    """Whether a file begins like AVIF, not like HEIC or a video, which use the same boxes.

    Args:
        head: its first bytes, including the whole first box.
    """
    brands = head[8 : min(int.from_bytes(head[:4], "big"), 4096)]
    return head[4:8] == b"ftyp" and any(brands[n : n + 4] in (b"avif", b"avis") for n in range(0, len(brands), 4))


def _what_else(data: bytes) -> tuple[str, str]:
    """Cause and remedy for bytes of an unsupported format."""
    for name, pattern in _OTHERS.items():
        if re.match(pattern, data, re.DOTALL):
            remedy = "unpack it" if name in ("ZIP", "gzip") else "convert it to PNG"
            return f"{name} is not a supported format, supported: {SUPPORTED}", remedy
    if data.startswith(b"version https://git-lfs"):
        return "not an image: a Git LFS pointer", "fetch the file itself: git lfs pull"
    head = data[:512]
    if not re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", head):
        if re.search(rb"<(!doctype|html|head|body)", head, re.IGNORECASE):
            return "not an image: HTML", "download it again, and check what the server answered"
        return "not an image: text", "remove it, or restore the image under this name"
    return f"not an image: none of {SUPPORTED}", AGAIN


_OTHERS = {
    "GIF": rb"GIF8[79]a",
    "JPEG 2000": rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51",
    "HEIC or a video": rb"....ftyp",
    "PDF": rb"%PDF",
    "ZIP": rb"PK\x03\x04",
    "gzip": rb"\x1f\x8b",
}


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The marker segments of a JPEG stream's first image, including its end marker.

    Thumbnails are inside a segment and further images follow the end marker, so neither is included.

    Yields:
        (marker, start, end): the marker's second byte and the segment's position in ``data``.

    Raises:
        EOFError: the data end before the image does.
        TooManyPartsError: more than `SCANS` scans, or too many tiny segments.
    """
    at, scans, number = 2, 0, 0
    while found := _MARKER.search(data, at):
        marker, start, at = data[found.end() - 1], found.start(), found.end()
        if marker == 0xD9:
            yield marker, start, at
            return
        number += 1
        check_parts(number, len(data), "JPEG segments")
        scans += marker == 0xDA
        if scans > SCANS:
            raise TooManyPartsError(f"more than {SCANS} scans in one JPEG, about 10 are usual")
        if marker == 0xD8:  # a further image starts before this one has ended
            break
        at += int.from_bytes(data[at : at + 2], "big")
        if at > len(data):
            break
        yield marker, start, at
    raise EOFError("no end marker")


# In coded data FF is followed by 00 or a restart marker; any other byte after FF starts a segment. In JPEG-LS any byte
# below 80 may follow. Markers below C0 are reserved, except for 01, which has no length.
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")


def _open_jpeg(data: bytes) -> OpenedImage:
    """Keep only the coding tables, the colour markers and the scans of the first image."""
    kept, orientation, scans, end = [data[:2]], 1, 0, 0
    for marker, start, end in jpeg_segments(data):
        if scans:
            continue
        segment = data[start:end]
        if marker == 0xE1 and segment[4:10] == b"Exif\0\0" and orientation == 1:
            orientation = _exif_orientation(segment[10:])
        if marker == 0xDA:
            scans = start
        elif marker in (0xE0, 0xEE) or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(segment)
    if not scans:
        raise EOFError("no image data")
    return OpenedImage(JpegImageFile(io.BytesIO(b"".join([*kept, data[scans:end]]))), orientation)


def _open_png(data: bytes, path: str | Path) -> OpenedImage:
    """Check every chunk, and keep those that affect pixels."""
    kept, orientation, declared, at, kind = [data[:8]], 1, None, 8, b""
    view, packed, number = memoryview(data), [], 0
    while kind != b"IEND":
        number += 1
        check_parts(number, len(data), "PNG chunks")
        if at + 12 > len(data):
            raise EOFError("no IEND chunk")
        length, kind = struct.unpack_from(">I4s", data, at)
        body, end = at + 8, at + 12 + length
        if end > len(data):
            raise EOFError(f"{kind!r} chunk is cut short")
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise ImageRefusedError(path, f"corrupt: bad CRC in the {kind.decode('latin-1')!r} chunk", AGAIN)
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            kept.append(data[at:end])
            if kind == b"IDAT":
                packed.append(view[body : end - 4])
        elif kind == b"sBIT":
            declared = data[body]
        elif kind == b"eXIf":
            orientation = _exif_orientation(data[body : end - 4])
        elif kind == b"acTL" and (frames := int.from_bytes(data[body : body + 4], "big")) > 1:
            raise _frames(path, frames)
        at = end
    image = PngImageFile(io.BytesIO(b"".join(kept)))
    bits, colour, interlaced = data[24], data[25], data[28] == 1
    if bits == 1:
        raise one_bit(path)
    pixel_bits = bits * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    deep = bits == 16 and colour != 0
    return OpenedImage(image, orientation, declared, deep, packed=packed, pixel_bits=pixel_bits, interlaced=interlaced)


# The start of each pass of an interlaced PNG and its steps: across, down (PNG specification, 8.1).
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def check_lines(image: OpenedImage) -> None:
    """Raise EOFError for a PNG with fewer lines than it claims: Pillow leaves these black without an error.

    Lines come in order, so if the last line is not black all are there, and nothing is inflated twice.
    """
    width, height = image.image.size
    if not image.packed or (
        not image.interlaced and np.asarray(image.image.crop((0, height - 1, width, height))).any()
    ):
        return
    need = 0
    for left, top, across, down in _ADAM7 if image.interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        need += rows * (1 + -(-columns * image.pixel_bits // 8)) if columns > 0 and rows > 0 else 0
    inflater = zlib.decompressobj()
    for part in image.packed:
        rest: bytes | memoryview = part
        while rest and need > 0 and not inflater.eof:
            need -= len(inflater.decompress(rest, 1 << 20))
            rest = inflater.unconsumed_tail
    if need > 0:
        raise EOFError(f"{need} bytes of pixels are missing")


def _open_bmp(data: bytes, path: str | Path) -> OpenedImage:
    image = BmpImageFile(io.BytesIO(data))
    header, bits = struct.unpack_from("<I", data, 14)[0], struct.unpack_from("<H", data, 28)[0]
    if (bits if header > 12 else struct.unpack_from("<H", data, 24)[0]) == 1:
        raise one_bit(path)
    if header > 12 and data[30] in (1, 2):  # run-length coded: 8 or 4 bits
        columns, rows = image.size
        if len(data) > _RUNS or (data[30] == 2 and columns * rows > _RUNS):
            cause = f"run-length coded, and more than {_RUNS / 1e6:.0f} million bytes or 4-bit pixels"
            raise ImageRefusedError(path, cause, SAVE)
    return OpenedImage(image)


def one_bit(path: str | Path) -> ImageRefusedError:
    """The refusal of a 1-bit image."""
    return ImageRefusedError(path, "1-bit: only black and white, no greys", "export the image with at least 8 bits")


def _frames(path: str | Path, number: int) -> ImageRefusedError:
    return ImageRefusedError(path, f"{number} frames in one file", "save each frame as a file of its own")


def _open_webp(data: bytes, path: str | Path, check: Callable[[int, int], None]) -> OpenedImage:
    """Check the chunks: the decoder takes memory for the canvas as soon as it is created, and shows only one frame."""
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise EOFError(f"truncated, {len(data)} of {end} bytes")
    at, frames, orientation, number = 12, 0, 1, 0
    while at + 8 <= end:
        number += 1
        check_parts(number, len(data), "WebP chunks")
        kind, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        body = data[at + 8 : at + 8 + size]
        if len(body) < size:
            raise EOFError("truncated within a chunk")
        if kind == b"VP8X":
            check(1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little"))
        elif kind == b"VP8 ":
            check(*(side & 0x3FFF for side in struct.unpack_from("<HH", body, 6)))
        elif kind == b"VP8L":
            bits = struct.unpack_from("<I", body, 1)[0]
            check((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
        elif kind == b"EXIF":
            orientation = _exif_orientation(body.removeprefix(b"Exif\0\0"))
        frames += kind == b"ANMF"
        at += 8 + size + size % 2
    if frames > 1:
        raise _frames(path, frames)
    return OpenedImage(WebPImageFile(io.BytesIO(data)), orientation=orientation)


def _open_avif(data: bytes, path: str | Path) -> OpenedImage:
    """Open the boxes; the decoder turns more than 8 bits into 8.

    A coded frame may be larger than the boxes claim. Finding its own size would mean parsing the item locations and AV1
    headers of every item, so the decoder's own limit (268 megapixels) and the worker's limits bound such files.
    """
    image = AvifImageFile(io.BytesIO(data))
    if image.n_frames > 1:
        raise _frames(path, image.n_frames)
    return OpenedImage(image, orientation=_exif_orientation(image.info.get("exif", b"").removeprefix(b"Exif\0\0")))


class _TiffFile(TiffImageFile):
    """Pillow's TIFF reader without its process-wide pixel limit; our own limit was checked before."""

    def load_prepare(self) -> None:
        if self._im is None:
            self.im = Image.new(self.mode, self.size).im
        super().load_prepare()


class _Tiff:
    """The directories of a TIFF, or of an EXIF block, which has the same structure."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.order = "<" if data[:2] == b"II" else ">"
        self.big = data[2:4] in (b"+\0", b"\0+")
        self.pointer = 8 if self.big else 4
        self.first = self.number(self.pointer, self.pointer)
        self.tags = 0

    def number(self, at: int, size: int) -> int:
        if at + size > len(self.data):
            raise EOFError("a directory is outside the file")
        return int.from_bytes(self.data[at : at + size], "little" if self.order == "<" else "big")

    def directory(self, at: int) -> tuple[dict[int, bytes], int]:
        """Raw entries by tag, and the offset of the next directory."""
        count, start = (self.number(at, 8), at + 8) if self.big else (self.number(at, 2), at + 2)
        size = 4 + 2 * self.pointer
        end = start + count * size
        if end > len(self.data):
            raise EOFError("a directory is outside the file")
        self.tags += count
        if self.tags > _TAGS:
            raise TooManyPartsError(f"more than {_TAGS:,} tags in its directories")
        # EXIF blocks may end without the pointer to a next directory.
        following = self.number(end, self.pointer) if end + self.pointer <= len(self.data) else 0
        entries = (self.data[i : i + size] for i in range(start, end, size))
        return {struct.unpack_from(self.order + "H", entry)[0]: entry for entry in entries}, following

    def number_of_values(self, entry: bytes) -> int:
        """How many values the entry claims to have."""
        return int(struct.unpack_from(self.order + ("Q" if self.big else "I"), entry, 4)[0])

    def values(self, entry: bytes | None, most: int = 1) -> tuple[int, ...]:
        """At most the first `most` integers of an entry; none if the tag is absent or of another type."""
        if entry is None:
            return ()
        kind = struct.unpack_from(self.order + "H", entry, 2)[0]
        count = self.number_of_values(entry)
        size, code = _TIFF_TYPES.get(kind, (0, ""))
        at, body = 0, entry[4 + self.pointer :]
        if count * size > self.pointer:
            at, body = struct.unpack(self.order + ("Q" if self.big else "I"), body)[0], self.data
            if at + count * size > len(self.data):
                raise EOFError("a tag's values are outside the file")
        return struct.unpack_from(f"{self.order}{min(count, most)}{code}", body, at) if code else ()


# Type: bytes per value, and the struct code of integers.
_TIFF_TYPES = {1: (1, "B"), 3: (2, "H"), 4: (4, "I"), 6: (1, "b"), 8: (2, "h"), 9: (4, "i"), 13: (4, "I"), 16: (8, "Q")}
_TIFF_TYPES |= {2: (1, ""), 5: (8, ""), 7: (1, ""), 10: (8, ""), 11: (4, ""), 12: (8, ""), 17: (8, "q"), 18: (8, "Q")}
# Tags that affect pixels: those with one value; those with several, and their most. Strips, tiles: 273, 279, 324, 325.
_TIFF_ONE = {256, 257, 259, 262, 266, 277, 278, 284, 317, 322, 323, 512, 513, 514, 515, 531}
_TIFF_MANY = dict.fromkeys((258, 338, 339, 519, 520, 521, 529, 530, 532), 64)
_TIFF_MANY |= dict.fromkeys((273, 279, 320, 324, 325, 347), 2**18)


def _exif_orientation(block: bytes) -> int:
    """EXIF orientation 1..8; 1 if the block has none or is damaged, since it changes no pixel value."""
    try:
        tiff = _Tiff(block)
        value = tiff.values(tiff.directory(tiff.first)[0].get(274))
    except (EOFError, struct.error, TooManyPartsError):
        return 1
    return value[0] if value and 1 <= value[0] <= 8 else 1


def _open_tiff(data: bytes, path: str | Path) -> OpenedImage:
    """Find the one full-size page, and give it a directory with only the tags that affect pixels."""
    tiff = _Tiff(data)
    pages: list[dict[int, bytes]] = []
    seen: set[int] = set()
    at = tiff.first
    while at and at not in seen:
        seen.add(at)
        if len(seen) > _DIRECTORIES:
            raise TooManyPartsError(f"more than {_DIRECTORIES:,} directories")
        entries, at = tiff.directory(at)
        # Thumbnails and transparency masks are not images of their own.
        small = (tiff.values(entries.get(254)) or (0,))[0] & 5 or tiff.values(entries.get(255), 2) == (2,)
        if not small:
            pages.append(entries)
    if not pages:
        raise ImageRefusedError(path, "no full-size page, only thumbnails", SAVE)
    if len(pages) > 1:
        raise _frames(path, len(pages))
    page = pages[0]
    values = {}
    for tag in page.keys() & (_TIFF_ONE | _TIFF_MANY.keys() | {274, 281}):
        most = _TIFF_MANY.get(tag, 2)
        if tag in _TIFF_MANY and (number := tiff.number_of_values(page[tag])) > most:
            raise TooManyPartsError(f"tag {tag} claims {number:,} values, the most is {most:,}")
        values[tag] = tiff.values(page[tag], most)
    if any(len(values[tag]) != 1 for tag in _TIFF_ONE & page.keys()):
        raise ValueError("a tag has more than one value")
    for offsets, sizes in ((273, 279), (324, 325)):
        for start, size in zip(values.get(offsets, ()), values.get(sizes, ()), strict=False):
            if start + size > len(data):
                raise EOFError("truncated: pixels are outside the file")
        if values.get(259) != (1,) and sum(values.get(sizes, ())) > 4 * len(data):
            raise TooManyPartsError("strips or tiles that share their bytes")
    # The decoder takes memory for a whole tile.
    columns, rows, across, down = ((values.get(tag) or (0,))[0] for tag in (256, 257, 322, 323))
    if across * down > 4 * max(columns * rows, 2**20):
        raise ValueError(f"tiles of {across} x {down} pixels in an image of {columns} x {rows}")
    bits = values.get(258) or (1,)
    if bits[0] == 1:
        raise one_bit(path)
    # The maximum tells the depth only if it is below what the container can hold.
    declared = min(bits[0], (values.get(281) or (0,))[0].bit_length() or bits[0])
    white_is_zero = values.get(262) == (0,)
    if white_is_zero:
        # Pillow inverts such images at 8 bits but not at 16; here all are inverted at the end.
        count = struct.pack(tiff.order + ("Q" if tiff.big else "I"), 1)
        page = {**page, 262: struct.pack(tiff.order + "HH", 262, 3) + count + struct.pack(tiff.order + "H", 1)}
        page[262] = page[262].ljust(4 + 2 * tiff.pointer, b"\0")
    return OpenedImage(
        _TiffFile(io.BytesIO(_with_directory(tiff, page))),
        orientation=(values.get(274) or (1,))[0],
        depth=declared if 8 < declared < 16 else None,
        deep=bits[0] == 16 and (values.get(277) or (1,))[0] > 1,
        white_is_zero=white_is_zero,
    )


def _with_directory(tiff: _Tiff, page: dict[int, bytes]) -> bytes:
    """The file with one new directory at its end; pixels and values keep their offsets."""
    data, size = tiff.data, tiff.pointer
    entries = [page[tag] for tag in sorted(page.keys() & (_TIFF_ONE | _TIFF_MANY.keys()))]
    pad = len(data) % 2
    first = struct.pack(tiff.order + ("Q" if tiff.big else "I"), len(data) + pad)
    count = struct.pack(tiff.order + ("Q" if tiff.big else "H"), len(entries))
    return b"".join([data[:size], first, data[2 * size :], bytes(pad), count, *entries, bytes(size)])
