"""An archive (PACS) that takes results, and senders of images."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    ComprehensiveSRStorage,
    SecondaryCaptureImageStorage,
    Verification,
)

PATIENCE = 30.0


@dataclass
class Archive:
    """Keeps what it receives.

    Args:
        statuses: of the next C-STORE requests; success after them.
        received: so far.
        classes: of the objects that it takes.
        port: where it listens.
    """

    statuses: list[int] = field(default_factory=list)
    received: list[Dataset] = field(default_factory=list)
    classes: list[str] = field(default_factory=lambda: [ComprehensiveSRStorage, SecondaryCaptureImageStorage])
    port: int = 0
    _server: Any = None

    def start(self) -> None:
        """Listen, at the same port as before."""
        entity = AE("ARCHIVE")
        entity.require_called_aet = True
        for kind in self.classes:
            entity.add_supported_context(kind)
        handlers: Any = [(evt.EVT_C_STORE, self._store)]
        self._server = entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        self.port = self._server.socket.getsockname()[1]

    def stop(self) -> None:
        """Be unreachable."""
        if self._server is not None:
            self._server.ae.shutdown()
            self._server = None

    def kinds(self) -> list[tuple[str, str]]:
        """Modality, and the SOP instance UID of the source image, of everything that was received."""
        found = []
        for result in self.received:
            if result.Modality == "SR":
                series = result.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
                found.append(("SR", series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID))
            else:
                found.append((result.Modality, result.SourceImageSequence[0].ReferencedSOPInstanceUID))
        return sorted(found)

    def _store(self, event: Any) -> int:
        status = self.statuses.pop(0) if self.statuses else 0
        if status == 0:
            self.received.append(event.dataset)
        return status


@contextmanager
def archive(*statuses: int) -> Iterator[Archive]:
    """A running archive."""
    found = Archive(list(statuses))
    found.start()
    try:
        yield found
    finally:
        found.stop()


@contextmanager
def association(port: int, *kinds: str, title: str = "COVIDNET", syntaxes: Any = None) -> Iterator[Association]:
    """An association with a node, established or not."""
    entity = AE("SENDER")
    entity.add_requested_context(Verification)
    for kind in kinds:
        entity.add_requested_context(kind, syntaxes)
    found = entity.associate("127.0.0.1", port, ae_title=title)
    try:
        yield found
    finally:
        if found.is_established:
            found.release()


def sent(port: int, *images: Dataset) -> list[tuple[int, str]]:
    """Send images over one association; the status and the comment of each answer."""
    kinds = {str(image.SOPClassUID) for image in images}
    # Images of one test have one transfer syntax.
    with association(port, *kinds, syntaxes=[images[0].file_meta.TransferSyntaxUID]) as line:
        answers = [line.send_c_store(image) for image in images]
    return [(answer.Status, str(answer.get("ErrorComment", ""))) for answer in answers]


def until(true: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    """Wait until something is true; whether it became true in time."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    return true()


def at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    """The results of some work in as many threads."""
    found: list[Any] = [None] * count

    def run(number: int) -> None:
        found[number] = work(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    return found
