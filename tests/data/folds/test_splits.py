"""The folds' guarantees, checked on the tables only, without using the grouping code under test."""

import hashlib
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.errors import DataError, SettingError, SplitError
from covidnet.data.folds.packing import draw, pack
from covidnet.data.folds.splits import (
    GROUPS,
    LEFT_OUT,
    N_FOLDS,
    UNSEEN_FOLD,
    Group,
    Split,
    balanced_folds,
    fold_roles,
    groups_of,
    inner_validation,
)
from tests.conftest import PROJECT
from tests.refusals import refused

KIT = PROJECT.parent / "shared/data/cxr-kit"


def manifest_of(images: list[tuple[str | None, str, int]]) -> pd.DataFrame:
    """A manifest from (patient, label, content number); a content that comes again is a byte-identical copy."""
    rows, seen = [], Counter()
    for patient, label, content in images:
        digest = hashlib.sha256(str(content).encode()).hexdigest()
        seen[digest] += 1
        image_id = digest[:16] + (f"-{seen[digest]}" if seen[digest] > 1 else "")
        rows.append((image_id, f"{label}/{image_id}.png", label, patient, None, "made", digest))
    return pd.DataFrame(rows, columns=["image_id", "path", "label", "patient_id", "view", "source", "sha256"])


def images_of(patients: list[tuple[int, int, int]]) -> pd.DataFrame:
    """A manifest of patients, each given by its number of images of each class."""
    images: list[tuple[str | None, str, int]] = []
    for i, counts in enumerate(patients):
        for label, n in zip(CLASSES, counts, strict=True):
            images += [(f"patient{i}", label, len(images) + k) for k in range(n)]
    return manifest_of(images)


def one_class(sizes: list[int], c: int) -> list[tuple[int, int, int]]:
    return [tuple(size * (i == c) for i in range(3)) for size in sizes]  # type: ignore[misc]


def sizes_adding_up_to(n: int, rng: random.Random, least: int, most: int) -> list[int]:
    sizes: list[int] = []
    while n:
        sizes.append(min(n, rng.randint(least, most)))
        n -= sizes[-1]
    return sizes


def random_manifest(seed: int) -> pd.DataFrame:
    """Patients of random size, some in two classes, some unknown; some images copied under another patient or class."""
    rng = random.Random(seed)
    most, across, unknown, copies = (
        rng.randint(1, 6),
        rng.choice([0, 0.1, 0.4]),
        rng.choice([0, 0.3, 1]),
        rng.randint(0, 9),
    )
    images: list[tuple[str | None, str, int]] = []
    for label in CLASSES:
        for patient in range(rng.randint(30, 120)):
            name = None if rng.random() < unknown else f"{label}{patient}"
            for _ in range(rng.randint(1, most)):
                shown = rng.choice(CLASSES.names) if rng.random() < across else label
                images.append((name, shown, len(images)))
    for _ in range(copies):
        other = rng.choice(images)
        images.append((rng.choice(images)[0], rng.choice([other[1], rng.choice(CLASSES.names)]), other[2]))
    return manifest_of(images)


def reference_groups(manifest: pd.DataFrame, group: str) -> np.ndarray:
    """Connected components of the graph that ties images of one content, and of one patient."""
    n = len(manifest)
    ties = manifest["sha256"].tolist(), manifest["patient_id"].tolist() if group != "image" else []
    nodes: dict[object, int] = {}
    edges = [
        (i, n + nodes.setdefault((kind, value), len(nodes)))
        for kind, values in enumerate(ties)
        for i, value in enumerate(values)
        if isinstance(value, str)
    ]
    start, end = zip(*edges, strict=True)
    size = n + len(nodes)
    return connected_components(coo_matrix((np.ones(len(edges)), (start, end)), (size, size)), directed=False)[1][:n]


def assert_promises(split: Split, manifest: pd.DataFrame, group: str) -> None:
    table = split.table
    columns = ["image_id", "path", "label", "patient_id", "view", "source", "fold", "reason", "copy_of"]
    assert list(table.columns) == columns
    assert table["image_id"].tolist() == sorted(manifest["image_id"])
    assert table.set_index("image_id")["label"].to_dict() == manifest.set_index("image_id")["label"].to_dict()
    used = table[table["fold"] != LEFT_OUT]
    sizes = Counter(zip(used["fold"], used["label"], strict=True))
    assert sizes == {(fold, label): split.per_fold for fold in range(11) for label in CLASSES}
    of = dict(zip(manifest["image_id"], reference_groups(manifest, group), strict=True))
    homes: dict[int, set[int]] = {}
    for image_id, fold in zip(used["image_id"], used["fold"], strict=True):
        homes.setdefault(of[image_id], set()).add(fold)
    assert {len(folds) for folds in homes.values()} == {1}
    out = table["fold"] == LEFT_OUT
    assert table["reason"].notna().tolist() == out.tolist()
    for column in ("image_id", "reason"):
        assert split.left_out[column].tolist() == table.loc[out, column].tolist()
    assert list(split.left_out.columns) == ["image_id", "path", "label", "patient_id", "reason"]
    for image_id, reason in zip(split.left_out["image_id"], split.left_out["reason"], strict=True):
        assert reason.startswith("trimmed: " if of[image_id] in homes else ("surplus: ", "too large: "))


def reasons(split: Split) -> set[str]:
    return {reason.split(":")[0] for reason in split.left_out["reason"]}


def largest_that_covers(patients: list[tuple[int, int, int]]) -> int:
    """The most images per class and fold that whole or trimmed groups can give: an integer programme's answer."""
    n = len(patients)

    def feasible(size: int) -> bool:
        capped = np.minimum(np.array(patients), size)
        rows = [np.kron(np.eye(N_FOLDS)[b], capped[:, c]) for b in range(N_FOLDS) for c in range(3)]
        once = [np.tile(np.eye(n)[g], N_FOLDS) for g in range(n)]
        limits = LinearConstraint(np.array(rows + once), [size] * len(rows) + [0] * n, [np.inf] * len(rows) + [1] * n)
        free = np.zeros(n * N_FOLDS)
        return bool(milp(free, constraints=limits, integrality=free + 1, bounds=Bounds(0, 1)).status == 0)

    size = 0
    while feasible(size + 1):
        size += 1
    return size


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(n, marks=pytest.mark.slow) for n in range(6, 11))])
def test_random_manifests_are_split_into_equal_folds_that_share_no_group(seed: int, group: str) -> None:
    manifest = random_manifest(seed)
    split = balanced_folds(manifest, group=group, seed=seed)
    assert_promises(split, manifest, group)
    most = min(Counter(manifest["label"]).values()) // 11
    assert split.per_fold == most, "these manifests have patients enough for full folds"


@pytest.mark.parametrize("seed", range(6))
def test_groups_are_the_connected_components_of_patients_and_contents(seed: int) -> None:
    manifest = random_manifest(seed)
    for group in GROUPS:
        ours, reference = groups_of(manifest, group), reference_groups(manifest, group)
        pairs = set(zip(ours, reference, strict=True))
        assert len(pairs) == ours.nunique() == len(set(reference))


def test_groups_are_the_same_from_the_columns_of_split_csv(tmp_path: Path) -> None:
    manifest = random_manifest(3)
    split = balanced_folds(manifest)
    split.table.to_csv(tmp_path / "split.csv", index=False)
    again = pd.read_csv(tmp_path / "split.csv")
    expected = dict(zip(manifest["image_id"], groups_of(manifest, "patient"), strict=True))
    assert dict(zip(again["image_id"], groups_of(again, "patient"), strict=True)) == expected


# Every image, not balanced


@pytest.mark.parametrize(("seed", "group", "published"), [(n, GROUPS[n % 3], 60 * (n // 3)) for n in range(6)])
def test_folds_that_are_not_balanced_use_every_image_and_share_no_group(
    seed: int, group: Group, published: int
) -> None:
    manifest = random_manifest(seed)
    unseen = list(manifest["image_id"].sample(published, random_state=seed))
    split = balanced_folds(manifest, group=group, seed=seed, unseen=unseen, balance=False)
    table = split.table
    out = table["fold"] == LEFT_OUT
    assert table["reason"][out].str.startswith("published: ").all()
    assert published or not out.any()
    of = dict(zip(manifest["image_id"], reference_groups(manifest, group), strict=True))
    assert table[~out].groupby(table["image_id"].map(of))["fold"].nunique().max() == 1
    # As near to the data set's class ratios as groups of some images allow.
    sizes = pd.crosstab(table["fold"], table["label"]).loc[list(range(11 - bool(published)))]
    assert (sizes / sizes.sum() * len(sizes)).to_numpy() == pytest.approx(1, abs=0.6)
    assert split.per_fold is None
    shuffled_rows = manifest.sample(frac=1, random_state=seed)
    again = balanced_folds(shuffled_rows, group=group, seed=seed, unseen=unseen, balance=False)
    assert again.table.equals(table)
    assert not balanced_folds(manifest, group=group, seed=seed + 99, balance=False).table.equals(table)


def test_inner_validation_of_folds_that_are_not_balanced_has_their_class_ratio() -> None:
    manifest = images_of([p for c, n in enumerate((60, 240, 600)) for p in one_class([1] * n, c)])
    split = balanced_folds(manifest, balance=False)
    assert split.notes[1] == "Prevalence: COVID-19 6.7%, Normal 26.7%, Pneumonia 66.7%."
    roles = fold_roles(split.table, fold=2)
    counts = {part: Counter(split.table["label"][roles[part]]) for part in ("train", "val", "test")}
    assert counts["val"]["COVID-19"] in (4, 5, 6)
    assert counts["val"]["Pneumonia"] / counts["val"]["COVID-19"] == pytest.approx(10, abs=1)
    assert counts["val"]["Normal"] / counts["val"]["COVID-19"] == pytest.approx(4, abs=0.5)


def test_folds_that_would_lack_a_class_are_refused() -> None:
    manifest = images_of(one_class([1] * 10, 0) + one_class([1] * 40, 1) + one_class([1] * 40, 2))
    with pytest.raises(SplitError, match="class COVID-19: 10 images, at least 11 are needed"):
        balanced_folds(manifest, balance=False)
    one = images_of([(1, 0, 200)] * 11 + one_class([1] * 40, 1))
    assert balanced_folds(one, balance=False).per_fold is None


# Published test images


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("seed", range(5))
def test_published_test_images_are_the_unseen_fold_and_share_no_group_with_the_others(seed: int, group: Group) -> None:
    manifest = random_manifest(seed)
    published = manifest["image_id"].sample(60, random_state=seed)
    split = balanced_folds(manifest, group=group, seed=seed, unseen=list(published))
    table = split.table
    assert set(table["image_id"][table["fold"] == UNSEEN_FOLD]) == set(published)
    sizes = Counter(zip(table["fold"], table["label"], strict=True))
    assert {sizes[fold, label] for fold in range(10) for label in CLASSES} == {split.per_fold}
    used = table[table["fold"] != LEFT_OUT]
    of = dict(zip(manifest["image_id"], reference_groups(manifest, group), strict=True))
    assert used.groupby(used["image_id"].map(of))["fold"].nunique().max() == 1
    tested = {of[image_id] for image_id in published}
    reasons = table.loc[~table["image_id"].isin(published), ["image_id", "reason"]]
    assert set(reasons["image_id"][reasons["image_id"].map(of).isin(tested)]) == set(
        reasons["image_id"][reasons["reason"].astype(str).str.startswith("published: ")]
    )
    # Leaves room for no more: the smallest class, without what is published or shares its group, fills ten folds.
    free = manifest[~manifest["image_id"].map(of).isin(tested)]
    assert split.per_fold == min(Counter(free["label"]).values()) // 10
    roles = fold_roles(table, fold=0, group=group)
    assert set(table["image_id"][roles["unseen"]]) == set(published)


@pytest.mark.parametrize("balance", [True, False])
def test_every_drawn_fold_can_be_the_unseen_one_and_then_no_group_of_it_is_in_another_part(balance: bool) -> None:
    # Folds that are not balanced take long to draw where there are many groups.
    manifest = random_manifest(3) if balance else images_of([p for c in range(3) for p in one_class([1, 2] * 15, c)])
    drawn = balanced_folds(manifest, balance=balance)
    groups = dict(zip(manifest["image_id"], reference_groups(manifest, "patient"), strict=True))
    unseen: list[str] = []
    for number in range(N_FOLDS):
        split = balanced_folds(manifest, balance=balance, unseen_fold=number)
        if number == UNSEEN_FOLD:
            pd.testing.assert_frame_equal(split.table, drawn.table)
        expected = drawn.table["fold"].replace({number: UNSEEN_FOLD, UNSEEN_FOLD: number})
        assert split.table["fold"].tolist() == expected.tolist()
        for fold in (0, 7):
            roles = fold_roles(split.table, fold=fold)
            members = {role: set(split.table.loc[roles[role], "image_id"].map(groups)) for role in roles}
            assert members["unseen"]
            assert not members["unseen"] & (members["train"] | members["val"] | members["test"])
        unseen += split.table.loc[split.table["fold"] == UNSEEN_FOLD, "image_id"].tolist()
    assert sorted(unseen) == sorted(drawn.table.loc[drawn.table["fold"] != LEFT_OUT, "image_id"])


def test_trimmed_images_name_the_fold_that_holds_the_rest_of_their_group_whichever_is_unseen() -> None:
    manifest = images_of([p for c in range(3) for p in one_class([3] * 10 + [2], c)])
    split = balanced_folds(manifest, unseen_fold=4)
    assert len(split.left_out) == 30
    groups = groups_of(split.table).set_axis(split.table["image_id"])
    fold = split.table.set_index("image_id")["fold"]
    for row in split.left_out.itertuples():
        home = fold[groups == groups[row.image_id]].max()
        assert f"trimmed: the rest of its group is in fold {home}," in str(row.reason)


@pytest.mark.parametrize("number", [-1, 11, True])
def test_an_unseen_fold_that_was_not_drawn_is_refused(number: int) -> None:
    with pytest.raises(SettingError, match=f"split.unseen_fold={str(number).lower()}: must be 0 to 10"):
        balanced_folds(random_manifest(0), unseen_fold=number)


def test_published_test_images_are_no_fold_to_choose() -> None:
    manifest = random_manifest(0)
    published = manifest["image_id"].sample(60, random_state=0)
    with pytest.raises(SettingError, match=r"split.unseen_fold=3: must be 10 with split.unseen; .*split.unseen=null"):
        balanced_folds(manifest, unseen=list(published), unseen_fold=3)


def test_patients_on_both_sides_of_a_published_split_are_named() -> None:
    manifest = images_of([p for c in range(3) for p in one_class([2] * 12, c)])
    # The first image of the first patient of each class.
    published = [manifest["image_id"][manifest["label"] == label].iloc[0] for label in CLASSES]
    split = balanced_folds(manifest, unseen=published)
    [warning] = split.warnings
    assert warning == (
        "split.unseen: 3 images are left out, since a copy or an image of the same patient is among the published test "
        "images (3 patients are on both sides, such as patient0)."
    )
    assert split.notes[:2] == [
        "10 folds of 2 images of each class, grouped by patient+copies, seed 0.",
        "The unseen fold is the 3 published test images (COVID-19 1, Normal 1, Pneumonia 1).",
    ]
    assert warning in split.notes
    assert balanced_folds(manifest, group="image", unseen=published).warnings == []


def test_published_test_images_that_lack_a_class_or_leave_too_few_are_refused() -> None:
    manifest = images_of([p for c in range(3) for p in one_class([1] * 12, c)])
    of = {label: manifest["image_id"][manifest["label"] == label].tolist() for label in CLASSES}
    with pytest.raises(SplitError, match=r"no image of Normal, Pneumonia among 2 published test images; .*null"):
        balanced_folds(manifest, unseen=of["COVID-19"][:2])
    with pytest.raises(SplitError, match="class COVID-19: 9 images, at least 10 are needed"):
        balanced_folds(manifest, unseen=of["COVID-19"][:3] + of["Normal"][:1] + of["Pneumonia"][:1])


def test_groups_join_through_a_copied_image() -> None:
    # Radiograph 2 of patient A is also filed under B, whose image 4 is also filed under C: one group. D stays alone.
    manifest = manifest_of(
        [
            ("A", "Normal", 1),
            ("A", "Normal", 2),
            ("B", "Normal", 2),
            ("B", "Normal", 4),
            ("C", "Normal", 4),
            ("D", "Normal", 5),
        ]
    )
    assert groups_of(manifest, "patient").nunique() == 2
    assert groups_of(manifest, "image").nunique() == 4


def near(manifest: pd.DataFrame, *together: list[int]) -> pd.DataFrame:
    """Rows that are near copies of one image, by number."""
    first = pd.Series(float("nan"), index=manifest.index, dtype=object)
    for rows in together:
        first.iloc[rows] = min(manifest["image_id"].iloc[rows])
    return manifest.assign(copy_of=first)


def test_near_copies_are_joined_as_asked() -> None:
    images = near(manifest_of([("P", "Normal", 0), ("Q", "Normal", 1), ("R", "Normal", 1), ("S", "Normal", 3)]), [0, 1])
    for group in ("patient", "image"):
        groups = {copies: groups_of(images, group, copies).nunique() for copies in ("near", "bytes", "off")}
        assert groups == {"near": 2, "bytes": 3, "off": 4}
    assert [groups_of(images, copies=copies).nunique() for copies in ("near", "bytes")] == [2, 3]
    with refused("split.copies", "off", ("near", "bytes")):
        groups_of(images, "patient+copies", "off")
    with refused("split.copies", "all", ("near", "bytes", "off")):
        groups_of(images, "patient", "all")  # type: ignore[arg-type]


@pytest.mark.parametrize("group", GROUPS)
def test_near_copies_share_a_fold_and_a_side_of_inner_validation(group: Group, tmp_path: Path) -> None:
    images = images_of([p for c in range(3) for p in one_class([1] * 44, c)])
    images = near(images, *([n, n + 44] for n in range(20)), *([n + 44, n + 88] for n in range(30, 40)))
    split = balanced_folds(images, group=group)
    split.table.to_csv(tmp_path / "split.csv", index=False)
    table = pd.read_csv(tmp_path / "split.csv")
    used = table[table["fold"] >= 0]
    assert used.groupby("copy_of")["fold"].nunique().max() == 1
    role = fold_roles(table, fold=3, group=group).loc[used.index].idxmax(axis=1)
    assert role.groupby(used["copy_of"]).nunique().max() == 1
    note = "Copies of another image: 30 across classes (a label is wrong); copies share a fold; pairs: copies.csv."
    assert note in split.notes


def test_copies_that_chain_into_a_group_larger_than_a_fold_are_named() -> None:
    images = near(images_of([p for c in range(3) for p in one_class([1] * 44, c)]), list(range(20)))
    split = balanced_folds(images)
    [warning] = split.warnings
    assert warning in split.notes
    assert re.search(r"join 20 images \(\S+, \S+, \S+, \.\.\.\) into one group with 20 images of COVID-19", warning)
    assert warning.endswith("check copies.csv, and set split.copies=bytes if they are not copies.")
    assert not balanced_folds(images, copies="bytes").warnings


def test_copies_that_leave_too_few_groups_are_refused_with_the_remedy() -> None:
    images = near(images_of([p for c in range(3) for p in one_class([1] * 44, c)]), list(range(40)))
    with pytest.raises(SplitError, match=r"class COVID-19: 44 images of 44 patients, but .* join them to 5 groups"):
        balanced_folds(images)
    assert balanced_folds(images, copies="bytes").per_fold == 4


def test_equal_bytes_may_lie_apart_where_copies_are_off() -> None:
    images = manifest_of([(f"{c}{n}", label, n // 4) for c, label in enumerate(CLASSES) for n in range(44)])
    split = balanced_folds(images, group="patient", copies="off")
    assert split.per_fold == 4
    assert fold_roles(split.table, fold=0, group="patient", copies="off")["test"].sum() == 12
    assert any("split.copies=off" in note for note in split.notes)


@pytest.mark.parametrize("unknown", [None, float("nan"), "", "  ", pd.NA])
def test_unknown_patients_are_not_one_patient(unknown: object) -> None:
    manifest = manifest_of([("A", "Normal", 1), ("A", "Normal", 2), (None, "Normal", 3), (None, "Normal", 4)])
    manifest["patient_id"] = pd.Series(["A", "A", unknown, unknown], dtype=object)
    assert groups_of(manifest, "patient").nunique() == 3


def test_ids_that_are_no_hashes_are_not_taken_for_copies() -> None:
    table = pd.DataFrame({"image_id": ["image-1", "image-2", "image-3"], "patient_id": [None] * 3})
    assert groups_of(table, "image").nunique() == 3


@pytest.mark.parametrize(("least", "most"), [(1, 1), (1, 4), (2, 4), (3, 4), (3, 7), (5, 12)])
def test_a_set_that_fits_exactly_loses_no_image(least: int, most: int) -> None:
    rng = random.Random(0)
    patients = [p for c in range(3) for p in one_class(sizes_adding_up_to(572, rng, least, most), c)]
    split = balanced_folds(images_of(patients))
    assert split.per_fold == 52
    assert len(split.left_out) == 0
    assert (split.table["fold"] >= 0).all()


def test_the_papers_counts_give_folds_of_52_from_whole_groups() -> None:
    rng = random.Random(1)
    patients = [p for c, n in enumerate((576, 1583, 4273)) for p in one_class(sizes_adding_up_to(n, rng, 1, 3), c)]
    manifest = images_of(patients)
    for group in GROUPS:
        split = balanced_folds(manifest, group=group)
        assert_promises(split, manifest, group)
        assert split.per_fold == 52
        assert reasons(split) == {"surplus"}


def test_thirty_three_images_a_class_make_folds_of_three() -> None:
    split = balanced_folds(images_of([p for c in range(3) for p in one_class([1] * 33, c)]))
    assert (split.per_fold, len(split.left_out)) == (3, 0)
    assert not any("left out" in note for note in split.notes)


def test_one_line_counts_the_images_left_out_and_says_why() -> None:
    split = balanced_folds(images_of([p for c, n in enumerate((33, 34, 40)) for p in one_class([1] * n, c)]))
    assert split.notes[1] == (
        "8 images left out (Normal 1 of 34, Pneumonia 7 of 40); all folds are equally large, split.balance=false uses "
        "more; reasons: left_out.csv."
    )


def test_a_patient_with_half_of_a_class_lowers_the_folds_to_what_the_others_can_fill() -> None:
    # 55 single images beside the 55 of one patient: ten folds must live on the singles, so five a fold is the most.
    manifest = images_of(one_class([55] + [1] * 55, 0) + one_class([1] * 110, 1) + one_class([1] * 110, 2))
    split = balanced_folds(manifest)
    assert_promises(split, manifest, "patient")
    assert split.per_fold == 5
    assert any("10 in every fold" in note and "more than 5" in note for note in split.notes)


def test_patients_of_seven_images_each_lower_the_folds_to_a_multiple_of_seven() -> None:
    # 82 patients a class: folds of 52 would take eight each, 88 in all; seven each are there.
    split = balanced_folds(images_of([p for c in range(3) for p in one_class([7] * 82, c)]))
    assert split.per_fold == 49
    assert reasons(split) == {"surplus"}


def test_patients_of_seven_images_each_are_trimmed_where_there_are_enough_of_them() -> None:
    # Ten a fold of 8 images need two patients in each of eleven folds, and 22 there are.
    manifest = images_of(one_class([7] * 22, 0) + one_class([1] * 88, 1) + one_class([1] * 88, 2))
    split = balanced_folds(manifest)
    assert_promises(split, manifest, "patient")
    assert split.per_fold == 8
    assert "trimmed" in reasons(split)


def test_eleven_patients_go_one_to_a_fold() -> None:
    # The smallest patient has three images: the others are trimmed to three.
    manifest = images_of([p for c in range(3) for p in one_class([3, 4, 5, 6, 7, 8, 9, 9, 9, 9, 9], c)])
    split = balanced_folds(manifest)
    assert_promises(split, manifest, "patient")
    assert split.per_fold == 3
    assert reasons(split) == {"trimmed"}


def test_eleven_patients_with_all_three_classes_fill_the_folds_whole() -> None:
    split = balanced_folds(images_of([(4, 4, 4)] * 11))
    assert (split.per_fold, len(split.left_out)) == (4, 0)


def test_no_fold_is_made_where_too_few_patients_share_the_classes() -> None:
    # Every class has twelve patients, but every fold needs two of the eighteen.
    patients = [(3, 3, 0), (0, 3, 3), (3, 0, 3)] * 6
    with pytest.raises(SplitError, match="span classes"):
        balanced_folds(images_of(patients))


@pytest.mark.parametrize("seed", range(5))
def test_the_folds_are_nearly_as_large_as_an_integer_programme_makes_them(seed: int) -> None:
    rng = random.Random(seed)
    patients = [p for c in range(3) for p in one_class([rng.randint(1, 8) for _ in range(rng.randint(12, 16))], c)]
    patients += [(2, 3, 0), (0, 1, 4)]
    ours = pack(patients, [str(i) for i in range(len(patients))], bins=N_FOLDS, seed=seed)
    best = largest_that_covers(patients)
    assert ours is not None
    assert best - 1 <= ours.per_bin <= best


def test_the_order_of_the_rows_changes_nothing() -> None:
    manifest = random_manifest(7)
    first = balanced_folds(manifest, seed=5)
    for state in range(3):
        shuffled = balanced_folds(manifest.sample(frac=1, random_state=state), seed=5)
        pd.testing.assert_frame_equal(first.table, shuffled.table)
        pd.testing.assert_frame_equal(first.left_out, shuffled.left_out)
        assert first.notes == shuffled.notes


def test_paths_and_views_change_nothing() -> None:
    manifest = random_manifest(7)
    moved = manifest.assign(path="elsewhere/" + manifest["image_id"], view="PA")
    assert balanced_folds(manifest).table["fold"].tolist() == balanced_folds(moved).table["fold"].tolist()


@pytest.mark.parametrize("group", GROUPS)
def test_another_seed_draws_and_places_other_groups(group: str) -> None:
    manifest = random_manifest(8)
    one, two = (balanced_folds(manifest, group=group, seed=seed).table["fold"] for seed in (0, 1))
    assert (one != two).mean() > 0.5
    assert set(one.index[one == LEFT_OUT]) != set(two.index[two == LEFT_OUT])


def test_the_manifest_is_not_changed() -> None:
    manifest = random_manifest(9)
    before = manifest.copy()
    balanced_folds(manifest)
    pd.testing.assert_frame_equal(manifest, before)


def test_the_draw_favours_neither_large_nor_small_patients() -> None:
    # 440 of 880 Normal images are used; over many seeds patients of one and of four images must be taken alike. One
    # standard error is 0.016 for the small ones (100 patients, 10 seeds) and less for the others.
    patients = one_class([1] * 440, 0) + one_class([1] * 100 + [4] * 195, 1) + one_class([1] * 440, 2)
    manifest = images_of(patients)
    normal = manifest[manifest["label"] == "Normal"]
    images = normal.groupby("patient_id")["image_id"].transform("size").set_axis(normal["image_id"])
    taken = []
    for seed in range(10):
        table = balanced_folds(manifest, seed=seed).table
        taken.append(images.index.isin(table.loc[table["fold"] != LEFT_OUT, "image_id"]))
    shares = pd.Series(np.mean(taken, axis=0), index=images.index).groupby(images).mean()
    assert shares[1] == pytest.approx(0.5, abs=0.048)
    assert shares[4] == pytest.approx(0.5, abs=0.048)


def test_no_fold_number_attracts_the_largest_patient() -> None:
    manifest = images_of(one_class([5] + [1] * 50, 0) + one_class([1] * 55, 1) + one_class([1] * 55, 2))
    largest = manifest["image_id"][0]
    tables = [balanced_folds(manifest, seed=seed).table.set_index("image_id")["fold"] for seed in range(20)]
    assert len({table[largest] for table in tables}) > 5


def test_notes_count_unknown_patients_copies_and_images_in_two_classes() -> None:
    images: list[tuple[str | None, str, int]] = [
        (None, label, 100 * c + i) for c, label in enumerate(CLASSES) for i in range(22)
    ]
    split = balanced_folds(manifest_of([*images, ("P", "Normal", 0), ("P", "Pneumonia", 205)]))
    assert "Unknown patient: 66 of 68 images" in " ".join(split.notes)
    assert (
        "Copies of another image: 1 across classes (a label is wrong), 1 of unknown patients; 2 byte-identical; "
        "copies share a fold; pairs: copies.csv."
    ) in split.notes


def test_copies_of_one_patient_are_counted_after_those_that_contradict_something() -> None:
    images = manifest_of(
        [("P" if i < 4 else f"P{c}-{i}", label, 100 * c + i) for c, label in enumerate(CLASSES) for i in range(22)]
    )
    within = near(images, [0, 1, 2])
    note = (
        "Copies of another image: none across patients or classes, 2 within one patient; copies share a fold; pairs: "
    )
    assert sum(line.startswith(note) for line in balanced_folds(within).notes) == 1
    across = near(images, [0, 1, 2], [5, 6], [7, 30])
    note = "Copies of another image: 1 across classes (a label is wrong), 1 across patients, 2 within one patient; "
    assert sum(line.startswith(note) for line in balanced_folds(across).notes) == 1
    assert not any("Copies" in line for line in balanced_folds(images).notes)


def test_grouping_by_image_says_how_many_patients_it_spreads() -> None:
    manifest = images_of([p for c in range(3) for p in one_class([11] * 11, c)])
    split = balanced_folds(manifest, group="image")
    spread = split.table.groupby("patient_id")["fold"].nunique()
    assert any(
        note.startswith(f"{(spread > 1).sum()} patients have images in more than one fold") for note in split.notes
    )


def test_a_class_that_is_absent_or_too_small_is_refused_with_its_count() -> None:
    full = [p for c in range(2) for p in one_class([1] * 20, c)]
    with pytest.raises(SplitError, match=r"class Pneumonia: 0 images, at least 11 are needed"):
        balanced_folds(images_of(full))
    with pytest.raises(SplitError, match=r"class Pneumonia: 10 images, at least 11 are needed"):
        balanced_folds(images_of(full + one_class([1] * 10, 2)))
    with pytest.raises(SplitError, match=r"class COVID-19: 0 images, at least 11 are needed"):
        balanced_folds(images_of(full).iloc[:0])


def test_a_class_with_too_few_groups_is_refused_with_its_count() -> None:
    manifest = images_of([p for c in range(2) for p in one_class([1] * 20, c)] + one_class([4] * 10, 2))
    with pytest.raises(
        SplitError, match=r"class Pneumonia: 40 images of 10 patients, at least 11 .* split\.group=image"
    ):
        balanced_folds(manifest)
    assert balanced_folds(manifest, group="image").per_fold == 1


def test_unusable_tables_are_refused_by_name() -> None:
    manifest = images_of([p for c in range(3) for p in one_class([1] * 11, c)])
    with pytest.raises(DataError, match="no column patient_id"):
        balanced_folds(manifest.drop(columns="patient_id"))
    with pytest.raises(DataError, match="is not unique"):
        balanced_folds(pd.concat([manifest, manifest.iloc[:1]]))
    with pytest.raises(DataError, match="label 'Tuberculosis'"):
        balanced_folds(manifest.replace({"label": {"Normal": "Tuberculosis"}}))
    with refused("split.group", "site", ("patient+copies", "patient", "image")):
        balanced_folds(manifest, group="site")  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(6))
def test_the_roles_of_a_run_share_no_group(seed: int) -> None:
    manifest = random_manifest(seed)
    table = balanced_folds(manifest, seed=seed).table
    fold = seed % 10
    roles = fold_roles(table, fold=fold, validation="inner", seed=seed)
    assert roles.index.equals(table.index)
    assert (roles.sum(axis=1) == (table["fold"] != LEFT_OUT)).all()
    of = dict(zip(manifest["image_id"], reference_groups(manifest, "patient"), strict=True))
    members = [set(table.loc[roles[role], "image_id"].map(of)) for role in ("train", "val", "test", "unseen")]
    assert sum(map(len, members)) == len(set.union(*members))
    assert (roles["test"] == (table["fold"] == fold)).all()
    assert (roles["unseen"] == (table["fold"] == UNSEEN_FOLD)).all()
    val = table.loc[roles["val"], "label"].value_counts()
    per_class = 9 * table.loc[roles["test"], "label"].value_counts().min()
    assert set(val.index) == set(CLASSES)
    assert val.max() - val.min() <= 1
    assert 0.05 * per_class <= val.min() <= val.max() <= 0.15 * per_class + 1
    again = fold_roles(table.sample(frac=1, random_state=seed), fold=fold, validation="inner", seed=seed)
    pd.testing.assert_frame_equal(again.sort_index(), roles)


def test_inner_validation_takes_just_the_share_where_patients_are_single_images() -> None:
    table = balanced_folds(images_of([p for c in range(3) for p in one_class([1] * 572, c)])).table
    groups = groups_of(table, "patient")
    for share, expected in ((0.1, 47), (0.25, 117), (0.5, 234)):  # of 9 x 52 = 468
        ids = inner_validation(table, fold=0, seed=0, share=share, groups=groups)
        assert Counter(table.loc[table["image_id"].isin(ids), "label"]) == dict.fromkeys(CLASSES, expected)


def test_inner_validation_takes_one_patient_where_that_is_the_least() -> None:
    # Nine training patients of six images: a tenth would be five images, and a patient is not broken.
    table = balanced_folds(images_of([p for c in range(3) for p in one_class([6] * 11, c)])).table
    val = table[fold_roles(table, fold=2, validation="inner", seed=0)["val"]]
    assert val["patient_id"].nunique() == 3
    assert Counter(val["label"]) == dict.fromkeys(CLASSES, 6)


def test_inner_validation_changes_with_the_seed_and_the_fold() -> None:
    table = balanced_folds(random_manifest(4)).table
    groups = groups_of(table, "patient")
    draws = {inner_validation(table, fold=fold, seed=seed, groups=groups) for fold in (0, 1) for seed in (0, 1)}
    assert len(draws) == 4


def test_inner_validation_refuses_what_cannot_be_divided() -> None:
    table = balanced_folds(images_of([p for c in range(3) for p in one_class([2] * 11, c)])).table
    groups = groups_of(table, "patient")
    with pytest.raises(SettingError, match="share"):
        inner_validation(table, fold=0, seed=0, share=1.0, groups=groups)
    few = table[table["fold"].isin([0, 1]) | (table["label"] != "Normal")]
    with pytest.raises(SplitError, match="class Normal: the training part of fold 0 has 1 groups"):
        inner_validation(few, fold=0, seed=0, groups=groups)


def test_validation_on_the_test_fold_gives_its_rows_both_roles() -> None:
    table = balanced_folds(random_manifest(5)).table
    roles = fold_roles(table, fold=4, validation="test", seed=0)
    assert roles["val"].equals(roles["test"].rename("val"))
    assert roles["train"].sum() == 9 * roles["test"].sum()
    assert not (roles["train"] & roles["test"]).any()


def test_no_validation_leaves_the_training_part_whole() -> None:
    table = balanced_folds(random_manifest(5)).table
    roles = fold_roles(table, fold=4, validation="none", seed=0)
    assert not roles["val"].any()
    assert set(table.loc[roles["train"], "fold"]) == set(range(10)) - {4}


def test_every_image_in_the_ten_folds_is_tested_just_once() -> None:
    table = balanced_folds(random_manifest(6)).table
    tested = sum(fold_roles(table, fold=fold, validation="none")["test"].astype(int) for fold in range(10))
    assert (tested == table["fold"].between(0, 9)).all()


@pytest.mark.parametrize("fold", [-1, 10, 11, "three", 2.5, None, True])
def test_a_fold_outside_the_ten_is_refused(fold: object) -> None:
    table = balanced_folds(random_manifest(5)).table
    with refused("fold", fold, "0 to 9"):
        fold_roles(table, fold=fold, validation="none")  # type: ignore[arg-type]


def test_an_unknown_validation_is_refused() -> None:
    table = balanced_folds(random_manifest(5)).table
    with refused("split.validation", "outer", ("inner", "test", "none")):
        fold_roles(table, fold=0, validation="outer")  # type: ignore[arg-type]


def test_an_edited_split_that_leaks_is_refused() -> None:
    table = balanced_folds(images_of([p for c in range(3) for p in one_class([2] * 22, c)])).table
    twins = table[table["fold"] == 0]
    leaking = table.copy()
    leaking.loc[twins.index[0], "fold"] = 1
    with pytest.raises(SplitError, match=r"one group .* folds 0, 1"):
        fold_roles(leaking, fold=0)
    strange = table.copy()
    strange.loc[0, "fold"] = 12
    with pytest.raises(DataError, match="fold 12"):
        fold_roles(strange, fold=0)


def test_draw_follows_the_order_until_the_sum_would_miss() -> None:
    counts = [(2,), (4,), (3,), (1,), (2,)]
    assert draw(counts, [6], [0, 1, 2, 3, 4]) == [0, 1]
    # After 3 and 2 only a 1 completes six: the 4 and the second 2 are passed over.
    assert draw(counts, [6], [2, 0, 1, 4, 3]) == [2, 0, 3]


def test_draw_stays_below_a_sum_that_cannot_be_met() -> None:
    assert sum((2, 2, 2)[g] for g in draw([(2,), (2,), (2,)], [5], [0, 1, 2])) == 4


@pytest.mark.skipif(not KIT.exists(), reason="the real radiographs are not on this machine")
@pytest.mark.parametrize("seed", range(3))
def test_the_real_images_make_folds_of_twelve_without_trimming(seed: int) -> None:
    kit = pd.read_csv(KIT / "metadata.csv")
    names = {"COVID19": "COVID-19", "NORMAL": "Normal", "PNEUMONIA": "Pneumonia"}
    copy = kit.groupby("sha256").cumcount()
    manifest = pd.DataFrame(
        {
            "image_id": kit["sha256"].str[:16] + copy.map(lambda n: f"-{n + 1}" if n else ""),
            "path": kit["filename"],
            "label": kit["label"].map(names),
            "patient_id": kit["patient_id"],
            "view": kit["view"],
            "source": kit["source"],
            "sha256": kit["sha256"],
        }
    )
    split = balanced_folds(manifest, seed=seed)
    assert_promises(split, manifest, "patient")
    assert split.per_fold == 12
    assert reasons(split) == {"surplus"}


@pytest.mark.parametrize("images_per_class", [11, 33])
def test_phantoms_in_a_multiple_of_eleven_are_all_used(images_per_class: int, tmp_path: Path) -> None:
    from covidnet.data.phantoms.phantom import write_phantoms

    drawn = write_phantoms(tmp_path / "images", images_per_class=images_per_class, size=64, workers=1)
    images = drawn.assign(path=drawn["filename"], image_id=drawn["filename"].map(lambda name: f"image {name}"))
    split = balanced_folds(images)
    assert split.per_fold == images_per_class // 11
    assert split.left_out.empty
