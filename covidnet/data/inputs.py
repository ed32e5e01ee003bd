"""The films that a command is given on its line: a file, a folder, or a pattern."""

from __future__ import annotations

import glob
from pathlib import Path

from covidnet.data.sources import image_files
from covidnet.errors import DataError, SettingError


def find_films(given: str) -> tuple[Path, list[str]]:
    """The image files that an input means.

    A file is taken whatever its name; in a folder (at any depth) and behind a pattern those that look like images are.
    Folders named ``masks`` or ``boxes`` and hidden ones are passed over.

    Args:
        given: a file, a folder, or a pattern such as ``films/**/*.dcm``.

    Returns:
        A folder, and the files' posix paths relative to it, sorted.

    Raises:
        SettingError: nothing was given.
        DataError: there is no such file, or no image among them.
    """
    if not given.strip():
        # input=$DIR with DIR unset: the empty path would mean the current folder.
        raise SettingError("input", given, "a file, a folder or a pattern of films", "say input=FILE_OR_FOLDER")
    path = Path(given).expanduser()
    if path.is_file():
        return path.parent.resolve(), [path.name]
    if path.is_dir():
        found = image_files(path.resolve())
        if not found:
            raise DataError(f"input={given}: no image in this folder; give the folder that holds the films")
        return path.resolve(), found
    root, names = _pattern(path)
    if not names:
        cause = "no image matches this pattern" if glob.has_magic(given) else "no such file or folder"
        raise DataError(f"input={given}: {cause}; give a file, a folder, or a pattern in quotes")
    return root, names


def _pattern(path: Path) -> tuple[Path, list[str]]:
    # The part before the first wild card is the folder that all that match lie in.
    plain = [n for n, part in enumerate(path.parts) if glob.has_magic(part)]
    if not plain:
        return path, []
    root = Path(*path.parts[: plain[0]]).resolve()
    if not root.is_dir():
        return root, []
    pattern = "/".join(path.parts[plain[0] :])
    matched = {name.replace("\\", "/") for name in glob.glob(pattern, root_dir=root, recursive=True)}  # noqa: PTH207
    return root, sorted(matched & set(image_files(root)))
