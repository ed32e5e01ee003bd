"""The results for one image as DICOM: a Structured Report and a Secondary Capture in the image's own study."""

from __future__ import annotations

import hashlib
import io
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covidnet import __version__
from covidnet.base.errors import SettingError
from covidnet.base.provenance import file_sha256
from covidnet.data.reading.dicom import QUIET
from covidnet.data.reading.dicom_source import source_dataset
from covidnet.data.reading.images import READING
from covidnet.serving.facts import NOTICE

if TYPE_CHECKING:
    from pydicom import Dataset

    from covidnet.data.reading.images import Radiograph
    from covidnet.serving.answers import ImageAnswer, Predictor

KINDS = ("sr", "sc")
"""The results of one image, in the order of `DicomResults.make`; files and UIDs are named by them."""

SCHEME = "99COVIDNET"
"""The coding scheme of codes that no standard has, such as the probability of a class."""

# SNOMED CT codes of the default classes; others have codes of our own.
_SNOMED = {"COVID-19": "840539006", "Normal": "17621005", "Pneumonia": "233604007"}
_MANUFACTURER = "covidnet"
_SERIES = 9001
_MEANING = 64  # characters of a code's meaning


def check_libraries(setting: str, value: object) -> None:
    """Refuse a setting that needs DICOM's libraries where they are not installed.

    Args:
        setting: its name.
        value: given.

    Raises:
        SettingError: naming the library.
    """
    import importlib.util

    for name in ("pydicom", "highdicom", "pynetdicom", "dicomweb_client"):
        if importlib.util.find_spec(name) is None:
            remedy = f'{name} is not installed: pip install "covidnet[hospital]"'
            raise SettingError(setting, value, "left out", remedy)


@dataclass(frozen=True)
class DicomResults:
    """Make the results of images in DICOM.

    The same image, model and gate give the same UIDs, so that an archive holds each result once, however often it is
    made and sent.

    Args:
        predictor: the model and its input gate.
        digests: of the model's files, in hex.
    """

    predictor: Predictor
    digests: Sequence[str]

    @classmethod
    def of_files(cls, predictor: Predictor, files: Sequence[Path]) -> DicomResults:
        """Results of a model from files.

        Args:
            predictor: as opened from them.
            files: of the model.
        """
        return cls(predictor, [file_sha256(file) for file in files])

    @property
    def version(self) -> str:
        """The release, and a digest of the model."""
        return f"{__version__}, model {self._model[:12]}"

    def uid(self, source: Mapping[str, Any], image: Radiograph, kind: str) -> str:
        """The UID of a result: a function of image, model and gate.

        Args:
            source: from `covidnet.data.reading.dicom_source.source_of`.
            image: as decoded.
            kind: of `KINDS`, or of their series.

        Returns:
            Derived from a UUID, as PS3.5 B.2 allows without a registered root.
        """
        header = source_dataset(dict(source))
        known = [header.StudyInstanceUID, header.SeriesInstanceUID, header.SOPInstanceUID]
        pixels = hashlib.sha256(image.pixels.tobytes()).hexdigest()
        parts = [kind, *known, str(image.pixels.shape), pixels, self._model, self.predictor.gate, __version__]
        return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, ' '.join([*parts, str(READING)])).int}"

    def make(self, source: Mapping[str, Any], image: Radiograph, answer: ImageAnswer) -> list[Dataset]:
        """The Structured Report and the Secondary Capture of one image.

        Args:
            source: from `covidnet.data.reading.dicom_source.source_of`.
            image: as decoded.
            answer: with a heat map.

        Raises:
            Exception: whatever highdicom raises on a header that it does not take.
        """
        header = source_dataset(dict(source))
        # highdicom logs what it copies, and by which rules it guesses.
        with QUIET:
            return [self._report(header, source, image, answer), self._capture(header, source, image, answer)]

    @property
    def _model(self) -> str:
        return hashlib.sha256(" ".join(self.digests).encode()).hexdigest()

    def _common(self, source: Mapping[str, Any], image: Radiograph, kind: str) -> dict[str, Any]:
        return {
            "series_instance_uid": self.uid(source, image, f"{kind} series"),
            "series_number": _SERIES + KINDS.index(kind),
            "sop_instance_uid": self.uid(source, image, kind),
            "instance_number": 1,
            "manufacturer": _MANUFACTURER,
            "manufacturer_model_name": self.predictor.model.facts.network[:_MEANING],
            "device_serial_number": self._model[:12],
            "software_versions": __version__,
            "series_description": f"covidnet {'report' if kind == 'sr' else 'heat map'}, research use only",
            "specific_character_set": "ISO_IR 192",
        }

    def _report(self, header: Dataset, source: Mapping[str, Any], image: Radiograph, answer: ImageAnswer) -> Dataset:
        from highdicom import sr
        from highdicom.coding_schemes import CodingSchemeIdentificationItem
        from pydicom.sr.codedict import codes

        facts = self.predictor.model.facts
        slugs = answer.classes.slugs
        algorithm = sr.AlgorithmIdentification(
            facts.title[:_MEANING], self.version, [f"gate={self.predictor.gate}", f"calibrated={facts.calibrated}"]
        )
        measured = [
            sr.Measurement(_own(f"p_{slug}", f"Probability of {name}"), round(float(value), 6), codes.UCUM.NoUnits)
            for name, slug, value in zip(answer.classes, slugs, answer.probabilities, strict=True)
        ]
        predicted = sr.QualitativeEvaluation(
            _own("prediction", "Predicted class"), _class_code(answer.prediction, slugs[answer.probabilities.argmax()])
        )
        group = sr.MeasurementsAndQualitativeEvaluations(
            sr.TrackingIdentifier(self.uid(source, image, "tracking"), "whole image"),
            algorithm_id=algorithm,
            measurements=measured,
            qualitative_evaluations=[predicted],
            source_images=[sr.SourceImageForMeasurementGroup(header.SOPClassUID, header.SOPInstanceUID)],
        )
        warned = [(_own("quality", "Quality warning"), f"{flag.code}: {flag.text}") for flag in answer.flags]
        noted = [(codes.DCM.Comment, note) for note in (NOTICE, *self.predictor.notes(), *facts.map_notes())]
        group[0].ContentSequence.extend(
            sr.TextContentItem(name, text, sr.RelationshipTypeValues.CONTAINS) for name, text in [*warned, *noted]
        )
        device = sr.DeviceObserverIdentifyingAttributes(
            f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, self._model).int}",
            name=_MANUFACTURER,
            manufacturer_name=_MANUFACTURER,
            model_name=facts.network[:_MEANING],
            serial_number=self._model[:12],
        )
        observer = sr.ObserverContext(codes.DCM.Device, device)
        content = sr.MeasurementReport(
            sr.ObservationContext(observer_device_context=observer),
            sr.CodedConcept("399208008", "SCT", "Plain X-ray of chest"),
            imaging_measurements=[group],
        )
        scheme = CodingSchemeIdentificationItem(SCHEME, name="codes of covidnet", responsible_organization="covidnet")
        common = self._common(source, image, "sr")
        return sr.ComprehensiveSR([header], content, is_complete=True, coding_schemes=[scheme], **common)

    def _capture(self, header: Dataset, source: Mapping[str, Any], image: Radiograph, answer: ImageAnswer) -> Dataset:
        from highdicom.sc import ConversionTypeValues, SCImage
        from pydicom import Dataset
        from pydicom.sr.codedict import codes
        from pydicom.uid import ExplicitVRLittleEndian

        from covidnet.serving.dicom.overlay import overlay

        model = self.predictor.model
        assert answer.heat is not None  # it was requested
        shares = zip(answer.classes, answer.probabilities, strict=True)
        lines = [
            "Probabilities: " + ", ".join(f"{name} {value:.3f}" for name, value in shares),
            f"Grad-CAM of {answer.prediction}" + ("" if answer.heat.any() else ": no place has evidence"),
            *(f"Quality: {flag.code}" for flag in answer.flags),
            f"{model.facts.title}; covidnet {self.version}",
        ]
        found = SCImage.from_ref_dataset(
            header,
            overlay(image.pixels, answer.heat, model.fit, lines),
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            patient_orientation=("L", "F"),  # replaced below: highdicom requires one, DICOM allows unknown
            transfer_syntax_uid=ExplicitVRLittleEndian,
            **self._common(source, image, "sc"),
        )
        found.PatientOrientation = header.get("PatientOrientation", "")
        found.ConversionType = ConversionTypeValues.WSD.value
        found.ImageType = ["DERIVED", "SECONDARY"]
        found.DerivationDescription = f"{NOTICE} Heat map (Grad-CAM) of {answer.prediction} by covidnet {self.version}"
        # Images of another body part are refused.
        found.BodyPartExamined = header.get("BodyPartExamined") or "CHEST"
        if "BurnedInAnnotation" in header:
            # What is burnt into the image is burnt into its copy.
            found.BurnedInAnnotation = header.BurnedInAnnotation
        reference = Dataset()
        reference.ReferencedSOPClassUID = header.SOPClassUID
        reference.ReferencedSOPInstanceUID = header.SOPInstanceUID
        series = Dataset()
        series.SeriesInstanceUID, series.ReferencedInstanceSequence = header.SeriesInstanceUID, [reference]
        found.ReferencedSeriesSequence = [series]
        used = Dataset()
        used.update(reference)
        used.PurposeOfReferenceCodeSequence = [_item(codes.DCM.SourceImageForImageProcessingOperation)]
        found.SourceImageSequence = [used]
        return found


def encoded(result: Dataset) -> bytes:
    """A result as the bytes of a DICOM file.

    Args:
        result: from `DicomResults.make`.
    """
    file = io.BytesIO()
    result.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _own(code: str, meaning: str) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(code[:16], SCHEME, meaning[:_MEANING])


def _class_code(name: str, slug: str) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(_SNOMED[name], "SCT", name) if name in _SNOMED else _own(slug, name)


def _item(code: Any) -> Dataset:
    from highdicom.sr import CodedConcept

    return CodedConcept.from_code(code)
