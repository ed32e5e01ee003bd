"""The audit log of the server."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from covidnet.base.atomic import WriteError
from covidnet.serving.audit_log import AuditLog


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_are_appended_to_a_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    path = tmp_path / "new" / "audit.jsonl"
    AuditLog(path).write("start", model="densenet121")
    AuditLog(path).write("image", user="anna\n", status=200)
    assert [line["event"] for line in lines(path)] == ["start", "image"]
    assert lines(path)[1]["user"] == "anna\n"
    assert str(lines(path)[0]["time"]).endswith("+00:00")
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_was_moved_away_is_begun_again(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    log.write("start")
    (tmp_path / "audit.jsonl").rename(tmp_path / "audit.jsonl.1")
    log.write("image")
    assert [line["event"] for line in lines(tmp_path / "audit.jsonl")] == ["image"]
    assert [line["event"] for line in lines(tmp_path / "audit.jsonl.1")] == ["start"]


def test_a_path_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for path in (tmp_path, tmp_path / "file" / "audit.jsonl", tmp_path / "link"):
        with pytest.raises(WriteError, match="not written"):
            AuditLog(path)


def test_a_full_disk_is_an_error_and_spoils_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    plain = os.write
    monkeypatch.setattr(os, "write", lambda file, data: plain(file, data[:9]))
    with pytest.raises(WriteError) as caught:
        log.write("image")
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.setattr(os, "write", plain)
    log.write("start")
    torn, whole = (tmp_path / "audit.jsonl").read_text().splitlines()
    assert len(torn) == 9
    assert json.loads(whole)["event"] == "start"
