"""The part of an image's DICOM header that results refer to: patient, study, series and instance."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covidnet.base.errors import ImageRefusedError
from covidnet.data.reading.dicom import QUIET, is_dicom, require_pydicom
from covidnet.data.reading.dicom_header import read_elements

if TYPE_CHECKING:
    from pydicom import Dataset

REFERENCES = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
"""Without one of these, nothing can refer to the image."""

# Copied to results; required there, even if empty (type 2).
_COPIED = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
_OPTIONAL = (
    "BodyPartExamined", "BurnedInAnnotation", "ImageType", "IssuerOfPatientID", "Modality", "PatientAge",
    "PatientOrientation", "StudyDescription",
)  # fmt: skip
_SEXES = ("F", "M", "O")


def source_of(data: bytes, name: str | Path) -> dict[str, Any]:
    """What results refer to in a DICOM header; no pixels are read.

    Args:
        data: the whole file, of any kind.
        name: the file's name.

    Returns:
        The elements in DICOM's JSON model (PS3.18 F.2), as `source_dataset` takes them. Values that DICOM does not
        allow are left out, so that results are valid even where the image is not.

    Raises:
        ImageRefusedError: not DICOM, not readable, or without a UID of `REFERENCES`.
    """
    require_pydicom(name)
    from pydicom.uid import UID

    if not is_dicom(data, name):
        remedy = "give the DICOM file of the image, or leave out output=dicom"
        raise ImageRefusedError(name, "not DICOM, so results in DICOM have no study to belong to", remedy)
    try:
        with QUIET:
            header = read_elements(io.BytesIO(data), name, (*REFERENCES, *_COPIED, *_OPTIONAL), force=True).dataset
            header.decode()
            found = _valid(header)
    except (ImageRefusedError, MemoryError):
        raise
    except Exception as error:
        raise ImageRefusedError(name, f"its header cannot be read ({error})", "copy it again") from error
    for wanted in REFERENCES:
        value = str(found.get(wanted) or "")
        if not UID(value).is_valid or not value:
            cause = f"no valid {wanted} in its header, which results in DICOM refer to"
            raise ImageRefusedError(name, cause, "export it from the archive again, or leave out output=dicom")
    return dict(found.to_json_dict())


def source_dataset(found: dict[str, Any]) -> Dataset:
    """The elements that `source_of` returned, as a data set.

    Args:
        found: in DICOM's JSON model.
    """
    from pydicom import Dataset

    header = Dataset.from_json(found)
    for name in _COPIED:
        if name not in header:
            setattr(header, name, "")
    # JSON is Unicode, so every character set has been decoded.
    header.SpecificCharacterSet = "ISO_IR 192"
    return header


def _valid(header: Dataset) -> Dataset:
    """The requested elements that DICOM allows."""
    from pydicom import Dataset
    from pydicom.config import RAISE
    from pydicom.valuerep import validate_value

    found = Dataset()
    for element in header:
        several = element.value if element.VM > 1 else [element.value]
        values = ["" if value is None else str(value).strip() for value in several]
        if element.keyword not in (*REFERENCES, *_COPIED, *_OPTIONAL) or not any(values):
            continue
        try:
            for value in values:
                validate_value(element.VR, value, RAISE)
        except ValueError:
            continue
        if element.keyword != "PatientSex" or values[0] in _SEXES:
            setattr(found, element.keyword, values if len(values) > 1 else values[0])
    return found
