"""Tables as spreadsheets save them, and rows that name their image other than by its path."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from covidnet.base.errors import DataError
from covidnet.data.collection.metadata import Given, Metadata, read_columns, read_metadata, read_table

TEXT = "filename,patient_id,view,source\nNORMAL/a.png,p1,PA,Klinik Köln\nNORMAL/b.png,007,AP,\n"
TOLD = {
    "NORMAL/a.png": {"patient_id": "p1", "view": "PA", "source": "Klinik Köln"},
    "NORMAL/b.png": {"patient_id": "007", "view": "AP"},
}


def read(root: Path, text: str | bytes, *paths: str) -> Metadata:
    root.mkdir(exist_ok=True)
    (root / "metadata.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_metadata(root, paths)


# As it was saved


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("encoding", "name"),
    [("utf-8", ""), ("utf-8-sig", ""), ("utf-16", "UTF-16"), ("utf-16-be", "UTF-16"), ("cp1252", "Windows-1252")],
)
@pytest.mark.parametrize(
    ("separator", "words"), [(",", ""), (";", "semicolons"), ("\t", "tabs"), ("|", "bars"), ("sep", "semicolons")]
)
def test_what_spreadsheets_save_is_read_and_what_was_assumed_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, end: str, encoding: str, name: str, separator: str, words: str
) -> None:
    caplog.set_level(logging.INFO)
    text = TEXT.replace(",", ";" if separator == "sep" else separator).replace("\n", end)
    text = f"sep=;{end}{text}" if separator == "sep" else text
    assert read(tmp_path, text.encode(encoding), *TOLD).cells == TOLD
    told = [record.getMessage() for record in caplog.records if ": read " in record.getMessage()]
    assert len(told) == (1 if name or words else 0)
    assert all(name in line and words in line for line in told)


def test_a_comma_within_a_cell_is_no_separator(tmp_path: Path) -> None:
    text = 'filename;source\na.png;"Smith, J.; Lee, K."\nb.png;x, y, z\n'
    cells = read(tmp_path, text, "a.png", "b.png").cells
    assert [cells[name]["source"] for name in ("a.png", "b.png")] == ["Smith, J.; Lee, K.", "x, y, z"]


def test_obvious_names_of_columns_are_understood_and_their_own_go_first(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    text = "Image Index,Diagnosis,Patient ID,View Position\na.png,COVID,7,PA\n"
    assert read(tmp_path, text, "a.png").cells == {"a.png": {"label": "COVID", "patient_id": "7", "view": "PA"}}
    assert "column Image Index as filename, column Diagnosis as label" in caplog.text
    text = "path,filename,diagnosis,label\nx,a.png,no,Normal\n"
    assert read(tmp_path, text, "a.png").cells == {"a.png": {"label": "Normal"}}


def test_rows_after_a_line_that_names_the_separator_keep_their_line_numbers(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("sep=;\nfilename;x\n\na;1\n")
    table = read_table(tmp_path / "t.csv")
    assert (table.separator, table.first_line, table.rows["x"].tolist()) == (";", 3, ["", "1"])


# Which image a row means

PATHS = ("train/NORMAL/a.png", "train/NORMAL/B.PNG", "test/COVID/c.1.jpg", "test/COVID/1.2.840.7")


@pytest.mark.parametrize(
    ("row", "path"),
    [
        ("train/NORMAL/a.png", "train/NORMAL/a.png"),
        ("./train/NORMAL/a.png", "train/NORMAL/a.png"),
        ("train\\NORMAL\\a.png", "train/NORMAL/a.png"),
        ("TRAIN/normal/A.png", "train/NORMAL/a.png"),
        ("b.png", "train/NORMAL/B.PNG"),
        ("set/train/NORMAL/a.png", "train/NORMAL/a.png"),
        ("Set\\train\\NORMAL\\a.png", "train/NORMAL/a.png"),
        ("D:\\images\\set\\train\\NORMAL\\a.png", "train/NORMAL/a.png"),
        ("/home/somebody/set/train/NORMAL/a.png", "train/NORMAL/a.png"),
        ("NORMAL/a.png", "train/NORMAL/a.png"),
        ("a", "train/NORMAL/a.png"),
        ("train/NORMAL/a", "train/NORMAL/a.png"),
        ("a.jpeg", "train/NORMAL/a.png"),
        ("c.1", "test/COVID/c.1.jpg"),
        ("1.2.840.7", "test/COVID/1.2.840.7"),
        ("1.2.840.7.dcm", "test/COVID/1.2.840.7"),
    ],
)
@pytest.mark.parametrize("place", ["folder", "parent"])
def test_a_row_means_the_one_image_that_it_can_mean(tmp_path: Path, row: str, path: str, place: str) -> None:
    root = tmp_path / "set"
    root.mkdir()
    table = (root if place == "folder" else tmp_path) / "metadata.csv"
    table.write_text(f"filename,patient_id\n{row},p1\n")
    found = read_metadata(root, PATHS)
    assert (found.cells, found.missing) == ({path: {"patient_id": "p1"}}, ())


def test_a_whole_column_without_suffixes_is_matched_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    paths = [f"NORMAL/{n}.jpeg" for n in range(42)]
    text = "filename,patient_id\n" + "".join(f"{n},p{n}\n" for n in range(42))
    assert read(tmp_path, text, *paths).cells == {f"NORMAL/{n}.jpeg": {"patient_id": f"p{n}"} for n in range(42)}
    assert "42 rows name their image without folder and suffix, for example 0 for NORMAL/0.jpeg" in caplog.text


def test_an_exact_name_goes_before_a_similar_one(tmp_path: Path) -> None:
    rows = "".join(f"{name},{name}\n" for name in ("a.png", "A.png", "a.jpg", "b.png"))
    found = read(tmp_path, "filename,patient_id\n" + rows, "a.png", "A.png", "a.jpg", "x/b.png")
    assert {path: cells["patient_id"] for path, cells in found.cells.items()} == {
        "a.png": "a.png", "A.png": "A.png", "a.jpg": "a.jpg", "x/b.png": "b.png",
    }  # fmt: skip


def test_a_row_of_another_suffix_does_not_take_an_image_that_has_a_row(tmp_path: Path) -> None:
    names = [f"{n}.png" for n in range(30)]
    found = read(tmp_path, "filename,patient_id\n" + "".join(f"{n},p\n" for n in [*names, "7.jpg"]), *names)
    assert found.missing == ("7.jpg",)


@pytest.mark.parametrize("row", ["a", "nothing.png", "NORMAL/other.png", "test/NORMAL/b.png"])
def test_rows_that_mean_no_image_or_several_stop_with_examples_and_the_remedy(tmp_path: Path, row: str) -> None:
    paths = ["train/NORMAL/a.png", "test/NORMAL/a.png", "train/NORMAL/b.png"]
    with pytest.raises(DataError) as caught:
        read(tmp_path, f"filename,view\n{row},PA\n", *paths)
    text = str(caught.value)
    assert f"1 of 1 rows match no single image, such as {row}; images are named like {', '.join(paths)}: use" in text
    assert "\n" not in text


def test_five_percent_may_be_gone_but_no_class_as_a_whole(tmp_path: Path) -> None:
    names = [f"{n}.png" for n in range(95)]
    rows = [f"{name},Normal" for name in names] + [f"gone{n}.png,Normal" for n in range(5)]
    found = read(tmp_path, "filename,label\n" + "\n".join(rows), *names)
    assert found.missing == tuple(f"gone{n}.png" for n in range(5))
    with pytest.raises(DataError, match=r"6 of 101 rows match no single image, such as gone0\.png, gone1\.png, gone2"):
        read(tmp_path, "filename,label\n" + "\n".join([*rows, "gone5.png,Normal"]), *names)
    rows[-1] = "gone4.png,COVID"
    with pytest.raises(DataError, match=r"none of the 1 row of COVID-19 matches an image, such as gone4\.png"):
        read(tmp_path, "filename,label\n" + "\n".join(rows), *names)


@pytest.mark.parametrize(
    "second", ["NORMAL/a.png", "./NORMAL/a.png", "NORMAL\\a.png", "normal/A.PNG", "set/NORMAL/a.png", "a"]
)
def test_two_rows_of_one_image_that_differ_stop_however_they_are_written(tmp_path: Path, second: str) -> None:
    text = "filename,patient_id\nNORMAL/a.png,p1\n\n{},{}\n"
    same = read(tmp_path / "set", text.format(second, "p1"), "NORMAL/a.png")
    assert same.cells == {"NORMAL/a.png": {"patient_id": "p1"}}
    with pytest.raises(DataError, match=r"NORMAL/a\.png has two rows that differ \(lines 2 and 4\)"):
        read(tmp_path / "set", text.format(second, "p2"), "NORMAL/a.png")


def test_the_parents_table_may_be_about_other_folders_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "Data"
    root.mkdir()
    table = tmp_path / "metadata.csv"
    table.write_text("filename,view\nData/a.png,PA\nOther/b.png,AP\nOther/c.png,AP\n")
    found = read_metadata(root, ["a.png", "x.png"])
    assert (found.cells, found.missing) == ({"a.png": {"view": "PA"}}, ())
    table.write_text("filename,view\nOther/b.png,AP\n")
    assert read_metadata(root, ["a.png"]) == Metadata()
    assert "no row refers to an image in" in caplog.text
    (tmp_path / "a.png").write_bytes(b"another image")
    table.write_text("filename,view\na.png,AP\n")
    assert read_metadata(root, ["a.png"]) == Metadata()
    table.write_text("filename,view\nData/gone.png,AP\n")
    with pytest.raises(DataError, match=r"1 of 1 rows match no single image, such as Data/gone\.png"):
        read_metadata(root, ["a.png"])


def test_what_a_table_was_taken_as_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    read(tmp_path, "Image Name;age\na.png;50\n", "images/a.png")
    assert len(caplog.records) == 3
    assert read_columns(tmp_path, ["images/a.png"])["age"].tolist() == ["50"]
    assert len(caplog.records) == 3


@pytest.mark.parametrize("suffix", [".xlsx", ".xls"])
def test_a_spreadsheet_says_how_to_save_it(tmp_path: Path, suffix: str) -> None:
    start = {".xlsx": b"PK\3\4", ".xls": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"}[suffix]
    (tmp_path / f"metadata{suffix}").write_bytes(start + bytes(20))
    with pytest.raises(DataError, match=rf"metadata{suffix}: spreadsheets are not read; save it as metadata.csv"):
        read_metadata(tmp_path, ["a.png"])
    table = tmp_path / f"metadata{suffix}"
    table = table.rename(tmp_path / f"patients{suffix}")
    with pytest.raises(DataError, match=r"save it as patients.csv .*, and give data.table=.*patients.csv"):
        read_metadata(tmp_path, ["a.png"], given=Given((table,)))
    assert not read_metadata(tmp_path, ["a.png"]).columns
    table.rename(tmp_path / f"metadata{suffix}")
    assert read(tmp_path, "filename\na.png\n", "a.png").columns == ("filename",)
