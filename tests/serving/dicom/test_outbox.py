"""Results that wait on disk: they survive a kill, and none is kept twice."""

from __future__ import annotations

import multiprocessing
import os
import signal
import stat
from pathlib import Path

import pytest

from covidnet.serving.dicom.outbox import Outbox, OutboxError
from covidnet.serving.dicom.results import KINDS
from tests.refusals import refused


def _killed(folder: Path) -> None:
    outbox = Outbox(folder)
    outbox.add("a", "1.2.3", [b"report a", b"capture a"])
    outbox.add("b", "1.2.4", [b"report b", b"capture b"])
    for kind in KINDS:
        outbox.sent("a", kind)
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_waits_survives_a_kill_and_what_was_sent_stays_sent(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_killed, args=(tmp_path,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    with Outbox(tmp_path) as outbox:
        assert outbox.waiting() == 1
        waiting = outbox.due()
        assert waiting is not None
        assert waiting == ("b", "1.2.4", {"sr": b"report b", "sc": b"capture b"}, 0)
        assert outbox.known("a")
        assert outbox.known("b")
        assert not outbox.known("c")
        assert not outbox.add("a", "1.2.3", [b"", b""])
        outbox.sent("b", "sr")
        assert outbox.due() == ("b", "1.2.4", {"sc": b"capture b"}, 0)
        outbox.sent("b", "sc")
        assert outbox.due() is None
        assert outbox.waiting() == 0


def test_what_was_sent_is_erased_from_the_disk_and_the_file_shrinks(tmp_path: Path) -> None:
    secret = b"Doe^Jane" * 50_000
    with Outbox(tmp_path) as outbox:
        outbox.add("a", "1.2.3", [secret, b"capture"])
        assert outbox.file.stat().st_size > len(secret)
        outbox.sent("a", "sr")
        assert outbox.file.stat().st_size < 2**16
        assert all(b"Doe^Jane" not in file.read_bytes() for file in tmp_path.iterdir())


def test_only_this_user_can_read_it(tmp_path: Path) -> None:
    with Outbox(tmp_path / "outbox") as outbox:
        assert stat.S_IMODE(outbox.file.stat().st_mode) == 0o600
        assert stat.S_IMODE(outbox.file.parent.stat().st_mode) == 0o700


def test_results_that_failed_wait_while_others_are_sent(tmp_path: Path) -> None:
    with Outbox(tmp_path) as outbox:
        outbox.add("a", "1.2.3", [b"", b""])
        outbox.add("b", "1.2.4", [b"", b""])
        outbox.postpone("a", 60)
        first = outbox.due()
        assert first is not None
        assert first.key == "b"
        outbox.postpone("a", -1)
        for kind in KINDS:
            outbox.sent("b", kind)
        again = outbox.due()
        assert again is not None
        assert (again.key, again.tries) == ("a", 2)


def test_a_full_disk_keeps_nothing_and_says_so(tmp_path: Path) -> None:
    with Outbox(tmp_path) as outbox:
        outbox._base.execute("PRAGMA max_page_count = 8")
        with pytest.raises(OutboxError, match=r"outbox.sqlite: .*full; free some space there"):
            outbox.add("a", "1.2.3", [bytes(2**20), b""])
        assert outbox.waiting() == 0
        outbox._base.execute("PRAGMA max_page_count = 8000")
        assert outbox.add("a", "1.2.3", [bytes(2**20), b""])


def test_two_servers_never_share_one(tmp_path: Path) -> None:
    with Outbox(tmp_path), refused("outbox", tmp_path, remedy="another server is using this one"):
        Outbox(tmp_path)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/outbox.sqlite").write_bytes(b"no data base" * 1000)
    with refused("outbox", tmp_path / "bad", remedy="file is not a database; move it away"):
        Outbox(tmp_path / "bad")
    (tmp_path / "file").touch()
    with refused("outbox", tmp_path / "file", "a folder that can be written"):
        Outbox(tmp_path / "file")
