"""Phantoms: only the lesions reveal the class, and a set is written completely or not at all."""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.errors import DataError, SettingError
from covidnet.data.phantoms import phantom
from covidnet.data.phantoms.phantom import FAULTS, PhantomImage, draw_image, write_phantoms

SIZE = 96
FOLDER_OF = {"COVID-19": "COVID19", "Normal": "NORMAL", "Pneumonia": "PNEUMONIA"}
PATIENTS = range(16)


@functools.cache
def drawn(label: str, patient: int) -> PhantomImage:
    return draw_image(label, patient, 1, size=SIZE)


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.png"))
    }


def image_digests(folder: Path) -> dict[str, str]:
    return {name: digest for name, digest in digests(folder).items() if not name.startswith("masks/")}


def lung_sides(image: PhantomImage) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The two lungs as the two largest connected parts of the lung mask, left of the image first."""
    _, parts, stats, centres = cv2.connectedComponentsWithStats(image.lung_mask.astype(np.uint8))
    largest = 1 + np.argsort(stats[1:, cv2.CC_STAT_AREA])[::-1][:2]
    left, right = sorted(largest, key=lambda part: centres[part][0])
    return parts == left, parts == right


def overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    one, other = (cv2.resize(m.astype(np.uint8), (96, 96), interpolation=cv2.INTER_NEAREST) > 0 for m in (one, other))
    return float((one & other).sum() / (one | other).sum())


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    root = tmp_path_factory.mktemp("phantoms") / "plain"
    return root, write_phantoms(root, images_per_class=12, size=64, workers=1)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, pd.DataFrame]]:
    """A set of eleven images of each class with some faults."""

    @functools.cache
    def write(*faults: str) -> tuple[Path, pd.DataFrame]:
        root = tmp_path_factory.mktemp("faulty") / "set"
        return root, write_phantoms(root, images_per_class=11, size=64, faults=faults, workers=1)

    return write


def test_same_arguments_give_the_same_image_whatever_was_drawn_before() -> None:
    first = draw_image("COVID-19", 5, 2, size=SIZE)
    for patient in range(8):
        draw_image("Pneumonia", patient, 1, size=SIZE)
    again = draw_image("COVID-19", 5, 2, size=SIZE)
    assert first.image.tobytes() == again.image.tobytes()
    assert np.array_equal(first.lesion_mask, again.lesion_mask)


@pytest.mark.parametrize("other", [{"patient": 6}, {"image": 3}, {"seed": 1}])
def test_another_patient_image_or_seed_gives_another_image(other: dict[str, int]) -> None:
    key = {"patient": 5, "image": 2, "seed": 0}
    one, two = (draw_image("Normal", **k, size=SIZE).image for k in (key, key | other))  # type: ignore[arg-type]
    assert one.shape != two.shape or np.mean(one != two) > 0.5


@pytest.mark.parametrize("size", [64, 96, 200])
def test_image_is_grey_8_bit_with_the_short_side_asked_for(size: int) -> None:
    shapes = []
    for patient in PATIENTS:
        image = draw_image("Normal", patient, 1, size=size)
        assert image.image.dtype == np.uint8
        assert image.image.shape == image.lung_mask.shape == image.lesion_mask.shape
        assert min(image.image.shape) == size
        shapes.append(image.image.shape[1] / image.image.shape[0])
    assert 0.84 <= min(shapes) < 0.95
    assert 1.1 < max(shapes) <= 1.21


def test_lungs_are_dark_and_the_spine_is_bright() -> None:
    for patient in PATIENTS:
        image = drawn("Normal", patient)
        height, width = image.image.shape
        middle = image.image[height // 3 : 2 * height // 3, int(0.46 * width) : int(0.54 * width)]
        assert np.median(image.image[image.lung_mask]) + 60 < np.median(middle)


def test_at_severity_0_the_classes_are_the_same_pixels() -> None:
    for patient in PATIENTS:
        images = [draw_image(label, patient, 1, size=SIZE, severity=0.0) for label in CLASSES]
        assert len({image.image.tobytes() for image in images}) == 1
        assert not any(image.lesion_mask.any() for image in images)
        assert images[1].image.tobytes() == drawn("Normal", patient).image.tobytes()


def test_nothing_outside_the_lungs_depends_on_the_class() -> None:
    for patient in PATIENTS:
        images = [draw_image(label, patient, 1, size=SIZE, severity=2.0) for label in CLASSES]
        near = cv2.dilate(images[0].lung_mask.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
        assert len({image.lung_mask.tobytes() for image in images}) == 1
        assert len({image.image[~near].tobytes() for image in images}) == 1


def test_lesions_brighten_the_image_where_the_mask_says() -> None:
    for patient in PATIENTS:
        normal = drawn("Normal", patient)
        for label in ("COVID-19", "Pneumonia"):
            image = drawn(label, patient)
            change = image.image.astype(int) - normal.image
            assert not (image.lesion_mask & ~image.lung_mask).any()
            assert change[image.lesion_mask].mean() > 8
            assert change[image.lung_mask & ~image.lesion_mask].mean() < 4
            assert change.min() >= 0


def test_covid_lies_in_both_lungs_pneumonia_in_one_and_normal_in_none() -> None:
    expected = {"COVID-19": 2, "Normal": 0, "Pneumonia": 1}
    for patient in PATIENTS:
        for label, count in expected.items():
            image = drawn(label, patient)
            sides = [bool((image.lesion_mask & side).sum() > 10) for side in lung_sides(image)]
            assert sum(sides) == count, (patient, label)


def test_pneumonia_is_found_on_either_side() -> None:
    images = [drawn("Pneumonia", patient) for patient in PATIENTS]
    left = [bool((image.lesion_mask & lung_sides(image)[0]).any()) for image in images]
    assert 3 <= sum(left) <= len(left) - 3


def test_covid_lies_lower_and_further_out_than_pneumonia() -> None:
    low: dict[str, list[float]] = {"COVID-19": [], "Pneumonia": []}
    out: dict[str, list[float]] = {"COVID-19": [], "Pneumonia": []}
    for patient in PATIENTS:
        for label in low:
            image = drawn(label, patient)
            lung_y, lung_x = np.nonzero(image.lung_mask)
            y, x = np.nonzero(image.lesion_mask)
            low[label].append((y.mean() - lung_y.min()) / np.ptp(lung_y))
            out[label].append(np.abs(x - lung_x.mean()).mean() / np.ptp(lung_x))
    assert np.mean(low["COVID-19"]) > np.mean(low["Pneumonia"]) + 0.05
    assert np.mean(out["COVID-19"]) > np.mean(out["Pneumonia"]) + 0.02


@pytest.mark.parametrize("label", ["COVID-19", "Pneumonia"])
def test_lesion_contrast_grows_with_severity(label: str) -> None:
    for patient in range(6):
        images = [draw_image(label, patient, 1, size=SIZE, severity=s) for s in (0.0, 0.25, 0.5, 1.0, 2.0)]
        brightness = [float(image.image[images[-1].lesion_mask].mean()) for image in images]
        areas = [int(image.lesion_mask.sum()) for image in images]
        assert brightness == sorted(set(brightness))
        assert areas == sorted(areas)


def test_images_of_one_patient_share_anatomy_more_than_images_of_two() -> None:
    masks = [[draw_image("Normal", p, f, size=SIZE).lung_mask for f in (1, 2)] for p in PATIENTS]
    same = [overlap(*pair) for pair in masks]
    different = [overlap(masks[p][0], masks[(p + 1) % len(masks)][1]) for p in PATIENTS]
    assert np.mean(same) > np.mean(different) + 0.05


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"faults": ["marks"]}, "data.faults"),
        ({"size": 63}, "data.phantom_size"),
        ({"severity": -0.1}, "data.severity"),
        ({"severity": float("nan")}, "data.severity"),
    ],
)
def test_settings_outside_their_range_are_refused_by_name(change: dict[str, object], name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=name):
        draw_image("Normal", 0, 1, **change)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match=name):
        write_phantoms(tmp_path / "set", **change)  # type: ignore[arg-type]
    assert not (tmp_path / "set").exists()


def test_unknown_label_and_empty_set_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="COVID-19, Normal, Pneumonia"):
        draw_image("Tuberculosis", 0, 1)
    with pytest.raises(SettingError, match="images_per_class"):
        write_phantoms(tmp_path / "set", images_per_class=0)


@pytest.mark.parametrize("faults", [(), *[(fault,) for fault in FAULTS], FAULTS])
def test_every_class_has_exactly_the_number_asked_for(
    faulty: Callable[..., tuple[Path, pd.DataFrame]], faults: tuple[str, ...]
) -> None:
    root, table = faulty(*faults)
    assert Counter(table["label"]) == dict.fromkeys(CLASSES, 11)
    assert table["filename"].is_unique
    assert set(image_digests(root)) == set(table["filename"])


def test_table_describes_the_files(plain: tuple[Path, pd.DataFrame]) -> None:
    root, table = plain
    assert list(table.columns) == ["filename", "label", "patient_id", "view", "source"]
    pd.testing.assert_frame_equal(table, pd.read_csv(root / "metadata.csv", dtype=str))
    assert set(table["view"]) == {"PA"}
    assert set(table["source"]) == {"phantom"}
    for row in table.itertuples():
        folder, name = str(row.filename).split("/")
        assert folder == FOLDER_OF[str(row.label)]
        assert name.startswith(f"{row.patient_id}-")


def test_written_files_hold_the_image_and_its_masks(plain: tuple[Path, pd.DataFrame]) -> None:
    root, table = plain
    for row in table.iloc[::9].itertuples():
        patient, number = Path(str(row.filename)).stem.split("-")[1:]
        image = draw_image(str(row.label), int(patient), int(number), size=64)
        read = {
            place: cv2.imread(str(root / place / str(row.filename)), cv2.IMREAD_UNCHANGED)
            for place in ("", "masks/lesion", "masks/lung")
        }
        assert np.array_equal(read[""], image.image)
        assert np.array_equal(read["masks/lesion"], image.lesion_mask * np.uint8(255))
        assert np.array_equal(read["masks/lung"], image.lung_mask * np.uint8(255))


def test_patients_have_one_class_up_to_four_images_and_numbers_that_tell_nothing(
    plain: tuple[Path, pd.DataFrame],
) -> None:
    _, table = plain
    patients = table.groupby("patient_id").agg(classes=("label", "nunique"), label=("label", "first"))
    images = table["patient_id"].value_counts()
    assert set(patients["classes"]) == {1}
    assert {1, 2} <= set(images) <= {1, 2, 3, 4}
    numbers = patients.index.str[-4:].astype(int).to_numpy()
    for label in CLASSES:
        # Mean of k of the numbers 1..n drawn without regard to class: variance (n + 1)(n - k) / 12k.
        own = numbers[patients["label"] == label]
        spread = np.sqrt((len(numbers) + 1) * (len(numbers) - len(own)) / (12 * len(own)))
        assert abs(own.mean() - numbers.mean()) < 3.5 * spread


def test_processes_write_the_same_bytes_as_one(plain: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    root, table = plain
    other = write_phantoms(tmp_path / "set", images_per_class=12, size=64, workers=2)
    pd.testing.assert_frame_equal(table, other)
    assert digests(root) == digests(tmp_path / "set")


def test_no_two_images_are_alike_without_faults(plain: tuple[Path, pd.DataFrame]) -> None:
    root, table = plain
    assert len(set(image_digests(root).values())) == len(table)


def test_second_call_uses_the_stored_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "set"
    first = write_phantoms(root, images_per_class=2, size=64)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("drawn again")

    monkeypatch.setattr(phantom, "draw_image", refuse)
    pd.testing.assert_frame_equal(first, write_phantoms(root, images_per_class=2, size=64))


def test_set_of_other_settings_is_not_passed_off_as_this_one(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "set", images_per_class=2, size=64)
    with pytest.raises(DataError, match=r"other settings \(severity=1\.0\)"):
        write_phantoms(tmp_path / "set", images_per_class=2, size=64, severity=0.5)


def test_empty_folder_is_filled_and_a_foreign_one_left_alone(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_phantoms(tmp_path / "empty", images_per_class=1, size=64)
    assert (tmp_path / "empty/metadata.csv").is_file()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/notes.txt").write_text("mine")
    with pytest.raises(DataError, match="not a folder of phantoms"):
        write_phantoms(tmp_path / "foreign", images_per_class=1, size=64)
    assert [path.name for path in (tmp_path / "foreign").iterdir()] == ["notes.txt"]


def test_broken_run_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def stop_at_the_third(*args: object, **options: object) -> PhantomImage:
        drawn.append(args)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return draw_image(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(phantom, "draw_image", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        write_phantoms(tmp_path / "set", images_per_class=4, size=64)
    assert list(tmp_path.iterdir()) == []


def test_loser_of_a_race_keeps_the_winners_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, write_all = tmp_path / "set", phantom._write_all

    def overtaken(*args: object) -> None:
        monkeypatch.setattr(phantom, "_write_all", write_all)
        write_phantoms(root, images_per_class=2, size=64)
        (root / "winner").touch()
        write_all(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(phantom, "_write_all", overtaken)
    table = write_phantoms(root, images_per_class=2, size=64)
    assert (root / "winner").exists()
    assert len(table) == 6
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_progress_is_silent_without_a_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_phantoms(tmp_path / "set", images_per_class=1, size=64)
    assert tuple(capfd.readouterr()) == ("", "")


def test_copies_fault_puts_the_same_bytes_into_two_classes(faulty: Callable[..., tuple[Path, pd.DataFrame]]) -> None:
    root, table = faulty("copies")
    label = table.set_index("filename")["label"]
    groups: dict[str, list[str]] = {}
    for name, digest in image_digests(root).items():
        groups.setdefault(digest, []).append(str(label[name]))
    doubled = [labels for labels in groups.values() if len(labels) > 1]
    assert len(doubled) == 3
    assert all(len(set(labels)) == len(labels) == 2 for labels in doubled)
    assert table.groupby("patient_id")["label"].nunique().max() == 1


def test_shared_patient_fault_puts_a_patient_into_two_classes(
    faulty: Callable[..., tuple[Path, pd.DataFrame]],
) -> None:
    root, table = faulty("shared_patient")
    classes = table.groupby("patient_id")["label"].nunique()
    shared = classes[classes > 1].index
    assert len(shared) == 1
    assert classes.max() == 2
    assert len(set(image_digests(root).values())) == len(table)
    names = table.loc[table["patient_id"] == shared[0], "filename"].str.split("/").str[1]
    assert names.is_unique


def test_corner_mark_fault_changes_one_corner_that_tells_the_class() -> None:
    places: dict[str, set[tuple[bool, bool]]] = {label: set() for label in CLASSES}
    for patient in range(6):
        for label in CLASSES:
            clean = drawn(label, patient).image
            marked = draw_image(label, patient, 1, size=SIZE, faults=["corner_mark"]).image
            y, x = np.nonzero(marked != clean)
            assert 0.001 < len(y) / clean.size < 0.02
            assert np.ptp(y) < 0.2 * SIZE
            assert np.ptp(x) < 0.2 * SIZE
            places[label].add((bool(y.mean() < clean.shape[0] / 2), bool(x.mean() < clean.shape[1] / 2)))
    assert all(len(found) == 1 for found in places.values())
    assert len(set.union(*places.values())) == 3


def test_source_fault_gives_each_class_a_source_and_a_look(tmp_path: Path) -> None:
    table = write_phantoms(tmp_path / "set", images_per_class=3, size=64, faults=["source"])
    assert table.groupby("label")["source"].nunique().tolist() == [1, 1, 1]
    assert table["source"].nunique() == 3
    for patient in range(4):
        # Severity 0 leaves the processing as the only difference.
        looks = [draw_image(c, patient, 1, size=SIZE, severity=0.0, faults=["source"]).image for c in CLASSES]
        fine = [float(np.abs(cv2.Laplacian(look[8:-8, 8:-8], cv2.CV_32F)).mean()) for look in looks]
        assert fine[0] > 1.2 * fine[2] > 1.44 * fine[1]
        assert not looks[2][:2].any()
        assert looks[0][:2].any()
