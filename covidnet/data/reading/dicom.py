"""Reads radiographs in DICOM files: pixels as they are meant to be displayed, and patient and view from the header."""

from __future__ import annotations

import io
import logging
import re
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from covidnet.base.errors import ImageRefusedError
from covidnet.base.names import inert, shown
from covidnet.data.reading.dicom_frames import frame_size, only_frame, run_lengths
from covidnet.data.reading.dicom_header import Header, read_elements
from covidnet.data.reading.grey_levels import Limits, through, to_eight_bits

if TYPE_CHECKING:
    from pydicom import Dataset

_INSTALL = 'pip install "covidnet[dicom]"'
_EXPORT = "export it as uncompressed DICOM, or as a 16-bit grey PNG"
_NO_ID = {"", "anon", "anonymous", "anonymised", "anonymized", "none", "n/a", "unknown"}
_LATERAL = {"L", "LL", "RL", "LLAT", "RLAT"}

# Terms of DICOM PS3.3 C.7.3.1.1.1 and PS3.16 Annex L that no chest radiograph has. Any other term, or none, is
# accepted: radiographs have CR, DX, RG, RF, OT and terms that no standard lists.
_OTHER_MODALITIES = {
    "BDUS", "BMD", "CT", "ECG", "ES", "GM", "IO", "IVOCT", "IVUS", "MG", "MR", "NM", "OCT", "OP", "OPT", "PT", "PX",
    "RTDOSE", "RTIMAGE", "SEG", "SM", "TG", "US", "XA", "XC",
}  # fmt: skip
_OTHER_PARTS = {
    "ABDOMEN", "ABDOMENPELVIS", "ANKLE", "ARM", "BLADDER", "BRAIN", "BREAST", "CALCANEUS", "COCCYX", "COLON", "CSPINE",
    "EAR", "ELBOW", "EXTREMITY", "EYE", "FEMUR", "FINGER", "FOOT", "FOREARM", "HAND", "HEAD", "HIP", "HUMERUS", "JAW",
    "KIDNEY", "KNEE", "LEG", "LIVER", "LOWERLEG", "LSPINE", "LSSPINE", "MANDIBLE", "MAXILLA", "NASALBONE", "NECK",
    "ORBIT", "PANCREAS", "PATELLA", "PELVIS", "PROSTATE", "RECTUM", "SACRUM", "SHOULDER", "SIJOINT", "SINUS", "SKULL",
    "SPINE", "SPLEEN", "SSPINE", "STOMACH", "TEETH", "THIGH", "THUMB", "TIBIA", "TMJ", "TOE", "TSPINE", "UPPERARM",
    "UTERUS", "WRIST", "ZYGOMA",
}  # fmt: skip
# SOP classes of other modalities (PS3.4 B.5), for headers that do not name the modality: CT, US, MR, XA, NM, PT,
# mammography, intra-oral; also their further forms, such as Enhanced CT.
_OTHER_CLASSES = tuple(
    f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2", "3", "4", "6", "12", "20", "128", "1.2", "1.3")
)
# Values of the detector, which are not meant to be looked at (PS3.3 C.8.11.1).
_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"


def read_header(path: str | Path) -> dict[str, str | None]:
    """The patient and the view in a DICOM header; no pixels are read.

    Args:
        path: a DICOM file.

    Returns:
        ``patient_id``: placeholders such as "anonymous" count as unknown, since they would merge many patients into
            one.
        ``view``: ``PA``, ``AP``, ``L`` for either lateral, or another term in upper case.
        For both, None is unknown, and text is made safe for tables by `covidnet.base.names.inert`.

    Raises:
        ImageRefusedError: not a DICOM file, not readable, or pydicom is not installed.
    """
    require_pydicom(path)
    try:
        with QUIET, Path(path).open("rb") as file:
            header = read_elements(file, path, ("PatientID", "ViewPosition")).dataset
            patient_id, view = patient_of(header), _view(header)
    except ImageRefusedError:
        raise
    except OSError as error:
        raise ImageRefusedError(path, f"cannot be read ({error.strerror or error})", "check the path") from error
    except Exception as error:
        raise ImageRefusedError(path, f"not a readable DICOM file ({error})", "copy it again") from error
    return {"patient_id": patient_id, "view": view}


IDENTIFIERS = ("PatientID", "StudyInstanceUID", "SOPInstanceUID")
"""The identifiers of an image in an archive (PACS)."""


def identifiers_of(data: bytes, name: str | Path) -> list[str]:
    """The `IDENTIFIERS` in a DICOM header, unchanged; no pixels are read.

    Args:
        data: the whole file, of any kind.
        name: the file's name.

    Returns:
        One text for each; empty if unknown, as for a file that is not DICOM or cannot be read.
    """
    try:
        if not is_dicom(data, name):
            return [""] * len(IDENTIFIERS)
        with QUIET:
            header = read_elements(io.BytesIO(data), name, IDENTIFIERS, force=True).dataset
            return [str(header.get(name) or "").strip() for name in IDENTIFIERS]
    except MemoryError:
        raise
    except Exception:
        # The error is reported when the pixels are read.
        return [""] * len(IDENTIFIERS)


def patient_of(header: Dataset) -> str | None:
    """The PatientID of a header; None if it is missing or a placeholder such as "anonymous"."""
    patient = inert(str(header.get("PatientID") or "").strip())
    return None if patient.lower() in _NO_ID else patient


def _view(header: Dataset) -> str | None:
    view = inert(str(header.get("ViewPosition") or "").strip().upper())
    return "L" if is_lateral(view) else view or None


def is_lateral(view: str) -> bool:
    """Whether a DICOM term, or a cell in a table, names a lateral view.

    Args:
        view: such as ``LL`` or ``left lateral``.

    Example:
        >>> [is_lateral(view) for view in ("L", "LL", "Lateral", "lat", "PA", "AP Supine", "AP lateral decubitus")]
        [True, True, True, True, False, False, False]
    """
    words = re.sub("[^A-Z]+", " ", view.upper()).split()
    # In a decubitus view the patient lies on one side, but the image is frontal.
    decubitus = any(word.startswith("DECUB") for word in words)
    return "".join(words) in _LATERAL or (not decubitus and any(word in ("LAT", "LATERAL") for word in words))


class DisplayedImage(NamedTuple):
    """A DICOM image as it is meant to be displayed.

    Args:
        grey: uint8 (H, W).
        kind: the photometric interpretation.
        view: as `read_header` gives it.
        patient_id: as `read_header` gives it.
        colour: uint8 (H, W, 3) if the image is stored in colour.
    """

    grey: np.ndarray
    kind: str
    view: str | None
    patient_id: str | None
    colour: np.ndarray | None = None


def decode(data: bytes, limits: Limits) -> DisplayedImage:
    """Decode an image as it is meant to be displayed: modality LUT, VOI LUT or window, MONOCHROME1 inverted.

    Without a VOI LUT or window, stored values are scaled by their depth, and rescaled ones by their measured range.
    Padding (PixelPaddingValue, PixelPaddingRangeLimit) is not measured: no range includes it, and it becomes black.

    Args:
        data: the whole file.
        limits: the path that errors name, and the allowed sizes.

    Returns:
        Pixels, photometric interpretation and view.

    Raises:
        ImageRefusedError: no image, several frames, a size outside the limits, a compression without a decoder, or a
            header that names another modality, another body part or a localizer.
        Exception: any error of pydicom and its decoders on a damaged file; the caller turns it into a refusal.

    Reference:
        DICOM PS3.3 C.7.6.3 (pixels), C.7.5.1.1.2 (padding), C.11.1 (modality LUT), C.11.2 (VOI LUT).
    """
    path = limits.path
    require_pydicom(path)
    with QUIET:
        file = _header(data, limits)
        header = file.dataset
        check_subject(header, path)
        kind = _term(header, "PhotometricInterpretation")
        encapsulated = header.file_meta.TransferSyntaxUID.is_encapsulated
        stored = _stored_values(file, limits)
        if kind.startswith("MONOCHROME"):
            padding = _padding(stored, header, encapsulated)
            grey = _grey(stored, padding, header, path, negative=kind == "MONOCHROME1")
            return DisplayedImage(grey, kind, _view(header), patient_of(header))
        if kind == "PALETTE COLOR":
            from pydicom.pixels import apply_color_lut

            colour = apply_color_lut(stored, header)
            colour = (colour >> 8).astype(np.uint8) if colour.dtype == np.uint16 else colour
        else:
            colour = to_eight_bits(stored, path, _declared_depth(header))
        if colour.ndim != 3 or colour.shape[2] != 3:
            raise ImageRefusedError(
                path, f"{kind or 'no photometric interpretation'} cannot be read as an image", _EXPORT
            )
        return DisplayedImage(
            np.array(Image.fromarray(colour).convert("L")), kind, _view(header), patient_of(header), colour
        )


def require_pydicom(path: str | Path) -> None:
    """Refuse a DICOM file where pydicom is not installed.

    Args:
        path: the file.

    Raises:
        ImageRefusedError: naming what installs it.
    """
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise ImageRefusedError(path, "DICOM needs pydicom, which is not installed", _INSTALL) from error


def _no_image(path: str | Path, why: str) -> ImageRefusedError:
    return ImageRefusedError(path, f"no image: {why}", "use a complete copy of the image's DICOM file")


def _term(header: Dataset, name: str) -> str:
    """A DICOM term of at most 16 characters, made safe for messages, since a damaged header can contain anything."""
    return re.sub("[^A-Z0-9_ ]", "?", str(header.get(name) or "").upper())[:16].strip()


def check_subject(header: Dataset, path: str | Path) -> None:
    """Refuse an image that is not a chest radiograph for presentation according to its header.

    Args:
        header: with any of Modality, SOPClassUID, PresentationIntentType, BodyPartExamined and ImageType.
        path: the file.

    Raises:
        ImageRefusedError: naming the element.
    """
    remedy = "leave it out, or correct its header if it is wrong"
    modality, part = _term(header, "Modality"), _term(header, "BodyPartExamined")
    if modality in _OTHER_MODALITIES:
        raise ImageRefusedError(path, f"not a radiograph according to its header: Modality {modality}", remedy)
    kind = str(header.get("SOPClassUID") or "")
    if not modality and any(kind == other or kind.startswith(f"{other}.") for other in _OTHER_CLASSES):
        cause = f"not a radiograph according to its header: {shown(getattr(header.SOPClassUID, 'name', kind))[:60]}"
        raise ImageRefusedError(path, cause, remedy)
    if kind == _FOR_PROCESSING or _term(header, "PresentationIntentType") == "FOR PROCESSING":
        cause = "for processing, not for presentation, according to its header"
        raise ImageRefusedError(path, cause, "use the image of the same exposure that is for presentation")
    plain = re.sub("[^A-Z]", "", part)
    if plain in _OTHER_PARTS or plain.removesuffix("S") in _OTHER_PARTS:
        raise ImageRefusedError(path, f"not a chest image according to its header: BodyPartExamined {part}", remedy)
    kinds = header.get("ImageType") or ()
    if "LOCALIZER" in ([kinds] if isinstance(kinds, str) else [str(kind).upper() for kind in kinds]):
        raise ImageRefusedError(path, "not a radiograph according to its header: ImageType LOCALIZER", remedy)


def _padding(values: np.ndarray, header: Dataset, encapsulated: bool) -> np.ndarray | None:
    """Which pixels are padding according to the header: bool (H, W), or None if it names no padding."""
    first, last = _first(header.get("PixelPaddingValue")), _first(header.get("PixelPaddingRangeLimit"))
    if first is None:
        return None
    compared = [values]
    depth = header.BitsStored, header.HighBit
    if depth[0] < header.BitsAllocated and not encapsulated:
        # Padding may use the bits above those stored, which pydicom removes.
        from pydicom.pixels import pixel_array

        header.BitsStored, header.HighBit = header.BitsAllocated, header.BitsAllocated - 1
        compared.append(pixel_array(header))
        header.BitsStored, header.HighBit = depth
    found = np.zeros(values.shape, bool)
    for stored in compared:
        one = _in_container(first, stored.dtype)
        other = one if last is None else _in_container(last, stored.dtype)
        if one is not None and other is not None:
            found |= (stored >= min(one, other)) & (stored <= max(one, other))
    return found


def _in_container(value: float, kind: np.dtype[Any]) -> int | None:
    """A value as pixels of this type store it: headers may write signed padding as unsigned numbers, and vice versa."""
    size = 1 << (8 * kind.itemsize)
    if not -size // 2 <= value < size:
        return None
    return int(np.array(int(value)).astype(kind))


def _measured(values: np.ndarray, padding: np.ndarray | None, path: str | Path) -> np.ndarray:
    """The values with padding replaced by the lowest measured value."""
    if padding is None or not padding.any():
        return values
    measured = values[~padding]
    if not len(measured) or measured.min() == measured.max():
        beside = f"{measured[0]} or padding" if len(measured) else "padding"
        raise ImageRefusedError(
            path, f"no information: every pixel is {beside} according to its header", "use another image"
        )
    return np.where(padding, measured.min(), values)


_NAMES = (
    "BitsAllocated", "BitsStored", "BodyPartExamined", "Columns", "HighBit", "ImageType", "Modality",
    "ModalityLUTSequence", "NumberOfFrames", "PatientID", "PhotometricInterpretation", "PixelPaddingRangeLimit",
    "PixelPaddingValue", "PixelRepresentation", "PlanarConfiguration", "PresentationIntentType", "RescaleIntercept",
    "RescaleSlope", "Rows", "SOPClassUID", "SamplesPerPixel", "VOILUTFunction", "VOILUTSequence", "ViewPosition",
    "WindowCenter", "WindowWidth",
    *(f"{name}PaletteColorLookupTable{part}" for name in ("Red", "Green", "Blue") for part in ("Data", "Descriptor")),
)  # fmt: skip


def _header(data: bytes, limits: Limits) -> Header:
    """Parse the header, and check everything that decides whether the pixels may be decoded."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    try:
        file = read_elements(io.BytesIO(data), limits.path, _NAMES, force=True)
    except (ImageRefusedError, MemoryError):
        raise
    except Exception as error:
        nested = isinstance(error, RecursionError) or isinstance(error.__context__, RecursionError)
        cause = "its sequences are nested too deeply" if nested else "the header is truncated or damaged"
        raise _no_image(limits.path, cause) from error
    header = file.dataset
    if file.pixels is None:
        modality = _term(header, "Modality")
        raise _no_image(
            limits.path, f"{modality} without pixels" if modality else "no pixels, or truncated before them"
        )
    frames = int(header.get("NumberOfFrames") or 1)
    if frames > 1:
        raise ImageRefusedError(limits.path, f"{frames} frames in one file", "save each frame as a file of its own")
    limits.check(int(header.Columns), int(header.Rows))
    if 1 in (header.BitsAllocated, header.BitsStored):
        raise ImageRefusedError(limits.path, "1-bit: only black and white, no greys", "export at least 8 bits")
    samples, bits = int(header.SamplesPerPixel), int(header.BitsAllocated)
    if samples not in (1, 3, 4) or bits not in (8, 16, 24, 32):
        raise ImageRefusedError(limits.path, f"{samples} samples of {bits} bits cannot be read as an image", _EXPORT)
    if not getattr(header, "file_meta", None):
        header.file_meta = FileMetaDataset()
    if "TransferSyntaxUID" not in header.file_meta:
        implicit = header.original_encoding[0]
        header.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    return file if file.data else file._replace(data=data)


def _stored_values(file: Header, limits: Limits) -> np.ndarray:
    """Decoded values, (H, W) or (H, W, 3), colour as RGB."""
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_decoder, pixel_array
    from pydicom.uid import ExplicitVRLittleEndian, RLELossless

    header = file.dataset
    columns, rows, samples = int(header.Columns), int(header.Rows), int(header.SamplesPerPixel)
    size = int(header.BitsAllocated) // 8
    syntax = header.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated:
        try:
            ready = get_decoder(syntax).is_available
        except NotImplementedError as error:
            raise ImageRefusedError(limits.path, f"{syntax.name} cannot be decompressed", _EXPORT) from error
        if not ready:
            raise ImageRefusedError(limits.path, f"no decoder for {syntax.name} is installed", _INSTALL)
        frame = _frame(file, limits)
        if syntax == RLELossless:
            value = run_lengths(frame, rows * columns, samples, size)
            header.file_meta.TransferSyntaxUID, header.PlanarConfiguration = ExplicitVRLittleEndian, 1
            if header.PhotometricInterpretation == "YBR_FULL_422":  # native pixels would share their colours
                header.PhotometricInterpretation = "YBR_FULL"
        else:
            _check_size(frame, columns, rows, limits)
            value = encapsulate([frame], has_bot=False)
    else:
        need = rows * columns * samples
        if header.PhotometricInterpretation == "YBR_FULL_422":
            need = need * 2 // 3
        need *= size
        value = file.value(need + need % 2)
        if len(value) < need:
            raise _no_image(limits.path, f"truncated, {len(value)} of {need} bytes of pixels")
    _put_pixels(file, value)
    return pixel_array(header)


def _put_pixels(file: Header, value: bytes) -> None:
    """Put the pixels into the header with the file's value representation, which decides their byte order."""
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    assert file.pixels is not None
    way, _, start = file.pixels
    tag, (implicit, little) = Tag("PixelData"), file.dataset.original_encoding
    file.dataset[tag] = RawDataElement(tag, way, len(value), value, start, bool(implicit), bool(little))


def _frame(file: Header, limits: Limits) -> bytes:
    """The compressed image."""
    assert file.pixels is not None
    length = file.pixels[1]
    unknown = length == 0xFFFFFFFF
    try:
        return only_frame(file.value(length), to_the_end=not unknown)
    except EOFError as error:
        raise _no_image(limits.path, str(error)) from error


def _check_size(frame: bytes, columns: int, rows: int, limits: Limits) -> None:
    """Check that a compressed frame has the header's size and is complete, before a decoder allocates memory for it."""
    try:
        width, height = frame_size(frame, (columns, rows))
    except EOFError as error:
        raise _no_image(limits.path, "truncated, the compressed pixels have no end marker") from error
    if (width, height) != (columns, rows):
        limits.check(width, height)
        cause = f"corrupt: {columns} x {rows} in the header, {width} x {height} in the compressed image"
        raise ImageRefusedError(limits.path, cause, "copy it again")
    # Frames are padded to an even length.
    if not frame.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise _no_image(limits.path, "truncated, the compressed pixels have no end marker")


def _declared_depth(header: Dataset) -> int | None:
    """Bits stored, unless they only repeat the size of the container."""
    stored = int(header.BitsStored)
    return stored if stored == 8 or stored < int(header.BitsAllocated) else None


def _first(value: Any) -> float | None:
    """The first of one or several numbers; None if there is none."""
    if value is None or value == "":
        return None
    if isinstance(value, (str, int, float)):
        return float(value)
    try:
        return float(value[0]) if len(value) else None
    except TypeError:
        return float(value)


def _grey(
    values: np.ndarray, padding: np.ndarray | None, header: Dataset, path: str | Path, *, negative: bool
) -> np.ndarray:
    """Stored values as uint8 of the same shape, padding black.

    Up to 16 bits, each value that occurs is computed once and pixels are looked up in a table: computing a window needs
    8 bytes per pixel.
    """
    if values.dtype.itemsize > 2:
        grey = _shown(_measured(values, padding, path), header, path)
        grey = 255 - grey if negative else grey
        return grey if padding is None else np.where(padding, np.uint8(0), grey)
    floor, top = np.iinfo(values.dtype).min, np.iinfo(values.dtype).max
    occurs = np.zeros(top - floor + 1, bool)
    for index, row in enumerate(values):
        part = row if padding is None else row[~padding[index]]
        occurs[part.astype(np.int32) - floor] = True
    places = np.flatnonzero(occurs)
    levels = (places + floor).astype(values.dtype)
    if padding is not None and len(levels) < 2 and padding.any():
        _measured(values, padding, path)
    table = np.zeros(len(occurs), np.uint8)
    shown = _shown(levels, header, path)
    table[places] = 255 - shown if negative else shown
    grey = through(table, values, floor)
    if padding is not None:
        grey[padding] = 0
    return grey


def _shown(values: np.ndarray, header: Dataset, path: str | Path) -> np.ndarray:
    """Stored values of a monochrome image as uint8, before any inversion."""
    depth = _declared_depth(header)
    slope, intercept = _first(header.get("RescaleSlope")), _first(header.get("RescaleIntercept"))
    changed = False
    if header.get("ModalityLUTSequence"):
        values, depth = _looked_up(values, header.ModalityLUTSequence[0])
    elif slope is not None and intercept is not None and (slope, intercept) != (1.0, 0.0):
        values, changed = values * slope + intercept, True
    if header.get("VOILUTSequence"):
        values, depth = _looked_up(values, header.VOILUTSequence[0])
        return to_eight_bits(values, path, depth)
    centre, width = _first(header.get("WindowCenter")), _first(header.get("WindowWidth"))
    function = str(header.get("VOILUTFunction") or "LINEAR").upper()
    if centre is not None and width is not None and width > (1 if function == "LINEAR" else 0):
        return _windowed(values, centre, width, function)
    if changed:
        low, high = values.min(), values.max()
        return np.round((values - low) * (255.0 / ((high - low) or 1.0))).astype(np.uint8)
    return to_eight_bits(values, path, depth)


def _looked_up(values: np.ndarray, item: Dataset) -> tuple[np.ndarray, int | None]:
    """Apply a lookup table; also the depth of its entries, None where it is only the size of their container.

    pydicom's `apply_voi` computes in the table's dtype, so 12-bit images wrap around in an 8-bit table.
    """
    entries, first, bits = (int(number) for number in item.LUTDescriptor)
    data = item.LUTData
    order = ">" if item.is_little_endian is False else "<"
    table = np.frombuffer(data, f"{order}u2") if isinstance(data, bytes) else np.asarray(data, np.uint16)
    if bits == 8 and len(table) * 2 == (entries or 1 << 16):  # two 8-bit entries packed in a word
        table = np.frombuffer(table.astype("<u2").tobytes(), np.uint8)
    places = np.clip(np.round(values).astype(np.int64) - first, 0, len(table) - 1)
    return table.astype(np.int32)[places], bits if bits < 16 else None


def _windowed(values: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3, to 0..255."""
    if function == "SIGMOID":
        share = 1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - centre) / width, -700, 700)))
    elif function == "LINEAR_EXACT":
        share = (values - centre) / width + 0.5
    else:
        share = (values - (centre - 0.5)) / (width - 1.0) + 0.5
    return np.round(np.clip(share, 0.0, 1.0) * 255.0).astype(np.uint8)


_LIBRARIES = ("highdicom", "pydicom", "pylibjpeg", "openjpeg", "libjpeg")


class _Quiet:
    """Suppress warnings and log records of pydicom and its decoders, which also concern files that are read correctly.

    Warning filters (in Python 3.11) and loggers are process-wide. So the first of several threads to enter changes them
    and the last to leave restores them, and threads that read DICOM at the same time do not undo each other's changes.
    Records stop at a library's outermost logger; handlers of its inner loggers still receive them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._context: warnings.catch_warnings[Any] | None = None
        self._loggers = [logging.getLogger(name) for name in _LIBRARIES]
        self._passed_on: list[bool] = []
        self._nowhere = logging.NullHandler()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._context = warnings.catch_warnings()
                self._context.__enter__()
                warnings.simplefilter("ignore")
                self._passed_on = [logger.propagate for logger in self._loggers]
                for logger in self._loggers:
                    logger.propagate = False
                    logger.addHandler(self._nowhere)  # without any handler, Python writes to stderr
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._context is not None:
                for logger, passed_on in zip(self._loggers, self._passed_on, strict=True):
                    logger.propagate = passed_on
                    logger.removeHandler(self._nowhere)
                self._context.__exit__(None, None, None)


QUIET = _Quiet()
"""Silences pydicom and what is made for it inside a ``with`` block."""


def is_dicom(head: bytes, path: str | Path) -> bool:
    """Whether a file is DICOM: by its magic number, or else by its first tag and its name together.

    Args:
        head: the file's first 132 bytes, or more.
        path: the file's name.
    """
    named = Path(path).suffix.lower() in (".dcm", ".dicom")
    return head[128:132] == b"DICM" or (named and head[:2] in (b"\x08\0", b"\x02\0"))
