"""The paper's three operators against matrices written by hand, and the rules of the fixed copies."""

from __future__ import annotations

import hashlib
from collections import Counter

import cv2
import numpy as np
import pandas as pd
import pytest

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.errors import SettingError
from covidnet.data.loading.augment import ORIGINAL, FixedCopies, Operators, Pipeline, augmentation_of, copies_of
from covidnet.feature_store.extract import input_keys
from tests.refusals import refused

NAMES = ("rotate+", "rotate-", "zoom", "shear")
BLURRED = cv2.GaussianBlur(np.random.default_rng(5).random((96, 128)), (0, 0), 3)
SMOOTH = np.round(255 * (BLURRED - BLURRED.min()) / (BLURRED.max() - BLURRED.min())).astype(np.uint8)


def image_id(text: object) -> str:
    return hashlib.sha256(str(text).encode()).hexdigest()[:16]


def matrix(operator: str, height: int, width: int) -> np.ndarray:
    """Where a point (x right, y down, 1) goes: about the centre, written from the definitions."""
    angle, lean = np.radians(5.0), np.tan(np.radians(2.0))
    linear = {
        # Counter-clockwise as seen: the right end of a horizontal line goes up, which is towards smaller y.
        "rotate+": [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]],
        "rotate-": [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]],
        "zoom": [[1.02, 0.0], [0.0, 1.02]],
        # Rows shift along x alone; those above the centre (y smaller) to the left.
        "shear": [[1.0, lean], [0.0, 1.0]],
    }[operator]
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    shift = centre - np.array(linear) @ centre
    return np.vstack([np.hstack([linear, shift[:, None]]), [0, 0, 1]])


def moved(image: np.ndarray, forward: np.ndarray) -> np.ndarray:
    """Bilinear sampling of each target pixel's origin, edges repeated, in plain numpy."""
    height, width = image.shape
    y, x = np.mgrid[:height, :width]
    ox, oy, _ = np.linalg.inv(forward) @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    ox, oy = np.clip(ox, 0, width - 1), np.clip(oy, 0, height - 1)
    left, top = np.floor(ox).astype(int), np.floor(oy).astype(int)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    fx, fy = ox - left, oy - top
    upper = image[top, left] * (1 - fx) + image[top, right] * fx
    lower = image[bottom, left] * (1 - fx) + image[bottom, right] * fx
    return (upper * (1 - fy) + lower * fy).reshape(height, width)


# Operators


@pytest.mark.parametrize("operator", NAMES)
def test_image_under_an_operator_equals_sampling_by_the_matrix_of_its_definition(operator: str) -> None:
    found = Operators().apply(operator, SMOOTH)
    expected = moved(SMOOTH, matrix(operator, *SMOOTH.shape))
    assert found.shape == SMOOTH.shape
    assert found.dtype == np.uint8
    assert np.abs(found - expected).max() <= 0.51
    assert np.abs(SMOOTH - expected).max() > 10


@pytest.mark.parametrize("operator", NAMES)
def test_albumentations_matrix_equals_the_one_of_the_definition(operator: str) -> None:
    affine = Operators().affine(operator)
    found = affine.get_params_dependent_on_data({"shape": SMOOTH.shape}, {"image": SMOOTH})["matrix"]
    assert np.abs(found - matrix(operator, *SMOOTH.shape)).max() < 1e-6


def bar_tilt(image: np.ndarray) -> tuple[float, float]:
    """Middle of the bar in the top quarter and in the bottom quarter: columns, weighted by brightness."""
    quarter = len(image) // 4
    parts = [part.astype(float).sum(axis=0) for part in (image[:quarter], image[-quarter:])]
    return tuple(float(part @ np.arange(image.shape[1]) / part.sum()) for part in parts)  # type: ignore[return-value]


@pytest.mark.parametrize(("operator", "degrees"), [("rotate+", 5.0), ("rotate-", -5.0), ("shear", 2.0), ("zoom", 0.0)])
def test_upright_bar_leans_as_the_name_says(operator: str, degrees: float) -> None:
    image = np.zeros((200, 200), np.uint8)
    image[:, 98:102] = 255
    top, bottom = bar_tilt(Operators().apply(operator, image))
    # Counter-clockwise: the top goes to the left. The quarters' middles are 150 rows apart.
    assert np.degrees(np.arctan((bottom - top) / 150)) == pytest.approx(degrees, abs=0.05)


def test_shear_leaves_every_row_in_its_place_and_rotation_does_not() -> None:
    image = np.zeros((200, 200), np.uint8)
    image[98:102] = 255
    assert np.array_equal(Operators().apply("shear", image), image)
    left, right = bar_tilt(Operators().apply("rotate+", image).T)
    assert right < left - 10  # the right end of a horizontal bar went up


def test_zoom_moves_what_is_off_the_centre_outwards_by_two_percent() -> None:
    image = np.zeros((201, 201), np.uint8)
    image[98:103, 198:203] = image[98:103, 148:153] = 255
    row = Operators().apply("zoom", image)[100, 120:180].astype(float)
    assert row @ np.arange(120, 180) / row.sum() == pytest.approx(100 + 50 * 1.02, abs=0.1)


def test_original_is_the_image_itself() -> None:
    assert Operators().apply(ORIGINAL, SMOOTH) is SMOOTH


def test_freed_corners_repeat_the_edge_and_are_not_black() -> None:
    image = np.full((64, 64), 200, np.uint8)
    assert all((Operators().apply(name, image) == 200).all() for name in NAMES)


def test_unknown_operator_is_refused() -> None:
    with refused("operator", "flip", ("rotate+", "rotate-", "zoom", "shear")):
        Operators().apply("flip", SMOOTH)


@pytest.mark.parametrize(
    ("name", "value"),
    [("rotation", "five"), ("rotation", -5), ("rotation", float("nan")), ("zoom", 0), ("shear", 90), ("shear", None)],
)
def test_magnitude_that_is_no_usable_number_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(SettingError, match=rf"augment\.{name}="):
        augmentation_of({name: value})


def test_operators_come_from_the_settings_and_whole_numbers_are_the_same_operators() -> None:
    assert augmentation_of({"mode": "fixed", "rotation": 7, "shear": 1.5}) == Operators(7.0, 1.02, 1.5)
    assert augmentation_of({"rotation": 7}).describe() == augmentation_of({"rotation": 7.0}).describe()
    assert augmentation_of({"mode": "none"}) == Operators()


# Copies


def test_copies_are_a_property_of_the_image_id_and_not_of_the_images_around_it() -> None:
    train = table(40)
    other = train.sample(frac=0.7, random_state=1).assign(label="Normal", path="elsewhere.png")
    for images in (train, other):
        plan = FixedCopies(1000, None).plan(images, 40)
        for key, rows in plan.groupby("image_id"):
            assert tuple(rows["operator"]) == (ORIGINAL, *copies_of(str(key)))


def test_copies_are_one_of_each_operator_and_every_choice_is_as_frequent() -> None:
    drawn = [copies_of(image_id(n)) for n in range(6000)]
    assert all(sorted(name.strip("+-") for name in names) == ["rotate", "shear", "zoom"] for names in drawn)
    for turn in range(3):
        counts = Counter(names[turn].strip("+-") for names in drawn)
        assert all(abs(count - 2000) < 5 * np.sqrt(6000 * 2 / 9) for count in counts.values()), counts
    signs = Counter(name for names in drawn for name in names if name.startswith("rotate"))
    assert abs(signs["rotate+"] - 3000) < 5 * np.sqrt(6000 / 4)


def table(per_class: int, *, folds: int = 11) -> pd.DataFrame:
    rows = [
        (image_id(f"{label} {n}"), label, n * folds // per_class, f"{label}/{n}.png")
        for label in CLASSES
        for n in range(per_class)
    ]
    return pd.DataFrame(rows, columns=["image_id", "label", "fold", "path"])


def test_468_images_per_class_become_1070() -> None:
    images = table(572)
    plan = FixedCopies().plan(images[images["fold"] < 9], 468)
    for label in CLASSES:
        counts = Counter(plan.loc[plan["label"] == label, "operator"] == ORIGINAL)
        assert (counts[True], counts[False]) == (468, 602)


@pytest.mark.parametrize(("size", "target"), [(468, 1070), (27, 62), (9, 21), (4680, 10700)])
def test_target_scales_with_the_images_that_there_are(size: int, target: int) -> None:
    assert FixedCopies().target(size) == target
    assert FixedCopies(1070, None).target(size) == 1070


def test_target_does_not_depend_on_how_much_validation_takes() -> None:
    train = table(572).query("fold < 9")
    small = train[train.groupby("label").cumcount() >= 47]
    assert set(FixedCopies().plan(small, 468)["label"].value_counts()) == {1070}


def test_rows_keep_their_columns_and_originals_come_first() -> None:
    train = table(33)
    plan = FixedCopies().plan(train, 33)
    assert plan.iloc[: len(train)].drop(columns="operator").equals(train)
    assert (plan["operator"][: len(train)] == ORIGINAL).all()
    copies = plan.iloc[len(train) :]
    assert (copies["operator"] != ORIGINAL).all()
    assert copies.drop(columns="operator").merge(train).shape == (len(copies), train.shape[1])


def test_no_image_gets_a_second_copy_before_all_have_one_or_more_than_three() -> None:
    train = table(30)
    for target in (31, 59, 60, 61, 100, 120, 500):
        plan = FixedCopies(target, None).plan(train, 30)
        per_image = plan[plan["operator"] != ORIGINAL].groupby("image_id").size()
        per_image = per_image.reindex(train["image_id"], fill_value=0)
        assert per_image.max() <= 3
        assert per_image.max() - per_image.min() <= 1
        assert len(plan) == 3 * min(target, 120)
        assert not plan.duplicated(["image_id", "operator"]).any()


def test_target_below_the_images_adds_nothing_and_removes_nothing() -> None:
    train = table(30)
    assert len(FixedCopies(10, None).plan(train, 30)) == len(train)


def copies_of_fold(images: pd.DataFrame, fold: int, aside: int = 0) -> set[tuple[str, str]]:
    train = images[images["fold"].between(0, 9) & (images["fold"] != fold)]
    # What inner validation takes is another part in every fold.
    random = train.sample(frac=1, random_state=fold).groupby("label").cumcount()
    train = train[random.reindex(train.index) >= aside]
    plan = FixedCopies().plan(train, 468)
    return set(plan.loc[plan["operator"] != ORIGINAL, ["image_id", "operator"]].itertuples(index=False, name=None))


@pytest.mark.parametrize(("aside", "limit"), [(0, 1.15), (47, 1.26)])
def test_folds_share_most_of_their_copies(aside: int, limit: float) -> None:
    """A fold needs 602 copies of its 468 images per class (649 of 421 where inner validation takes 47).

    Ten folds together have 520 images, which all get a first copy. A second copy goes to the first 134 (228) images of
    the order, and as every fold lacks a tenth of the order (a fifth with validation), the ten folds together reach
    little further down it than 134 / 0.9 = 149 (228 / 0.81 = 281): (520 + 149) / 602 = 1.11, (520 + 281) / 649 = 1.23.
    Drawn anew in each fold, second copies alone would reach nearly all 520 images.
    """
    images = table(572)
    each = [copies_of_fold(images, fold, aside) for fold in range(10)]
    assert {len(copies) for copies in each} == {3 * (602 + aside)}
    assert len(set.union(*each)) / len(each[0]) <= limit


@pytest.mark.parametrize(
    ("name", "value"),
    [("target_per_class", 0), ("target_per_class", "many"), ("target_per_class", None), ("reference_per_class", 0)],
)
def test_targets_that_are_no_counts_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(SettingError, match=rf"augment\.{name}="):
        FixedCopies(**{name: value})  # type: ignore[arg-type]


# A pipeline of one's own

FLIP = {"_target_": "albumentations.HorizontalFlip", "p": 0.5}
NOISE = {"_target_": "albumentations.OneOf", "transforms": [{"_target_": "albumentations.GaussNoise"}, FLIP], "p": 0.5}


def test_a_pipeline_is_random_by_its_seed_and_its_fixed_copies_are_those_of_the_image() -> None:
    pipeline = Pipeline([FLIP, NOISE])
    drawn = [pipeline.random(SMOOTH, seed) for seed in range(30)]
    assert all(np.array_equal(pipeline.random(SMOOTH, seed), image) for seed, image in enumerate(drawn))
    assert len({image.tobytes() for image in drawn}) > 5
    flips = [Pipeline([FLIP]).random(SMOOTH, seed) for seed in range(30)]
    assert {image.tobytes() for image in flips} == {SMOOTH.tobytes(), SMOOTH[:, ::-1].tobytes()}
    assert pipeline.apply(ORIGINAL, SMOOTH) is SMOOTH
    train = table(8)
    names = FixedCopies(60, None, pipeline).plan(train, 8).groupby("image_id")["operator"].apply(tuple)
    assert set(names) == {(ORIGINAL, "custom-1", "custom-2", "custom-3")}
    again = Pipeline([FLIP, NOISE])
    copies = [again.apply(name, SMOOTH).tobytes() for name in names.iloc[0][1:]]
    assert copies == [pipeline.apply(name, SMOOTH).tobytes() for name in names.iloc[0][1:]]
    sure = Pipeline([{"_target_": "albumentations.GaussNoise", "p": 1}])
    assert len({sure.apply(name, image).tobytes() for name in names.iloc[0] for image in (SMOOTH, SMOOTH.T)}) == 8


def test_features_of_two_pipelines_are_never_shared_and_originals_always_are() -> None:
    rows = pd.DataFrame({"sha256": ["0" * 64] * 2, "operator": [ORIGINAL, "custom-1"]})
    pipelines = [Pipeline([FLIP]), Pipeline([{**FLIP, "p": 0.4}]), Pipeline([FLIP, NOISE]), Pipeline([NOISE, FLIP])]
    keys = [input_keys(rows, pipeline) for pipeline in pipelines]
    assert len({original for original, _ in keys}) == 1
    assert len({copy for _, copy in keys}) == 4
    assert input_keys(rows, Pipeline([dict(FLIP)])) == keys[0]
    fixed = pd.DataFrame({"sha256": ["0" * 64], "operator": ["zoom"]})
    assert input_keys(fixed, Operators())[0] not in {key for pair in keys for key in pair}


@pytest.mark.parametrize(
    ("transform", "cause"),
    [
        ({"_target_": "albumentations.RandomRain"}, "expects 3-channel images"),
        ({"_target_": "albumentations.HueSaturationValue", "p": 0.01}, "not applicable to grayscale"),
        ({"_target_": "albumentations.ToGray"}, "already gray"),
        ({"_target_": "albumentations.RandomCrop", "height": 32, "width": 32}, "into uint8 (32, 32)"),
        ({"_target_": "albumentations.Normalize"}, "into float32 (64, 64)"),
        ({"_target_": "albumentations.HorizontalFlip", "probability": 1}, "probability"),
        ({"_target_": "albumentations.Sideways"}, "Sideways"),
        ({"_target_": "albumentations.OneOf", "transforms": [FLIP, {"_target_": "albumentations.ToFloat"}]}, "float32"),
    ],
)
def test_what_does_not_fit_images_of_one_channel_is_refused(transform: dict[str, object], cause: str) -> None:
    names = [transform["_target_"]]
    with refused("augment.transforms", names, "transforms of 8-bit images of one channel that keep the size", cause):
        Pipeline([transform], 64)
    with refused("augment.transforms", [], "a list of transforms"):
        augmentation_of({"mode": "custom", "transforms": []})


# Online


def test_online_augmentation_is_a_function_of_image_and_seed() -> None:
    augment, again = Operators().random, Operators().random
    first = augment(SMOOTH, 3)
    augment(SMOOTH, 4)
    assert np.array_equal(augment(SMOOTH, 3), first)
    assert np.array_equal(again(SMOOTH, 3), first)
    assert len({augment(SMOOTH, seed).tobytes() for seed in range(20)}) == 20


def test_online_augmentation_stays_within_the_magnitudes() -> None:
    image = np.zeros((200, 200), np.uint8)
    image[:, 98:102] = 255
    augment = Operators().random
    leans = [np.subtract(*bar_tilt(augment(image, seed))[::-1]) / 150 for seed in range(60)]
    degrees = np.degrees(np.arctan(leans))
    assert np.abs(degrees).max() <= 7.1  # 5 of rotation and 2 of shear
    assert degrees.min() < -2
    assert degrees.max() > 2
    still = Operators(rotation=0.0, zoom=1.0, shear=0.0).random
    assert np.array_equal(still(SMOOTH, 1), SMOOTH)


def test_online_zoom_keeps_the_aspect_ratio() -> None:
    cross = np.zeros((201, 201), np.uint8)
    for spot in (40, 160):
        cross[100, spot] = cross[spot, 100] = 255
    cross = cv2.GaussianBlur(cross, (0, 0), 2)
    augment = Operators(rotation=0.0, zoom=1.2, shear=0.0).random
    spreads = []
    for seed in range(20):
        image = augment(cross, seed).astype(float)
        across, down = image[100, 110:], image[110:, 100]
        spread = [part @ np.arange(10, 101) / part.sum() / 60 for part in (across, down)]
        assert spread[0] == pytest.approx(spread[1], abs=0.01)
        assert 0.99 <= spread[0] <= 1.21
        spreads.append(spread[0])
    assert max(spreads) - min(spreads) > 0.1
