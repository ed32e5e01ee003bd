"""The pictures of runs in a report: reading them from a sweep folder, and copying them next to the Markdown."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from covidnet.base.atomic import WriteError, write_bytes
from covidnet.report.rendering.document import Block, Document, Picture, Section

FOLDER = "panels"
"""The folder of the pictures in a report folder."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# The hash distinguishes pictures of the same name, and our copies from other files in the folder.
_COPY = re.compile(r"[\w.=-]+\.[0-9a-f]{8}\.png", re.ASCII)


def read_picture(folder: str | Path | None, path: str) -> bytes:
    """A PNG of a sweep.

    Args:
        folder: of the sweep; None if unknown.
        path: of the picture, relative to the folder and inside it.

    Returns:
        Its bytes; empty if the file is missing, not a PNG or outside the folder.
    """
    inside = PurePosixPath(path)
    if not folder or not inside.parts or inside.is_absolute() or ".." in inside.parts:
        return b""
    try:
        data = (Path(folder) / inside).read_bytes()
    except (OSError, ValueError):  # a name with a zero byte is a ValueError
        return b""
    return data if data.startswith(_SIGNATURE) and len(data) > 24 else b""


def copy_name(picture: Picture) -> str:
    """The name of a picture's copy in a report folder: its file name and a hash of its content.

    Args:
        picture: a picture with its bytes.

    Example:
        >>> copy_name(Picture("", "", "fold=3/panels/unseen-Normal.png", data=b"x"))
        'unseen-Normal.2d711642.png'
    """
    stem = re.sub(r"[^\w.=-]+", "-", PurePosixPath(picture.path).stem[:80], flags=re.ASCII).strip("-.") or "picture"
    return f"{stem}.{hashlib.sha256(picture.data).hexdigest()[:8]}.png"


def picture_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels, from a PNG's header.

    Args:
        data: from `read_picture`, not empty.
    """
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def with_pictures(sections: Iterable[Section | None], folder: str | Path | None) -> list[Section]:
    """Sections with the data of their pictures.

    Args:
        sections: None is skipped.
        folder: of the sweep, which the pictures' paths are relative to.
    """
    return [
        replace(section, blocks=[_read(block, folder) for block in section.blocks])
        for section in sections
        if section is not None
    ]


def write_pictures(document: Document, folder: str | Path) -> list[Path]:
    """Copy a document's pictures into ``panels/`` of a report folder, each atomically.

    Args:
        document: the report.
        folder: of the report; it must exist.

    Returns:
        The copies.

    Raises:
        WriteError: a copy cannot be written.
    """
    home = Path(folder) / FOLDER
    copies = {home / copy_name(picture): picture.data for picture in _pictures(document.sections)}
    if copies:
        try:
            home.mkdir(exist_ok=True)
        except OSError as error:
            raise WriteError(home, error.errno or 0, error.strerror or str(error)) from error
    for path, data in copies.items():
        write_bytes(path, data)
    return list(copies)


def remove_old_pictures(folder: str | Path, kept: Sequence[Path]) -> None:
    """Remove the copies of an older report; other files stay.

    Args:
        folder: of the report.
        kept: the copies of the current report.
    """
    home = Path(folder) / FOLDER
    if not home.is_dir():
        return
    names = {path.name for path in kept}
    for path in home.iterdir():
        if path.name not in names and _COPY.fullmatch(path.name):
            path.unlink(missing_ok=True)
    if not any(home.iterdir()):
        home.rmdir()


def _read(block: Block, folder: str | Path | None) -> Block:
    return replace(block, data=read_picture(folder, block.path)) if isinstance(block, Picture) else block


def _pictures(sections: Iterable[Section]) -> list[Picture]:
    return [b for section in sections for b in section.blocks if isinstance(b, Picture) and b.data]
