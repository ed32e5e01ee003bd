"""Labels and patients from file names, folders and metadata.csv, and the errors if they are missing."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from covidnet.base.classes import ClassList
from covidnet.base.errors import DataError, SettingError
from covidnet.data.collection.sources import folder_source, kaggle_source, patient_from_name


def place(root: Path, *paths: str) -> Path:
    """Files that are named like images; a source opens none of them."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"image")
    return root


def told(root: Path, **options: object) -> dict[str, dict[str, object]]:
    files = folder_source(root, **options).files  # type: ignore[arg-type]
    return {row["path"]: row for row in files.to_dict("records")}


# Patients


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("00001280_004.png", "nih-00001280"),
        ("person1_virus_6.jpeg", "person-1"),
        ("person1_bacteria_2.jpeg", "person-1"),
        ("PERSON88_Virus_1.JPEG", "person-88"),
        ("IM-0115-0001.jpeg", "IM-0115"),
        ("IM-0115-0001-0002.jpeg", "IM-0115"),
        ("NORMAL2-IM-0927-0001.jpeg", "IM-0927"),
        ("COVID19(3).jpg", None),
        ("person1_virus.jpeg", None),
        ("00001280_004_crop.png", None),
        ("0001280_004.png", None),
    ],
)
def test_patient_is_told_by_the_name(name: str, patient: str | None) -> None:
    assert patient_from_name(Path("any/folder") / name) == patient


def test_images_of_one_patient_in_two_classes_have_one_id(tmp_path: Path) -> None:
    place(tmp_path, "Normal/00001280_004.png", "Pneumonia/00001280_011.png")
    assert {row["patient_id"] for row in told(tmp_path).values()} == {"nih-00001280"}


def test_what_tables_hold_is_no_formula_and_no_control_character(tmp_path: Path) -> None:
    place(tmp_path, "=1+1.png", "Normal/=1+1.png", "Normal/b.png")
    row = 'Normal/b.png,Normal,=HYPERLINK(A1),-7,"\x1b[31m\nred"\n'
    text = f"filename,label,patient_id,view,source\n=1+1.png,Normal,@SUM(A1),,\n{row}"
    (tmp_path / "metadata.csv").write_text(text)
    found = told(tmp_path)
    assert set(found) == {"./=1+1.png", "Normal/=1+1.png", "Normal/b.png"}
    assert all((tmp_path / path).is_file() for path in found)
    assert found["./=1+1.png"]["patient_id"] == "'@SUM(A1)"
    row_of_b = found["Normal/b.png"]
    assert (row_of_b["patient_id"], row_of_b["view"], row_of_b["source"]) == ("'=HYPERLINK(A1)", "-7", r"\x1b[31m\nred")


def test_unknown_is_missing_and_neither_zero_nor_empty(tmp_path: Path) -> None:
    place(tmp_path, "Normal/a.png")
    files = folder_source(tmp_path).files
    assert files.loc[0, ["patient_id", "view", "source"]].isna().all()


# metadata.csv


def test_metadata_goes_before_names_and_folders(tmp_path: Path) -> None:
    place(tmp_path, "Normal/person1_virus_6.jpeg")
    (tmp_path / "metadata.csv").write_text(
        "filename,label,patient_id,view,source\nNormal/person1_virus_6.jpeg,COVID,p-007,PA,clinic\n"
    )
    assert told(tmp_path)["Normal/person1_virus_6.jpeg"] == {
        "path": "Normal/person1_virus_6.jpeg",
        "label": "COVID-19",
        "patient_id": "p-007",
        "view": "PA",
        "source": "clinic",
    }


def test_metadata_of_the_parent_folder_is_used(tmp_path: Path) -> None:
    place(tmp_path / "Data", "train/NORMAL/a.jpg", "test/NORMAL/b.jpg")
    (tmp_path / "metadata.csv").write_text(
        "filename,patient_id,view\nData/train/NORMAL/a.jpg,p1,PA\nData/test/NORMAL/b.jpg,p2,AP\nOther/c.jpg,p3,AP\n"
    )
    source = folder_source(tmp_path / "Data")
    assert dict(zip(source.files["path"], source.files["patient_id"], strict=True)) == {
        "train/NORMAL/a.jpg": "p1",
        "test/NORMAL/b.jpg": "p2",
    }
    assert source.missing == ()


def test_an_unrelated_table_in_the_parent_folder_is_passed_over(tmp_path: Path) -> None:
    place(tmp_path / "Data", "Normal/a.jpg")
    (tmp_path / "metadata.csv").write_text("name,price\nx,1\n")
    assert list(told(tmp_path / "Data")) == ["Normal/a.jpg"]


def test_cells_that_say_unknown_are_missing_and_leading_zeros_stay(tmp_path: Path) -> None:
    place(tmp_path, "Normal/a.png", "Normal/b.png", "Normal/c.png")
    (tmp_path / "metadata.csv").write_text(
        "filename,patient_id,view\nNormal/a.png,007,unknown\nNormal/b.png,N/A,\nNormal/c.png\n"
    )
    rows = told(tmp_path)
    assert rows["Normal/a.png"]["patient_id"] == "007"
    for name, column in (("a", "view"), ("b", "patient_id"), ("b", "view"), ("c", "patient_id"), ("c", "view")):
        value = rows[f"Normal/{name}.png"][column]
        assert value is None or value != value


def test_byte_order_mark_and_backslashes_of_windows_are_understood(tmp_path: Path) -> None:
    place(tmp_path, "Normal/a.png")
    (tmp_path / "metadata.csv").write_bytes("\ufefffilename,patient_id\r\nNormal\\a.png,p1\r\n".encode())
    assert told(tmp_path)["Normal/a.png"]["patient_id"] == "p1"


def test_files_that_metadata_lists_and_the_disk_lacks_are_named(tmp_path: Path) -> None:
    names = [f"Normal/{n}.png" for n in range(19)]
    place(tmp_path, *names)
    (tmp_path / "metadata.csv").write_text("\n".join(["filename", *names, "Normal/gone.png"]))
    assert folder_source(tmp_path).missing == ("Normal/gone.png",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "name,label\nNormal/a.png,Normal\n",
            "no column filename; its columns are name, label; expected are filename,label,",
        ),
        ("filename,label\nNormal/a.png,tuberculosis\n", "'tuberculosis'"),
        ("filename,patient_id\nNormal/a.png,p1\nNormal/a.png,p2\n", "two rows that differ"),
        ('filename,label\n"Normal/a.png,Normal\n', "not a readable CSV"),
        ("filename,patient_id\nNormal/a.png,caf\x81\n", "not a readable CSV"),
        ("filename,view\nNormal/a.png,PA,\n", "more cells than the header"),
        ("", "not a readable CSV"),
    ],
)
def test_metadata_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    place(tmp_path, "Normal/a.png")
    (tmp_path / "metadata.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError) as caught:
        folder_source(tmp_path)
    assert words in str(caught.value)
    assert "metadata.csv" in str(caught.value)
    assert "\n" not in str(caught.value).strip()


# A class that is left out, and files of none


@pytest.mark.parametrize("ignore", [["Lung_Opacity"], "lung opacity", ["LUNG_OPACITY"]])
def test_a_class_folder_is_left_out_by_name_and_counted(tmp_path: Path, ignore: list[str] | str) -> None:
    place(tmp_path, "Normal/images/a.png", "Lung_Opacity/images/b.png", "Lung_Opacity/images/c.png")
    source = folder_source(tmp_path, ignore=ignore)
    assert source.files["path"].tolist() == ["Normal/images/a.png"]
    name = ignore if isinstance(ignore, str) else ignore[0]
    assert source.notes == (f"data.ignore: 2 images of {name} left out",)


def test_a_label_of_the_table_and_a_file_are_left_out_by_name(tmp_path: Path) -> None:
    place(tmp_path, "a.png", "b.png", "c.png", "d.png")
    (tmp_path / "metadata.csv").write_text("filename,label\na.png,Normal\nb.png,Lung_Opacity\nc.png,COVID\n")
    with pytest.raises(DataError, match=r"data\.ignore='\[Lung_Opacity\]'"):
        folder_source(tmp_path)
    source = folder_source(tmp_path, ignore=["Lung_Opacity", "d.png"])
    assert source.files["path"].tolist() == ["a.png", "c.png"]


def test_what_is_to_be_ignored_and_is_not_there_is_refused(tmp_path: Path) -> None:
    place(tmp_path, "Normal/a.png")
    with pytest.raises(SettingError, match=r"data\.ignore=Lung-Opacities"):
        folder_source(tmp_path, ignore=["Lung-Opacities"])
    with pytest.raises(DataError, match=r"data\.ignore: 1 image of Normal left out"):
        folder_source(tmp_path, ignore=["Normal"])


def test_files_without_a_class_are_named_with_the_columns_of_the_table(tmp_path: Path) -> None:
    place(tmp_path, "a.dcm", "b.dcm", "DICOMDIR", "stray.dcm")
    (tmp_path / "metadata.csv").write_text("filename,finding\na.dcm,COVID\nb.dcm,Normal\n")
    with pytest.raises(DataError) as caught:
        folder_source(tmp_path)
    text = str(caught.value)
    for words in ("3 images have no class: a.dcm, b.dcm, stray.dcm", "columns filename, finding", "diagnosis"):
        assert words in text
    (tmp_path / "metadata.csv").write_text("filename,diagnosis\na.dcm,COVID\nb.dcm,Normal\n")
    with pytest.raises(DataError, match=r"1 image has no class: stray\.dcm; .*data\.ignore='\[stray\.dcm\]'"):
        folder_source(tmp_path)
    files = folder_source(tmp_path, ignore=["stray.dcm"]).files
    assert dict(zip(files["path"], files["label"], strict=True)) == {"a.dcm": "COVID-19", "b.dcm": "Normal"}


# Folders


def test_train_and_test_folders_of_the_kaggle_set_are_pooled(tmp_path: Path) -> None:
    place(tmp_path, "Data/train/COVID19/a.jpg", "Data/test/COVID19/b.jpg", "Data/train/NORMAL/c.jpg")
    place(tmp_path, "Data/test/PNEUMONIA/d.jpeg")
    for root in (tmp_path, tmp_path / "Data"):
        files = kaggle_source(root, handle="owner/set").files
        assert list(files["label"].value_counts().reindex(["COVID-19", "Normal", "Pneumonia"])) == [2, 1, 1]


def test_class_is_the_nearest_folder_that_names_one(tmp_path: Path) -> None:
    place(tmp_path, "Normal/images/a.png", "Pneumonia/Viral Pneumonia/b.png", "normal/COVID/c.png")
    rows = told(tmp_path)
    assert {path: row["label"] for path, row in rows.items()} == {
        "Normal/images/a.png": "Normal",
        "Pneumonia/Viral Pneumonia/b.png": "Pneumonia",
        "normal/COVID/c.png": "COVID-19",
    }


def test_masks_hidden_files_and_other_files_are_no_images_and_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place(tmp_path, "Normal/a.png", "Normal/masks/a.png", "Masks/Normal/a.png", "boxes/a.png", ".cache/Normal/b.png")
    place(tmp_path, "Normal/._a.png", "Normal/.b.png", "Normal/notes.txt", "README.md", "Thumbs.db")
    caplog.set_level(logging.INFO)
    assert list(told(tmp_path)) == ["Normal/a.png"]
    others = "5 files are skipped: 2 hidden, 1 .md, 1 .db, 1 .txt"
    assert [record.getMessage() for record in caplog.records] == [f"{tmp_path}: {others}"]


def test_class_folder_that_is_a_link_is_followed_and_a_circle_ends(tmp_path: Path) -> None:
    place(tmp_path / "elsewhere", "a.png")
    root = place(tmp_path / "root", "Normal/b.png")
    (root / "COVID-19").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "Normal" / "again").symlink_to(root, target_is_directory=True)
    assert {path: row["label"] for path, row in told(root).items()} == {
        "COVID-19/a.png": "COVID-19",
        "Normal/b.png": "Normal",
    }


def test_listing_order_of_the_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place(tmp_path, *(f"{label}/{name}.png" for label in ("Normal", "COVID") for name in "dacb"))
    expected = folder_source(tmp_path).files
    walk = os.walk

    def backwards(top: str, **options: bool):  # type: ignore[no-untyped-def]
        for folder, folders, names in walk(top, **options):
            folders.reverse()
            yield folder, folders, sorted(names, reverse=True)

    monkeypatch.setattr(os, "walk", backwards)
    assert folder_source(tmp_path).files.equals(expected)


def test_unknown_class_folder_is_refused_with_the_allowed_names_and_the_remedy(tmp_path: Path) -> None:
    place(tmp_path, "Normal/a.png", "tuberculosis/b.png", "tuberculosis/c.png")
    with pytest.raises(DataError) as caught:
        folder_source(tmp_path)
    text = str(caught.value)
    assert "tuberculosis/ (2 images)" in text
    assert "COVID-19, Normal, Pneumonia" in text
    assert "data.labels" in text
    assert "data.ignore='[tuberculosis]'" in text
    assert "Normal/" not in text


def test_labels_map_an_unknown_folder_to_a_class(tmp_path: Path) -> None:
    place(tmp_path, "Normal/a.png", "tuberculosis/b.png", "1/c.png")
    labels = {"Tuberculosis": "pneumonia", 1: "COVID-19"}
    rows = told(tmp_path, labels=labels)
    assert [rows[path]["label"] for path in ("Normal/a.png", "tuberculosis/b.png", "1/c.png")] == [
        "Normal",
        "Pneumonia",
        "COVID-19",
    ]


@pytest.mark.parametrize("target", ["flu", 3, None])
def test_labels_that_map_to_no_class_are_refused(tmp_path: Path, target: object) -> None:
    place(tmp_path, "Normal/a.png")
    with pytest.raises(DataError, match=r"data\.labels: TB is mapped .* must be one of COVID-19, Normal, Pneumonia"):
        folder_source(tmp_path, labels={"TB": target})  # type: ignore[dict-item]


def test_absent_folder_and_folder_without_images_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone: no such folder"):
        folder_source(tmp_path / "gone")
    (tmp_path / "Normal").mkdir()
    with pytest.raises(DataError, match="no images found"):
        folder_source(tmp_path)


# Download


def kagglehub(monkeypatch: pytest.MonkeyPatch, answer: object) -> list[str]:
    asked: list[str] = []

    def dataset_download(handle: str) -> object:
        asked.append(handle)
        if isinstance(answer, Exception):
            raise answer
        return answer

    module = ModuleType("kagglehub")
    module.dataset_download = dataset_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kagglehub", module)
    return asked


def test_kaggle_set_is_downloaded_where_no_root_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place(tmp_path, "Data/train/NORMAL/a.jpg")
    asked = kagglehub(monkeypatch, str(tmp_path))
    assert kaggle_source(None, handle="owner/set").files["path"].tolist() == ["Data/train/NORMAL/a.jpg"]
    assert asked == ["owner/set"]


def test_copy_on_disk_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place(tmp_path, "train/NORMAL/a.jpg")
    asked = kagglehub(monkeypatch, RuntimeError("asked"))
    assert len(kaggle_source(tmp_path, handle="owner/set").files) == 1
    assert asked == []


def test_missing_kagglehub_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(DataError) as caught:
        kaggle_source(None, handle="owner/set")
    for words in ("kagglehub is not installed", 'pip install "covidnet[kaggle]"', "owner/set", "data.root=DIR"):
        assert words in str(caught.value)


def test_failing_download_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    kagglehub(monkeypatch, ConnectionError("no route to host\n\n  retry later\n" + "x" * 2000))
    with pytest.raises(DataError) as caught:
        kaggle_source(None, handle="owner/set")
    text = str(caught.value)
    assert "no route to host retry later" in text
    assert "ConnectionError" in text
    assert "data.root=DIR" in text
    assert "\n" not in text
    assert len(text) < 500


# Classes


def test_auto_takes_the_class_folders_whatever_lies_between_them_and_the_images(tmp_path: Path) -> None:
    place(
        tmp_path, "train/COVID/images/a.png", "test/covid/b.png", "train/Lung_Opacity/images/c.png",
        "train/NORMAL/d.png", "train/COVID/masks/a.png",
    )  # fmt: skip
    source = folder_source(tmp_path, classes=None, positive="normal")
    assert source.classes == ClassList(("COVID", "Lung_Opacity", "Normal"), "Normal")
    assert source.files["label"].tolist() == ["COVID", "COVID", "Lung_Opacity", "Normal"]


def test_auto_takes_every_label_of_the_table_before_any_folder(tmp_path: Path) -> None:
    place(tmp_path, "site A/a.png", "site A/b.png", "site B/c.png", "Nodule/d.png")
    rows = "site A/a.png,TB\nsite A/b.png,Healthy\nsite B/c.png,tb\n"
    (tmp_path / "metadata.csv").write_text(f"filename,label\n{rows}")
    found = folder_source(tmp_path, classes=None, labels={"Nodule": "Cancer"})
    assert list(found.classes) == ["Cancer", "Healthy", "TB"]
    assert found.files.set_index("path")["label"].to_dict() == {
        "Nodule/d.png": "Cancer", "site A/a.png": "TB", "site A/b.png": "Healthy", "site B/c.png": "TB",
    }  # fmt: skip


def test_auto_takes_the_single_findings_of_a_published_table(tmp_path: Path) -> None:
    place(tmp_path, *(f"images_001/images/0000000{n}_000.png" for n in range(4)))
    (tmp_path / "Data_Entry_2017.csv").write_text(
        "Image Index,Finding Labels,Patient ID,View Position\n00000000_000.png,Hernia,1,PA\n"
        "00000001_000.png,No Finding,2,PA\n00000002_000.png,Hernia|Mass,3,PA\n00000003_000.png,Mass,4,AP\n"
    )
    found = folder_source(tmp_path, classes=None)
    assert list(found.classes) == ["Hernia", "Mass", "No Finding"]
    assert len(found.files) == 3
    assert "several findings" in found.notes[0]


def test_auto_needs_two_classes_to_fifty(tmp_path: Path) -> None:
    place(tmp_path / "one", "Normal/a.png")
    place(tmp_path / "many", *(f"class {n}/a.png" for n in range(51)))
    for name, count in (("one", 1), ("many", 51)):
        with pytest.raises(SettingError, match=rf"data.classes=auto: must be a list .* has {count}: "):
            folder_source(tmp_path / name, classes=None)


def test_the_radiography_database_has_four_classes_beside_their_masks(tmp_path: Path) -> None:
    folders = ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia")
    place(tmp_path, *(f"{name}/{kind}/{name}-1.png" for name in folders for kind in ("images", "masks")))
    classes = ClassList(("COVID", "Lung Opacity", "Normal", "Viral Pneumonia"))
    assert folder_source(tmp_path, classes=classes).files["label"].tolist() == list(classes)
    with pytest.raises(DataError, match=r"Lung_Opacity/images/ \(1 image\).*must be one of COVID-19, Normal"):
        folder_source(tmp_path)


@pytest.mark.parametrize(
    ("names", "positive"),
    [(("Nodule", "No finding"), "Nodule"), (("Mass", "Edema"), "Edema"), (("Normal", "Healthy"), "Healthy")],
)
def test_of_found_classes_the_positive_one_names_a_finding(
    names: tuple[str, str], positive: str, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").touch()
    assert folder_source(tmp_path, classes=None).classes.positive == positive
    assert folder_source(tmp_path, classes=None, positive=names[0]).classes.positive == names[0]


def test_folders_that_say_nothing_of_the_class_need_a_table(tmp_path: Path) -> None:
    for n in range(3):
        place(tmp_path, f"images/{n}.png")
    with pytest.raises(
        DataError, match=r"images/ \(3 images\) \(a table of their labels is named with data.table=PATH\)"
    ):
        folder_source(tmp_path)
