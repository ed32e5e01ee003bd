"""The DICOM node: what it accepts, what it answers, and that nothing is lost or answered twice."""

from __future__ import annotations

import json
import logging
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import (
    MPEG2MPML,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    RLELossless,
    VideoEndoscopicImageStorage,
)

from covidnet.data.reading.decoders import Decoders
from covidnet.serving.audit_log import AuditLog
from covidnet.serving.dicom.node import DicomNode, NodeSettings
from covidnet.serving.dicom.outbox import Outbox
from covidnet.serving.dicom.results import DicomResults
from covidnet.serving.dicom.sender import Peer
from covidnet.serving.web.limits import WebLimits
from tests.refusals import refused
from tests.serving.dicom.archives import Archive, archive, association, at_once, sent, until
from tests.serving.dicom.studies import radiograph, study
from tests.serving.web.fakes import FakeModel, FakePredictor

# pynetdicom leaves the socket of a connection that was refused to the garbage collection.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")

DX = DigitalXRayImageStorageForPresentation


@dataclass
class FakeGated(FakePredictor):
    """As the predictor with its model and gate."""

    model: FakeModel = field(default_factory=FakeModel)
    gate: str = "refuse"

    def notes(self) -> list[str]:
        return ["A made-up note."]


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    with Decoders(2) as found:
        yield found


@pytest.fixture(autouse=True)
def all_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "covidnet")


@contextmanager
def running(
    decoders: Decoders,
    folder: Path,
    peer: Archive,
    predictor: Any = None,
    callers: tuple[str, ...] = (),
    audit_log: AuditLog | None = None,
    title: str = "ARCHIVE",
    **limits: Any,
) -> Iterator[DicomNode]:
    settings = NodeSettings(0, "COVIDNET", Peer(title, "127.0.0.1", peer.port), folder, callers)
    results = DicomResults(predictor or FakeGated(), ["ab" * 32])
    with Outbox(folder) as outbox:
        node = DicomNode(settings, results, decoders, WebLimits(**limits), outbox, audit_log=audit_log, pause=0.05)
        with node:
            yield node


def uid(number: int) -> str:
    return f"{study(number)}.1.1"


def waiting(node: DicomNode) -> int:
    return node._outbox.waiting()


def test_an_image_is_answered_with_a_report_and_a_capture_in_its_study(decoders: Decoders, tmp_path: Path) -> None:
    packed = radiograph(2)
    packed.compress(RLELossless, generate_instance_uid=False)
    with archive() as peer, running(decoders, tmp_path, peer) as node:
        with association(node.port) as line:
            assert line.send_c_echo().Status == 0
        assert sent(node.port, radiograph(1)) == [(0, "")]
        assert sent(node.port, packed) == [(0, "")]
        assert until(lambda: waiting(node) == 0)
        assert peer.kinds() == sorted((kind, uid(number)) for kind in ("SR", "OT") for number in (1, 2))
        assert {result.StudyInstanceUID for result in peer.received} == {study(1), study(2)}


NO_CHEST = "not a chest image according to its header: BodyPartExamined"


REFUSED = [
    (radiograph(1, SOPClassUID=CTImageStorage, Modality="CT"), 0xA900, "no CR or DX image but CT Image Storage"),
    (radiograph(1, Modality="CT"), 0xA900, "no CR or DX image: Modality CT"),
    (radiograph(1, Modality="MG"), 0xA900, "no CR or DX image: Modality MG"),
    (radiograph(1, BodyPartExamined="HAND"), 0xA900, f"{NO_CHEST} HAND"),
    (radiograph(1, BodyPartExamined="ABDOMEN"), 0xA900, f"{NO_CHEST} ABDO"),
    (radiograph(1, StudyInstanceUID=None), 0xC000, "no valid StudyInstanceUID in its header, which"),
    (radiograph(1, Rows=4000), 0xC000, "no image: truncated, "),
    (radiograph(1, NumberOfFrames=2), 0xC000, "2 frames in one file"),
]


def test_what_is_no_chest_image_is_kept_nowhere_and_told_why(
    decoders: Decoders, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with archive() as peer, running(decoders, tmp_path, peer) as node:
        for image, status, comment in REFUSED:
            ((found, why),) = sent(node.port, image)
            assert (found, why[: len(comment)]) == (status, comment)
            said = f"image {image.SOPInstanceUID} from SENDER@127.0.0.1: not accepted, 0x{status:04X}: {why}"
            assert said in caplog.text
        # Nothing was kept: the same association, and the same UID, are as good as before.
        images = [image for image, _, _ in REFUSED]
        codes = [code for code, _ in sent(node.port, radiograph(3), *images, radiograph(4))]
        assert codes == [0, *(status for _, status, _ in REFUSED), 0]
        assert sent(node.port, radiograph(1)) == [(0, "")]
        assert until(lambda: len(peer.received) == 6)
        assert {source for _, source in peer.kinds()} == {uid(1), uid(3), uid(4)}
    assert b"Modality" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert "nne" not in caplog.text  # the patient's name


def test_a_chest_image_needs_no_body_part_and_no_modality(decoders: Decoders, tmp_path: Path) -> None:
    with archive() as peer, running(decoders, tmp_path, peer) as node:
        images = [
            radiograph(1, BodyPartExamined=None, Modality=None),
            radiograph(2, Modality="CR", BodyPartExamined=""),
        ]
        assert sent(node.port, *images) == [(0, ""), (0, "")]


def test_an_image_that_the_gate_refuses_is_told_why(decoders: Decoders, tmp_path: Path) -> None:
    predictor = FakeGated(refusal=("looks like a lateral view", "use the frontal image"))
    with archive() as peer, running(decoders, tmp_path, peer, predictor) as node:
        assert sent(node.port, radiograph(1)) == [(0xC000, "looks like a lateral view")]
        assert waiting(node) == 0


def test_an_error_of_the_server_asks_for_the_image_again(
    decoders: Decoders, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    predictor = FakeGated(error=RuntimeError("Müller"))
    image = radiograph(1)
    image.PixelData = b"\x0d" + image.PixelData[1:]
    with archive() as peer, running(decoders, tmp_path, peer, predictor) as node:
        ((status, comment),) = sent(node.port, image)
        assert (status, comment[:32]) == (0xA700, "the server failed (RuntimeError ")
        assert "Müller" not in caplog.text
        predictor.error = None
        assert sent(node.port, image) == [(0, "")]


def test_a_full_disk_accepts_nothing(decoders: Decoders, tmp_path: Path) -> None:
    with archive() as peer, running(decoders, tmp_path, peer) as node:
        node._outbox._base.execute("PRAGMA max_page_count = 8")
        ((status, comment),) = sent(node.port, radiograph(1))
        assert (status, waiting(node)) == (0xA700, 0)
        assert comment.startswith(str(tmp_path)[:40])
        node._outbox._base.execute("PRAGMA max_page_count = 80000")
        assert sent(node.port, radiograph(1)) == [(0, "")]
        assert until(lambda: len(peer.received) == 2)


def test_every_image_is_in_the_audit_log_before_it_is_answered(decoders: Decoders, tmp_path: Path) -> None:
    audit_log = AuditLog(tmp_path / "audit/log.jsonl")
    with archive() as peer, running(decoders, tmp_path, peer, audit_log=audit_log) as node:
        statuses = [code for code, _ in sent(node.port, radiograph(1), radiograph(1), radiograph(2, Modality="CT"))]
        assert statuses == [0, 0, 0xA900]
        lines = [json.loads(line) for line in audit_log.path.read_text().splitlines()]
        assert [(line["event"], line["user"], line["address"]) for line in lines] == [
            ("image", "SENDER", "127.0.0.1")
        ] * 3
        assert [line["status"] for line in lines] == ["0x0000", "0x0000", "0xA900"]
        assert [line["instance"] for line in lines] == [uid(1), uid(1), uid(2)]
        assert (lines[0]["prediction"], lines[1]["again"]) == ("COVID-19", True)
        assert lines[2]["cause"] == "no CR or DX image: Modality CT"
        assert "nne" not in audit_log.path.read_text()
        # Without a record, no answer.
        audit_log.path.unlink()
        audit_log.path.mkdir()
        assert sent(node.port, radiograph(3)) == [(0xA700, "the audit log cannot be written")]
        assert until(lambda: waiting(node) == 0)
        assert len(peer.received) == 2


def test_another_ae_title_is_rejected(decoders: Decoders, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with archive() as peer, running(decoders, tmp_path, peer, callers=("ARCHIVE",)) as node:
        with association(node.port, title="OTHER") as line:
            assert line.is_rejected
            assert line.acceptor.primitive.result_str
        with association(node.port) as line:
            assert line.is_rejected
        assert until(lambda: caplog.text.count("rejected") == 2)
    assert "SENDER@127.0.0.1 rejected: it calls AE title OTHER, not aet=COVIDNET" in caplog.text
    assert "SENDER@127.0.0.1 rejected: it is not among callers=['ARCHIVE']" in caplog.text


def test_an_unknown_transfer_syntax_is_declined_and_named(
    decoders: Decoders, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        archive() as peer,
        running(decoders, tmp_path, peer) as node,
        association(node.port, DX, VideoEndoscopicImageStorage, syntaxes=[MPEG2MPML]) as line,
    ):
        assert [context.result for context in line.rejected_contexts] == [4, 4]
        assert line.send_c_echo().Status == 0
    assert (
        "SENDER@127.0.0.1 offers Digital X-Ray Image Storage - For Presentation: its transfer syntaxes" in caplog.text
    )
    # Senders such as storescu offer all kinds of objects with every image.
    assert "Endoscopic" not in caplog.text


def test_a_sender_that_breaks_off_costs_its_own_image_alone(
    decoders: Decoders, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with archive() as peer, running(decoders, tmp_path, peer) as node:
        with association(node.port, DX) as line:
            # A P-DATA-TF of 64 kB (PS3.8 9.3.4) that ends after a few bytes.
            line.dul.socket.socket.sendall(struct.pack(">BBI", 4, 0, 65536) + bytes(100))
            line.dul.socket.socket.close()
            assert until(lambda: "broke off" in caplog.text)
        with association(node.port, DX) as line:
            line.abort()
        assert until(lambda: caplog.text.count("SENDER@127.0.0.1 broke off") == 2)
        assert sent(node.port, radiograph(1)) == [(0, "")]
        assert until(lambda: len(peer.received) == 2)


def test_more_bytes_than_an_image_has_end_the_association(
    decoders: Decoders, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with archive() as peer, running(decoders, tmp_path, peer, max_megabytes=0.02) as node:
        image = radiograph(1)
        image.add_new(0x00420011, "OB", bytes(3_000_000))
        with association(node.port, DX) as line:
            assert "Status" not in line.send_c_store(image)
        assert "SENDER@127.0.0.1 sends more than max_megabytes=0.02" in caplog.text
        image = radiograph(1)
        image.add_new(0x00420011, "OB", bytes(30_000))
        assert sent(node.port, image) == [(0xC000, "more than max_megabytes=0.02")]
        assert sent(node.port, radiograph(1)) == [(0, "")]


def test_an_image_twice_is_answered_once(decoders: Decoders, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    predictor = FakeGated()
    with archive() as peer:
        with running(decoders, tmp_path, peer, predictor) as node:
            assert sent(node.port, radiograph(1), radiograph(1)) == [(0, ""), (0, "")]
            assert at_once(3, lambda _: sent(node.port, radiograph(2))) == [[(0, "")]] * 3
            assert until(lambda: waiting(node) == 0)
        # A server that was started again remembers it.
        with running(decoders, tmp_path, peer, predictor) as node:
            assert sent(node.port, radiograph(1)) == [(0, "")]
            assert waiting(node) == 0
        assert peer.kinds() == sorted((kind, uid(number)) for kind in ("SR", "OT") for number in (1, 2))
    assert caplog.text.count(f"image {uid(1)} from SENDER@127.0.0.1: received again, answered already") == 2


@pytest.mark.slow
def test_results_wait_for_a_peer_that_is_down_also_over_a_restart(
    decoders: Decoders, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with archive() as peer:
        peer.stop()
        with running(decoders, tmp_path, peer) as node:
            assert sent(node.port, radiograph(1), radiograph(2)) == [(0, ""), (0, "")]
            assert until(lambda: "cannot be reached" in caplog.text)
            assert waiting(node) == 2
        with running(decoders, tmp_path, peer) as node:
            assert waiting(node) == 2
            peer.start()
            assert until(lambda: waiting(node) == 0)
        assert len(peer.kinds()) == 4
    # One line of each server at most, however often it is tried.
    assert 1 <= caplog.text.count("cannot be reached") <= 2


def test_a_peer_that_rejects_our_call_is_reported_with_its_reason(
    decoders: Decoders, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with archive() as peer, running(decoders, tmp_path, peer, title="OTHER") as node:
        assert sent(node.port, radiograph(1)) == [(0, "")]
        assert until(lambda: "rejected us (Called AE title not recognised): results of 1 image wait" in caplog.text)


@pytest.mark.slow
def test_results_that_the_peer_does_not_take_are_sent_again_and_stop_no_others(
    decoders: Decoders, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with archive(0, 0xA700, 0xA700) as peer, running(decoders, tmp_path, peer) as node:
        assert sent(node.port, radiograph(1), radiograph(2)) == [(0, ""), (0, "")]
        assert until(lambda: waiting(node) == 0)
        assert len(peer.kinds()) == 4
        taken = list(peer.kinds())
        peer.stop()
        peer.classes = peer.classes[1:]
        peer.start()
        assert sent(node.port, radiograph(3)) == [(0, "")]
        assert until(lambda: "takes no Comprehensive SR Storage" in caplog.text)
        assert waiting(node) == 1
        assert peer.kinds() == taken
    assert f"peer=ARCHIVE@127.0.0.1:{peer.port} answers 0xA700; they are sent again later" in caplog.text


@pytest.mark.slow
def test_many_images_over_many_associations_are_each_answered_once(decoders: Decoders, tmp_path: Path) -> None:
    """More senders than `queue` allows: some are rejected for now, and try again as the standard asks."""

    def insist(number: int) -> list[tuple[int, str]]:
        images = [radiograph(10 * number + place) for place in range(2)]
        while True:
            try:
                return sent(node.port, *images)
            except RuntimeError:  # no association
                time.sleep(0.1)

    with archive() as peer, running(decoders, tmp_path, peer, queue=3) as node:
        answers = at_once(5, insist)
        assert answers == [[(0, "")] * 2] * 5
        assert until(lambda: waiting(node) == 0)
        numbers = [10 * first + place for first in range(5) for place in range(2)]
        assert peer.kinds() == sorted((kind, uid(number)) for kind in ("SR", "OT") for number in numbers)


@pytest.mark.parametrize("peer", [None, "PACS", "PACS@host", "@host:104", "PACS@host:0", "PACS@host:70000", "A\\B@h:1"])
def test_a_peer_is_a_title_a_host_and_a_port(peer: str | None, tmp_path: Path) -> None:
    settings = {"dicom": 0, "aet": "COVIDNET", "peer": peer, "callers": [], "outbox": str(tmp_path)}
    with refused("peer", peer, "AET@HOST:PORT"):
        NodeSettings.of(settings)


def test_settings_that_make_no_node_are_refused(tmp_path: Path) -> None:
    settings = {"dicom": 0, "aet": "COVIDNET", "peer": "PACS@[::1]:104", "callers": ["A"], "outbox": str(tmp_path)}
    found = NodeSettings.of(settings)
    assert found == NodeSettings(0, "COVIDNET", Peer("PACS", "::1", 104), tmp_path, ("A",))
    assert NodeSettings.of({**settings, "dicom": None, "peer": None}) is None
    with refused("peer", "PACS@[::1]:104", remedy="give the port"):
        NodeSettings.of({**settings, "dicom": None})
    with refused("aet", "SEVENTEEN LETTERS", "an AE title"):
        NodeSettings.of({**settings, "aet": "SEVENTEEN LETTERS"})
    with refused("callers", "", "an AE title"):
        NodeSettings.of({**settings, "callers": [""]})


def test_a_port_in_use_and_a_model_without_maps_are_named(decoders: Decoders, tmp_path: Path) -> None:
    with archive() as peer, Outbox(tmp_path) as outbox:
        settings = NodeSettings(peer.port, "COVIDNET", Peer("A", "127.0.0.1", 1), tmp_path)
        node = DicomNode(settings, DicomResults(FakeGated(), []), decoders, WebLimits(), outbox)
        with refused("dicom", peer.port, "a free port", remedy="in use"), node:
            pass
        predictor = FakeGated(model=FakeModel(explains=False))
        with refused("dicom", peer.port, "null", remedy="draws no heat maps"):
            DicomNode(settings, DicomResults(predictor, []), decoders, WebLimits(), outbox)
