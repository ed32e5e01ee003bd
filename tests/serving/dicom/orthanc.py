"""An Orthanc server of our own: an archive with DICOM and DICOMweb at 127.0.0.1, with free ports."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@dataclass(frozen=True)
class Orthanc:
    """A running server.

    Args:
        dicom: its DICOM port; its AE title is ORTHANC.
        http: its HTTP port.
    """

    dicom: int
    http: int

    def ask(self, path: str, content: Any = None, method: str = "GET") -> Any:
        """An answer of its REST interface.

        Args:
            path: of the resource.
            content: bytes, or anything for JSON.
            method: of HTTP.
        """
        data = content if content is None or isinstance(content, bytes) else json.dumps(content).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.http}{path}", data, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as answer:
            return json.loads(answer.read() or b"null")

    def study(self, uid: str) -> str:
        """Its own name of a study."""
        (found,) = self.ask("/tools/lookup", uid.encode(), "POST")
        assert found["Type"] == "Study"
        return str(found["ID"])

    def series(self, uid: str) -> dict[str, list[str]]:
        """The instances of each modality in a study, by Orthanc's own names."""
        found: dict[str, list[str]] = {}
        for one in self.ask(f"/studies/{self.study(uid)}/series"):
            found.setdefault(one["MainDicomTags"]["Modality"], []).extend(one["Instances"])
        return found

    def file(self, instance: str) -> bytes:
        """The DICOM file of an instance."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self.http}/instances/{instance}/file", timeout=30) as answer:
            return bytes(answer.read())


@contextmanager
def orthanc(folder: Path) -> Iterator[Orthanc]:
    """Start Orthanc; the test is skipped where it is not installed.

    Args:
        folder: for its files.
    """
    program = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
    if program is None or not PLUGIN.is_file():
        pytest.skip("Orthanc is not installed: apt-get install orthanc orthanc-dicomweb")
    dicom, http = free_ports(2)
    (folder / "orthanc.json").write_text(
        json.dumps(
            {
                "Name": "test", "StorageDirectory": str(folder), "IndexDirectory": str(folder),
                "DicomAet": "ORTHANC", "DicomPort": dicom, "DicomCheckCalledAet": True, "DicomAlwaysAllowStore": True,
                "HttpPort": http, "RemoteAccessAllowed": False, "AuthenticationEnabled": False,
                "Plugins": [str(PLUGIN)], "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            }
        )
    )  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=log, cwd=folder)
    try:
        server = Orthanc(dicom, http)
        end = time.monotonic() + 60
        while True:
            try:
                server.ask("/system")
                break
            except urllib.error.URLError:
                assert process.poll() is None, (folder / "log").read_text(errors="replace")[-2000:]
                assert time.monotonic() < end
                time.sleep(0.05)
        yield server
    finally:
        process.terminate()
        process.wait(30)


def free_ports(count: int) -> list[int]:
    """Ports that no server listens at."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
