"""The DICOM node of the application: receives images by C-STORE, predicts them, and leaves the results to be sent."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from covidnet.base.atomic import WriteError
from covidnet.base.errors import ImageRefusedError, SettingError
from covidnet.base.names import counted, shown
from covidnet.data.reading.decoders import DecoderError, ShortOfMemoryError
from covidnet.data.reading.dicom import check_subject
from covidnet.data.reading.dicom_source import source_dataset
from covidnet.serving.dicom.outbox import Outbox, OutboxError
from covidnet.serving.dicom.results import DicomResults, check_libraries, encoded
from covidnet.serving.dicom.sender import Peer, Sender, is_title
from covidnet.serving.model import NO_MAPS
from covidnet.serving.web.web_error import place_of
from covidnet.serving.web.worker import AbandonedError, Worker

if TYPE_CHECKING:
    from pydicom import Dataset
    from pynetdicom.association import Association
    from pynetdicom.events import Event

    from covidnet.data.reading.decoders import Decoders
    from covidnet.serving.audit_log import AuditLog
    from covidnet.serving.web.limits import WebLimits

_LOG = logging.getLogger(__name__)

SUCCESS, SHORT, WRONG_KIND, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xA900, 0xC000
"""Statuses of C-STORE (PS3.4 B.2.3)."""

# Computed Radiography, and Digital X-Ray for presentation; "for processing" is not meant to be looked at.
_CLASSES = ("1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1")
_MODALITIES = ("", "CR", "DX")
_COMMENT = 64
_NO_SYNTAX = 0x04  # PS3.8 9.3.3.2
# What a message has besides its data set.
_OVERHEAD, _MESSAGE = 1.01, 2**20


@dataclass(frozen=True)
class NodeSettings:
    """The settings of a DICOM node.

    Args:
        port: where it listens.
        title: its AE title; calls of another one are rejected.
        peer: where results go.
        outbox: the folder for results that wait.
        callers: AE titles that may send images; empty for any.
    """

    port: int
    title: str
    peer: Peer
    outbox: Path
    callers: tuple[str, ...] = ()

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> NodeSettings | None:
        """The settings of the command ``app``; None without ``dicom``.

        Args:
            settings: by name.

        Raises:
            SettingError: one is not allowed, or a library is not installed.
        """
        port, peer, title = settings["dicom"], settings["peer"], str(settings["aet"])
        if port is None:
            if peer is not None:
                raise SettingError("peer", peer, "null without dicom=PORT", "give the port to receive images at")
            return None
        check_libraries("dicom", port)
        callers = tuple(str(caller) for caller in settings["callers"])
        for name, value in (("aet", title), *(("callers", caller) for caller in callers)):
            if not is_title(value):
                raise SettingError(name, value, "an AE title: 1 to 16 ASCII characters without a backslash")
        return cls(int(port), title, Peer.parse(peer), Path(settings["outbox"]).expanduser(), callers)


class _NotAcceptedError(Exception):
    """An image that is not accepted, with the status that says why."""

    def __init__(self, status: int, cause: str) -> None:
        super().__init__(cause)
        self.status = status


class DicomNode:
    """Receive images, and answer each with results at a peer.

    An image is decoded, checked and predicted before C-STORE is answered, in memory alone. Success means that its
    results are in the outbox, on the disk; any other status, that nothing of the image was kept. So an image is never
    lost: until it has a result, its sender knows that it has to be sent again.

    Args:
        settings: of the node.
        results: makes the results, with the model and its gate.
        decoders: decode the images.
        limits: on sizes and times; `limits.queue` associations may be open.
        outbox: keeps results until they are sent.
        host: the address to listen at.
        audit_log: records every image; None records nothing.
        workers: threads that run the network.
        pause: seconds until a failed attempt to send results is repeated first.

    Raises:
        SettingError: the model draws no heat maps.
    """

    def __init__(
        self,
        settings: NodeSettings,
        results: DicomResults,
        decoders: Decoders,
        limits: WebLimits,
        outbox: Outbox,
        *,
        host: str = "127.0.0.1",
        audit_log: AuditLog | None = None,
        workers: int = 1,
        pause: float = 1.0,
    ) -> None:
        if not results.predictor.model.explains:
            raise SettingError("dicom", settings.port, "null", NO_MAPS)
        self._settings = settings
        self._results = results
        self._decoders = decoders
        self._limits = limits
        self._outbox = outbox
        self._host = host
        self._audit_log = audit_log
        self._worker = Worker(results.predictor, workers)
        self._sender = Sender(outbox, settings.peer, settings.title, pause)
        self._received: dict[int, int] = {}
        self._server: Any = None

    @property
    def port(self) -> int:
        """The port that it listens at, once it is started."""
        return int(self._server.socket.getsockname()[1])

    def __enter__(self) -> DicomNode:
        from pynetdicom import AE, AllStoragePresentationContexts, _config, evt
        from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

        # Its records hold parts of messages; ours name an image by its UID.
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)
        _config.LOG_HANDLER_LEVEL = "none"
        entity = AE(self._settings.title)
        entity.require_called_aet = True
        entity.require_calling_aet = list(self._settings.callers)
        entity.maximum_associations = self._limits.queue
        entity.network_timeout = self._limits.upload_seconds
        entity.add_supported_context(Verification)
        for context in AllStoragePresentationContexts:
            # Every kind of object is accepted for transfer, so that its refusal can say why.
            if context.abstract_syntax is not None:
                entity.add_supported_context(context.abstract_syntax, _syntaxes())
        handlers: list[Any] = [
            (evt.EVT_C_ECHO, self._echo),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_DATA_RECV, self._count),
            (evt.EVT_ESTABLISHED, self._log_syntaxes),
            (evt.EVT_REJECTED, self._log_rejection),
            (evt.EVT_ABORTED, self._log_break),
            (evt.EVT_CONN_CLOSE, self._forget),
        ]
        try:
            self._server = entity.start_server((self._host, self._settings.port), block=False, evt_handlers=handlers)
        except OSError as error:
            raise SettingError("dicom", self._settings.port, "a free port", error.strerror or str(error)) from error
        self._sender.__enter__()
        waiting = counted(self._outbox.waiting(), "image")
        where = f"{self._settings.title}@{self._host}:{self.port}"
        _LOG.info(
            "DICOM node %s, results to %s; those of %s wait in %s",
            where,
            self._settings.peer,
            waiting,
            self._outbox.file,
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # Images that are waiting get an answer that asks for them again.
        self._worker.close()
        self._server.ae.shutdown()
        self._sender.__exit__(None, None, None)

    def _store(self, event: Event) -> Dataset:
        """Answer C-STORE."""
        from pydicom import Dataset

        request: Any = event.request
        name = shown(str(request.AffectedSOPInstanceUID or "without a UID"))
        self._received[id(event.assoc)] = 0
        answer = Dataset()
        try:
            self._accept(event, name)
            answer.Status = SUCCESS
            return answer
        except _NotAcceptedError as error:
            answer.Status, cause = error.status, str(error)
        except (OutboxError, DecoderError, ShortOfMemoryError) as error:
            answer.Status, cause = SHORT, str(error)
        except WriteError as error:
            _LOG.error("%s", error)
            answer.Status, cause = SHORT, "the audit log cannot be written"
        except (TimeoutError, AbandonedError):
            answer.Status, cause = SHORT, "no answer in time, or the server is closing; send it again"
        except Exception as error:
            # Neither the text nor the traceback: they might reveal parts of the image.
            answer.Status, cause = SHORT, f"the server failed ({place_of(error)})"
        with suppress(WriteError):
            self._record(event, answer.Status, cause=cause)
        _LOG.warning("image %s from %s: not accepted, 0x%04X: %s", name, _who(event.assoc), answer.Status, shown(cause))
        answer.ErrorComment = cause.encode("ascii", "replace").decode()[:_COMMENT].replace("\\", "/")
        return answer

    def _accept(self, event: Event, name: str) -> None:
        request: Any = event.request
        if request.AffectedSOPClassUID not in _CLASSES:
            kind = getattr(request.AffectedSOPClassUID, "name", "unknown")
            raise _NotAcceptedError(WRONG_KIND, f"no CR or DX image but {kind}")
        data = event.encoded_dataset()
        if len(data) > self._limits.max_bytes:
            raise _NotAcceptedError(NOT_UNDERSTOOD, f"more than max_megabytes={self._limits.max_megabytes:g}")
        seconds = self._limits.answer_seconds
        try:
            source = self._decoders.source_in(data, f"{name}.dcm", seconds=seconds)
            self._check_header(source, request, name)
            image = self._decoders.decode(data, f"{name}.dcm", seconds=seconds)
        except ShortOfMemoryError:
            raise
        except ImageRefusedError as error:
            raise _NotAcceptedError(NOT_UNDERSTOOD, error.cause) from None
        key = self._results.uid(source, image, "sr")
        new = not self._outbox.known(key)
        if new:
            answer = self._worker.submit(image, heat=True).result(seconds)
            if isinstance(answer, ImageRefusedError):
                raise _NotAcceptedError(NOT_UNDERSTOOD, answer.cause)
            made = [encoded(result) for result in self._results.make(source, image, answer)]
            shares = {name: round(float(p), 6) for name, p in zip(answer.classes, answer.probabilities, strict=True)}
            codes = [flag.code for flag in answer.flags]
            self._record(event, SUCCESS, prediction=answer.prediction, probabilities=shares, quality=codes)
            # The same image may have come over two associations at once.
            new = self._outbox.add(key, name, made)
            self._sender.wake()
        else:
            self._record(event, SUCCESS, again=True)
        what = "predicted" if new else "received again, answered already"
        _LOG.info("image %s from %s: %s", name, _who(event.assoc), what)

    def _record(self, event: Event, status: int, **values: Any) -> None:
        """Record an image in the audit log, before its answer is given."""
        if self._audit_log is None:
            return
        request: Any = event.request
        self._audit_log.write(
            "image",
            user=str(event.assoc.requestor.ae_title).strip(),
            address=event.assoc.requestor.address,
            instance=str(request.AffectedSOPInstanceUID),
            sha256=hashlib.sha256(event.encoded_dataset()).hexdigest(),
            status=f"0x{status:04X}",
            **values,
        )

    def _check_header(self, source: Mapping[str, Any], request: Any, name: str) -> None:
        header = source_dataset(dict(source))
        if (header.SOPClassUID, header.SOPInstanceUID) != (request.AffectedSOPClassUID, request.AffectedSOPInstanceUID):
            raise _NotAcceptedError(WRONG_KIND, "its SOP class or instance is not that of the request")
        modality = str(header.get("Modality") or "")
        if modality not in _MODALITIES:
            raise _NotAcceptedError(WRONG_KIND, f"no CR or DX image: Modality {modality}")
        try:
            check_subject(header, name)
        except ImageRefusedError as error:
            raise _NotAcceptedError(WRONG_KIND, error.cause) from None

    def _count(self, event: Event) -> None:
        """End an association that sends more than an image has, before it fills the memory."""
        key = id(event.assoc)
        self._received[key] = self._received.get(key, 0) + len(event.data)
        if self._received[key] > self._limits.max_bytes * _OVERHEAD + _MESSAGE:
            _LOG.warning("%s sends more than max_megabytes=%g", _who(event.assoc), self._limits.max_megabytes)
            event.assoc.abort(block=False)

    def _echo(self, event: Event) -> int:
        self._received[id(event.assoc)] = 0
        return SUCCESS

    def _forget(self, event: Event) -> None:
        self._received.pop(id(event.assoc), None)

    def _log_rejection(self, event: Event) -> None:
        title, callers = self._settings.title, self._settings.callers
        called = str(getattr(event.assoc.requestor.primitive, "called_ae_title", "")).strip()
        caller = str(event.assoc.requestor.ae_title).strip()
        if called != title:
            why = f"it calls AE title {called}, not aet={title}"
        elif callers and caller not in callers:
            why = f"it is not among callers={list(callers)}"
        else:
            why = f"queue={self._limits.queue} associations are open"
        _LOG.warning("%s rejected: %s", _who(event.assoc), shown(why))

    def _log_syntaxes(self, event: Event) -> None:
        for context in event.assoc.rejected_contexts:
            if context.abstract_syntax not in _CLASSES:
                # Some senders offer every kind of object, such as video, whatever they send.
                continue
            kind = getattr(context.abstract_syntax, "name", context.abstract_syntax)
            what = "its transfer syntaxes cannot be read" if context.result == _NO_SYNTAX else "unknown kind of object"
            _LOG.warning("%s offers %s: %s", _who(event.assoc), shown(str(kind)), what)

    def _log_break(self, event: Event) -> None:
        _LOG.warning("%s broke off; an image without an answer is not accepted", _who(event.assoc))


def _who(association: Association) -> str:
    """A caller as log lines name it."""
    return shown(f"{str(association.requestor.ae_title).strip()}@{association.requestor.address}")


def _syntaxes() -> list[str]:
    """The transfer syntaxes that can be read."""
    from pydicom import uid

    return [
        uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian, uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1,
        uid.JPEGLSLossless, uid.JPEGLSNearLossless, uid.JPEG2000Lossless, uid.JPEG2000, uid.RLELossless,
    ]  # fmt: skip
