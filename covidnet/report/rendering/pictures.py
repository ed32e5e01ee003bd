"""Pictures that runs drew, as parts of a report: read from a sweep folder, and copied beside the Markdown."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from covidnet.base.atomic import WriteError, write_bytes
from covidnet.report.rendering.document import Block, Document, Picture, Section

FOLDER = "panels"
"""Where a report folder keeps its pictures."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# The hash in a name tells pictures of one name apart, and our copies from files that someone else put there.
_COPY = re.compile(r"[\w.=-]+\.[0-9a-f]{8}\.png", re.ASCII)


def read_picture(folder: str | Path | None, path: str) -> bytes:
    """A PNG of a sweep.

    Args:
        folder: of the sweep; None where it is not known.
        path: of the picture, relative to the folder and inside it.

    Returns:
        Its bytes; empty where there is no such file, or where it is no PNG or lies elsewhere.
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
    """The name of a picture's copy in a report folder: that of its file, and a hash of what it holds.

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
        data: of `read_picture`, not empty.
    """
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def with_pictures(sections: Iterable[Section | None], folder: str | Path | None) -> list[Section]:
    """Sections with their pictures read.

    Args:
        sections: some of them None, which are left out.
        folder: of the sweep that the pictures' paths start from.
    """
    return [
        replace(section, blocks=[_read(block, folder) for block in section.blocks])
        for section in sections
        if section is not None
    ]


def write_pictures(document: Document, folder: str | Path) -> list[Path]:
    """Copy a document's pictures into ``panels/`` of a report folder, each whole or not at all.

    Args:
        document: what is reported.
        folder: of the report. It must exist.

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
    """Remove the copies of an older report; files that are no copies of ours stay.

    Args:
        folder: of the report.
        kept: the copies of the report that stands there now.
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
