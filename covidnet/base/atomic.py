"""Write a file whole or not at all: a full disk or a stopped process never leaves half a file under its name."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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

    The bytes go to a new file in the same folder, are flushed to the disk, and take the name with one rename.

    Args:
        path: the file. Its folder must exist. A symbolic link is refused: it could replace a file elsewhere.
        data: the whole content.

    Raises:
        WriteError: the system refused (disk full, no permission, no such folder), or the path is a link; the old file
            is unchanged.
    """
    with replaced(path) as stream:
        stream.write(data)


@contextmanager
def replaced(path: str | Path) -> Iterator[BinaryIO]:
    """As `write_bytes`, for content that is written in parts.

    Args:
        path: as there.

    Yields:
        A stream for the content. The file takes its name when the block ends without an error.

    Raises:
        WriteError: as there; also for an OSError raised inside the block.
    """
    try:
        target = Path(path)
        if target.is_symlink():
            raise OSError(errno.ELOOP, "it is a symbolic link")
        # Not tempfile: its files are readable by the owner alone, and run folders are shared. A short name of its own
        # fits where a long file name with a suffix would not. It names its process for `clear_leftovers`.
        temporary = target.with_name(f".{_machine()}-{os.getpid()}-{secrets.token_hex(8)}.tmp")
        try:
            with temporary.open("xb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise WriteError(path, error.errno or 0, error.strerror or str(error)) from error


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


def clear_leftovers(folder: Path) -> None:
    """Remove temporary files that killed processes of this machine left in a folder, at any depth.

    Args:
        folder: the folder; it need not exist.
    """
    if os.name != "posix":
        # On Windows no signal is harmless, so nothing tells whether a process is alive.
        return
    for file in folder.rglob(f".{_machine()}-*-*.tmp"):
        process = file.name.split("-")[1]
        if not process.isdecimal():
            continue
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            with suppress(OSError):
                file.unlink()
        except (OSError, OverflowError):
            # The process is alive and belongs to another user.
            continue


def _machine() -> str:
    """Eight digits that name the machine: on a shared disk, a process that is not here may be alive elsewhere."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


@contextmanager
def locked(file: Path) -> Iterator[OSError | None]:
    """Hold a lock while files beside it are looked for and written; other processes wait.

    Where the folder cannot be written, as in a cache of another user, the lock is not needed: files appear whole, and
    nothing is written here.

    Args:
        file: the lock; made where it is not there, with the permissions that the umask leaves, and never removed.

    Yields:
        None, or the error that writing into the folder would meet.

    Raises:
        WriteError: the lock cannot be had, though the folder can be written.
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
