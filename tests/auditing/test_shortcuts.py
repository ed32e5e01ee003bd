"""Marks and frames that give a class away are found and located."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from covidnet.auditing.shortcuts import centre, parts_of, shortcuts, without
from covidnet.auditing.study import NotPossibleError, Study
from covidnet.data.phantoms.phantom import write_phantoms
from tests.auditing.conftest import altered


def test_clean_phantoms_have_no_shortcut(clean: Study) -> None:
    answer = shortcuts(clean)
    assert not answer.findings
    table = answer.tables["shortcuts"].set_index("part")
    assert (table["low"] < table["balanced_accuracy"]).all()
    assert list(table.index[:2]) == ["corners", "border"]
    assert "lungs masked out" in table.index
    assert "Masked out are the lungs, by the masks of the data set." in answer.notes


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


def with_marks(clean: Study, marks: dict[str, int], **more: Any) -> Study:
    """The study with a patch between the lungs, below neither corner nor border, of another grey for each class."""
    assert clean.table is not None
    labels = clean.images["label"].to_numpy(str)[clean.thumbnail_rows]
    pixels = clean.table.thumbnails.pixels.copy()
    for label, grey in marks.items():
        pixels[labels == label, 50:56, 28:36] = grey
    table = replace(clean.table, thumbnails=clean.table.thumbnails._replace(pixels=pixels))
    return replace(clean, table=table, **more)


def test_a_mark_outside_of_the_lungs_is_found_where_the_lungs_are_masked_out(clean: Study) -> None:
    answer = shortcuts(with_marks(clean, {"COVID-19": 0, "Pneumonia": 120}))
    (found,) = answer.findings
    assert found.what.startswith("The images with the lungs masked out predict the class")
    assert found.level == "weakens"
    assert found.number > 0.6


def test_without_a_mask_for_each_image_the_centre_is_masked_out(clean: Study, tmp_path: Path) -> None:
    marks = {"COVID-19": 0, "Pneumonia": 120}
    shutil.copytree(clean.data.root / "masks/lung/NORMAL", tmp_path / "lung/NORMAL")
    for masks, why in (
        (tmp_path, "66 images of 99 have no mask of the lungs."),
        (clean.data.root, "no masks of lungs."),
    ):
        answer = shortcuts(with_marks(clean, marks, masks=str(masks)))
        assert "centre masked out" in set(answer.tables["shortcuts"]["part"])
        assert any(note.endswith(why) for note in answer.notes), answer.notes
        # The patch is within the ellipse.
        assert not answer.findings


def test_masked_pixels_tell_nothing() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (5, 64, 64), dtype=np.uint8)
    masked = centre()[None]
    other = np.where(masked, rng.integers(0, 255, pixels.shape), pixels).astype(np.uint8)
    np.testing.assert_array_equal(without(pixels, masked), without(other, masked))
    assert 0.5 < masked.mean() < 0.7


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
