"""Results that wait to be sent: a file on disk that survives a kill, and remembers which images are answered."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from covidnet.base.errors import CovidnetError, SettingError
from covidnet.serving.dicom.results import KINDS

NAME = "outbox.sqlite"
"""The file in the folder of the setting ``outbox``."""

_TABLE = """
CREATE TABLE IF NOT EXISTS results (
    key TEXT PRIMARY KEY, image TEXT NOT NULL, made REAL NOT NULL, due REAL NOT NULL, tries INTEGER NOT NULL DEFAULT 0,
    sent REAL, sr BLOB, sc BLOB
) STRICT
"""
_INDEX = "CREATE INDEX IF NOT EXISTS waiting ON results (due, made) WHERE sent IS NULL"


class OutboxError(CovidnetError, OSError):
    """Results cannot be kept, as on a full disk: the image was not accepted."""


class Waiting(NamedTuple):
    """The results of one image that wait to be sent.

    Args:
        key: of the results.
        image: the SOP instance UID of the image.
        files: the results that are left to be sent, as DICOM files by their kind.
        tries: how often sending them failed.
    """

    key: str
    image: str
    files: dict[str, bytes]
    tries: int


class Outbox:
    """Keep results until they are sent.

    Results are on the disk when `add` returns. Results that were sent are erased; their keys are kept, so that no image
    is answered twice. One process at a time uses an outbox; any number of its threads may.

    Args:
        folder: for its file, readable by this user alone; created if missing.

    Raises:
        SettingError: another process uses it, or it cannot be written or is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / NAME
        self._lock = threading.Lock()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self.file, os.O_RDWR | os.O_CREAT, 0o600))
            self._base = sqlite3.connect(self.file, timeout=0.5, check_same_thread=False, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise SettingError("outbox", folder, "a folder that can be written", str(error)) from error
        try:
            # Patients' results: what was sent is overwritten on the disk, and the file shrinks.
            for line in (
                "secure_delete=ON",
                "auto_vacuum=FULL",
                "synchronous=FULL",
                "journal_mode=TRUNCATE",
                "locking_mode=EXCLUSIVE",
            ):
                self._base.execute(f"PRAGMA {line}")
            self._base.execute("BEGIN EXCLUSIVE")
            self._base.execute(_TABLE)
            self._base.execute(_INDEX)
            self._base.execute("COMMIT")
        except sqlite3.Error as error:
            self._base.close()
            busy = "locked" in str(error)
            remedy = "another server is using this one" if busy else f"{self.file}: {error}; move it away"
            raise SettingError("outbox", folder, "an outbox of its own for each server", remedy) from error

    def __enter__(self) -> Outbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Release the file; what waits in it is sent by the next server."""
        with self._lock:
            self._base.close()

    def known(self, key: str) -> bool:
        """Whether results with this key wait or were sent.

        Args:
            key: of the results.
        """
        with self._used() as base:
            return base.execute("SELECT 1 FROM results WHERE key = ?", (key,)).fetchone() is not None

    def add(self, key: str, image: str, files: Sequence[bytes]) -> bool:
        """Keep results; false if their key is known already.

        Args:
            key: equal for results of the same image by the same model.
            image: its SOP instance UID.
            files: Structured Report and Secondary Capture.

        Raises:
            OutboxError: the disk is full, or the file cannot be written.
        """
        report, capture = files
        row = (key, image, time.time(), report, capture)
        with self._used() as base:
            added = base.execute(
                "INSERT OR IGNORE INTO results (key, image, made, sr, sc, due) VALUES (?, ?, ?, ?, ?, 0)", row
            )
            return added.rowcount == 1

    def due(self) -> Waiting | None:
        """The results that have waited longest among those whose time has come."""
        with self._used() as base:
            row = base.execute(
                "SELECT key, image, sr, sc, tries FROM results WHERE sent IS NULL AND due <= ? "
                "ORDER BY due, made LIMIT 1",
                (time.time(),),
            ).fetchone()
        if row is None:
            return None
        left = {kind: data for kind, data in zip(KINDS, row[2:4], strict=True) if data is not None}
        return Waiting(row[0], row[1], left, row[4])

    def sent(self, key: str, kind: str) -> None:
        """Erase a result that the peer has; the key of an image's results stays.

        Args:
            key: of the results.
            kind: of `KINDS`.
        """
        with self._used() as base:
            base.execute(f"UPDATE results SET {KINDS[KINDS.index(kind)]} = NULL WHERE key = ?", (key,))
            base.execute("UPDATE results SET sent = ? WHERE key = ? AND sr IS NULL AND sc IS NULL", (time.time(), key))

    def postpone(self, key: str, seconds: float) -> None:
        """Try to send results again after a time.

        Args:
            key: of the results.
            seconds: from now.
        """
        with self._used() as base:
            base.execute("UPDATE results SET tries = tries + 1, due = ? WHERE key = ?", (time.time() + seconds, key))

    def waiting(self) -> int:
        """How many images have results that are not sent."""
        with self._used() as base:
            return int(base.execute("SELECT COUNT(*) FROM results WHERE sent IS NULL").fetchone()[0])

    @contextmanager
    def _used(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._lock:
                yield self._base
        except sqlite3.Error as error:
            raise OutboxError(
                f"{self.file}: {error}; free some space there, or check that it can be written"
            ) from error
