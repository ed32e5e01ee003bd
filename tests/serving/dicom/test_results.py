"""Structured Reports and Secondary Captures: what they hold, that they are valid, and that they repeat exactly."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from highdicom.sr import srread
from pydicom import dcmread
from pydicom.dataset import Dataset

from covidnet.base.errors import ImageRefusedError
from covidnet.data.reading.decoders import Decoders
from covidnet.data.reading.dicom_source import source_of
from covidnet.data.reading.images import Radiograph, decode_radiograph
from covidnet.gate.flags import Flag
from covidnet.serving.answers import ImageAnswer, Predictor
from covidnet.serving.checkpoint_path import find_models
from covidnet.serving.dicom.overlay import OPACITY
from covidnet.serving.dicom.results import DicomResults, encoded
from covidnet.serving.open_model import open_model
from covidnet.serving.web.pictures import HEAT_COLOURS
from tests.refusals import refused
from tests.serving.dicom.studies import digest, faults, file_of, radiograph, study


@pytest.fixture(scope="module")
def maker(trained: Callable[..., Path]) -> DicomResults:
    run = trained("fold=0", "explain=off", "trainer.max_epochs=2")
    return DicomResults.of_files(Predictor(open_model(run), "warn"), find_models(run))


def answered(maker: DicomResults, header: Dataset) -> tuple[dict[str, object], Radiograph, ImageAnswer]:
    data = file_of(header)
    image = decode_radiograph(data, "a.dcm")
    answer = maker.predictor.answer([image], heat=True)[0]
    assert isinstance(answer, ImageAnswer)
    return source_of(data, "a.dcm"), image, answer


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"BodyPartExamined": None},
        {"PatientOrientation": None, "StudyDate": None, "PatientSex": "", "PatientName": "", "StudyID": ""},
        {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう"},
    ],
)
def test_results_are_valid_and_open_with_highdicom(
    maker: DicomResults, tmp_path: Path, tags: dict[str, object]
) -> None:
    for kind, result in zip(("sr", "sc"), maker.make(*answered(maker, radiograph(1, **tags))), strict=True):
        (tmp_path / kind).write_bytes(encoded(result))
        wrong = [line for line in faults(tmp_path / kind) if "needed to build DICOMDIR" not in line]
        assert wrong == [], kind
    assert srread(tmp_path / "sr").SOPClassUID.name == "Comprehensive SR Storage"


def test_the_report_has_probabilities_prediction_flags_model_and_notice(maker: DicomResults, tmp_path: Path) -> None:
    source, image, answer = answered(maker, radiograph(1))
    answer = replace(answer, flags=[Flag("dark", "too dark: 90% of it is black; expose it again")])
    (tmp_path / "sr").write_bytes(encoded(maker.make(source, image, answer)[0]))
    report = srread(tmp_path / "sr")
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    (group,) = report.content.get_image_measurement_groups()
    found = {measured.name.meaning: measured.value for measured in group.get_measurements()}
    expected = {f"Probability of {name}": p for name, p in zip(answer.classes, answer.probabilities, strict=True)}
    assert found == pytest.approx(expected, abs=1e-6)
    assert {measured.unit.value for measured in group.get_measurements()} == {"1"}
    (evaluated,) = group.get_qualitative_evaluations()
    assert evaluated.value.meaning == answer.prediction
    texts = [str(item.TextValue) for item in group[0].ContentSequence if item.ValueType == "TEXT"]
    assert "Research use only; not a medical device." in texts
    assert "dark: too dark: 90% of it is black; expose it again" in texts
    assert maker.predictor.model.facts.title in texts
    assert maker.version in texts


def test_both_results_belong_to_the_image_its_study_and_its_patient(maker: DicomResults) -> None:
    header = radiograph(1)
    report, capture = maker.make(*answered(maker, header))
    for result in (report, capture):
        for name in ("StudyInstanceUID", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyDate"):
            assert str(result[name].value) == str(header[name].value), name
        assert str(result.PatientName) == "Müller^Änne"
        assert result.SeriesInstanceUID != header.SeriesInstanceUID
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0]
    series = [evidence.ReferencedSeriesSequence[0], capture.ReferencedSeriesSequence[0]]
    assert evidence.StudyInstanceUID == header.StudyInstanceUID
    assert {one.SeriesInstanceUID for one in series} == {header.SeriesInstanceUID}
    named = series[0].ReferencedSOPSequence[0], series[1].ReferencedInstanceSequence[0], capture.SourceImageSequence[0]
    assert {one.ReferencedSOPInstanceUID for one in named} == {header.SOPInstanceUID}
    assert {one.ReferencedSOPClassUID for one in named} == {header.SOPClassUID}
    assert len({report.SeriesInstanceUID, capture.SeriesInstanceUID, header.SeriesInstanceUID}) == 3


def test_the_capture_shows_the_image_its_map_and_the_notice(maker: DicomResults) -> None:
    source, image, answer = answered(maker, radiograph(1))
    none, all_of_it = (np.full_like(answer.heat, value) for value in (0.0, 1.0))
    pictures = [maker.make(source, image, replace(answer, heat=heat))[1].pixel_array for heat in (none, all_of_it)]
    height, width = image.pixels.shape
    scale = 512 / width
    across, down = 512, round(height * scale)
    below = [picture[-down:] for picture in pictures]
    assert pictures[0].shape[1] == across
    assert pictures[0].shape[0] > down
    # Without influence the image is unchanged, thus grey; with full influence it shines through.
    assert np.ptp(below[0].astype(int), axis=2).max() == 0
    rows, columns = np.mgrid[2 : height - 2 : 4, 2 : width - 2 : 4]
    shown = below[0][((rows + 0.5) * scale).astype(int), ((columns + 0.5) * scale).astype(int), 0]
    assert np.abs(shown.astype(int) - image.pixels[rows, columns]).max() <= 12
    np.testing.assert_allclose(below[1], (1 - OPACITY) * below[0] + OPACITY * HEAT_COLOURS[255], atol=0.51)
    # The first line is yellow, and nothing else of the heading is.
    head = pictures[0][:-down]
    yellow = (head[..., 0] > 200) & (head[..., 1] > 200) & (head[..., 2] < 60)
    rows = np.flatnonzero(yellow.any(axis=1))
    assert yellow.sum() > 100
    assert 0 < rows[0] < rows[-1] < 32


def test_the_libraries_log_nothing_about_the_patient(maker: DicomResults, caplog: pytest.LogCaptureFixture) -> None:
    answer = answered(maker, radiograph(1))
    with caplog.at_level(logging.DEBUG):
        for result in maker.make(*answer):
            encoded(result)
    assert caplog.text == ""


def test_the_same_image_and_model_give_the_same_results_and_others_give_others(maker: DicomResults) -> None:
    first = maker.make(*answered(maker, radiograph(1)))
    again = maker.make(*answered(maker, radiograph(1)))
    assert [digest(one) for one in first] == [digest(one) for one in again]
    others = [
        maker.make(*answered(maker, radiograph(2))),
        maker.make(*answered(maker, radiograph(1, SOPInstanceUID="1.2.3.9"))),
        replace(maker, digests=["00" * 32]).make(*answered(maker, radiograph(1))),
        replace(maker, predictor=Predictor(maker.predictor.model, "off")).make(*answered(maker, radiograph(1))),
    ]
    names = ("SOPInstanceUID", "SeriesInstanceUID")
    uids = [result[name].value for made in [first, *others] for result in made for name in names]
    assert len(set(uids)) == len(uids)
    assert all(uid.is_valid and uid.startswith("2.25.") for uid in uids)


def test_an_image_is_the_same_in_any_lossless_encoding(maker: DicomResults) -> None:
    packed = radiograph(1)
    packed.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)
    uids = [maker.uid(*answered(maker, header)[:2], "sr") for header in (radiograph(1), packed)]
    assert uids[0] == uids[1]


def test_values_that_dicom_does_not_allow_are_left_out() -> None:
    header = radiograph(1, PatientSex="X")
    data = file_of(header).replace(b"20240305", b"2024-3-5")
    source = source_of(data, "a.dcm")
    assert "00080020" not in source
    assert "00100040" not in source
    assert source["0020000D"]["Value"] == [study(1)]


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    with Decoders(1) as found:
        yield found


@pytest.mark.parametrize(
    ("data", "name", "cause"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(200), "a.png", "not DICOM, so results in DICOM have no study to belong to"),
        (file_of(radiograph(1, StudyInstanceUID=None)), "a.dcm", "no valid StudyInstanceUID in its header"),
        (file_of(radiograph(1)).replace(b"0.1.1.1.1", b"0.1.1.x.1"), "a.dcm", "no valid SOPInstanceUID"),
        (bytes(128) + b"DICM" + bytes(40), "a.dcm", "no valid SOPClassUID"),
    ],
)  # fmt: skip
def test_an_image_without_a_study_is_refused_also_by_a_decoder(
    decoders: Decoders, data: bytes, name: str, cause: str
) -> None:
    with pytest.raises(ImageRefusedError) as caught:
        source_of(data, name)
    assert caught.value.cause.startswith(cause)
    with pytest.raises(ImageRefusedError) as caught:
        decoders.source_in(data, name)
    assert caught.value.cause.startswith(cause)


def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    from covidnet.serving.dicom.results import check_libraries

    check_libraries("output", "dicom")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "highdicom" else find(name))
    with refused("output", "dicom", remedy='highdicom is not installed: pip install "covidnet[hospital]"'):
        check_libraries("output", "dicom")


def test_a_results_file_reads_back_as_it_was_made(maker: DicomResults, tmp_path: Path) -> None:
    made = maker.make(*answered(maker, radiograph(3)))
    for result in made:
        (tmp_path / "a.dcm").write_bytes(encoded(result))
        assert digest(dcmread(tmp_path / "a.dcm")) == digest(result)
