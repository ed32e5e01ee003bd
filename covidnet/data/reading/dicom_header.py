"""Reads DICOM headers up to the pixels, with limits on elements, bytes and the size of inflated data."""

from __future__ import annotations

import copy
import io
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from covidnet.base.errors import ImageRefusedError

if TYPE_CHECKING:
    from pydicom import Dataset

READS, BYTES = 48_000, 2**25
"""The most read from one header: reads (two or three per element) and bytes. Hundreds of reads are usual."""
_VALUE, _TABLE = 2**16, 2**18  # bytes of one value, and of a lookup table of 65,536 entries with room to spare
_PIXELS = 0x7FE00010
_TABLES = ("ModalityLUTSequence", "VOILUTSequence")
_DEFLATED, _PLAIN = b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.1\0\0\0"
_REMEDY = "export it again without private elements, or as a 16-bit grey PNG"


class Header(NamedTuple):
    """The part of a file before its pixels.

    Args:
        dataset: the requested elements.
        pixels: about the pixel element: its value representation, the bytes that it claims (2**32 - 1 is unknown), and
            where its value starts in ``data``; None if there is none.
        data: of a deflated file, the bytes inflated so far, which extend beyond the header; else empty.
        rest: inflates the rest of the file.
    """

    dataset: Dataset
    pixels: tuple[str | None, int, int] | None
    data: bytes
    rest: Any = None

    def value(self, size: int) -> bytes:
        """At most the first `size` bytes of the pixels; fewer if the file ends."""
        if self.pixels is None:
            return b""
        _, length, start = self.pixels
        end = start + min(size, length)
        if self.rest is None or end <= len(self.data):
            return self.data[start:end]
        return self.data[start:] + self.rest.decompress(self.rest.unconsumed_tail, end - max(start, len(self.data)))


def read_elements(file: BinaryIO, path: str | Path, names: tuple[str, ...], *, force: bool = False) -> Header:
    """The requested elements of a DICOM header; other elements are skipped, and nothing after the header is read.

    Args:
        file: the open file.
        path: the name that errors give it.
        names: keywords of elements.
        force: whether to read a file without DICOM's 132-byte preamble too.

    Raises:
        ImageRefusedError: more elements, longer values or more bytes than any radiograph has.
        Exception: whatever pydicom raises on a damaged header.
    """
    bounded = _Bounded(file, path)
    try:
        return _parsed(bounded, path, names, force, b"")
    except _DeflatedError:
        head, packed = bounded.everything()
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    # The syntax is replaced by that of inflated data, padded to the same length.
    data = head.replace(_DEFLATED, _PLAIN) + inflater.decompress(packed, BYTES)
    try:
        found = _parsed(_Bounded(io.BytesIO(data), path), path, names, force, data)
    except _DeflatedError as error:
        raise ValueError("deflated twice") from error
    return found._replace(rest=None if inflater.eof else inflater)


def _parsed(bounded: _Bounded, path: str | Path, names: tuple[str, ...], force: bool, data: bytes) -> Header:
    from pydicom.datadict import tag_for_keyword
    from pydicom.filereader import read_partial

    pixels: list[tuple[str | None, int, int]] = []

    def at_pixels(tag: int, vr: str | None, length: int) -> bool:
        if tag == _PIXELS:
            pixels.append((vr, length, bounded.tell()))
        return tag == _PIXELS

    wanted = [tag for tag in map(tag_for_keyword, names) if tag is not None]
    try:
        # The stream has every method that pydicom calls on a file.
        header = read_partial(bounded, at_pixels, force=force, specific_tags=wanted)  # type: ignore[arg-type]
        _bound_values(header, path)
    except ImageRefusedError:
        raise
    except Exception as error:
        if bounded.refusal is not None:  # pydicom replaced it by another error
            raise copy.copy(bounded.refusal) from error
        raise
    return Header(header, pixels[0] if pixels else None, data)


def _bound_values(header: Dataset, path: str | Path) -> None:
    """Refuse long values before pydicom parses them, and reduce table sequences to their first item."""
    from pydicom import DataElement, Sequence
    from pydicom.datadict import tag_for_keyword
    from pydicom.dataelem import RawDataElement
    from pydicom.filereader import read_sequence_item

    for tag in (tag_for_keyword(name) for name in _TABLES):
        raw = header.get_item(tag) if tag is not None and tag in header else None
        if isinstance(raw, RawDataElement) and raw.value:
            part = _Bounded(io.BytesIO(raw.value), path)
            try:
                item = read_sequence_item(part, raw.is_implicit_VR, raw.is_little_endian, "iso8859")
            except Exception as error:
                if part.refusal is not None and error is not part.refusal:
                    raise copy.copy(part.refusal) from error
                raise
            header[tag] = DataElement(tag, "SQ", Sequence([] if item is None else [item]))
    items = [header[name].value[0] for name in _TABLES if header.get(name)]
    for dataset in (header, *items):
        for element in dataset.elements():
            most = _TABLE if element.tag == 0x00283006 or element.tag >> 8 == 0x002812 else _VALUE
            if isinstance(element, RawDataElement) and len(element.value or b"") > most:
                raise _too_much(path, f"a value of {len(element.value or b''):,} bytes")


def _too_much(path: str | Path, what: str) -> ImageRefusedError:
    return ImageRefusedError(path, f"{what} in its header, more than any radiograph has", _REMEDY)


class _DeflatedError(Exception):
    """The rest of the file is deflated."""


class _Bounded:
    """A file for pydicom to read that limits how much is read.

    pydicom reads an element's tag and length as 8 bytes, then its whole value. Only to inflate a file, it reads all of
    it.
    """

    def __init__(self, file: BinaryIO, path: str | Path) -> None:
        self.refusal: ImageRefusedError | None = None
        self.seek, self.tell = file.seek, file.tell
        self._file, self._path = file, path
        self._reads = self._bytes = 0
        self._element = b""

    def read(self, size: int = -1) -> bytes:
        """Read `size` bytes; values of the first group and of character sets have lower limits.

        pydicom parses these two while it reads the header, and all others afterwards.
        """
        if size < 0:
            raise _DeflatedError
        self._reads += 1
        early = self._element[:2] == b"\2\0" or self._element[:4] in (b"\x08\0\x05\0", b"\0\x08\0\x05")
        if self.refusal is None and early and size > (_VALUE if self._element[:2] == b"\2\0" else 1024):
            self.refusal = _too_much(self._path, f"a value of {size:,} bytes")
        if self.refusal is None and self._reads > READS:
            self.refusal = _too_much(self._path, f"more than {READS // 3:,} elements")
        if self.refusal is None:
            found = self._file.read(size)
            self._bytes += len(found)
            if self._bytes > BYTES:
                self.refusal = _too_much(self._path, f"more than {BYTES / 1e6:.0f} MB")
        if self.refusal is not None:
            raise self.refusal
        if size == 8:
            self._element = found
        return found

    def everything(self) -> tuple[bytes, bytes]:
        """The file before and after the current position."""
        at = self._file.tell()
        self._file.seek(0)
        return self._file.read(at), self._file.read()
