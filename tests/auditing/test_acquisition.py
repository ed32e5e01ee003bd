"""Cramér's V against scipy, and classes that a source, a view or a size gives away."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats.contingency import association

from covidnet.auditing.acquisition import acquisition, balanced_accuracy, cramers_v, facts_of, jpeg_quality
from covidnet.auditing.study import Inputs, NotPossibleError, Study
from covidnet.data.collection.image_table import ImageTable
from covidnet.data.reading.thumbnails import SIDE, Thumbnails
from tests.auditing.conftest import altered


@pytest.fixture(autouse=True)
def few_trees() -> None:
    """The forest as it is."""


def test_v_is_scipys_without_the_bias() -> None:
    rng = np.random.default_rng(0)
    tables = rng.integers(1, 40, (20, 3, 4))
    for table, v in zip(tables, cramers_v(tables, times=0), strict=True):
        n = table.sum()
        shrunk = 3 - 2**2 / (n - 1) - 1  # of the smaller side, in the correction
        assert v == pytest.approx(association(table, method="cramer") * np.sqrt(2 / shrunk))
    independent = rng.multinomial(150, np.full(12, 1 / 12), 400).reshape(-1, 3, 4)
    plain = np.mean([association(table, method="cramer") for table in independent])
    assert cramers_v(independent).mean() < 0.5 * plain


def test_balanced_accuracy_is_the_mean_recall() -> None:
    from sklearn.metrics import balanced_accuracy_score

    rng = np.random.default_rng(1)
    labels = rng.choice(["a", "b", "c"], 300, p=[0.6, 0.3, 0.1])
    told = np.where(rng.random(300) < 0.7, labels, "a")
    value, interval = balanced_accuracy(told == labels, labels, np.arange(300), 2000, 0)
    assert value == pytest.approx(balanced_accuracy_score(labels, told))
    # The normal interval of three independent recalls.
    parts = [(told == labels)[labels == one] for one in "abc"]
    error = 1.96 * np.sqrt(sum(part.var() / len(part) for part in parts)) / 3
    assert interval == pytest.approx((value - error, value + error), abs=0.025)


def test_clean_phantoms_say_nothing_of_the_class(clean: Study) -> None:
    answer = acquisition(clean)
    assert not [one for one in answer.findings if one.level != "information"]
    assert any("guessing reaches 33.3%, the model" in note for note in answer.notes)


def test_a_source_for_each_class_blocks_a_claim(clean: Study) -> None:
    source = clean.images["label"].str[:1].replace({"N": "C"})
    found = acquisition(altered(clean, source=source)).findings
    assert "The class is associated with source (0.99)" in found[0].what  # one source still holds two classes
    found = acquisition(altered(clean, source="hospital " + clean.images["label"])).findings
    assert found[0].what == "Source and class cannot be separated in these data: each of 3 sources has one class only."
    assert {one.level for one in found} == {"blocks"}
    (forest,) = [one for one in found if one.what.startswith("Metadata alone predict the class")]
    assert forest.number > 0.95
    assert 0.7 < forest.interval[0] < forest.number


def test_a_class_that_is_given_away_by_sex_weakens_a_claim(clean: Study) -> None:
    number = clean.images["patient_id"].str[-4:].astype(int).to_numpy()
    ill = (clean.images["label"] == "COVID-19").to_numpy()
    sex = np.where(ill == (number % 8 > 0), "M", "F")
    answer = acquisition(altered(clean, columns=clean.columns.assign(sex=sex)))
    (found,) = [one for one in answer.findings if "associated with sex" in one.what]
    table = answer.tables["acquisition"].set_index("column")
    assert found.level == "weakens"
    assert found.interval[0] < found.number == table.loc["sex", "cramers_v"] < found.interval[1]
    assert table.loc["age", "cramers_v"] < 0.3


def test_missing_columns_and_few_patients_are_said(clean: Study) -> None:
    patient = clean.images["patient_id"].mask(clean.images["label"] == "Normal", "one")
    few = altered(clean, columns=clean.columns[[]], patient_id=patient)
    notes = " ".join(acquisition(few).notes)
    assert "Not possible: predicting the class from all columns together; a class has 1 patient, at least 5" in notes
    assert "Not possible: sex, age, device; the table of the images has no such column." in notes
    with pytest.raises(NotPossibleError, match="all images are of one class"):
        acquisition(altered(clean, label="Normal"))


@pytest.mark.parametrize("quality", [20, 50, 75, 95])
def test_the_quality_of_a_jpeg_is_the_one_it_was_saved_with(quality: int, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "a.jpg", quality=quality)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert jpeg_quality(tmp_path / "a.jpg") == pytest.approx(quality, abs=1)
    assert np.isnan(jpeg_quality(tmp_path / "a.png"))
    assert np.isnan(jpeg_quality(tmp_path / "absent.jpg"))
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:30])
    assert np.isnan(jpeg_quality(tmp_path / "cut.jpg"))


@pytest.mark.parametrize("flips", [False, True])
def test_a_source_on_which_nothing_holds_is_found_by_leaving_it_out(clean: Study, flips: bool) -> None:
    rng = np.random.default_rng(0)
    there = (rng.permutation(clean.patients.max() + 1) % 2)[clean.patients].astype(bool)
    study = altered(clean, source=np.where(there, "there", "here"))
    codes = np.unique(study.images["label"].to_numpy(str), return_inverse=True)[1]
    signal = np.eye(3)[codes] * 6
    if flips:
        # In each source other features show the class.
        signal = np.concatenate([signal * there[:, None], signal * ~there[:, None]], axis=1)
    values = (signal + rng.normal(size=signal.shape)).astype(np.float32)
    vars(study)["inputs"] = Inputs(values, np.arange(len(codes)), "made-up features", True)
    answer = acquisition(study)
    losses = [one for one in answer.findings if one.what.startswith("Ridge regression is worse on a source")]
    table = answer.tables["leave_one_source_out"].set_index("source")
    assert set(table.index) == {"here", "there"}
    assert any(note.startswith("Leaving one source out") for note in answer.notes)
    assert len(losses) == flips
    if flips:
        assert losses[0].level == "weakens"
        assert losses[0].unit == "points"
        assert losses[0].interval[0] < losses[0].number < losses[0].interval[1]
        assert (table["accuracy_with_it"] > table["accuracy_without_it"] + 0.3).all()


def test_one_source_cannot_be_left_out(clean: Study) -> None:
    (note,) = [note for note in acquisition(clean).notes if "leaving one source out" in note]
    assert note.startswith("Not possible: leaving one source out; no source has 10 images of each of two classes")


def test_facts_and_small_thumbnails_of_many_images_take_little_memory(tmp_path: Path) -> None:
    n = 1500
    pixels = np.random.default_rng(0).integers(0, 256, (n, SIDE, SIDE), np.uint8)
    names = [f"{number:04}" for number in range(n)]
    images = pd.DataFrame({"image_id": names, "path": names}).assign(
        **dict.fromkeys(("label", "source", "view"), np.nan), sha256="0", mode="L", width=SIDE, height=SIDE, bytes=1000
    )
    table = ImageTable("", tmp_path, images, pd.DataFrame(), "", Thumbnails(names, pixels, np.zeros(n)))
    study = Study(table)
    tracemalloc.start()
    try:
        facts, inputs = facts_of(study), study.inputs
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The pixels take 4 kB an image, and 33 kB as numbers of 8 bytes.
    assert peak / n < 12_000
    assert np.array_equal(facts["contrast"], pixels.reshape(n, -1).std(1))
    assert np.array_equal(facts["mean grey"], pixels.reshape(n, -1).mean(1))
    small = pixels.reshape(n, 16, 4, 16, 4).astype(np.float64).mean((2, 4)).reshape(n, -1)
    assert np.array_equal(inputs.features, small.astype(np.float32))
