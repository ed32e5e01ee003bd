"""Patients spelled in several ways, ids of two people, and unknown patients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from covidnet.auditing.identity import age_in_years, id_key, identity
from covidnet.auditing.study import Study
from covidnet.data.phantoms.phantom import draw_image
from covidnet.evaluation.intervals import proportion_interval
from tests.auditing.conftest import altered
from tests.data.reading.test_dicom import image as dicom_image
from tests.data.reading.test_dicom import written


def test_clean_phantoms_have_nothing_to_find(clean: Study) -> None:
    answer = identity(clean)
    assert not answer.findings
    assert "not possible" not in " ".join(answer.notes).lower()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("P01", "p1 ", True),
        ("P01", "P-01", True),
        ("\uff3001", "p1", True),
        ("a.b", "AB", False),
        ("1-12", "11-2", False),
        ("P1", "P2", False),
    ],
)
def test_spellings_of_one_id(one: str, other: str, same: bool) -> None:
    assert (id_key(one) == id_key(other)) is same


def one_of_several(study: Study) -> tuple[int, str]:
    """The row of an image of a patient who has several, and the patient."""
    patient = study.images["patient_id"]
    several = patient.value_counts().index[0]
    return int(np.flatnonzero(patient == several)[0]), several


def test_a_patient_spelled_in_two_ways_is_found(clean: Study) -> None:
    row, several = one_of_several(clean)
    patient = clean.images["patient_id"].copy()
    patient.iloc[row] = several.upper().replace("-", " ")
    study = altered(clean, patient_id=patient)
    # Images of one phantom patient resemble copies, so that both spellings may also be found as ids of copies.
    (found,) = [one for one in identity(study).findings if "differ only" in one.what]
    assert found.level == "weakens"  # in one fold
    assert found.what.startswith("2 patient ids differ only in case, spaces, zeros or punctuation, such as ")
    hits = np.isin(study.images["path"], found.images)
    assert set(clean.images["patient_id"][hits]) == {several}
    assert found.number == pytest.approx(hits.mean())
    assert found.interval == pytest.approx(proportion_interval(hits, study.patients))


def test_spellings_in_two_folds_block_a_claim(clean: Study) -> None:
    a, b = (int(np.flatnonzero(clean.folds == fold)[0]) for fold in (1, 2))
    patient = clean.images["patient_id"].copy()
    patient.iloc[[a, b]] = ["P01", "P-1"]
    found = identity(altered(clean, patient_id=patient)).findings[0]
    assert "differ only" in found.what
    assert found.level == "blocks"
    assert set(found.images) == set(clean.images["path"].iloc[[a, b]])


@pytest.mark.parametrize(
    ("column", "cell", "words"), [("sex", "female", "two sexes"), ("age", "099Y", "ages 20 years")]
)
def test_one_id_of_two_people_is_found(column: str, cell: str, words: str, clean: Study) -> None:
    row, several = one_of_several(clean)
    columns = clean.columns.assign(sex="M")
    columns.iloc[row, columns.columns.get_loc(column)] = cell
    (found,) = identity(altered(clean, columns=columns)).findings
    assert found.level == "weakens"
    assert words in found.what
    assert set(found.images) == set(clean.images["path"][clean.images["patient_id"] == several])


def test_file_names_that_contradict_the_table_are_found(clean: Study) -> None:
    names = ["NORMAL/00000007_000.png", "NORMAL/00000007_001.png"]
    path = clean.images["path"].copy()
    path.loc[clean.images.drop_duplicates("patient_id").index[:2]] = names
    (found,) = identity(altered(clean, path=path)).findings
    assert "given to files whose names say one patient" in found.what
    assert sorted(found.images) == names


def test_two_patients_of_one_image_are_found(clean: Study) -> None:
    study = altered(clean)
    a, b = (int(np.flatnonzero(clean.folds == fold)[0]) for fold in (1, 2))
    vars(study)["copies"] = pd.DataFrame({"image": [a], "other": [b], "kind": ["mirrored"], "similarity": [0.99]})
    (found,) = identity(study).findings
    assert found.level == "blocks"
    assert "are given to copies of one image" in found.what


def test_a_patient_in_two_classes_is_for_information(clean: Study) -> None:
    row, several = one_of_several(clean)
    label = clean.images["label"].copy()
    label.iloc[row] = "Normal" if label.iloc[row] != "Normal" else "Pneumonia"
    (found,) = identity(altered(clean, label=label)).findings
    assert (found.level, found.what) == ("information", f"1 patient id has images of two classes, such as {several}.")


def test_unknown_patients_are_counted_with_what_they_do_to_intervals(clean: Study) -> None:
    patient = clean.images["patient_id"].copy()
    patient.iloc[::3] = np.nan
    (found,) = identity(altered(clean, patient_id=patient)).findings
    assert (found.level, found.number) == ("weakens", pytest.approx(1 / 3))
    sizes = patient.value_counts()
    assert f"a factor of up to {np.sqrt((sizes**2).sum() / sizes.sum()):.1f}" in found.meaning
    answer = identity(altered(clean, columns=clean.columns[[]], patient_id=np.nan))
    assert [one.number for one in answer.findings] == [1.0]
    assert answer.notes == ["Not possible: comparing ids; no patient is known."]


def test_ages() -> None:
    assert [age_in_years(cell) for cell in ("63", "063Y", "006M", "014D")] == pytest.approx([63, 63, 0.5, 14 / 365.25])
    assert np.isnan([age_in_years(cell) for cell in ("", "unknown", float("nan"), "1e3")]).all()


def test_headers_that_contradict_the_table_are_found(tmp_path: Path, study_of: Callable[..., Study]) -> None:
    rows = []
    for n in range(8):
        name = f"{('COVID-19', 'Normal')[n % 2]}/{n}.dcm"
        place = tmp_path / "images" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        # Files 0 and 1 are of one patient, 2 and 3 of two; in the table it is the other way round.
        header = {0: "H1", 1: "H1", 2: "H2", 3: "H3"}.get(n, f"X{n}")
        pixels = np.round(draw_image("Normal", 100 + n, 0, size=96).image / 255 * 4095).astype(np.uint16)
        place.write_bytes(written(dicom_image(pixels, 12, PatientID=header, SOPInstanceUID=f"1.2.{n + 1}")))
        rows.append((name, {0: "a", 1: "b", 2: "c", 3: "c"}.get(n, f"p{n}")))
    pd.DataFrame(rows, columns=["filename", "patient_id"]).to_csv(tmp_path / "images/metadata.csv", index=False)
    found = {one.what.partition(", such as")[0]: one for one in identity(study_of(tmp_path / "images")).findings}
    one = found["2 patient ids are given to files with one PatientID in their headers"]
    assert set(one.images) == {"COVID-19/0.dcm", "Normal/1.dcm"}
    two = found["1 patient id has files with several PatientIDs in their headers"]
    assert set(two.images) == {"COVID-19/2.dcm", "Normal/3.dcm"}
    assert {one.level, two.level} == {"weakens"}
