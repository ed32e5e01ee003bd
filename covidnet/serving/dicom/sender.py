"""Sends results to a DICOM peer, and tries again for as long as it takes."""

from __future__ import annotations

import io
import logging
import re
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from covidnet.base.errors import SettingError
from covidnet.base.names import counted, shown
from covidnet.serving.dicom.outbox import Outbox, OutboxError, Waiting
from covidnet.serving.web.web_error import place_of

if TYPE_CHECKING:
    from pynetdicom.association import Association

_LOG = logging.getLogger(__name__)

LONGEST_PAUSE = 60.0
"""Seconds between two attempts at most."""

_TIMEOUT = 30.0
_CONNECT = 5.0
_WARNINGS = range(0xB000, 0xC000)  # PS3.4 B.2.3: stored, with a remark


class Peer(NamedTuple):
    """Where results are sent.

    Args:
        title: its AE title.
        host: its address or name.
        port: its port.
    """

    title: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.title}@{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: object) -> Peer:
        """A peer from ``AET@HOST:PORT``.

        Args:
            text: as it was given.

        Raises:
            SettingError: it is something else.

        Example:
            >>> Peer.parse("PACS@192.0.2.7:104")
            Peer(title='PACS', host='192.0.2.7', port=104)
        """
        found = re.fullmatch(r"([^@]+)@(\[[^\]]+\]|[^@:\s]+):(\d{1,5})", str(text))
        if found is None or not 0 < int(found[3]) < 65536 or not is_title(found[1]):
            raise SettingError("peer", text, "AET@HOST:PORT, such as PACS@192.0.2.7:104", "results are sent there")
        return cls(found[1], found[2].strip("[]"), int(found[3]))


def is_title(text: str) -> bool:
    r"""Whether a text may be an AE title: 1 to 16 printable ASCII characters without a backslash (PS3.5 6.2).

    Args:
        text: any.

    Example:
        >>> is_title("COVIDNET"), is_title(""), is_title("A\\B"), is_title("SEVENTEEN LETTERS")
        (True, False, False, False)
    """
    return 0 < len(text) <= 16 and text.isascii() and text.isprintable() and "\\" not in text and text == text.strip()


class Sender:
    """A thread that sends what waits in an outbox.

    Results stay in the outbox until the peer has confirmed both objects. After a failure the pause grows to
    `LONGEST_PAUSE`; results that the peer rejects wait while others are sent.

    Args:
        outbox: the results.
        peer: where they go.
        title: our AE title.
        pause: seconds after the first failure.
    """

    def __init__(self, outbox: Outbox, peer: Peer, title: str, pause: float = 1.0) -> None:
        self._outbox = outbox
        self._peer = peer
        self._title = title
        self._pause = pause
        self._wake = threading.Event()
        self._closed = threading.Event()
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name="dicom-sender", daemon=True)

    def __enter__(self) -> Sender:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._closed.set()
        self._wake.set()
        self._thread.join(_TIMEOUT + _CONNECT)

    def wake(self) -> None:
        """Look for new results now."""
        self._wake.set()

    def _run(self) -> None:
        while not self._closed.is_set():
            self._wake.clear()
            try:
                if (first := self._outbox.due()) is not None:
                    self._send_all(first)
            except OutboxError as error:
                _LOG.error("%s", error)
                self._failures += 1
            except Exception as error:
                # Not the text, which might name a patient.
                _LOG.error("results are not sent: %s", place_of(error))
                self._failures += 1
            if self._failures:
                self._closed.wait(min(self._pause * 2 ** min(self._failures - 1, 10), LONGEST_PAUSE))
            else:
                self._wake.wait(self._pause)

    def _send_all(self, first: Waiting) -> None:
        association = self._associate()
        if not association.is_established:
            if self._failures == 0:
                waiting = counted(self._outbox.waiting(), "image")
                why = "cannot be reached, or broke off"
                answer = association.acceptor.primitive
                if association.is_rejected and answer is not None:
                    why = f"rejected us ({shown(answer.reason_str)})"
                _LOG.warning("peer=%s %s: results of %s wait in %s", self._peer, why, waiting, self._outbox.file)
            self._failures += 1
            return
        if self._failures:
            _LOG.info("peer=%s answers again", self._peer)
        self._failures = 0
        try:
            item: Waiting | None = first
            while item is not None and association.is_established and not self._closed.is_set():
                self._send(association, item)
                item = self._outbox.due()
        finally:
            if association.is_established:
                association.release()

    def _associate(self) -> Association:
        from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
        from pynetdicom import AE
        from pynetdicom.sop_class import ComprehensiveSRStorage, SecondaryCaptureImageStorage  # type: ignore[attr-defined]

        entity = AE(self._title)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = _TIMEOUT
        entity.connection_timeout = _CONNECT
        for kind in (ComprehensiveSRStorage, SecondaryCaptureImageStorage):
            entity.add_requested_context(kind, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        return entity.associate(self._peer.host, self._peer.port, ae_title=self._peer.title)

    def _send(self, association: Association, item: Waiting) -> None:
        """Send one image's results; each stays in the outbox until the peer confirms it."""
        from pydicom import dcmread

        for kind, data in item.files.items():
            result = dcmread(io.BytesIO(data))
            code = None
            try:
                answer: Any = association.send_c_store(result)
                code = answer.get("Status")
                why = "gives no answer" if code is None else f"answers 0x{code:04X}"
            except ValueError:
                why = f"takes no {result.SOPClassUID.name}"
            except RuntimeError:
                why = "ended the association"
            if code is None or (code != 0 and code not in _WARNINGS):
                self._outbox.postpone(item.key, min(self._pause * 2 ** min(item.tries, 10), LONGEST_PAUSE))
                if item.tries == 0:
                    line = "results of image %s not sent: peer=%s %s; they are sent again later"
                    _LOG.warning(line, shown(item.image), self._peer, why)
                return
            self._outbox.sent(item.key, kind)
        _LOG.info("results of image %s sent to peer=%s", shown(item.image), self._peer)
