"""Marks and frames that give a class away are found and located."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from covidnet.auditing.shortcuts import parts_of, shortcuts
from covidnet.auditing.study import NotPossibleError, Study
from covidnet.data.phantoms.phantom import write_phantoms
from tests.auditing.conftest import altered


def test_clean_phantoms_have_no_shortcut(clean: Study) -> None:
    answer = shortcuts(clean)
    assert not answer.findings
    table = answer.tables["shortcuts"].set_index("part")
    assert (table["low"] < table["balanced_accuracy"]).all()
    assert list(table.index[:2]) == ["corners", "border"]


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory, study_of: Callable[..., Study]) -> Study:
    root = tmp_path_factory.mktemp("marked") / "phantoms"
    write_phantoms(root, images_per_class=33, size=96, workers=1, faults=["corner_mark"])
    return study_of(Path(root))


def test_a_mark_for_each_class_blocks_a_claim_and_is_located(marked: Study) -> None:
    answer = shortcuts(marked)
    found = answer.findings[0]
    assert found.level == "blocks"
    assert found.what.startswith("The corners of the images alone predict the class")
    assert found.number > 0.9
    # As the phantoms draw it.
    for corner, label in (("upper left", "COVID-19"), ("upper right", "Normal"), ("lower left", "Pneumonia")):
        assert f"the {corner} corner marks {label}" in found.what
    assert "lower right" not in found.what
    labels = dict(zip(marked.images["path"], marked.images["label"], strict=True))
    assert len({labels[path] for path in found.images}) == 1


def test_the_share_of_the_models_skill(clean: Study) -> None:
    row = shortcuts(clean).tables["shortcuts"].iloc[0]
    pooled = [run.rows("test") for run in clean.sweep.runs]
    right = np.concatenate([(table["label"] == table["prediction"]).to_numpy() for table in pooled])
    assert row["share_of_skill"] == pytest.approx((row["balanced_accuracy"] - 1 / 3) / (right.mean() - 1 / 3))


def test_parts_are_where_they_are_named() -> None:
    pixels = np.zeros((1, 64, 64), np.uint8)
    pixels[0, :12, 52:] = 200
    parts = parts_of(pixels)
    assert {name for name, values in parts.items() if values.mean() == 200} == {"upper right corner"}
    assert parts["whole image, 8x8"].shape == (1, 64)
    pixels[:] = 0
    pixels[0, 12:-12, 12:-12] = 200
    assert {name for name, values in parts_of(pixels).items() if values.any()} == {"whole image, 8x8"}


def test_what_cannot_be_fitted_is_said(clean: Study) -> None:
    patient = clean.images["patient_id"].mask(clean.images["label"] == "Normal", "one")
    with pytest.raises(NotPossibleError, match="a class has 1 patient"):
        shortcuts(altered(clean, patient_id=patient))
    with pytest.raises(NotPossibleError, match="all images are of one class"):
        shortcuts(altered(clean, label="Normal"))
