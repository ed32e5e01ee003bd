"""Tiny copies of published data sets, as people have them on disk, and tables of one's own."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from covidnet.base.errors import DataError
from covidnet.data.collection.manifest import scan
from covidnet.data.collection.metadata import COLUMNS, SEPARATORS
from covidnet.data.collection.prepared import find_source
from covidnet.data.collection.sources import Source
from covidnet.launch.schema import SCHEMA
from tests.refusals import refused

NIH = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height]\n"
)
COHEN = "patientid,offset,sex,age,finding,view,modality,date,location,folder,filename,doi,url,license\n"


def draw(root: Path, *paths: str) -> Path:
    for n, path in enumerate(paths):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(n).integers(0, 256, (64, 64), np.uint8)
        Image.fromarray(pixels).save(file, format="PNG")
    return root


def source(root: Path, unseen: str | None = None, **data: object) -> Source:
    limits = {"max_megapixels": 64, "min_side": 64}
    return find_source({"name": "folder", "root": str(root), **limits, **data}, root, unseen=unseen, progress=False)


def rows(found: Source, *columns: str) -> dict[str, tuple[object, ...]]:
    """The cells of each path; unknown is None."""
    table = found.files.astype(object).where(found.files.notna(), None)
    return {row["path"]: tuple(row[c] for c in columns) for row in table.to_dict("records")}


# NIH ChestX-ray


def nih(root: Path, table: str = "Data_Entry_2017.csv") -> Path:
    names = [f"0000000{n}_000.png" for n in range(1, 8)]
    draw(root, *(f"images_001/images/{name}" for name in names))
    findings = ["No Finding", "Pneumonia", "Infiltration|Pneumonia", "Infiltration", "Hernia|Mass", "No Finding"]
    cells = [f"{names[n]},{finding},0,{n + 1},58,M,PA,1024,1024" for n, finding in enumerate(findings)]
    (root / table).write_text(NIH + "\n".join([*cells, "00030805_000.png,No Finding,0,30805,27,M,PA,1024,1024\n"]))
    return root


def test_nih_uses_images_whose_findings_name_one_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    found = source(nih(tmp_path))
    place = "images_001/images/0000000{}_000.png"
    assert rows(found, "label", "patient_id", "view") == {
        place.format(1): ("Normal", "1", "PA"),
        place.format(2): ("Pneumonia", "2", "PA"),
        place.format(3): ("Pneumonia", "3", "PA"),
        place.format(6): ("Normal", "6", "PA"),
    }
    assert found.notes == (
        "Data_Entry_2017.csv: 3 images (1 finding Infiltration, 1 several other findings, 1 no row) and 1 row without "
        "an image (1 not downloaded) left out",
    )
    assert found.missing == ()
    (line,) = [record.getMessage() for record in caplog.records if ": read " in record.getMessage()]
    assert line == (
        f"{tmp_path}/Data_Entry_2017.csv: read as NIH ChestX-ray, column Image Index as filename, column Finding "
        "Labels as label, column Patient ID as patient_id, column View Position as view"
    )


def test_nih_findings_are_mapped_alone_and_together(tmp_path: Path) -> None:
    nih(tmp_path)
    place = "images_001/images/0000000{}_000.png"
    one = rows(source(tmp_path, labels={"Infiltration": "COVID-19"}), "label")
    # Two findings of two classes.
    assert place.format(3) not in one
    assert one[place.format(4)] == ("COVID-19",)
    both = source(tmp_path, labels={"Infiltration": "COVID-19", "Infiltration|Pneumonia": "Pneumonia"})
    assert rows(both, "label")[place.format(3)] == ("Pneumonia",)
    note = source(tmp_path, labels={"Infiltration": "COVID-19"}, ignore=["hernia|mass"]).notes
    assert note[0] == "data.ignore: 1 image of hernia|mass left out"
    assert "2 images (1 findings of several classes, 1 no row)" in note[1]


def test_nih_table_beside_the_folder_of_images(tmp_path: Path) -> None:
    assert len(source(nih(tmp_path, "Data_Entry_2017_v2020.csv") / "images_001").files) == 4


def test_nih_table_of_other_images_is_refused(tmp_path: Path) -> None:
    draw(tmp_path, "images/a.png")
    (tmp_path / "Data_Entry_2017.csv").write_text(NIH + "00000001_000.png,No Finding,0,1,58,M,PA,1024,1024\n")
    with pytest.raises(DataError, match=r"Data_Entry_2017\.csv: 1 of 1 rows match no single image, such as 00000001"):
        source(tmp_path)


# The COVID-19 image data collection


def test_cohen_leaves_out_ct_volumes_and_other_findings(tmp_path: Path) -> None:
    draw(tmp_path, *(f"images/{name}.png" for name in "abcdefg"))
    table = [
        "2,0,M,65,Pneumonia/Viral/COVID-19,PA,X-ray,,,images,a.png,,,",
        "4,0,M,52,Pneumonia/Bacterial/Streptococcus,AP Supine,X-ray,,,images,b.png,,,",
        "5,0,F,40,No Finding,L,X-ray,,,images,c.png,,,",
        '6,0,F,40,"COVID-19, ARDS",,X-ray,,,images,d.png,,,',
        "7,0,F,40,Tuberculosis,PA,X-ray,,,images,e.png,,,",
        "8,0,F,40,Pneumonia/Viral/COVID-19,Axial,CT,,,images,f.png,,,",
        "9,0,F,40,todo,PA,X-ray,,,images,g.png,,,",
        "10,0,F,40,Pneumonia/Viral/COVID-19,Axial,CT,,,volumes,coronacases_001.nii.gz,,,",
    ]
    (tmp_path / "metadata.csv").write_text(COHEN + "\n".join(table) + "\n")
    found = source(tmp_path)
    assert rows(found, "label", "patient_id", "view") == {
        "images/a.png": ("COVID-19", "2", "PA"),
        "images/b.png": ("Pneumonia", "4", "AP Supine"),
        "images/c.png": ("Normal", "5", "L"),
        "images/d.png": ("COVID-19", "6", None),
    }
    assert found.notes == (
        "metadata.csv: 3 images (1 finding Tuberculosis, 1 modality CT, 1 finding todo) and 1 row without an image (1 "
        "folder volumes) left out",
    )


# COVIDx


def covidx(root: Path, test: str = "2 c.png pneumonia rsna\n9 a.png COVID-19 sirm\n") -> Path:
    draw(root, "train/a.png", "train/b.png", "test/c.png", "test/a.png", "train/stray.png")
    (root / "train.txt").write_text("1 a.png normal rsna\n1 b.png COVID-19 cohen\n")
    (root / "test.txt").write_text(test)
    return root


def test_covidx_lists_are_read_with_their_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    found = source(covidx(tmp_path))
    assert rows(found, "label", "patient_id", "source") == {
        "test/a.png": ("COVID-19", "9", "sirm"),
        "test/c.png": ("Pneumonia", "2", "rsna"),
        "train/a.png": ("Normal", "1", "rsna"),
        "train/b.png": ("COVID-19", "1", "cohen"),
    }
    assert found.notes == ("test.txt and train.txt: 1 image (1 no row) left out",)
    assert "train.txt: read as COVIDx, its columns taken as patient_id, filename, label, source" in caplog.text
    assert "skipped" not in caplog.text


def test_covidx_list_without_sources_and_a_part_of_the_set(tmp_path: Path) -> None:
    covidx(tmp_path, "2 c.png pneumonia\n9 a.png COVID-19\n")
    assert rows(source(tmp_path), "source")["test/c.png"] == (None,)
    assert rows(source(tmp_path / "test"), "label") == {"a.png": ("COVID-19",), "c.png": ("Pneumonia",)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "2 c.png pneumonia rsna\n3 gone.png normal rsna\n",
            r"test\.txt: 1 of 2 rows match no single image, such as test/gone",
        ),
        (
            "2 c.png flu rsna\n",
            r"test\.txt and train\.txt: test/c\.png has the label 'flu'; must be one of COVID-19, Normal",
        ),
        ("2 c.png pneumonia rsna\n3 a b.png normal rsna\n", r"test\.txt: not a readable CSV \(.*line 2"),
    ],
)
def test_covidx_list_that_cannot_be_used_is_refused(tmp_path: Path, text: str, words: str) -> None:
    covidx(tmp_path, text)
    with pytest.raises(DataError, match=words) as caught:
        source(tmp_path)
    assert "\n" not in str(caught.value).strip()


# The COVID-19 Radiography Database


def test_radiography_database_has_sources_from_its_tables_and_no_masks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    draw(tmp_path, "COVID/images/COVID-1.png", "COVID/masks/COVID-1.png", "Normal/images/Normal-1.png")
    draw(tmp_path, "Viral Pneumonia/images/Viral Pneumonia-1.png", "Lung_Opacity/images/Lung_Opacity-1.png")
    (tmp_path / "COVID.metadata.csv").write_text("FILE NAME,FORMAT,SIZE,URL\nCOVID-1,PNG,256*256,https://sirm.org/\n")
    (tmp_path / "Normal.metadata.csv").write_text("FILE NAME,FORMAT,SIZE,URL\nNORMAL-1,PNG,256*256,https://rsna.org/\n")
    (tmp_path / "Viral Pneumonia.metadata.xlsx").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"Lung_Opacity/images/ \(1 image\).*data\.ignore='\[images\]'"):
        source(tmp_path)
    found = source(tmp_path, ignore=["Lung_Opacity"])
    assert rows(found, "label", "source") == {
        "COVID/images/COVID-1.png": ("COVID-19", "https://sirm.org/"),
        "Normal/images/Normal-1.png": ("Normal", "https://rsna.org/"),
        "Viral Pneumonia/images/Viral Pneumonia-1.png": ("Pneumonia", None),
    }
    assert "save Viral Pneumonia.metadata.xlsx as Viral Pneumonia.metadata.csv" in caplog.text
    mapped = source(tmp_path, labels={"Lung_Opacity": "Pneumonia"})
    assert rows(mapped, "label")["Lung_Opacity/images/Lung_Opacity-1.png"] == ("Pneumonia",)


# Tables of one's own


def flat(root: Path) -> Path:
    return draw(root / "images", "a.png", "b.png", "c.png")


OWN = {"filename": "File", "label": "Dx", "patient_id": "Pat", "view": "Pos", "source": "Site"}


@pytest.mark.parametrize("separator", SEPARATORS)
def test_any_table_is_read_with_its_columns_named(tmp_path: Path, separator: str) -> None:
    root, cut = flat(tmp_path), SEPARATORS[separator]
    table = ["File,Dx,Pat,Pos,Site", "a.png,COVID,p1,PA,north", "b.png,healthy,p2,AP,south"]
    (tmp_path / "list.dat").write_text("\n".join(table).replace(",", cut) + "\n")
    found = source(root, table=str(tmp_path / "list.dat"), columns=OWN, separator=separator)
    assert rows(found, *COLUMNS[1:]) == {
        "a.png": ("COVID-19", "p1", "PA", "north"),
        "b.png": ("Normal", "p2", "AP", "south"),
    }
    assert found.notes == ("list.dat: 1 image (1 no row) left out",)
    # The manifest can be made of it.
    assert len(scan(found, max_megapixels=64, min_side=64, progress=False).images) == 2


def test_a_table_without_a_header_line_is_read_by_numbers(tmp_path: Path) -> None:
    root = flat(tmp_path)
    (tmp_path / "list").write_text("COVID;a.png;7\nnormal;b.png;8\n")
    numbers = {"filename": 2, "label": 1, "patient_id": 3}
    found = source(root, table=str(tmp_path / "list"), columns=numbers)
    assert rows(found, "label", "patient_id") == {"a.png": ("COVID-19", "7"), "b.png": ("Normal", "8")}
    for wrong in ({"filename": 2, "label": "Dx"}, {"label": 1}, {"filename": 0}):
        with refused("data.columns", wrong, "all names, or all numbers", "counted from 1"):
            source(root, table=str(tmp_path / "list"), columns=wrong)
    with pytest.raises(DataError, match=r"no column 4, which data\.columns names as label; its columns are 1, 2, 3"):
        source(root, table=str(tmp_path / "list"), columns={"filename": 2, "label": 4})


def test_columns_are_named_for_metadata_csv_too_and_go_before_usual_names(tmp_path: Path) -> None:
    root = flat(tmp_path)
    (root / "metadata.csv").write_text("filename,label,Dx\n" + "".join(f"{n}.png,x,normal\n" for n in "abc"))
    assert rows(source(root, columns={"label": "dx"}), "label")["a.png"] == ("Normal",)


def test_a_known_table_of_another_name_is_recognised(tmp_path: Path) -> None:
    root = draw(tmp_path / "images", "00000001_000.png")
    (tmp_path / "labels.csv").write_text(NIH + "00000001_000.png,Pneumonia|Mass,0,1,58,M,PA,1024,1024\n")
    with pytest.raises(DataError, match=r"1 image has no class: 00000001_000\.png \(a table of .*data\.table=PATH\)"):
        source(root)
    assert rows(source(root, table=str(tmp_path / "labels.csv")), "label") == {"00000001_000.png": ("Pneumonia",)}


@pytest.mark.parametrize(
    ("text", "columns", "words"),
    [
        ("Imag,Dx\na.png,COVID\n", {"filename": "Ima"}, r"no column Ima, .* Imag, Dx; did you mean Imag\?"),
        ("Imag,Dx\na.png,COVID\n", {}, r"columns are Imag, Dx; .*: name it with data\.columns='\{filename: Imag\}'"),
        ("Imag,Dx\na.png,flu\n", {"filename": "Imag"}, r"list\.csv: a\.png has the label 'flu'; must be one of"),
        ("Imag,Dx\n../x.png,COVID\n", {"filename": "Imag"},
         r"1 row names a file outside of .*images, such as \.\./x\.png; set data\.root"),
        ("Imag,Dx\na.png,COVID\na.png,normal\n", {"filename": "Imag"}, "two rows that differ"),
    ],
)  # fmt: skip
def test_a_table_that_does_not_match_is_refused(tmp_path: Path, text: str, columns: dict[str, str], words: str) -> None:
    root = flat(tmp_path)
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        source(root, table=str(tmp_path / "list.csv"), columns={"label": "Dx", **columns})
    assert "\n" not in str(caught.value)


def test_absent_tables_and_unknown_names_are_refused(tmp_path: Path) -> None:
    root = flat(tmp_path)
    with pytest.raises(DataError, match=r"gone\.csv: cannot be read \(No such file or directory\)"):
        source(root, table=str(tmp_path / "gone.csv"))
    with pytest.raises(DataError, match=r"data\.columns .* is set, but no metadata\.csv .*data\.table=PATH"):
        source(root, columns={"label": "Dx"})
    with refused("data.columns", "{lable: ...}", COLUMNS):
        source(root, columns={"lable": "Dx"})
    assert SCHEMA["config"]["data.separator"].choices == tuple(SEPARATORS)


# Published test images


@pytest.mark.parametrize(
    ("unseen", "paths"),
    [
        ("column:split=test", {"test/c.png", "test/a.png"}),
        ("column:source=RSNA", {"test/c.png", "train/a.png"}),
        ("folder:Test", {"test/c.png", "test/a.png"}),
        ("list:{root}/names", {"train/a.png", "test/c.png"}),
    ],
)
def test_published_test_images_are_found(tmp_path: Path, unseen: str, paths: set[str]) -> None:
    covidx(tmp_path)
    (tmp_path / "names").write_text("train/a.png\n\nc.png\ngone.png\n")
    assert source(tmp_path, unseen=unseen.format(root=tmp_path)).unseen == paths


def test_published_test_images_that_are_not_there_are_refused(tmp_path: Path) -> None:
    covidx(tmp_path)
    for wrong in ("test", "column:split", "colum:split=test", "folder:"):
        with refused("split.unseen", wrong, "column:NAME=VALUE, folder:NAME or list:FILE"):
            source(tmp_path, unseen=wrong)
    for none in ("column:split=val", "folder:images"):
        with refused("split.unseen", none, "that of at least one image", "none of 4 has it"):
            source(tmp_path, unseen=none)
    with pytest.raises(DataError, match=r"no column spli; its columns are .*; did you mean split\?"):
        source(tmp_path, unseen="column:spli=test")
    with pytest.raises(DataError, match=r"gone: cannot be read \(No such file"):
        source(tmp_path, unseen=f"list:{tmp_path}/gone")


def test_real_radiographs_are_read_as_class_folders(kit: Path) -> None:
    found = source(kit)
    assert (len(found.files), found.layout, found.table) == (1157, "", "metadata.csv")
    assert found.files["label"].value_counts().to_dict() == {"Pneumonia": 519, "Normal": 500, "COVID-19": 138}
    assert found.notes == ()
