"""DICOMweb addresses, and what is said where a server does not answer; test_orthanc.py asks a real one."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from covidnet.base.errors import DataError
from covidnet.launch.command import compose
from covidnet.predict import main
from covidnet.serving.dicom import web_archive
from covidnet.serving.dicom.web_archive import ArchiveError, WebArchive, _cause
from tests.refusals import refused
from tests.serving.dicom.orthanc import free_ports
from tests.serving.dicom.studies import file_of, radiograph


def test_an_address_names_a_server_and_a_study() -> None:
    found = WebArchive.of("dicomwebs://pacs.example/a/b/studies/1.2.3/series/1.2.4")
    assert found is not None
    assert (found.url, found.study, found.series) == ("https://pacs.example/a/b", "1.2.3", "1.2.4")
    for path in ("images", "images/**/*.dcm", "/data/dicomweb/studies/1.2", "C:\\images", "dicomweb"):
        assert WebArchive.of(path) is None


@pytest.mark.parametrize(
    "given",
    [
        "dicomweb://", "dicomweb://host:8042", "dicomweb://host/studies/", "dicomweb://host/studies/x",
        "dicomweb://host/studies/1.2.3?limit=1", "dicomweb://anna:secret@host/studies/1.2.3",
    ],
)  # fmt: skip
def test_what_begins_like_an_address_and_is_none_is_refused(given: str) -> None:
    with refused("input", given, "dicomweb://HOST:PORT/PATH/studies/UID", remedy="~/.netrc"):
        WebArchive.of(given)


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_one_line(
    served: tuple[Path, str], hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_archive, "_PAUSE", 1)
    (closed,) = free_ports(1)
    for host, cause in (
        (f"127.0.0.1:{closed}", "Connection refused"),
        (served[1][7:], "the server answers 404 File not found"),
    ):
        archive = WebArchive.of(f"dicomweb://{host}/studies/1.2.3")
        assert archive is not None
        with pytest.raises(DataError) as caught:
            archive.fetch(tmp_path)
        assert str(caught.value).startswith(f"input=dicomweb://{host}/studies/1.2.3: ")
        assert cause in str(caught.value)
        with pytest.raises(ArchiveError, match=f"not stored at http://{host}: "):
            archive.store([file_of(radiograph(1))])
        assert not list(tmp_path.glob("*.dcm"))


@pytest.mark.parametrize(
    ("inner", "said"),
    [
        (OSError("Connection aborted.", ConnectionResetError(104, "Connection reset")), "Connection reset"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION] wrong version number"), "[SSL: WRONG_VERSION] wrong version number"),
        (OSError("failed: Connection refused"), "Connection refused"),
    ],
)
def test_the_innermost_cause_is_named(inner: Exception, said: str) -> None:
    assert _cause(ConnectionError(inner)) == said


def test_results_are_sent_only_where_images_come_from(tmp_path: Path) -> None:
    for settings in ([f"input='{tmp_path}'", "output=dicom"], ["input=dicomweb://127.0.0.1/studies/1.2.3"]):
        with refused("send", True, "false", remedy="where the images come from"):
            main(compose(["checkpoint=none", "send=true", *settings], "predict"))
