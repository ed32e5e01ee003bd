"""The images given to a command: a file, a folder, a pattern."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from covidnet.base.errors import DataError, SettingError
from covidnet.data.collection.inputs import check_out, find_images, pictures_of


@pytest.fixture
def home(tmp_path: Path) -> Path:
    images = ("b.jpg", "a.PNG", "sub/c.dcm", "sub/d(1).jpg")
    for name in (*images, "notes.txt", "masks/lesion/a.png", ".hidden/e.png", "odd.xyz"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def test_a_folder_gives_its_images_at_any_depth_and_no_masks(home: Path) -> None:
    assert find_images(str(home)) == (home.resolve(), ["a.PNG", "b.jpg", "sub/c.dcm", "sub/d(1).jpg"])


@pytest.mark.parametrize("name", ["b.jpg", "odd.xyz", "sub/d(1).jpg"])
def test_a_file_is_taken_whatever_its_name(home: Path, name: str) -> None:
    path = home / name
    assert find_images(str(path)) == (path.parent.resolve(), [path.name])


@pytest.mark.parametrize(
    ("pattern", "found"),
    [("*.jpg", ["b.jpg"]), ("**/*.jpg", ["b.jpg", "sub/d(1).jpg"]), ("sub/*", ["sub/c.dcm", "sub/d(1).jpg"])],
)  # fmt: skip
def test_a_pattern_gives_the_images_that_match(home: Path, pattern: str, found: list[str]) -> None:
    root, names = find_images(f"{home}/{pattern}")
    assert [str((root / name).relative_to(home.resolve())) for name in names] == found


def test_a_pattern_relative_to_where_the_command_was_started(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    root, names = find_images("sub/*.dcm")
    assert (root / names[0]).read_bytes() == b"x"


@pytest.mark.parametrize(
    ("given", "words"),
    [("nowhere", "no such file or folder"), ("*.bmp", "no image matches"), ("nowhere/*.png", "no image matches")],
)
def test_what_is_not_there_is_named(home: Path, given: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        find_images(f"{home}/{given}")


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image in this folder"):
        find_images(str(tmp_path))


def test_nothing_given_is_not_the_current_folder() -> None:
    with pytest.raises(SettingError, match="input="):
        find_images(" ")


def test_two_images_of_one_stem_have_two_pictures() -> None:
    found = pictures_of(["a/1.png", "a/1.bmp", "b/1.png", "c.dcm"])
    assert len(set(found.values())) == 4
    assert found["c.dcm"] == Path("c.png")


@pytest.mark.parametrize(
    ("given", "out"),
    [
        ("", ""), ("", "new"), ("", "sub/deep/new"), ("sub", "sub"), ("**/*.jpg", "new"), ("a.PNG", "masks/lesion/new"),
        # A picture would take the place of an image, though the folder is not the one that was given.
        ("sub/e.png", "sub"), ("sub/*.png", "sub"), ("link/e.png", "sub"),
    ],
)  # fmt: skip
def test_pictures_are_not_written_among_the_images(home: Path, given: str, out: str) -> None:
    (home / "sub/e.png").write_bytes(b"x")
    (home / "link").symlink_to(home / "sub")
    root, paths = find_images(f"{home}/{given}")
    with pytest.raises(SettingError, match=r"out=.*must be a folder (outside of|without the images)"):
        check_out(f"{home}/{given}", home / out, root, paths, [home / "masks"])


@pytest.mark.parametrize(
    ("given", "out"), [("", "../elsewhere"), ("b.jpg", "out"), ("*.jpg", "out"), ("sub/c.dcm", "sub")]
)
def test_other_folders_are_allowed(home: Path, given: str, out: str) -> None:
    root, paths = find_images(f"{home}/{given}")
    check_out(f"{home}/{given}", home / out, root, paths, [home / "masks"])


def test_what_a_folder_or_a_pattern_passes_over_is_counted_by_kind(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for name in ("x.gif", "sub/y.gif", "sub/z.nii"):
        (home / name).write_bytes(b"other")
    find_images(str(home))
    find_images(f"{home}/sub/*")
    find_images(f"{home}/**/*.[pP]*")  # masks are images, and nothing is said of them
    others = "files are skipped:"
    assert [record.getMessage() for record in caplog.records] == [
        f"{home}: 5 {others} 2 .gif, 1 .txt, 1 .xyz, 1 .nii",
        f"{home}/sub: 2 {others} 1 .gif, 1 .nii",
    ]


def test_no_picture_is_written_through_a_link_in_the_folder_of_results(home: Path, tmp_path_factory: Any) -> None:
    out, other = tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("other")
    root, paths = find_images(str(home))
    (out / "sub").symlink_to(other)
    with pytest.raises(SettingError, match=r"sub is reached through a link; remove the link"):
        check_out(str(home), out, root, paths)
    itself = other / "itself"
    (out / "sub").unlink()
    itself.symlink_to(out)
    check_out(str(home), itself, root, paths)


def test_a_loop_of_links_is_no_image_and_stops_nothing(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (home / "loop.png").symlink_to("loop.png")
    root, paths = find_images(str(home))
    assert "loop.png" in paths
    check_out(str(home), tmp_path_factory.mktemp("elsewhere"), root, paths)
