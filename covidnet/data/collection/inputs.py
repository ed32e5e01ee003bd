"""The images given on the command line: a file, a folder, or a pattern."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from covidnet.base.errors import DataError, SettingError
from covidnet.base.names import real_path
from covidnet.data.collection.sources import image_files, log_skipped_files, own_results
from covidnet.data.reading.images import is_image_file

PARTIAL_RECORD = "predictions.partial.json"
"""The model and settings of an unfinished ``predict``; removed when its tables are whole."""


def find_images(given: str) -> tuple[Path, list[str]]:
    """The image files that an input refers to.

    A single file is used whatever its name. In a folder (at any depth) or a pattern, only files that look like images
    are. Folders named ``masks`` or ``boxes`` and hidden folders are skipped.

    Args:
        given: a file, a folder, or a pattern such as ``images/**/*.dcm``.

    Returns:
        A folder, and the files' posix paths relative to it, sorted.

    Raises:
        SettingError: nothing was given.
        DataError: there is no such file, or no image among the files.
    """
    if not given.strip():
        # input=$DIR with DIR unset: an empty path would mean the current folder.
        raise SettingError("input", given, "a file, a folder or a pattern of images", "say input=FILE_OR_FOLDER")
    path = Path(given).expanduser()
    if path.is_file():
        return real_path(path.parent), [path.name]
    if path.is_dir():
        found = image_files(real_path(path))
        if not found:
            raise DataError(f"input={given}: no image in this folder; give the folder that holds the images")
        return real_path(path), found
    root, names = _pattern(path)
    if not names:
        cause = "no image matches this pattern" if glob.has_magic(given) else "no such file or folder"
        raise DataError(f"input={given}: {cause}; give a file, a folder, or a pattern in quotes")
    return root, names


def pictures_of(paths: Sequence[str], suffix: str = ".png") -> dict[str, Path]:
    """The path of each image's heat map picture, or of another file of results, relative to the output folder.

    Args:
        paths: of images; two of them may differ only in their suffix.
        suffix: of the results.

    Returns:
        A unique path for each image.

    Example:
        >>> [path.as_posix() for path in pictures_of(["a/1.dcm", "a/2.png", "a/2.bmp"]).values()]
        ['a/1.png', 'a/2.png.png', 'a/2.bmp.png']
    """
    plain = {path: Path(path).with_suffix(suffix) for path in paths}
    names = Counter(plain.values())
    return {path: name if names[name] == 1 else Path(f"{path}{suffix}") for path, name in plain.items()}


def check_out(
    given: str,
    out: Path,
    root: Path,
    paths: Sequence[str],
    annotated: Iterable[Path] = (),
    suffixes: Iterable[str] = (".png",),
) -> None:
    """Refuse an output folder where a picture could replace an image, or be taken for one by the next call.

    ``outputs`` of the working directory is allowed even among the images: no call looks for images there.

    Args:
        given: the input, as in `find_images`.
        out: where the pictures go.
        root: the folder that `paths` are relative to.
        paths: of the images.
        annotated: folders of masks.
        suffixes: of the files that are written for each image.

    Raises:
        SettingError: `out` is the input folder or inside it, or inside a folder of masks; or a picture would replace an
            image, or be written through a link in `out`.
    """
    target = real_path(out.expanduser())
    folder = root if Path(given).expanduser().is_dir() or "**" in given else None
    for kept in (folder, *annotated):
        skipped = own_results(target) is not None and kept is not None and own_results(kept) is None
        if kept is not None and target.is_relative_to(real_path(kept)) and not skipped:
            raise SettingError(
                "out", out, f"a folder outside of {kept}", "pictures would be mixed with the images and masks"
            )
    images = {real_path((root / path).parent) / Path(path).name for path in paths}
    images |= {real_path(root / path) for path in paths}
    for picture in (name for suffix in suffixes for name in pictures_of(paths, suffix).values()):
        place = target / picture
        if real_path(place.parent) != place.parent:
            raise SettingError(
                "out", out, "a folder without links", f"{place.parent} is reached through a link; remove the link"
            )
        if {real_path(place.parent) / place.name, real_path(place)} & images:
            raise SettingError("out", out, "a folder without the images", f"a picture would replace {place}")


def partial_of(file: Path) -> Path:
    """Where the rows of a table are kept until it is whole.

    Example:
        >>> partial_of(Path("out/predictions.csv")).as_posix()
        'out/predictions.partial.csv'
    """
    return file.with_suffix(f".partial{file.suffix}")


def check_outside(out: Path, root: Path) -> None:
    """Refuse a report among the images; the own results of commands, which no call searches for images, may be there.

    Args:
        out: where the report goes.
        root: the folder of the images.

    Raises:
        SettingError: `out` is `root` or inside it.
    """
    skipped = own_results(out) is not None and own_results(root) is None
    if real_path(out).is_relative_to(real_path(root)) and not skipped:
        raise SettingError("out", out, f"a folder outside of {root}", "the report would be among the images")


def check_earlier(out: Path, results: Iterable[str], *, overwrite: bool) -> None:
    """Refuse to replace what an earlier call wrote.

    Args:
        out: the folder that results go to.
        results: names of the files that a call writes there.
        overwrite: whether they may be replaced.

    Raises:
        SettingError: one of them exists, and `overwrite` is false.
    """
    for name in results:
        if not overwrite and (out / name).exists():
            remedy = f"{name} already exists; give another folder, or overwrite=true"
            if name == PARTIAL_RECORD:
                remedy = f"{name} is from a stopped command; resume=true continues it, overwrite=true starts again"
            raise SettingError("out", out, "a folder without earlier results", remedy)


def _pattern(path: Path) -> tuple[Path, list[str]]:
    # The part before the first wildcard is the folder that holds every match.
    plain = [n for n, part in enumerate(path.parts) if glob.has_magic(part)]
    if not plain:
        return path, []
    root = real_path(Path(*path.parts[: plain[0]]))
    if not root.is_dir():
        return root, []
    pattern = "/".join(path.parts[plain[0] :])
    matched = {name.replace("\\", "/") for name in glob.glob(pattern, root_dir=root, recursive=True)}  # noqa: PTH207
    images = set(image_files(root, log_skipped=False))
    rest = map(root.joinpath, matched - images)
    log_skipped_files(root, (path.name for path in rest if path.is_file() and not is_image_file(path)))
    return root, sorted(matched & images)
