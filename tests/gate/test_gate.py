"""The whole gate on good images, images with faults, and other kinds of image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from covidnet.base.errors import DataError
from covidnet.data.reading.images import read_radiograph
from covidnet.data.reading.thumbnails import thumbnail
from covidnet.gate import Flag, InputGate
from covidnet.gate.flags import CODES
from covidnet.gate.gate import LEAST_IMAGES
from covidnet.gate.laterals import draw_laterals
from covidnet.gate.learned import SHARES
from tests.gate import planted
from tests.gate.conftest import as_radiograph, features_of


def codes(gate: InputGate, grey: np.ndarray) -> list[str]:
    return [flag.code for flag in gate.look(as_radiograph(grey))]


def test_phantoms_of_other_patients_pass(gate: InputGate, others: list[np.ndarray]) -> None:
    compared = gate.compare(features_of(np.stack([thumbnail(image) for image in others])))
    refused = [bool(codes(gate, image) or far) for image, far in zip(others, compared, strict=True)]
    assert np.mean(refused) <= 0.05


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda image: 255 - image, "inverted"),
        (lambda image: np.rot90(image, -1), "rotated_90"),
        (lambda image: np.rot90(image, 2), "rotated_180"),
        (lambda image: np.rot90(image, 1), "rotated_270"),
        (lambda image: 255 - np.rot90(image, 1), "inverted_and_rotated"),
        (lambda image: image // 6, "dark"),
        (lambda image: (180 + 0.3 * image).astype(np.uint8), "bright"),
        (lambda image: image // 16 + 110, "flat"),
    ],
    ids=["inverted", "clockwise", "upside down", "anticlockwise", "both", "dark", "bright", "flat"],
)
def test_images_with_a_fault_are_refused_by_name(gate: InputGate, others: list[np.ndarray], change, code: str) -> None:  # type: ignore[no-untyped-def]
    found = [codes(gate, change(image)) for image in others]
    assert all(found)
    assert np.mean([one == [code] for one in found]) >= 0.9


@pytest.mark.parametrize(
    ("kind", "allowed"),
    [
        ("text page", {"page"}),
        ("chart", {"page", "bright"}),
        ("noise", {"noise", "page"}),
        ("drawn CT slice", {"ct"}),
        ("clouds", set(CODES)),
    ],
)
def test_other_pictures_are_refused(gate: InputGate, kind: str, allowed: set[str]) -> None:
    rng = np.random.default_rng(0)
    found = [codes(gate, planted.DRAWN[kind](rng)) for _ in range(15)]
    assert all(one and one[0] in allowed for one in found)


def test_photographs_are_refused_in_grey_too(gate: InputGate) -> None:
    crops = planted.photographs(np.random.default_rng(0))
    assert all(codes(gate, planted.luma(next(crops))) for _ in range(15))


def test_laterals_are_named_whichever_way_they_face(gate: InputGate) -> None:
    drawn = draw_laterals(40, seed=5)
    for images in (drawn, drawn[:, :, ::-1]):
        found = [codes(gate, np.kron(image, np.ones((2, 2), np.uint8))) for image in images]
        assert np.mean([one[:1] == ["lateral"] for one in found]) >= 0.8


def test_a_lateral_cannot_be_told_where_training_images_hold_them(thumbnails: np.ndarray) -> None:
    mixed = np.concatenate([thumbnails, draw_laterals(30, seed=5)])
    gate = InputGate.fit(mixed, features_of(mixed))
    drawn = [np.kron(image, np.ones((2, 2), np.uint8)) for image in draw_laterals(20, seed=6)]
    assert np.mean(["lateral" in codes(gate, image) for image in drawn]) <= 0.1
    # The header still tells.
    assert [
        flag.code for flag in gate.look(as_radiograph(np.kron(thumbnails[0], np.ones((2, 2), np.uint8)), view="L"))
    ] == ["lateral"]


def test_mirrored_images_pass(gate: InputGate, others: list[np.ndarray]) -> None:
    assert np.mean([bool(codes(gate, image[:, ::-1])) for image in others]) <= 0.05


def test_every_flag_has_a_known_code_and_a_text_of_cause_and_remedy(gate: InputGate) -> None:
    rng = np.random.default_rng(1)
    images = [as_radiograph(draw(rng)) for draw in planted.DRAWN.values() for _ in range(5)]
    flags = [flag for image in images for flag in gate.look(image)]
    flags += [flag for row in gate.compare(np.full((2, 64), 1e3, np.float32)) for flag in row]
    assert len(flags) > 30
    for flag in flags:
        cause, _, remedy = flag.text.partition("; ")
        assert flag.code in CODES
        assert flag.refuses
        assert cause
        assert remedy
        assert "\n" not in flag.text


def test_features_that_are_far_off_are_refused(gate: InputGate, thumbnails: np.ndarray) -> None:
    usual = features_of(thumbnails)
    assert np.mean([bool(flags) for flags in gate.compare(usual)]) <= 0.05
    signs = np.random.default_rng(0).choice([-4, 4], (5, 64)).astype(np.float32)
    mixed = usual.mean(axis=0) + signs * usual.std(axis=0)
    broken = np.full((1, 64), np.nan, np.float32)
    found = gate.compare(np.concatenate([mixed, broken]))
    assert [[flag.code for flag in flags] for flags in found] == [["unlike"]] * 6
    with pytest.raises(DataError, match=r"\(N, 64\)"):
        gate.compare(usual[:, :10])


def test_limits_hold_for_held_out_images_that_lie_farther_off(thumbnails: np.ndarray) -> None:
    # As after training: features of training images lie close together, and those of other images do not.
    features = features_of(thumbnails)
    narrow = features[:90].mean(axis=0) + 0.1 * (features[:90] - features[:90].mean(axis=0))
    alone = InputGate.fit(thumbnails[:90], narrow)
    both = InputGate.fit(thumbnails[:90], narrow, held_out=(thumbnails[90:], features[90:]))
    assert np.mean([bool(flags) for flags in alone.compare(features[90:])]) > 0.5
    assert np.mean([bool(flags) for flags in both.compare(features[90:])]) <= 0.05


def test_arrays_hold_the_whole_gate(gate: InputGate, others: list[np.ndarray]) -> None:
    arrays = gate.arrays()
    assert all(array.dtype.kind == "f" for array in arrays.values())
    assert sum(array.nbytes for array in arrays.values()) < 1e6
    again = InputGate.from_arrays(arrays)
    rng = np.random.default_rng(2)
    images = [as_radiograph(image) for image in others[:10]] + [as_radiograph(255 - image) for image in others[:10]]
    images += [as_radiograph(draw(rng)) for draw in planted.DRAWN.values()]
    assert [again.look(image) for image in images] == [gate.look(image) for image in images]
    features = np.concatenate([features_of(np.stack([thumbnail(image) for image in others])), np.ones((1, 64), "f4")])
    assert again.compare(features) == gate.compare(features)
    assert {name: array.tolist() for name, array in again.arrays().items()} == {
        name: array.tolist() for name, array in arrays.items()
    }


def test_the_same_images_give_the_same_gate(thumbnails: np.ndarray) -> None:
    first, second = (InputGate.fit(thumbnails, features_of(thumbnails), seed=0).arrays() for _ in range(2))
    assert json.dumps({name: array.tolist() for name, array in first.items()}) == json.dumps(
        {name: array.tolist() for name, array in second.items()}
    )


@pytest.mark.parametrize("arrays", [{"numbers": np.zeros(3)}, {"other": np.zeros(3)}])
def test_arrays_of_something_else_are_refused(arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(DataError, match="not the arrays of an input gate"):
        InputGate.from_arrays(arrays)


def test_rules_alone_know_pages_and_exposures_and_nothing_of_anatomy(others: list[np.ndarray]) -> None:
    gate = InputGate.rules()
    assert not any(codes(gate, image) for image in others)
    assert codes(gate, planted.text_page(np.random.default_rng(0))) == ["page"]
    assert codes(gate, others[0] // 6) == ["dark"]
    assert codes(gate, np.rot90(others[0], 1)) == []
    assert gate.compare(np.zeros((2, 7), np.float32)) == [[], []]
    assert gate.arrays() == {}
    assert InputGate.from_arrays({}).arrays() == {}


def test_too_few_images_leave_the_rules(thumbnails: np.ndarray) -> None:
    few = thumbnails[: LEAST_IMAGES - 1]
    assert InputGate.fit(few, features_of(few)).learned is None
    assert InputGate.fit(few[:0], np.zeros((0, 8), np.float32)).learned is None


def test_a_gate_of_twenty_images_lets_others_pass(thumbnails: np.ndarray, others: list[np.ndarray]) -> None:
    gate = InputGate.fit(thumbnails[:LEAST_IMAGES], features_of(thumbnails[:LEAST_IMAGES]))
    assert np.mean([bool(codes(gate, image)) for image in others]) <= 0.1
    assert np.mean([codes(gate, 255 - image) == ["inverted"] for image in others]) >= 0.8


def test_wide_training_images_are_no_fault(thumbnails: np.ndarray) -> None:
    image = np.tile(np.kron(thumbnails[0], np.ones((2, 2), np.uint8)), (1, 3))
    usual = InputGate.fit(thumbnails, features_of(thumbnails))
    wide = InputGate.fit(thumbnails, features_of(thumbnails), aspects=np.full(len(thumbnails), 3.0))
    assert "shape" in codes(usual, image)
    assert "shape" not in codes(wide, image)


def test_what_does_not_fit_together_is_refused(thumbnails: np.ndarray) -> None:
    features = features_of(thumbnails)
    with pytest.raises(DataError, match="features"):
        InputGate.fit(thumbnails, features[:-1])
    with pytest.raises(DataError, match="thumbnails"):
        InputGate.fit(thumbnails[:, :32], features)
    with pytest.raises(DataError, match="held-out"):
        InputGate.fit(thumbnails, features, held_out=(thumbnails[:60], features[:50]))
    with pytest.raises(DataError, match="not finite"):
        InputGate.fit(thumbnails, np.where(features > 0, np.nan, features))


def test_one_cause_is_enough_for_a_page() -> None:
    assert InputGate.rules().look(as_radiograph(planted.text_page(np.random.default_rng(0)), colour=0.0)) != []
    assert isinstance(InputGate.rules().look(as_radiograph(np.zeros((128, 128), np.uint8)))[0], Flag)


def test_shares_stay_below_the_five_percent_that_are_promised() -> None:
    assert sum(SHARES.values()) < 0.04


def test_real_images_pass_and_real_laterals_do_not(kit: Path) -> None:
    table = pd.read_csv(kit / "metadata.csv", dtype=str)
    frontal = table[table["view"].isin(["PA", "AP", "AP Supine"])]
    patients = np.random.default_rng(0).permutation(sorted(set(frontal["patient_id"])))
    seen = set(patients[: len(patients) // 2])
    known = [
        thumbnail(read_radiograph(kit / name).pixels) for name in frontal["filename"][frontal["patient_id"].isin(seen)]
    ]
    gate = InputGate.fit(np.stack(known), features_of(np.stack(known)))
    new = [read_radiograph(kit / name) for name in frontal["filename"][~frontal["patient_id"].isin(seen)]]
    assert len(new) > 400
    assert np.mean([bool(gate.look(image)) for image in new]) <= 0.05
    inverted = [codes(gate, 255 - image.pixels) for image in new[:100]]
    assert np.mean([one == ["inverted"] for one in inverted]) >= 0.9
    laterals = [read_radiograph(kit / name) for name in table["filename"][table["view"] == "L"]]
    assert np.mean([bool(gate.look(image)) for image in laterals]) >= 0.75
