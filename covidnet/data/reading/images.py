"""The one reader of image files: reads any ordinary format as 8-bit grey, and refuses doubtful files with a cause.

Pillow decodes, and it is lenient by design: it drops alpha, shows one frame of many, leaves 16-bit data to the caller
and warns where it should stop. So `covidnet.data.reading.containers` checks each format first, and Pillow receives only
the parts that affect pixels. That leaves Pillow nothing to warn about. Silencing its warnings or its pixel limit
instead would change process-wide state that other threads use.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import math
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

from covidnet.base.errors import ImageRefusedError
from covidnet.data.reading.colour import colour_of
from covidnet.data.reading.containers import (
    AGAIN,
    SAVE,
    OpenedImage,
    TooManyPartsError,
    check_lines,
    is_container,
    one_bit,
    open_container,
)
from covidnet.data.reading.dicom import is_dicom
from covidnet.data.reading.grey_levels import Limits, through, to_eight_bits

SUFFIXES: frozenset[str] = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".webp", ".avif", ".dcm", ".dicom"}
)
"""Lower-case suffixes that count as images. The format itself is recognised by a file's first bytes, not its name."""

READING = 4
"""Increased whenever any file is read differently, so that older manifests and features are not reused."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageFacts:
    """What is known about a file once it has been read completely.

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
class Radiograph:
    """One decoded image and what the input gate needs to judge it.

    Args:
        pixels: uint8 (H, W), 0..255, bone bright, writeable and contiguous.
        facts: about the file.
        colour: the share of the image that is coloured, 0..1, measured before it became grey; see
            `covidnet.data.reading.colour`.
        view: ``PA``, ``AP``, ``L`` or another term from a DICOM header; None is unknown.
        patient_id: from a DICOM header; None is unknown, also if it is a placeholder.
    """

    pixels: np.ndarray
    facts: ImageFacts
    colour: float = 0.0
    view: str | None = None
    patient_id: str | None = None


def is_image_file(path: Path) -> bool:
    """Whether a path counts as an image: by its suffix, or by its first bytes if the suffix says nothing.

    Hidden files do not count, such as the ``._image.jpg`` stubs that macOS adds to archives, nor does a DICOMDIR, the
    table of contents of a DICOM medium.

    Args:
        path: a path, which need not exist.

    Example:
        >>> is_image_file(Path("image.JPG")), is_image_file(Path("._image.jpg")), is_image_file(Path("notes.txt"))
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
    16 bits that holds them; colour becomes ITU-R 601 luma; transparent pixels become black; orientation and DICOM
    windows are applied; negative images are inverted, so that bone is bright.

    Args:
        path: a JPEG, PNG, TIFF, BMP, WebP, AVIF or DICOM file.
        max_megapixels: larger images are refused before they are decoded.
        min_side: images with a shorter side, in pixels, are refused.
        sha256: the file's hash in the manifest; None checks nothing.

    Returns:
        uint8 (H, W), 0..255, writeable and contiguous.

    Raises:
        ImageRefusedError: anything wrong with the file.
    """
    data = image_bytes(path, max_megapixels)
    if sha256 is not None:
        check_sha256(data, path, sha256)
    return _decode(data, Limits(path, max_megapixels, min_side)).pixels


def check_sha256(data: bytes, path: str | Path, sha256: str) -> None:
    """Refuse a file that changed since the manifest was written.

    Args:
        data: the whole file.
        path: the name that errors give it.
        sha256: its hash in the manifest, in hex.

    Raises:
        ImageRefusedError: its hash is another one.
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
        ImageRefusedError: anything wrong with the file.
    """
    data = image_bytes(path, max_megapixels)
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
        ImageRefusedError: anything wrong with the bytes.
    """
    decoded = _decode(data, Limits(path, max_megapixels, min_side))
    return decoded.pixels, _facts(data, decoded)


def read_radiograph(path: str | Path, *, max_megapixels: float = 64.0, min_side: int = 64) -> Radiograph:
    """One radiograph as `read_image` reads it, with what the input gate needs.

    Args:
        path: a JPEG, PNG, TIFF, BMP, WebP, AVIF or DICOM file.
        max_megapixels: larger images are refused before they are decoded.
        min_side: images with a shorter side, in pixels, are refused.

    Raises:
        ImageRefusedError: anything wrong with the file.
    """
    data = image_bytes(path, max_megapixels)
    return decode_radiograph(data, path, max_megapixels=max_megapixels, min_side=min_side)


def decode_radiograph(data: bytes, name: str | Path, *, max_megapixels: float = 64.0, min_side: int = 64) -> Radiograph:
    """`read_radiograph` for a file's bytes in memory.

    Args:
        data: the whole file.
        name: the name that errors give it.
        max_megapixels: larger images are refused before they are decoded.
        min_side: images with a shorter side, in pixels, are refused.

    Raises:
        ImageRefusedError: anything wrong with the bytes.
    """
    decoded = _decode(data, Limits(name, max_megapixels, min_side), colour=True)
    return Radiograph(decoded.pixels, _facts(data, decoded), decoded.colour, decoded.view, decoded.patient_id)


def decode_mask(data: bytes, name: str | Path, shape: tuple[int, int]) -> np.ndarray:
    """The pixels of a mask that are brighter than half of its brightest pixel; none if all are 0.

    Args:
        data: the whole file, of any format and mode that Pillow reads.
        name: the name that errors give it.
        shape: (H, W) of its image.

    Returns:
        bool (H, W).

    Raises:
        ImageRefusedError: it cannot be read, or has another size than the image.
    """
    try:
        with Image.open(io.BytesIO(data)) as stored:
            # A mask whose size fits in neither orientation is refused before it is decoded.
            size = stored.size[::-1] if sorted(stored.size) != sorted(shape) else None
            values = np.zeros(0) if size else _mask_values(ImageOps.exif_transpose(stored))
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises many kinds of error for a damaged file
        cause = f"not a readable mask ({error})"
        raise ImageRefusedError(name, cause, "save it as PNG, 0 outside and 255 inside") from error
    if (size := size or values.shape) != tuple(shape):
        found, wanted = (f"{width} x {height}" for height, width in (size, shape))
        raise ImageRefusedError(
            name, f"{found} pixels, the image has {wanted}", "save the mask at the size of its image"
        )
    return values > values.max() / 2


def _mask_values(image: Image.Image) -> np.ndarray:
    """The brightest channel of any mode; transparent pixels count as black, as in images."""
    if image.mode in ("1", "L", "F") or image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float64)
        if not np.isfinite(values).all():
            raise ValueError("values are not finite")
        return values
    pixels = np.asarray(image.convert("RGBA"))
    return pixels[..., :3].max(axis=2) * (pixels[..., 3] / 255.0)


def image_bytes(path: str | Path, max_megapixels: float) -> bytes:
    """The contents of a regular file of a size that an image can have.

    Args:
        path: the file.
        max_megapixels: a file with more bytes than this many pixels need is refused unread.

    Raises:
        ImageRefusedError: it cannot be read, is not a regular file, or is too large.
    """
    with reading(path), open_image(path, max_megapixels) as file:
        return file.read()


def open_image(path: str | Path, max_megapixels: float) -> BinaryIO:
    """Open a regular file of a size that an image can have, without reading it.

    Args:
        path: the file.
        max_megapixels: a file with more bytes than this many pixels need is refused.

    Raises:
        ImageRefusedError: it cannot be opened, is not a regular file, or is too large.
    """
    with reading(path):
        facts = Path(path).stat()
        if stat.S_ISDIR(facts.st_mode):
            raise ImageRefusedError(path, "a folder, not an image", "name one of the files in it")
        if not stat.S_ISREG(facts.st_mode):
            raise ImageRefusedError(path, "a device or a pipe, not a file", "name a file")
        if facts.st_size > 16e6 * max_megapixels + 2**26:  # 4 channels of 32 bits, and room for metadata
            cause = f"too large: {facts.st_size / 1e6:.0f} MB, more than {max_megapixels:g} megapixels need"
            raise ImageRefusedError(path, cause, "make it smaller, or raise data.max_megapixels")
        return Path(path).open("rb")


@contextlib.contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turn system errors while a file is opened or read into refusals.

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
        raise  # it is a ValueError too
    except (OSError, ValueError) as error:
        raise ImageRefusedError(path, f"cannot be read ({error})", "check the disk and the path") from error


def unreadable(path: str | Path, error: Exception) -> ImageRefusedError:
    """The refusal for an error that no check expected; it affects only the file that caused it.

    Args:
        path: the file.
        error: raised while the file was read or examined.
    """
    cause = textwrap.shorten(f"{type(error).__name__}: {error}", 160, placeholder="...")
    return ImageRefusedError(path, f"cannot be used ({cause})", "look at the file, or save it again as a grey PNG")


class _Decoded(NamedTuple):
    pixels: np.ndarray
    mode: str
    view: str | None
    colour: float
    patient_id: str | None


def _free_addresses() -> float:
    """Bytes that this process may still allocate under its address-space limit; infinity without a limit."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY:
            return math.inf
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):  # not Linux
        return math.inf
    return float(limit - taken)


def _facts(data: bytes, decoded: _Decoded) -> ImageFacts:
    height, width = decoded.pixels.shape
    return ImageFacts(hashlib.sha256(data).hexdigest(), width, height, decoded.mode, len(data))


def _decode(data: bytes, limits: Limits, *, colour: bool = False) -> _Decoded:
    """Pixels, stored mode and, if requested, colour; a damaged file is refused."""
    path, view, coloured, patient_id = limits.path, None, 0.0, None
    most = 0  # bytes that decoding may need
    if not data:
        raise ImageRefusedError(path, "empty file (0 bytes)", AGAIN)
    try:
        if is_dicom(data, path):
            # pydicom is optional.
            from covidnet.data.reading import dicom

            shown = dicom.decode(data, limits)
            pixels, mode, view, patient_id = shown.grey, shown.kind, shown.view, shown.patient_id
            if colour and shown.colour is not None:
                coloured = _colour(Image.fromarray(shown.colour))
        else:
            opened = open_container(data, path, limits.check)
            limits.check(*opened.image.size)
            mode = opened.image.mode
            most = 4 * opened.image.width * opened.image.height * len(opened.image.getbands())
            opened.image.load()
            check_lines(opened)
            pixels = _upright(_grey(opened, path), opened.orientation)
            coloured = _colour(opened.image) if colour else 0.0
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
        if most > _free_addresses():  # some C libraries report a failed allocation as broken data
            cause = f"corrupt, or needed more memory than a decoder may use ({text or type(error).__name__})"
            raise ImageRefusedError(path, cause, "make it smaller, or raise reading.max_memory") from error
        raise ImageRefusedError(path, cause, f"{AGAIN}, or {SAVE}") from error
    if pixels.min() == pixels.max():
        raise ImageRefusedError(path, f"no information: every pixel is {pixels.flat[0]}", "use another image")
    return _Decoded(np.require(pixels, requirements=("C", "W")), mode, view, coloured, patient_id)


def _colour(image: Image.Image) -> float:
    """How coloured an image is; transparent pixels count as black."""
    if image.mode in ("L", "LA", "La", "I", "F") or image.mode.startswith("I;16"):
        return 0.0
    clear = "transparency" in image.info or image.mode.endswith(("A", "a"))
    mode = "RGBA" if clear else "RGB"
    # Pillow weights colours by their alpha when it shrinks an image.
    small = (image if image.mode == mode else image.convert(mode)).resize((64, 64), Image.Resampling.BOX)
    values = np.asarray(small)
    if clear:
        values = np.round(values[..., :3] * (values[..., 3:] / np.float32(255))).astype(np.uint8)
    return colour_of(values)


def _grey(opened: OpenedImage, path: str | Path) -> np.ndarray:
    """The decoded image as uint8 (H, W), as stored: orientation is not yet applied."""
    image, mode = opened.image, opened.image.mode
    clear = "transparency" in image.info
    if mode == "1":
        raise one_bit(path)
    if mode in ("I", "F") or mode.startswith("I;16"):
        values = np.asarray(image)
        if clear:
            log_once("transparency", f"{path}: its transparent grey becomes black")
            values = np.where(values == image.info["transparency"], 0, values)
        grey = to_eight_bits(values, path, opened.depth)
    elif clear or mode.endswith(("A", "a")):
        grey = _on_black(opened, path)
    else:
        if mode == "CMYK":
            log_once("CMYK", f"{path}: CMYK is converted to grey")
        coloured = image.convert("RGB") if mode in ("P", "CMYK") else image
        grey = np.asarray(coloured if mode == "L" else coloured.convert("L"))
    if opened.deep and grey.max() < 64:
        raise ImageRefusedError(path, "16-bit colour with less than 15 bits in use", SAVE)
    return 255 - grey if opened.white_is_zero else grey


def _on_black(opened: OpenedImage, path: str | Path) -> np.ndarray:
    if opened.deep and "transparency" in opened.image.info:
        raise ImageRefusedError(path, "16-bit colour with a transparent colour", SAVE)
    image = opened.image.convert("LA") if opened.image.mode == "La" else opened.image.convert("RGBA")
    luma, alpha = np.asarray(image.convert("L")), np.asarray(image.getchannel("A"))
    if alpha.min() == 255:
        return luma
    kind = "palette with transparency" if opened.image.mode.startswith("P") else "transparency"
    log_once(kind, f"{path}: {kind} becomes black")
    table = np.round(np.arange(256) * (np.arange(256) / 255.0)[:, np.newaxis]).astype(np.uint8)
    return through(table.ravel(), (alpha.astype(np.uint16) << 8) | luma, 0)


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Apply EXIF orientation (Exif 2.32, tag 0x0112): 5 to 8 swap the axes before any flips."""
    if orientation >= 5:
        pixels = pixels.T
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


_logged: set[str] = set()
_logged_lock = threading.Lock()


def log_once(kind: str, message: str) -> None:
    """Log something special about an image, once per kind and process.

    Args:
        kind: such as ``transparency``.
        message: about the first image of this kind.
    """
    with _logged_lock:
        new = kind not in _logged
        _logged.add(kind)
    if new:
        _LOG.warning("%s (further files are not listed)", message, extra={"kind": kind, "about": message})


def forget_logged() -> None:
    """Log every kind again, as decoders do for each image: their parent logs each kind once."""
    with _logged_lock:
        _logged.clear()
