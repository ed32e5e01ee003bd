import errno
import os
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from covidnet.base.atomic import WriteError
from covidnet.report.rendering.document import Document, Paragraph, Picture, Section
from covidnet.report.rendering.pictures import (
    FOLDER,
    copy_name,
    picture_size,
    read_picture,
    remove_old_pictures,
    with_pictures,
    write_pictures,
)


def _png(red: int = 255, width: int = 3, height: int = 2) -> bytes:
    stream = BytesIO()
    Image.new("RGB", (width, height), (red, 0, 0)).save(stream, format="PNG")
    return stream.getvalue()


def _document(*pictures: Picture) -> Document:
    return Document("", "", [Section("", "a", [Paragraph("x"), *pictures[:1]]), Section("", "b", pictures[1:])])


def test_a_picture_is_read_from_the_sweep_folder(tmp_path: Path) -> None:
    (tmp_path / "fold=3").mkdir()
    (tmp_path / "fold=3/a.png").write_bytes(_png())
    assert read_picture(tmp_path, "fold=3/a.png") == _png()
    assert picture_size(_png(width=300, height=7)) == (300, 7)


@pytest.mark.parametrize(
    "path", ["", ".", "none.png", "text.png", "../outside.png", "folder", "a\0b", "x" * 999, "/etc/hostname"]
)
def test_what_is_no_png_of_the_sweep_has_no_bytes(path: str, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    (sweep / "folder").mkdir(parents=True)
    (sweep / "text.png").write_text("secret")
    (tmp_path / "outside.png").write_bytes(_png())
    assert read_picture(sweep, path) == b""


def test_a_sweep_that_is_unknown_or_gone_has_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(_png())
    assert read_picture(None, "a.png") == b""
    assert read_picture("", "a.png") == b""
    assert read_picture(tmp_path / "gone", "a.png") == b""
    assert read_picture(tmp_path, str(tmp_path / "a.png")) == b""


def test_sections_without_a_picture_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(_png())
    text, picture = Paragraph("x"), Picture("caption", "alt", "a.png")
    (section,) = with_pictures([None, Section("t", "a", [text, picture])], tmp_path)
    assert section.blocks[0] is text
    assert section.blocks[1] == Picture("caption", "alt", "a.png", data=_png())


def test_copies_of_one_name_do_not_clash(tmp_path: Path) -> None:
    one, other = (Picture("", "", f"fold={n}/panels/unseen-Normal.png", data=_png(n)) for n in (1, 2))
    files = write_pictures(_document(one, other, one), tmp_path)
    assert len(files) == 2
    assert [file.read_bytes() for file in files] == [_png(1), _png(2)]
    assert all(file.name.startswith("unseen-Normal.") for file in files)
    assert {file.parent for file in files} == {tmp_path / FOLDER}


@pytest.mark.parametrize("name", ["a b(c).png", "../x.png", "-.png", "ü]*.png", "n" * 300 + ".png", ""])
def test_the_name_of_a_copy_needs_no_quotes_anywhere(name: str) -> None:
    found = copy_name(Picture("", "", name, data=_png()))
    assert set(found) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.=-")
    assert len(found) < 100
    assert found[0] not in ".-"


def test_a_picture_without_bytes_is_not_written(tmp_path: Path) -> None:
    assert write_pictures(_document(Picture("", "", "a.png")), tmp_path) == []
    assert not (tmp_path / FOLDER).exists()


def test_only_copies_of_an_older_report_are_removed(tmp_path: Path) -> None:
    old = write_pictures(_document(Picture("", "", "a.png", data=_png(1))), tmp_path)
    # A run folder may be the report's folder: its own panels have no hash in their names.
    kept = [tmp_path / FOLDER / name for name in ("unseen-Normal.png", "notes.txt", "errors.0123456.png")]
    for file in kept:
        file.write_text("mine")
    new = write_pictures(_document(Picture("", "", "a.png", data=_png(2))), tmp_path)
    remove_old_pictures(tmp_path, new)
    assert not old[0].exists()
    assert sorted((tmp_path / FOLDER).iterdir()) == sorted([*new, *kept])
    for file in kept:
        file.unlink()
    remove_old_pictures(tmp_path, [])
    assert not (tmp_path / FOLDER).exists()
    remove_old_pictures(tmp_path, [])


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    document = _document(Picture("", "", "a.png", data=_png()))
    (tmp_path / FOLDER).write_text("a file")
    with pytest.raises(WriteError, match=r"panels: not written"):
        write_pictures(document, tmp_path)
    with pytest.raises(WriteError, match=r"panels: not written"):
        write_pictures(document, tmp_path / "none")


def test_a_full_disk_leaves_no_half_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match="ENOSPC"):
        write_pictures(_document(Picture("", "", "a.png", data=_png())), tmp_path)
    assert list((tmp_path / FOLDER).iterdir()) == []
