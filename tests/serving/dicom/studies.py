"""Chest radiographs as an archive has them: phantoms in DICOM with a patient and a study."""

from __future__ import annotations

import functools
import hashlib
import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from covidnet.data.phantoms.phantom import draw_image


def study(number: int) -> str:
    """The UID of a study."""
    return f"1.2.826.0.1.{number}"


def radiograph(number: int, **tags: object) -> Dataset:
    """A frontal chest phantom of its own study; equal numbers give the same image."""
    values = _drawn(number)
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SpecificCharacterSet = "ISO_IR 100"
    header.SOPClassUID = DigitalXRayImageStorageForPresentation
    header.StudyInstanceUID, header.SeriesInstanceUID = study(number), f"{study(number)}.1"
    header.SOPInstanceUID = f"{study(number)}.1.1"
    header.PatientID, header.PatientName = f"P{number}", "Müller^Änne"
    header.PatientBirthDate, header.PatientSex, header.StudyID = "19500102", "F", str(number)
    header.StudyDate, header.StudyTime, header.AccessionNumber = "20240305", "101112", f"A{number}"
    header.ReferringPhysicianName, header.InstanceNumber, header.SeriesNumber = "", 1, 1
    header.Modality, header.BodyPartExamined, header.ViewPosition = "DX", "CHEST", "PA"
    header.PatientOrientation = ["L", "F"]
    header.Rows, header.Columns = values.shape
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 8, 8, 7, 0
    for name, value in tags.items():
        if value is None:
            delattr(header, name)
        else:
            setattr(header, name, value)
    header.PixelData = np.ascontiguousarray(values).tobytes()
    header["PixelData"].VR = "OB"
    return header


@functools.cache
def _drawn(number: int) -> np.ndarray:
    return draw_image(("COVID-19", "Normal", "Pneumonia")[number % 3], 5000 + number, 0, size=96).image


def file_of(header: Dataset) -> bytes:
    """The bytes of its file."""
    stream = io.BytesIO()
    header.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def digest(header: Dataset) -> str:
    """A hash of everything in a result but the times at which it was made."""
    rest = dcmread(io.BytesIO(file_of(header)))
    rest.walk(lambda dataset, element: dataset.pop(element.tag) if element.VR in ("DA", "DT", "TM") else None)
    return hashlib.sha256(file_of(rest)).hexdigest()


def faults(file: Path) -> list[str]:
    """What dciodvfy finds wrong in a DICOM file; the test is skipped where it is not installed."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed: apt-get install dicom3tools")
    said = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, errors="replace", check=False)
    # Codes of no standard are allowed (PS3.3 8.2): the scheme is identified in the file.
    expected = "Unrecognized defined term <99COVIDNET>"
    return [line for line in said.stderr.splitlines() if line.startswith(("Error", "Warning")) and expected not in line]
