"""The command in its own process, on a free port."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.commands import Forked

PATIENCE = 120.0


class Running:
    """A running server with a known address.

    Args:
        process: the server.
    """

    def __init__(self, process: Forked) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        end = time.monotonic() + PATIENCE
        while not self.address and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        assert self.address, "\n".join(self.lines)

    @property
    def address(self) -> str:
        return next((line.split()[0] for line in self.lines if line.startswith(("http://", "https://"))), "")

    def end(self, how: signal.Signals = signal.SIGINT) -> int:
        """Send Ctrl-C or another signal, and return the exit code."""
        self.process.send_signal(how)
        code = self.process.wait(30)
        self._reader.join(5)
        return code

    def _read(self) -> None:
        for line in self.process.stderr:
            self.lines.append(line.rstrip())


@contextmanager
def command(checkpoint: Path, *settings: str, cwd: Path, home: Path | None = None) -> Iterator[Running]:
    """``python -m covidnet.app`` with a checkpoint on a free port."""
    environment = {**os.environ, **({"HOME": str(home), "TMPDIR": str(home)} if home else {})}
    process = Forked("covidnet.app", f"checkpoint={checkpoint}", "port=0", *settings, cwd=cwd, env=environment)
    try:
        yield Running(process)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)
        process.stderr.close()


def children_of(process: int) -> list[int]:
    """The processes that a process started, such as its decoders."""
    tasks = Path(f"/proc/{process}/task")
    if not tasks.is_dir():
        pytest.skip("the system does not list the children of a process")
    return sorted({int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()})
