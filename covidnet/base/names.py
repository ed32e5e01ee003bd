"""Names and counts as people read them. A name may hold any byte but a slash, and terminals obey some."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

# The last four are full-width forms, which a Japanese spreadsheet takes for the same.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_NUMBER = re.compile(r"[-+]?[0-9]+([.,][0-9]+)?")


def shown(name: object) -> str:
    r"""A name, or a line that holds names, without anything that a terminal or a reader of lines would act on.

    Args:
        name: a path, or any text.

    Returns:
        The text with bytes that are not UTF-8 as ``\xff``, and control characters, line ends and marks that reverse the
        direction of writing as Python writes them.

    Example:
        >>> print(shown("image (1).png"), shown("bad\udcff.png"), shown("\x1b[31mred\n.png"))
        image (1).png bad\xff.png \x1b[31mred\n.png
    """
    text = str(name)
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def real_path(path: Path) -> Path:
    """The absolute path behind all links. A loop of links is kept, and is no file, where ``Path.resolve`` raises."""
    return Path(os.path.realpath(path))


def listed(path: str) -> str:
    r"""A path as written in the column by which a CSV file's rows are joined with other tables.

    It is the path as it is, with two exceptions. Bytes that are not UTF-8 are escaped, since one of them makes the
    whole table unreadable to pandas and others. A path that a spreadsheet would run as a formula begins with
    ``./``, which leads to the same file.

    Args:
        path: relative to some folder.

    Example:
        >>> print(listed("a/image (1).png"), listed("bad\udcff.png"), listed("=1+1.png"))
        a/image (1).png bad\xff.png ./=1+1.png
    """
    return harmless("".join(_escaped(c) if "\ud800" <= c <= "\udfff" else c for c in path))


def harmless(path: str) -> str:
    """A path that no spreadsheet runs as a formula, and that leads to the same file.

    Args:
        path: relative to some folder.

    Example:
        >>> harmless("a/=1+1.png"), harmless("=1+1.png")
        ('a/=1+1.png', './=1+1.png')
    """
    return f"./{path}" if path.startswith(_FORMULA) else path


def inert(value: str) -> str:
    """A value from a file for a cell of a CSV table: `shown`, and after an apostrophe where it would run as a formula.

    Args:
        value: such as the PatientID of a DICOM header.

    Example:
        >>> inert("1.2.840.1"), inert("=1+1"), inert("-17")
        ('1.2.840.1', "'=1+1", '-17')
    """
    return f"'{shown(value)}" if value.startswith(_FORMULA) and not _NUMBER.fullmatch(value) else shown(value)


class ShownFormatter(logging.Formatter):
    """A formatter of log lines in which the names of files are as `shown` gives them."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name that logging gives it
        """The line of a record; other libraries' records are left alone, for some of them are coloured."""
        if record.name.partition(".")[0] in ("covidnet", "__main__"):
            record.message = "\n".join(shown(line) for line in record.message.split("\n"))
        return super().formatMessage(record)


def _escaped(character: str) -> str:
    code = ord(character)
    # What Python makes of a byte that is not UTF-8 (PEP 383).
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else character.encode("unicode_escape").decode()


def counted(number: int, one: str, several: str = "") -> str:
    """How many of something, in the number that its noun and verb need.

    Args:
        number: how many.
        one: of a single one, such as ``image`` or ``file was``.
        several: of none or several; `one` with an s if empty.

    Example:
        >>> counted(1, "image"), counted(1560, "image"), counted(2, "file was", "files were")
        ('1 image', '1,560 images', '2 files were')
    """
    return f"{number:,} {one if number == 1 else several or one + 's'}"
