"""An archive with DICOMweb: finds the chest images of a study (QIDO-RS, WADO-RS) and stores results (STOW-RS)."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from covidnet.base.atomic import WriteError, write_bytes
from covidnet.base.errors import CovidnetError, DataError, SettingError
from covidnet.base.names import counted, shown

_LOG = logging.getLogger(__name__)

SCHEMES = {"dicomweb": "http", "dicomwebs": "https"}
"""What an address may begin with, and the protocol that it means."""

_MODALITIES = ("CR", "DX")
_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
_SERIES, _MODALITY, _SOP_CLASS, _INSTANCE = "0020000E", "00080060", "00080016", "00080018"
_UID = r"([0-9][0-9.]{0,63})"
_ADDRESS = re.compile(rf"(\w+)://([^/?#@\s]+(?:/[^?#\s]*)?)/studies/{_UID}(?:/series/{_UID})?/?")
_ANY_SYNTAX = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_SECONDS = 30.0
# Milliseconds before a request is sent again; twice as many before the next.
_PAUSE = 250


class ArchiveError(CovidnetError, OSError):
    """An archive did not take results."""


@dataclass(frozen=True)
class WebArchive:
    """A study, or one of its series, in an archive with DICOMweb.

    A login is taken from the file ``~/.netrc``.

    Args:
        given: the address as it was given.
        url: of the service.
        study: its UID.
        series: the UID of one of its series; None for all.
    """

    given: str
    url: str
    study: str
    series: str | None = None

    @classmethod
    def of(cls, given: str) -> WebArchive | None:
        """The study at an address; None if it is a file, a folder or a pattern.

        Args:
            given: such as ``dicomweb://HOST:PORT/studies/UID``, with any path between the port and ``/studies``.

        Raises:
            SettingError: it begins like an address and is none.

        Example:
            >>> WebArchive.of("dicomweb://pacs:8042/dicom-web/studies/1.2.3").url
            'http://pacs:8042/dicom-web'
            >>> WebArchive.of("images/")
        """
        if given.partition("://")[0] not in SCHEMES or "://" not in given:
            return None
        found = _ADDRESS.fullmatch(given)
        if found is None:
            allowed = "dicomweb://HOST:PORT/PATH/studies/UID"
            raise SettingError("input", given, allowed, "dicomwebs:// for HTTPS; a login belongs into ~/.netrc")
        return cls(given, f"{SCHEMES[found[1]]}://{found[2].rstrip('/')}", found[3], found[4])

    def fetch(self, folder: Path) -> list[str]:
        """Copy the CR and DX images into a folder.

        Args:
            folder: empty.

        Returns:
            The names of their files there: the SOP instance UID with the suffix ``.dcm``, sorted.

        Raises:
            DataError: the archive cannot be reached or refuses, or there is no such image.
            WriteError: the disk is full.
        """
        client = self._client()
        others: list[str] = []
        names = []
        try:
            for series in client.search_for_series(self.study, get_remaining=True):
                uid, modality = _value(series, _SERIES), _value(series, _MODALITY)
                if self.series is not None and uid != self.series:
                    continue
                if modality not in _MODALITIES:
                    others.append(modality or "unknown")
                    continue
                for found in client.search_for_instances(self.study, uid, get_remaining=True):
                    if _value(found, _SOP_CLASS) != _FOR_PROCESSING:
                        names.append(self._copy(client, uid, _value(found, _INSTANCE), folder))
        except WriteError:
            raise
        except Exception as error:
            # An HTTP client fails in many ways; the text names the server, not the patient.
            raise DataError(
                f"input={self.given}: {_cause(error)}; check the address, and that the server runs"
            ) from None
        if others:
            left_out = counted(len(others), "other series", "other series")
            _LOG.info("%s left out: %s", left_out, shown(", ".join(sorted(set(others)))))
        if not names:
            raise DataError(f"input={self.given}: no CR or DX image there; give the study of a chest radiograph")
        return sorted(names)

    def store(self, files: Sequence[bytes]) -> None:
        """Store results.

        Args:
            files: DICOM files of the study.

        Raises:
            ArchiveError: not all of them were stored.
        """
        from pydicom import dcmread

        try:
            answer = self._client().store_instances([dcmread(io.BytesIO(data)) for data in files], self.study)
        except Exception as error:
            raise ArchiveError(f"not stored at {self.url}: {_cause(error)}") from None
        if failed := answer.get("FailedSOPSequence"):
            reason = int(failed[0].get("FailureReason") or 0)
            raise ArchiveError(f"{len(failed)} of {len(files)} not stored at {self.url}: reason 0x{reason:04X}")

    def _client(self) -> Any:
        from dicomweb_client.api import DICOMwebClient

        # Its records name addresses with UIDs, at every request.
        logging.getLogger("dicomweb_client").setLevel(logging.ERROR)
        client = DICOMwebClient(self.url, timeout=_SECONDS)
        client.set_http_retry_params(max_attempts=3, wait_exponential_multiplier=_PAUSE)
        return client

    def _copy(self, client: Any, series: str, instance: str, folder: Path) -> str:
        if not re.fullmatch(_UID, instance):
            raise ValueError("the server names an instance by no UID")
        # Not `retrieve_instance`, which parses the file in this process: only a decoder's process may do that.
        url = f"{self.url}/studies/{self.study}/series/{series}/instances/{instance}"
        response = client._http_get(url, headers={"Accept": _ANY_SYNTAX})
        if response.headers["content-type"].startswith("application/dicom"):
            parts = [response.content]
        else:
            parts = list(client._decode_multipart_message(response, stream=False))
        if len(parts) != 1:
            raise ValueError(f"the server sends {len(parts)} files for one instance")
        write_bytes(folder / f"{instance}.dcm", parts[0])
        return f"{instance}.dcm"


def _value(found: dict[str, Any], tag: str) -> str:
    """The first value of an element in DICOM's JSON model; empty if there is none."""
    return str((found.get(tag, {}).get("Value") or [""])[0])


def _cause(error: Exception) -> str:
    """An error of the HTTP client in a few words."""
    response = getattr(error, "response", None)
    if response is not None:
        login = ", its login belongs into ~/.netrc" if response.status_code in (401, 403) else ""
        return f"the server answers {response.status_code} {shown(str(response.reason))}{login}"
    inner: BaseException = error
    while causes := [one for one in (getattr(inner, "reason", None), *inner.args) if isinstance(one, Exception)]:
        inner = causes[0]
    if isinstance(inner, OSError) and inner.strerror:
        return shown(inner.strerror)[:200]
    return shown(" ".join(str(inner).rpartition(": ")[2].split()))[:200] or type(error).__name__
