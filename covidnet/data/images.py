"""The one reader of image files: any ordinary format to 8-bit grey, every doubtful file refused with its cause.

Pillow decodes, and it is lenient by design: it drops alpha, shows one frame of many, leaves 16-bit data to the caller
and warns where it should stop. So `covidnet.data.containers` walks each format first, and Pillow receives only the
parts that decide pixels. That leaves Pillow nothing to warn of: muting its warnings, or its limit on pixels, would
change the state of the process under other threads.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import re
import stat
import textwrap
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from covidnet.data.colour import colour_of
from covidnet.data.containers import (
    AGAIN,
    SAVE,
    OpenedFilm,
    TooManyPartsError,
    check_lines,
    is_container,
    one_bit,
    open_container,
)
from covidnet.errors import ImageRefusedError

SUFFIXES: frozenset[str] = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".webp", ".avif", ".dcm", ".dicom"}
)
"""Lower-case suffixes that count as images. The format itself is told by a file's first bytes, never by its name."""

READING = 3
"""Raised whenever a file is read differently than before, so that no manifest or feature of then is used."""

_LOG = logging.getLogger(__name__)
_DEPTHS = (8, 10, 12, 14, 16)


@dataclass(frozen=True)
class ImageFacts:
    """What is known of a file once it has been read completely.

    Args:
        sha256: hash of the file's bytes, in lower-case hex.
        width: pixels across, after any EXIF orientation.
        height: pixels down, after any EXIF orientation.
        mode: the pixels as stored: Pillow's name (``L``, ``RGB``, ``I;16``), or DICOM's photometric interpretation.
        bytes: size of the file.
    """

    sha256: str
    width: int
    height: int
    mode: str
    bytes: int


@dataclass(frozen=True)
class Film:
    """One decoded film and what tells whether it is one.

    Args:
        pixels: uint8 (H, W), 0..255, bone bright, writeable and contiguous.
        facts: of the file.
        colour: the share of the picture that is coloured, 0..1, measured before it became grey; see
            `covidnet.data.colour`.
        view: ``PA``, ``AP``, ``L`` or another term of a DICOM header; None is unknown.
        patient_id: of a DICOM header; None is unknown, as where it is a placeholder.
    """

    pixels: np.ndarray
    facts: ImageFacts
    colour: float = 0.0
    view: str | None = None
    patient_id: str | None = None


class Limits(NamedTuple):
    """The sizes that a file may have, checked on its header before anything is decoded."""

    path: str | Path
    max_megapixels: float
    min_side: int

    def check(self, width: int, height: int) -> None:
        """Refuse an image of a size outside the limits.

        Raises:
            ImageRefusedError: naming the size and the limit.
        """
        if min(width, height) < self.min_side:
            cause = f"too small: {width} x {height} pixels, each side needs {self.min_side}"
            raise ImageRefusedError(self.path, cause, "use the film at its original size")
        if width * height > self.max_megapixels * 1e6:
            size = f"{width} x {height} = {width * height / 1e6:.0f} megapixels"
            cause = f"too large: {size}, the limit is {self.max_megapixels:g}"
            raise ImageRefusedError(self.path, cause, "make it smaller, or raise data.max_megapixels")


def is_image_file(path: Path) -> bool:
    """Whether a path is taken for an image: by its suffix, or by its first bytes where the suffix says nothing.

    Hidden files are not, and so neither are the ``._film.jpg`` stubs that macOS puts beside the films in an archive;
    nor is a DICOMDIR, the table of contents of a DICOM medium.

    Args:
        path: a path, which need not exist.

    Example:
        >>> is_image_file(Path("film.JPG")), is_image_file(Path("._film.jpg")), is_image_file(Path("notes.txt"))
        (True, False, False)
    """
    suffix = path.suffix.lower()
    try:
        if path.name.startswith(".") or path.name.upper() == "DICOMDIR" or path.is_dir():
            return False
        # Scanners name DICOM files by their UID, whose last number looks like a suffix.
        if suffix in SUFFIXES or (suffix and not suffix[1:].isdigit()) or not path.is_file():
            return suffix in SUFFIXES
        with path.open("rb") as file:
            head = file.read(132)
        return is_dicom(head, path) or is_container(head)
    except OSError:
        return suffix in SUFFIXES


def read_image(
    path: str | Path, *, max_megapixels: float = 64.0, min_side: int = 64, sha256: str | None = None
) -> np.ndarray:
    """One radiograph as 8-bit grey.

    Values of more than 8 bits are scaled by the depth that the file declares, else by the smallest of 8, 10, 12, 14 or
    16 bits that holds them; colour becomes ITU-R 601 luma; what is transparent becomes black; orientation and DICOM
    windows are applied; negative films are inverted, so that bone is bright.

    Args:
        path: a JPEG, PNG, TIFF, BMP, WebP, AVIF or DICOM file.
        max_megapixels: larger images are refused before they are decoded.
        min_side: images with a shorter side, in pixels, are refused.
        sha256: the hash that the file had when the manifest was written; None checks nothing.

    Returns:
        uint8 (H, W), 0..255, writeable and contiguous.

    Raises:
        ImageRefusedError: whatever is wrong with the file.
    """
    data = film_bytes(path, max_megapixels)
    if sha256 is not None:
        check_sha256(data, path, sha256)
    return _decode(data, Limits(path, max_megapixels, min_side)).pixels


def check_sha256(data: bytes, path: str | Path, sha256: str) -> None:
    """Refuse a file that changed since the manifest was written.

    Args:
        data: the whole file.
        path: the name that errors give it.
        sha256: the hash that it had then, in hex.

    Raises:
        ImageRefusedError: it has another one.
    """
    if (digest := hashlib.sha256(data).hexdigest()) != sha256.lower():
        cause = f"does not match the manifest's sha256 ({digest[:12]} instead of {sha256[:12]})"
        raise ImageRefusedError(path, cause, "restore the file, or prepare the data set again")


def inspect_image(path: str | Path, *, max_megapixels: float = 64.0, min_side: int = 64) -> ImageFacts:
    """The facts of one file, after reading it completely with every check of `read_image`.

    Args:
        path: a JPEG, PNG, TIFF, BMP, WebP, AVIF or DICOM file.
        max_megapixels: larger images are refused before they are decoded.
        min_side: images with a shorter side, in pixels, are refused.

    Raises:
        ImageRefusedError: whatever is wrong with the file.
    """
    data = film_bytes(path, max_megapixels)
    return decode_image(data, path, max_megapixels=max_megapixels, min_side=min_side)[1]


def decode_image(
    data: bytes, path: str | Path, *, max_megapixels: float = 64.0, min_side: int = 64
) -> tuple[np.ndarray, ImageFacts]:
    """The pixels and the facts of one file's bytes.

    Args:
        data: the whole file.
        path: the name that errors give it.
        max_megapixels: larger images are refused before they are decoded.
        min_side: images with a shorter side, in pixels, are refused.

    Returns:
        uint8 (H, W) and the `ImageFacts` of the same bytes.

    Raises:
        ImageRefusedError: whatever is wrong with the bytes.
    """
    decoded = _decode(data, Limits(path, max_megapixels, min_side))
    return decoded.pixels, _facts(data, decoded)


def read_film(path: str | Path, *, max_megapixels: float = 64.0, min_side: int = 64) -> Film:
    """One radiograph as `read_image` reads it, with what the input gate asks about.

    Args:
        path: a JPEG, PNG, TIFF, BMP, WebP, AVIF or DICOM file.
        max_megapixels: larger images are refused before they are decoded.
        min_side: images with a shorter side, in pixels, are refused.

    Raises:
        ImageRefusedError: whatever is wrong with the file.
    """
    data = film_bytes(path, max_megapixels)
    return decode_film(data, path, max_megapixels=max_megapixels, min_side=min_side)


def decode_film(data: bytes, name: str | Path, *, max_megapixels: float = 64.0, min_side: int = 64) -> Film:
    """`read_film` for a file's bytes in memory.

    Args:
        data: the whole file.
        name: the name that errors give it.
        max_megapixels: larger images are refused before they are decoded.
        min_side: images with a shorter side, in pixels, are refused.

    Raises:
        ImageRefusedError: whatever is wrong with the bytes.
    """
    decoded = _decode(data, Limits(name, max_megapixels, min_side), colour=True)
    return Film(decoded.pixels, _facts(data, decoded), decoded.colour, decoded.view, decoded.patient_id)


def decode_mask(data: bytes, name: str | Path, shape: tuple[int, int]) -> np.ndarray:
    """What is brighter than half of the brightest pixel of a mask; nothing where all are 0.

    Args:
        data: the whole file, of any format and mode that Pillow reads.
        name: the name that errors give it.
        shape: (H, W) of the film that it is a mask of.

    Returns:
        bool (H, W).

    Raises:
        ImageRefusedError: it cannot be read, or has another size than the film.
    """
    try:
        with Image.open(io.BytesIO(data)) as stored:
            # Of another size in either orientation: told before anything is decoded.
            size = stored.size[::-1] if sorted(stored.size) != sorted(shape) else None
            values = np.zeros(0) if size else _mask_values(ImageOps.exif_transpose(stored))
    except MemoryError:
        raise
    except Exception as error:  # Pillow answers a damaged file with many kinds of error
        cause = f"not a readable mask ({error})"
        raise ImageRefusedError(name, cause, "save it as PNG, 0 outside and 255 inside") from error
    if (size := size or values.shape) != tuple(shape):
        found, wanted = (f"{width} x {height}" for height, width in (size, shape))
        raise ImageRefusedError(name, f"{found} pixels, the film has {wanted}", "save the mask at the size of its film")
    return values > values.max() / 2


def _mask_values(image: Image.Image) -> np.ndarray:
    """The brightest channel of any mode; what is transparent counts as black, as it does in films."""
    if image.mode in ("1", "L", "F") or image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float64)
        if not np.isfinite(values).all():
            raise ValueError("values that are not finite")
        return values
    pixels = np.asarray(image.convert("RGBA"))
    return pixels[..., :3].max(axis=2) * (pixels[..., 3] / 255.0)


def to_eight_bits(values: np.ndarray, path: str | Path, declared: int | None = None) -> np.ndarray:
    """Scale values by their depth in bits, so that the depth's range becomes 0..255.

    Args:
        values: integers or floats. Where integers fall below 0, the depth's signed range is taken; floats must not
            fall below 0, and within 0..1 they are fractions.
        path: the file that an error names.
        declared: the depth in bits that the file declares; passed over where the values exceed it.

    Returns:
        uint8 of the same shape.

    Raises:
        ImageRefusedError: values that no depth holds, or that are not finite; the range is named.

    Example:
        >>> to_eight_bits(np.array([0, 2048, 4095]), "film.png").tolist()
        [0, 128, 255]
    """
    if values.dtype == np.uint8 and declared in (None, 8):
        return values
    low, high = values.min(), values.max()
    real = values.dtype.kind == "f"
    if real and not (np.isfinite(low) and np.isfinite(high)):
        raise ImageRefusedError(path, f"float values from {low} to {high}, not all finite", SAVE)
    if real and low >= 0 and high <= 1:
        return np.round(values * 255.0).astype(np.uint8)
    for depth in (declared or _DEPTHS[0], *_DEPTHS):
        floor, top = (0 if low >= 0 else -(1 << (depth - 1))), (1 << depth) - 1
        if low >= floor and high <= floor + top and not (real and low < 0):
            break
    else:
        raise ImageRefusedError(path, f"values from {low:g} to {high:g} fit no depth of 8 to 16 bits", SAVE)
    if real:
        return np.round(values * (255.0 / top)).astype(np.uint8)
    # A table is faster than arithmetic on every pixel.
    table = np.round(np.arange(top + 1) * (255.0 / top)).astype(np.uint8)
    return through(table, values, floor)


def through(table: np.ndarray, values: np.ndarray, floor: int) -> np.ndarray:
    """``table[values - floor]``, a part of the values at a time: numpy takes 8 bytes for each index.

    Args:
        table: what becomes of each value.
        values: integers of any shape.
        floor: the value that the table's first entry is for.

    Example:
        >>> through(np.array([9, 8, 7]), np.array([[5, 6], [7, 5]]), 5).tolist()
        [[9, 8], [7, 9]]
    """
    found = np.empty(values.shape, table.dtype)
    step = max(1, 2**18 * len(values) // max(1, values.size))
    for start in range(0, len(values), step):
        found[start : start + step] = table[values[start : start + step].astype(np.int32) - floor]
    return found


def film_bytes(path: str | Path, max_megapixels: float) -> bytes:
    """The whole file, where it is a plain file of a size that a film can have.

    Args:
        path: the file.
        max_megapixels: more bytes than so many pixels need are refused unread.

    Raises:
        ImageRefusedError: it cannot be read, is no plain file, or is too large.
    """
    with reading(path), open_film(path, max_megapixels) as file:
        return file.read()


def open_film(path: str | Path, max_megapixels: float) -> BinaryIO:
    """A file of which no byte is read yet, where it is a plain file of a size that a film can have.

    Args:
        path: the file.
        max_megapixels: more bytes than so many pixels need are refused.

    Raises:
        ImageRefusedError: it cannot be opened, is no plain file, or is too large.
    """
    with reading(path):
        facts = Path(path).stat()
        if stat.S_ISDIR(facts.st_mode):
            raise ImageRefusedError(path, "a folder, not an image", "give one of the files in it")
        if not stat.S_ISREG(facts.st_mode):
            raise ImageRefusedError(path, "a device or a pipe, not a file", "give a file")
        if facts.st_size > 16e6 * max_megapixels + 2**26:  # 4 channels of 32 bits, and room for metadata
            cause = f"too large: {facts.st_size / 1e6:.0f} MB, more than {max_megapixels:g} megapixels need"
            raise ImageRefusedError(path, cause, "make it smaller, or raise data.max_megapixels")
        return Path(path).open("rb")


@contextlib.contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Make a refusal of whatever the system says while a file is opened or read.

    Args:
        path: the file.

    Raises:
        ImageRefusedError: naming the file.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise ImageRefusedError(path, "no such file", "check the path") from error
    except PermissionError as error:
        raise ImageRefusedError(path, "permission denied", "make it readable: chmod u+r") from error
    except ImageRefusedError:
        raise  # a ValueError too
    except (OSError, ValueError) as error:
        raise ImageRefusedError(path, f"cannot be read ({error})", "check the disk and the path") from error


def unreadable(path: str | Path, error: Exception) -> ImageRefusedError:
    """What no decoder foresaw costs the one file that it happened with.

    Args:
        path: the file.
        error: anything that reading it or looking at it raised.
    """
    cause = textwrap.shorten(f"{type(error).__name__}: {error}", 160, placeholder="...")
    return ImageRefusedError(path, f"cannot be used ({cause})", "look at the file, or save it again as a grey PNG")


class _Decoded(NamedTuple):
    pixels: np.ndarray
    mode: str
    view: str | None
    colour: float
    patient_id: str | None


def _facts(data: bytes, decoded: _Decoded) -> ImageFacts:
    height, width = decoded.pixels.shape
    return ImageFacts(hashlib.sha256(data).hexdigest(), width, height, decoded.mode, len(data))


def _decode(data: bytes, limits: Limits, *, colour: bool = False) -> _Decoded:
    """Pixels, stored mode and, where it is asked for, colour; a damaged file becomes a refusal."""
    path, view, coloured, patient_id = limits.path, None, 0.0, None
    if not data:
        raise ImageRefusedError(path, "empty file (0 bytes)", AGAIN)
    try:
        if is_dicom(data, path):
            # dicom.py takes its scaling and its limits from here, and pydicom is optional.
            from covidnet.data import dicom

            shown = dicom.decode(data, limits)
            pixels, mode, view, patient_id = shown.grey, shown.kind, shown.view, shown.patient_id
            if colour and shown.colour is not None:
                coloured = _colour(Image.fromarray(shown.colour))
        else:
            film = open_container(data, path, limits.check)
            limits.check(*film.image.size)
            mode = film.image.mode
            film.image.load()
            check_lines(film)
            pixels = _upright(_grey(film, path), film.orientation)
            coloured = _colour(film.image) if colour else 0.0
    except ImageRefusedError:
        raise
    except TooManyPartsError as error:
        raise ImageRefusedError(path, str(error), SAVE) from error
    except MemoryError as error:
        raise ImageRefusedError(path, "does not fit in memory", "make it smaller") from error
    except Exception as error:
        text = textwrap.shorten(str(error), 120)  # some decoders answer in paragraphs
        if isinstance(error, EOFError) or re.search("truncated|not enough image data", text, re.IGNORECASE):
            raise ImageRefusedError(path, f"truncated ({text})", AGAIN) from error
        cause = f"corrupt, or of a kind that cannot be read ({text or type(error).__name__})"
        raise ImageRefusedError(path, cause, f"{AGAIN}, or {SAVE}") from error
    if pixels.min() == pixels.max():
        raise ImageRefusedError(path, f"no information: every pixel is {pixels.flat[0]}", "use another film")
    return _Decoded(np.require(pixels, requirements=("C", "W")), mode, view, coloured, patient_id)


def _colour(image: Image.Image) -> float:
    """How coloured an image is, on black where it is transparent."""
    if image.mode in ("L", "LA", "La", "I", "F") or image.mode.startswith("I;16"):
        return 0.0
    clear = "transparency" in image.info or image.mode.endswith(("A", "a"))
    mode = "RGBA" if clear else "RGB"
    # Pillow weighs colours with their alpha when it shrinks.
    small = (image if image.mode == mode else image.convert(mode)).resize((64, 64), Image.Resampling.BOX)
    values = np.asarray(small)
    if clear:
        values = np.round(values[..., :3] * (values[..., 3:] / np.float32(255))).astype(np.uint8)
    return colour_of(values)


def is_dicom(head: bytes, path: str | Path) -> bool:
    """Whether a file is DICOM: by its magic, or without one by its first tag where the name says so too.

    Args:
        head: the file's first 132 bytes, or more.
        path: the file's name.
    """
    named = Path(path).suffix.lower() in (".dcm", ".dicom")
    return head[128:132] == b"DICM" or (named and head[:2] in (b"\x08\0", b"\x02\0"))


def _grey(film: OpenedFilm, path: str | Path) -> np.ndarray:
    """The decoded image as uint8 (H, W), as stored: orientation is not yet applied."""
    image, mode = film.image, film.image.mode
    clear = "transparency" in image.info
    if mode == "1":
        raise one_bit(path)
    if mode in ("I", "F") or mode.startswith("I;16"):
        values = np.asarray(image)
        if clear:
            tell_once("transparency", f"{path}: the transparent grey becomes black")
            values = np.where(values == image.info["transparency"], 0, values)
        grey = to_eight_bits(values, path, film.depth)
    elif clear or mode.endswith(("A", "a")):
        grey = _on_black(film, path)
    else:
        if mode == "CMYK":
            tell_once("CMYK", f"{path}: CMYK is converted to grey")
        coloured = image.convert("RGB") if mode in ("P", "CMYK") else image
        grey = np.asarray(coloured if mode == "L" else coloured.convert("L"))
    if film.deep and grey.max() < 64:
        raise ImageRefusedError(path, "16-bit colour with less than 15 bits in use", SAVE)
    return 255 - grey if film.white_is_zero else grey


def _on_black(film: OpenedFilm, path: str | Path) -> np.ndarray:
    if film.deep and "transparency" in film.image.info:
        raise ImageRefusedError(path, "16-bit colour with a transparent colour", SAVE)
    image = film.image.convert("LA") if film.image.mode == "La" else film.image.convert("RGBA")
    luma, alpha = np.asarray(image.convert("L")), np.asarray(image.getchannel("A"))
    if alpha.min() == 255:
        return luma
    kind = "palette with transparency" if film.image.mode.startswith("P") else "transparency"
    tell_once(kind, f"{path}: {kind} is laid on black")
    table = np.round(np.arange(256) * (np.arange(256) / 255.0)[:, np.newaxis]).astype(np.uint8)
    return through(table.ravel(), (alpha.astype(np.uint16) << 8) | luma, 0)


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Apply EXIF orientation (Exif 2.32, tag 0x0112): 5 to 8 swap the axes, then both kinds flip."""
    if orientation >= 5:
        pixels = pixels.T
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


_told: set[str] = set()
_told_lock = threading.Lock()


def tell_once(kind: str, message: str) -> None:
    """Log what is special about a film once per kind and process.

    Args:
        kind: such as ``transparency``.
        message: about the first film of the kind.
    """
    with _told_lock:
        new = kind not in _told
        _told.add(kind)
    if new:
        _LOG.warning("%s (further files are not named)", message, extra={"kind": kind, "about": message})


def forget_told() -> None:
    """Log of every kind again: in a process whose log is sent elsewhere."""
    with _told_lock:
        _told.clear()
