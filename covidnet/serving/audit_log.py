"""The audit log of a server: who sent which image when, and what the answer was; neither images nor patients' names."""

from __future__ import annotations

import errno
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from covidnet.base.atomic import WriteError, make_folder

OFF = "off"
"""The value of the setting that switches the log off."""


class AuditLog:
    """A file with one JSON object in each line, to which lines are only appended.

    The file is opened for each line, so that it can be moved away while the server runs. A new one is readable only by
    its owner. A symbolic link is refused.

    Args:
        path: the file; its folder is made.

    Raises:
        WriteError: the file cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self._torn = False
        make_folder(self.path.parent, self.path)
        self._append(b"")

    def write(self, event: str, **values: Any) -> None:
        """Append one line: the time in UTC, what happened, and further values.

        Args:
            event: what happened, such as ``start``, ``image`` or ``denied``.
            values: for JSON.

        Raises:
            WriteError: the line was not written: what it records must not happen.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._append(json.dumps({"time": now, "event": event, **values}, allow_nan=False).encode() + b"\n")

    def _append(self, line: bytes) -> None:
        # What a full disk left of a line stays a line of its own.
        line = b"\n" * self._torn + line
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        try:
            file = os.open(self.path, flags, 0o600)
            try:
                written = os.write(file, line)
                self._torn = 0 < written < len(line)
                if written < len(line):
                    raise WriteError(self.path, errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(file)
        except OSError as error:
            if isinstance(error, WriteError):
                raise
            raise WriteError(self.path, error.errno or 0, error.strerror or str(error)) from error
