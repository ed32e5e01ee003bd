"""A list of classes refuses names that look the same; it has columns, colours, and the folder names that mean them."""

from __future__ import annotations

import pickle

import cv2
import numpy as np
import pytest

from covidnet.base.classes import DEFAULT_CLASSES, MOST_CLASSES, ClassList, label_of
from covidnet.base.errors import SettingError

FIFTY = ClassList(tuple(f"Class {n}" for n in range(MOST_CLASSES)))


def lab(colour: str) -> np.ndarray:
    rgb = np.array([[[int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]]], np.float32)
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)[0, 0])


def test_the_default_has_the_paper_s_classes_with_their_columns_and_colours() -> None:
    assert list(DEFAULT_CLASSES) == ["COVID-19", "Normal", "Pneumonia"]
    assert DEFAULT_CLASSES.columns == ("p_covid19", "p_normal", "p_pneumonia")
    assert DEFAULT_CLASSES.colours == {"COVID-19": "#d55e00", "Normal": "#009e73", "Pneumonia": "#0072b2"}
    assert DEFAULT_CLASSES.positive == "COVID-19"
    assert DEFAULT_CLASSES.record() == {}
    assert ClassList.of({}) == ClassList.of({"classes": None, "positive": None}) == DEFAULT_CLASSES


def test_fifty_classes_have_fifty_colours_that_can_be_told_apart() -> None:
    colours = [lab(colour) for colour in FIFTY.colours.values()]
    apart = [np.linalg.norm(one - other) for at, one in enumerate(colours) for other in colours[:at]]
    assert min(apart) > 10
    assert ClassList(("Lung Opacity", "Normal")).colours["Normal"] == DEFAULT_CLASSES.colours["Normal"]


@pytest.mark.parametrize("classes", [ClassList(("B", "A"), "A"), ClassList(("Größe", "正常")), FIFTY, DEFAULT_CLASSES])
def test_a_list_is_itself_again_from_its_record(classes: ClassList) -> None:
    assert ClassList.of(classes.record()) == classes
    assert pickle.loads(pickle.dumps(classes)) == classes
    assert len(set(classes.columns)) == len(classes)


def test_of_two_classes_one_is_reported() -> None:
    assert ClassList(("Sick", "Healthy")).reported == ("Sick",)
    assert ClassList(("Sick", "Healthy"), "healthy").reported == ("Healthy",)
    assert ClassList(("A", "B", "C"), "B").reported == ("A", "B", "C")


@pytest.mark.parametrize(
    ("names", "positive", "words"),
    [
        (["A"], "", r"data.classes=\[A\]: must be 2 to 50 names; 1 given"),
        ([f"{n}" for n in range(51)], "", "must be 2 to 50 names; 51 given"),
        (["Lung Opacity", "lung_opacity"], "", "'Lung Opacity' and 'lung_opacity' both become p_lungopacity"),
        (["A/B", "C"], "", "rename 'A/B'"),
        (["...", "C"], "", "rename '...'"),
        (["A", "All"], "", "rename 'All'"),
        (["A", "B"], "C", "data.positive=C: must be one of A, B"),
    ],
)
def test_lists_that_cannot_be_used_are_refused_in_one_line(names: list[str], positive: str, words: str) -> None:
    with pytest.raises(SettingError, match=words) as caught:
        ClassList(tuple(names), positive)
    assert "\n" not in str(caught.value)


def test_a_word_is_no_list_of_classes() -> None:
    with pytest.raises(SettingError, match=r"data.classes=all: must be a list of 2 to 50 names, or auto"):
        ClassList.of({"classes": "all"})


@pytest.mark.parametrize(
    ("name", "classes", "labels", "found"),
    [
        ("No_findings", ("COVID-19", "Normal"), {}, "Normal"),
        ("No_findings", ("COVID-19", "Rest"), {"Normal": "Rest"}, "Rest"),
        ("NORMAL", ("COVID-19", "Rest"), {"Normal": "Rest"}, "Rest"),
        ("Viral Pneumonia", ("Viral Pneumonia", "Normal"), {}, "Viral Pneumonia"),
        ("Bacterial Pneumonia", ("Viral Pneumonia", "Normal"), {}, None),
        ("lung_opacity", ("Lung Opacity", "Normal"), {}, "Lung Opacity"),
        ("Lung_Opacity", ("COVID-19", "Normal"), {}, None),
        ("TB", ("Tuberculosis", "Normal"), {"tb": "tuberculosis"}, "Tuberculosis"),
    ],
)  # fmt: skip
def test_a_folder_means_the_class_of_its_letters_or_of_data_labels(
    name: str, classes: tuple[str, ...], labels: dict[str, str], found: str | None
) -> None:
    assert label_of(name, labels, ClassList(classes)) == found
