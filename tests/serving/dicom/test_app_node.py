"""The command ``covidnet app dicom=PORT`` in a process of its own."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.serving.dicom.archives import archive, sent, until
from tests.serving.dicom.studies import radiograph
from tests.serving.web.commands import Running, command

pytestmark = pytest.mark.slow


def port_of(server: Running) -> int:
    (line,) = [line for line in server.lines if line.startswith("DICOM node")]
    found = re.search(r"COVIDNET@127\.0\.0\.1:(\d+), results to ARCHIVE@", line)
    assert found is not None
    return int(found[1])


def test_a_killed_server_loses_nothing_and_answers_nothing_twice(trained: Callable[..., Path], tmp_path: Path) -> None:
    run = trained("fold=0", "explain=off", "trainer.max_epochs=2")
    with archive() as peer:
        settings = ("gate=warn", "dicom=0", f"peer=ARCHIVE@127.0.0.1:{peer.port}", f"outbox={tmp_path}/outbox")
        peer.stop()
        with command(run, *settings, cwd=tmp_path) as server:
            assert sent(port_of(server), radiograph(1), radiograph(2)) == [(0, ""), (0, "")]
            server.end(signal.SIGKILL)
        peer.start()
        with command(run, *settings, cwd=tmp_path) as server:
            assert until(lambda: len(peer.received) == 4)
            assert sent(port_of(server), radiograph(2), radiograph(3)) == [(0, ""), (0, "")]
            assert until(lambda: len(peer.received) == 6)
            assert server.end() == 0
    assert len({result.SOPInstanceUID for result in peer.received}) == 6
    assert "answered already" in "\n".join(server.lines)
