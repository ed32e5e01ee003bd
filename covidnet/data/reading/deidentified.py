"""A DICOM radiograph without what identifies its patient: PS3.15, Basic Application Level Confidentiality Profile.

The profile lists what to remove. This module is stricter: only the elements in `KEPT` survive, and of them only values
of the expected type. UIDs, the patient's name and ID are replaced, dates are shifted, everything else is removed:
private elements, sequences besides the lookup tables, overlays, and every free text.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import re
from base64 import b32encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from covidnet.base.errors import CovidnetError, ImageRefusedError
from covidnet.data.reading.dicom import QUIET, patient_of

if TYPE_CHECKING:
    from pydicom import DataElement, Dataset

# Of the image: nothing here is in table E.1-1 of the profile, which lists what must be removed or replaced.
KEPT = frozenset({
    "SOPClassUID", "ImageType", "Modality", "ConversionType", "PresentationIntentType", "Manufacturer",
    "ManufacturerModelName", "BodyPartExamined", "ViewPosition", "PatientOrientation", "Laterality", "ImageLaterality",
    "PositionerType", "DetectorType", "KVP", "Exposure", "ExposureInuAs", "ExposureInmAs", "ExposureTime",
    "XRayTubeCurrent", "DistanceSourceToDetector", "DistanceSourceToPatient", "ImagerPixelSpacing", "PixelSpacing",
    "FocalSpots", "Grid", "RelativeXRayExposure", "ExposureIndex", "TargetExposureIndex", "DeviationIndex",
    "SeriesNumber", "InstanceNumber", "AcquisitionNumber",
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns",
    "PixelAspectRatio", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SmallestImagePixelValue",
    "LargestImagePixelValue", "PixelPaddingValue", "PixelPaddingRangeLimit", "QualityControlImage",
    "BurnedInAnnotation", "PixelIntensityRelationship", "PixelIntensityRelationshipSign", "WindowCenter", "WindowWidth",
    "RescaleIntercept", "RescaleSlope", "RescaleType", "VOILUTFunction", "PresentationLUTShape",
    "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod",
    "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData", "ModalityLUTSequence", "VOILUTSequence", "LUTDescriptor", "LUTData",
    "ModalityLUTType",
})  # fmt: skip
"""Keywords of elements that stay as they are."""

UIDS = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
"""Replaced, the same ones of a patient by the same."""

DATES = ("Study", "Series", "Acquisition", "Content")
"""Dates and times that are shifted by the same hours for all images of a patient."""

_SEQUENCES = ("ModalityLUTSequence", "VOILUTSequence")
_EMPTIED = ("AccessionNumber", "PatientBirthDate", "PatientSex", "ReferringPhysicianName", "StudyID")
_METHODS = (
    ("113100", "Basic Application Confidentiality Profile"),
    ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
)
_TEXTS = frozenset({"CS", "LO", "SH"})
_CODE = re.compile(r"[A-Z0-9 _]{0,16}")
_TIME = re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?")
_DATE_TIME = re.compile(r"\d{8}(\d{2}){0,3}(\.\d{1,6})?")
# Words that are no identifier, even if a name or number contains them.
_TERMS = frozenset({
    "AXIAL", "CHEST", "DERIVED", "LOG", "LIN", "MONOCHROME1", "MONOCHROME2", "ORIGINAL", "PORTABLE", "POST", "PRIMARY",
    "PROCESSING", "RGB", "SECONDARY", "THORAX", "XRAY",
})  # fmt: skip
_SHORTEST, _SHORTEST_IN_HEADER, _SHORTEST_IN_PIXELS = 3, 5, 8
_PIXELS = b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10"
_REMEDY = "export it as uncompressed DICOM"


class Pseudonyms:
    """Names that replace those of patients and files; the same key gives the same names.

    Args:
        key: at least 16 secret bytes. Whoever has it can find out whose pseudonym is whose by trying names.

    Example:
        >>> names = Pseudonyms(bytes(32))
        >>> names.patient("MRN 7"), names.patient("MRN 7") == names.patient("MRN 8")
        ('P7MOZNU4EPROR4BUZ', False)
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def patient(self, patient_id: str) -> str:
        """The pseudonym of a patient."""
        return "P" + self._code("patient", patient_id)

    def name(self, kind: str, value: str) -> str:
        """The pseudonym of another value, such as a file's name."""
        return f"{kind}-{self._code(kind, value)}"

    def seed(self, patient_id: str) -> str:
        """What decides a patient's UIDs and by how much the dates are shifted."""
        return self._digest("seed", patient_id).hex()

    def _code(self, kind: str, value: str) -> str:
        return b32encode(self._digest(kind, value))[:16].decode()

    def _digest(self, kind: str, value: str) -> bytes:
        return hmac.digest(self._key, f"{kind}\0{value}".encode("utf-8", "surrogateescape"), hashlib.sha256)


def deidentified(
    data: bytes, path: str | Path, pseudonyms: Pseudonyms, patient_id: str | None = None, *, burnt_in: bool = False
) -> tuple[bytes, str]:
    """The file of a radiograph without what identifies its patient, and the patient's pseudonym.

    Args:
        data: the whole file, which the decoders of `covidnet.data.reading.decoders` have accepted.
        path: of the file, for errors.
        pseudonyms: that replace identifiers.
        patient_id: the patient, if not the PatientID of the header. Without either, images of one study belong to one
            patient.
        burnt_in: whether the image may show text; it is recorded in PatientIdentityRemoved.

    Raises:
        ImageRefusedError: the file cannot be read, or something in it cannot be removed.
        CovidnetError: dicognito is not installed.
    """
    try:
        from dicognito.anonymizer import Anonymizer
    except ImportError:
        raise CovidnetError('deidentify=true needs dicognito: pip install "covidnet[hospital]"') from None
    try:
        with QUIET:
            header = _parsed(data, path)
            known = (
                patient_id or patient_of(header) or f"study {header.get('StudyInstanceUID') or header.SOPInstanceUID}"
            )
            pseudonym = pseudonyms.patient(known)
            words = _identifiers(header, patient_id)
            copy = _kept(header, words)
            _add_dates(copy, header)
            _add_pixels(copy, header, path)
            copy.file_meta = _file_meta(header)
            Anonymizer(seed=pseudonyms.seed(known)).anonymize(copy)
            copy.file_meta.MediaStorageSOPInstanceUID = copy.SOPInstanceUID
            _describe(copy, pseudonym, burnt_in=burnt_in or header.get("BurnedInAnnotation") == "YES")
            file = io.BytesIO()
            copy.save_as(file, enforce_file_format=True)
    except (ImageRefusedError, MemoryError):
        raise
    except Exception as error:
        raise ImageRefusedError(path, f"cannot be de-identified ({type(error).__name__})", _REMEDY) from error
    found = file.getvalue()
    if _remains(found, words):
        remedy = f"{_REMEDY}, or leave it out"
        raise ImageRefusedError(path, "an identifier would remain in the pixel data or the header", remedy)
    return found, pseudonym


def _parsed(data: bytes, path: str | Path) -> Dataset:
    """The whole data set."""
    from pydicom import dcmread
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    header = dcmread(io.BytesIO(data), force=True)
    syntax = getattr(header.file_meta, "TransferSyntaxUID", None)
    if syntax == DeflatedExplicitVRLittleEndian:
        raise ImageRefusedError(path, "a deflated data set", _REMEDY)
    header.decode()
    return header


def _kept(header: Dataset, words: frozenset[str]) -> Dataset:
    """A data set with the elements in `KEPT`, `UIDS` and `DATES` whose values have the expected form."""
    from pydicom import Dataset

    found = Dataset()
    for element in header:
        if element.keyword in _SEQUENCES:
            items = [_kept(item, words) for item in element.value or ()]
            if element.VR == "SQ" and items:
                setattr(found, element.keyword, items)
        elif (element.keyword in KEPT or element.keyword in UIDS) and _is_plain(element, words):
            found.add(element)
    return found


def _is_plain(element: DataElement, words: frozenset[str]) -> bool:
    """Whether an element has the type of its keyword, and its text is none of a patient's identifiers."""
    from pydicom.datadict import dictionary_VR

    expected = dictionary_VR(element.tag)
    if element.VR not in (expected, *expected.split(" or ")):
        return False
    values = element.value if element.VM > 1 else [element.value]
    if element.VR not in _TEXTS:
        return True
    texts = [str(value) for value in values]
    if element.VR == "CS" and not all(map(_CODE.fullmatch, texts)):
        return False
    return not any(words & set(_words(text)) for text in texts)


def _add_dates(copy: Dataset, header: Dataset) -> None:
    """Add dates in DICOM's form, with their times; others are unknown."""
    from datetime import datetime

    def is_date(text: str) -> bool:
        try:
            return bool(re.fullmatch(r"\d{8}", text) and datetime.strptime(text, "%Y%m%d"))
        except ValueError:
            return False

    for name in DATES:
        date, time = (str(header.get(f"{name}{what}") or "").strip() for what in ("Date", "Time"))
        if is_date(date):
            setattr(copy, f"{name}Date", date)
            if _TIME.fullmatch(time):
                setattr(copy, f"{name}Time", time)
    both = str(header.get("AcquisitionDateTime") or "").strip()
    if _DATE_TIME.fullmatch(both) and is_date(both[:8]):
        copy.AcquisitionDateTime = both


def _describe(copy: Dataset, pseudonym: str, *, burnt_in: bool) -> None:
    """Add the pseudonym, what an image must have even if empty, and what was done to it."""
    from pydicom import Dataset

    for name in (*_EMPTIED, *(f"Study{what}" for what in ("Date", "Time"))):
        if name not in copy:
            setattr(copy, name, "")
    copy.SpecificCharacterSet = "ISO_IR 192"
    copy.PatientID = copy.PatientName = pseudonym
    copy.PatientIdentityRemoved = "NO" if burnt_in else "YES"
    copy.DeidentificationMethod = ["covidnet: keeps listed elements, removes all others", "dicognito"]
    codes = []
    for code, meaning in _METHODS:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, "DCM", meaning
        codes.append(item)
    copy.DeidentificationMethodCodeSequence = codes
    copy.LongitudinalTemporalInformationModified = "MODIFIED"


def _file_meta(header: Dataset) -> Any:
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    found = FileMetaDataset()
    given = getattr(header.file_meta, "TransferSyntaxUID", None)
    if given is None:
        given = ImplicitVRLittleEndian if header.original_encoding[0] else ExplicitVRLittleEndian
    found.TransferSyntaxUID = given
    found.MediaStorageSOPClassUID = header.SOPClassUID
    found.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    return found


# Pixels


def _add_pixels(copy: Dataset, header: Dataset, path: str | Path) -> None:
    """Add the pixels, without what a file may hold beside them: comments of JPEG, unused bits, what follows them."""
    from pydicom.encaps import encapsulate, generate_frames

    element = header["PixelData"]
    syntax = getattr(header.file_meta, "TransferSyntaxUID", None)
    if syntax is not None and syntax.is_compressed:
        clean: Callable[[bytes], bytes]
        if "RLE" in syntax.name:
            clean = bytes
        elif "JPEG 2000" in syntax.name:
            clean = _clean_codestream
        elif syntax.name.startswith("JPEG"):
            clean = _clean_jpeg
        else:
            raise ImageRefusedError(path, f"pixels in {syntax.name} may hold comments", _REMEDY)
        frames = [clean(frame) for frame in generate_frames(element.value, number_of_frames=1)]
        copy.PixelData = encapsulate(frames)
        copy["PixelData"].VR = "OB"
        copy["PixelData"].is_undefined_length = True
        return
    size = header.BitsAllocated // 8
    count = header.Rows * header.Columns * header.SamplesPerPixel
    value = element.value[: count * size]
    spare = header.BitsAllocated - header.BitsStored
    if spare and not header.PixelRepresentation and header.HighBit == header.BitsStored - 1:
        big = syntax is not None and not syntax.is_little_endian
        kind = np.dtype(f"{'>' if big else '<'}u{size}")
        value = (np.frombuffer(value, kind) & np.array((1 << header.BitsStored) - 1, kind)).astype(kind).tobytes()
    copy.PixelData = value + b"\0" * (len(value) % 2)
    copy["PixelData"].VR = element.VR


def _clean_jpeg(frame: bytes) -> bytes:
    """A JPEG or JPEG-LS image without comments and application data, and without what follows it."""
    found, at = bytearray(frame[:2]), 2
    if found != b"\xff\xd8":
        raise ValueError
    while frame[at : at + 2] != b"\xff\xda":
        marker, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4], "big")
        if frame[at] != 0xFF or length < 2:
            raise ValueError
        # APPn and COM; JPEG-LS has its parameters in APP8 only in a file of its own (SPIFF).
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            found += frame[at : at + 2 + length]
        at += 2 + length
    scans = frame[at:]
    end = scans.rfind(b"\xff\xd9")
    if end < 0:
        raise ValueError
    # Between scans there may be tables, and so comments.
    if re.search(rb"\xff[\xe0-\xef\xfe]", scans[: end + 2]):
        raise ValueError
    found += scans[: end + 2]
    return bytes(found)


def _clean_codestream(frame: bytes) -> bytes:
    """A JPEG 2000 codestream without comments in its header."""
    found, at = bytearray(frame[:2]), 2
    if found != b"\xff\x4f":
        raise ValueError
    while frame[at : at + 2] != b"\xff\x90":
        length = int.from_bytes(frame[at + 2 : at + 4], "big")
        if frame[at] != 0xFF or length < 2:
            raise ValueError
        if frame[at + 1] != 0x64:
            found += frame[at : at + 2 + length]
        at += 2 + length
    return bytes(found + frame[at:])


# What must not remain


def _identifiers(header: Dataset, patient_id: str | None) -> frozenset[str]:
    """The words of names, numbers and dates that the file has anywhere, besides those of elements that are kept."""
    found = set(_words(patient_id or ""))
    for element in _everywhere(header):
        naming = element.VR in ("PN", "UI") or any(part in element.keyword for part in ("ID", "Number", "Address"))
        if element.keyword in KEPT or not naming:
            continue
        for value in element.value if element.VM > 1 else [element.value]:
            text = str(value or "")
            if element.VR == "UI":
                found |= {text} if text and not text.startswith("1.2.840.10008.") else set()
            elif len(text) < 1000:
                found |= set(_words(text))
    return frozenset(found)


def _everywhere(header: Dataset) -> Iterator[DataElement]:
    for element in header:
        if element.VR == "SQ":
            for item in element.value or ():
                yield from _everywhere(item)
        elif element.keyword != "PixelData":
            yield element


def _words(text: str) -> Iterator[str]:
    words = re.split(r"[\W_]+", text.upper())
    return (word for word in words if len(word) >= _SHORTEST and word not in _TERMS)


def _remains(data: bytes, words: frozenset[str]) -> bool:
    """Whether a file has one of the words; short ones are found in any pixels by chance."""
    header = data[: max(map(data.find, _PIXELS))].upper()
    upper = data.upper()
    for word in words:
        place = upper if len(word) >= _SHORTEST_IN_PIXELS else header
        for codec in ("utf-8", "latin-1"):
            try:
                wanted = word.encode(codec)
            except UnicodeEncodeError:
                continue
            if "." in word:
                # A UID; another one may begin like it, such as that of the library that writes the file.
                found = re.search(rb"(?<![0-9.])" + re.escape(wanted) + rb"(?![0-9])", place)
                if found and len(word) >= _SHORTEST_IN_HEADER:
                    return True
                continue
            # Numbers occur within the numbers of UIDs.
            if word.isdigit() and re.search(rb"(?<![0-9.])" + wanted + rb"(?![0-9.])", place):
                return True
            if len(word) >= _SHORTEST_IN_HEADER and not word.isdigit() and wanted in place:
                return True
    return False
