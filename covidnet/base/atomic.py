"""Write a file whole or not at all: a full disk or a stopped process never leaves half a file under its name."""

from __future__ import annotations

import errno
import os
import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from covidnet.base.errors import CovidnetError


class WriteError(CovidnetError, OSError):
    """A file cannot be written; an earlier file of that name is unchanged.

    Args:
        path: the file.
        number: the system's error number, such as ``errno.ENOSPC``; 0 where it gave none.
        cause: the system's words for it.
    """

    def __init__(self, path: str | Path, number: int, cause: str) -> None:
        name = errno.errorcode.get(number, "no code")
        remedy = "check that the folder exists and can be written"
        if number in (errno.ENOSPC, errno.EDQUOT):
            remedy = "free some space there"
        elif number == errno.ELOOP:
            remedy = "remove the link, or name the file itself"
        super().__init__(
            f"{path}: not written, {cause} (errno {number}, {name}); {remedy} and run again; "
            "a file that was there before is unchanged"
        )
        self.path = str(path)
        self.errno = number
        self.cause = cause

    def __reduce__(self) -> tuple[type, tuple[str, int, str]]:
        # Exceptions cross process borders by their constructor's arguments, not by their text.
        return type(self), (self.path, self.errno or 0, self.cause)


def make_folder(folder: Path, file: str | Path | None = None) -> None:
    """Make a folder and its parents if they do not exist.

    Args:
        folder: the folder.
        file: the file to be written there, named in the error; the folder itself if None.

    Raises:
        WriteError: the system refused.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(file or folder, error.errno or 0, error.strerror or str(error)) from error


def write_bytes(path: str | Path, data: bytes) -> None:
    """Replace a file's content in one step that other processes see as a whole.

    Args:
        path: the file, see `replaced`.
        data: the whole content.

    Raises:
        WriteError: the system refused (disk full, no permission, no such folder), or the path is a link; the old file
            is unchanged.
    """
    with replaced(path) as stream:
        stream.write(data)


@contextmanager
def replaced(path: str | Path) -> Iterator[BinaryIO]:
    """Replace a file's content in one step, with content that is written in parts.

    The bytes go to a new file in the same folder, are flushed to the disk, and take the name with one rename. The first
    write of a process into a folder also removes what killed processes left there, see `clear_leftovers`.

    Args:
        path: the file. Its folder must exist. A symbolic link is refused: it could replace a file elsewhere.

    Yields:
        A stream for the content. If the block raises, the old file is unchanged.

    Raises:
        WriteError: the system refused (disk full, no permission, no such folder), or the path is a link; an OSError
            raised inside the block is reported in the same way.
    """
    try:
        target = Path(path)
        if target.is_symlink():
            raise OSError(errno.ELOOP, "it is a symbolic link")
        _clear_once(target.parent.absolute())
        stream, temporary = _temporary(target.parent)
        try:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            if sys.platform == "win32":
                stream.close()  # an open file cannot be renamed there; elsewhere closing it would release the lock
            temporary.replace(target)
            stream.close()
        except BaseException:
            with suppress(OSError):
                stream.close()
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise WriteError(path, error.errno or 0, error.strerror or str(error)) from error


def _temporary(folder: Path) -> tuple[BinaryIO, Path]:
    """A new file in a folder, locked while it is open: no other process takes it for a leftover."""
    while True:
        # Not tempfile: its files are readable by the owner alone, and run folders are shared. A short random name fits
        # where a long file name with a suffix would not.
        file = folder / f".{secrets.token_hex(8)}.tmp"
        stream = file.open("xb")
        # Without the lock, on a file system that has none, leftovers stay.
        with suppress(OSError):
            _lock(stream)
        if os.fstat(stream.fileno()).st_nlink:
            return stream, file
        # Another process removed it before it was locked.
        stream.close()


def _lock(stream: BinaryIO) -> None:
    """Lock an open file, or raise an OSError; the system releases the lock when the process ends, even if killed."""
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


def clear_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder, but not those of running processes.

    Args:
        folder: the folder; it need not exist.
    """
    for file in folder.glob(".*.tmp"):
        if not _TEMPORARY.fullmatch(file.name) or file.is_symlink() or not file.is_file():
            continue
        with suppress(OSError):
            if sys.platform == "win32":
                file.unlink()  # fails while a process has it open
            else:
                with file.open("ab") as stream:
                    _lock(stream)
                    file.unlink()


_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")
_clear_once = cache(clear_leftovers)


def write_text(path: str | Path, text: str) -> None:
    r"""Replace a text file's content in one step; UTF-8, line ends as given.

    Args:
        path: the file. Its folder must exist.
        text: the whole content, with ``\n`` line ends. File names that are not UTF-8 keep their bytes.

    Raises:
        WriteError: the system refused; the old file is unchanged.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "metrics.json"
        >>> write_text(file, "{}\n")
        >>> file.read_bytes()
        b'{}\n'
    """
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


@contextmanager
def locked(file: Path) -> Iterator[OSError | None]:
    """Hold a lock while files beside it are looked for and written; other processes wait.

    Where the folder cannot be written, as in a cache of another user, the lock is not needed: files appear whole, and
    nothing is written here.

    Args:
        file: the lock file; created if missing, with the umask's permissions, and never removed.

    Yields:
        None, or the error that writing into the folder would meet.

    Raises:
        WriteError: the lock cannot be acquired, though the folder can be written.
    """
    lock = FileLock(file)
    unwritable = None
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise WriteError(file, error.errno or 0, error.strerror or str(error)) from error
        if os.access(file.parent, os.W_OK):
            cause = "it is another user's; chmod g+w lets the group have it"
            raise WriteError(file, error.errno, cause) from error
        unwritable = error
    try:
        yield unwritable
    finally:
        lock.release()
