"""A real archive: an image goes there, and its results are found beside it."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from pydicom import dcmread

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.data.reading.decoders import Decoders
from covidnet.launch.command import compose
from covidnet.predict import main
from covidnet.serving.answers import Predictor
from covidnet.serving.checkpoint_path import find_models
from covidnet.serving.dicom.node import DicomNode, NodeSettings
from covidnet.serving.dicom.outbox import Outbox
from covidnet.serving.dicom.results import DicomResults
from covidnet.serving.dicom.sender import Peer
from covidnet.serving.dicom.web_archive import WebArchive
from covidnet.serving.open_model import open_model
from covidnet.serving.web.limits import WebLimits
from tests.serving.dicom.archives import until
from tests.serving.dicom.orthanc import Orthanc, orthanc
from tests.serving.dicom.studies import faults, file_of, radiograph, study

pytestmark = [pytest.mark.orthanc, pytest.mark.slow]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with orthanc(tmp_path_factory.mktemp("orthanc")) as found:
        yield found


@pytest.fixture(scope="module")
def run(trained: Callable[..., Path]) -> Path:
    return trained("fold=0", "explain=off", "trainer.max_epochs=2")


@pytest.fixture
def node(server: Orthanc, run: Path, tmp_path: Path) -> Iterator[DicomNode]:
    results = DicomResults.of_files(Predictor(open_model(run), "warn"), find_models(run))
    settings = NodeSettings(0, "COVIDNET", Peer("ORTHANC", "127.0.0.1", server.dicom), tmp_path)
    with Decoders(2) as decoders, Outbox(tmp_path) as outbox:
        found = DicomNode(settings, results, decoders, WebLimits(), outbox, pause=0.1)
        with found:
            yield found


def test_an_image_that_the_archive_sends_has_its_results_beside_it(
    server: Orthanc, node: DicomNode, tmp_path: Path
) -> None:
    name = server.ask("/instances", file_of(radiograph(1)), "POST")["ID"]
    modality = {"AET": "COVIDNET", "Host": "127.0.0.1", "Port": node.port}
    server.ask("/modalities/covidnet", modality, "PUT")
    server.ask("/modalities/covidnet/echo", {}, "POST")
    for _ in range(2):
        # The second time it is answered already.
        sent = server.ask("/modalities/covidnet/store", {"Resources": [name], "Synchronous": True}, "POST")
        assert sent["FailedInstancesCount"] == 0
        assert until(lambda: set(server.series(study(1))) == {"DX", "SR", "OT"} and node._outbox.waiting() == 0)
    found = server.series(study(1))
    assert {modality: len(instances) for modality, instances in found.items()} == {"DX": 1, "SR": 1, "OT": 1}
    for modality in ("SR", "OT"):
        data = server.file(found[modality][0])
        result = dcmread(io.BytesIO(data))
        assert (result.PatientID, str(result.PatientName), result.AccessionNumber) == ("P1", "Müller^Änne", "A1")
        (tmp_path / modality).write_bytes(data)
        assert faults(tmp_path / modality) == []


def test_storescu_sends_an_image_and_is_told_why_another_is_not_accepted(
    server: Orthanc, node: DicomNode, tmp_path: Path
) -> None:
    for program in ("storescu", "echoscu"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: apt-get install dcmtk")

    def said(program: str, *words: str) -> tuple[int, str]:
        command = [program, "-v", *words]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60, check=False)
        return done.returncode, done.stderr + done.stdout

    where = ["127.0.0.1", str(node.port)]
    (tmp_path / "chest.dcm").write_bytes(file_of(radiograph(2)))
    (tmp_path / "hand.dcm").write_bytes(file_of(radiograph(3, BodyPartExamined="HAND")))
    assert said("echoscu", "-aec", "COVIDNET", *where)[0] == 0
    code, text = said("echoscu", "-aec", "OTHER", *where)
    assert code != 0
    assert "Called AE Title Not Recognized" in text
    code, text = said("storescu", "-aec", "COVIDNET", *where, str(tmp_path / "chest.dcm"))
    assert (code, "0x0000" in text or "Success" in text) == (0, True)
    code, text = said("storescu", "-aec", "COVIDNET", *where, str(tmp_path / "hand.dcm"))
    assert "DataSetDoesNotMatchSOPClass" in text or "a900" in text.lower()
    assert until(lambda: node._outbox.waiting() == 0)
    assert set(server.series(study(2))) == {"SR", "OT"}
    assert server.ask("/tools/lookup", study(3).encode(), "POST") == []


def test_a_study_of_a_dicomweb_server_is_predicted_and_its_results_stored_there(
    server: Orthanc, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "covidnet")
    same = {"StudyInstanceUID": study(4), "PatientID": "P4"}
    packed = radiograph(5, **same, Modality="CR")
    packed.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)
    images = [radiograph(4), packed, radiograph(6, **same, Modality="CT")]
    for image in images:
        server.ask("/instances", file_of(image), "POST")
    given = f"input=dicomweb://127.0.0.1:{server.http}/dicom-web/studies/{study(4)}"
    settings = [f"checkpoint='{run}'", given, f"out='{tmp_path}'", "gate=warn", "output=dicom", "progress=false"]
    for _ in range(2):
        # The second time nothing is doubled.
        main(compose([*settings, "send=true", "overwrite=true"], "predict"))
        table = pd.read_csv(tmp_path / "predictions.csv")
        assert list(table["path"]) == sorted(f"{image.SOPInstanceUID}.dcm" for image in images[:2])
        assert table["stored"].all()
        assert table[list(CLASSES.columns)].notna().all(axis=None)
        found = server.series(study(4))
        assert {kind: len(names) for kind, names in found.items()} == {"DX": 1, "CR": 1, "CT": 1, "SR": 2, "OT": 2}
    assert "1 other series left out: CT" in caplog.text
    # The files are those of the archive, byte for byte, in the transfer syntax in which they were stored.
    archive = WebArchive.of(given.removeprefix("input="))
    assert archive is not None
    (tmp_path / "fetched").mkdir()
    names = archive.fetch(tmp_path / "fetched")
    fetched = {(tmp_path / "fetched" / name).read_bytes() for name in names}
    assert fetched == {server.file(name) for kind in ("DX", "CR") for name in found[kind]}
    stored = {dcmread(io.BytesIO(server.file(name))).SOPInstanceUID for name in found["SR"]}
    assert stored == {dcmread(tmp_path / name).SOPInstanceUID for name in table["sr"]}
