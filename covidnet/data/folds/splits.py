"""Pure functions from a manifest to a fold column, and from the fold column to the parts of one run."""

from __future__ import annotations

import re
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from covidnet.base.classes import DEFAULT_CLASSES, ClassList
from covidnet.base.errors import DataError, SettingError, SplitError
from covidnet.base.names import counted
from covidnet.data.folds.packing import Counts, Packing, draw, pack, shuffled

N_FOLDS = 11
"""Folds of a split: ten test folds and the unseen one."""
UNSEEN_FOLD = 10
"""The fold that no run trains on, validates on or is tested on."""
LEFT_OUT = -1
"""The fold number of images that the balanced draw leaves out."""

Group = Literal["patient+copies", "patient", "image"]
Validation = Literal["inner", "test", "none"]
Copies = Literal["near", "bytes", "off"]

GROUPS: tuple[Group, ...] = ("patient+copies", "patient", "image")
VALIDATIONS: tuple[Validation, ...] = ("inner", "test", "none")
COPIES: tuple[Copies, ...] = ("near", "bytes", "off")
COLUMNS = ("image_id", "path", "label", "patient_id", "view", "source", "fold")
"""Columns that every split.csv has; `reason` and `copy_of` may follow."""

# An image id is the start of the file's sha256; "-2", "-3" mark further files with the same bytes.
_CONTENT_ID = re.compile(r"([0-9a-f]{16})(-\d+)?")
_INNER_ATTEMPTS = 4


@dataclass(frozen=True)
class Split:
    """Every image of a manifest with its fold, and why some have none.

    Args:
        table: the columns of split.csv, ``image_id,path,label,patient_id,view,source,fold,reason,copy_of``, sorted by
            image_id. fold is 0..9 (test folds), 10 (unseen) or -1 (left out). reason says why an image is left out.
            copy_of is equal for near copies of one image.
        left_out: ``image_id,path,label,patient_id,reason`` of the images in fold -1, sorted by image_id.
        per_fold: images of each class in every fold that is drawn; None if the classes are not balanced.
        notes: sentences for the log and the report.
        warnings: the notes that call for a decision.
    """

    table: pd.DataFrame
    left_out: pd.DataFrame
    per_fold: int | None
    notes: list[str]
    warnings: list[str] = field(default_factory=list)


def check_groups(group: str, copies: str) -> None:
    """Refuse values of ``split.group`` and ``split.copies`` that do not exist or contradict each other.

    Raises:
        SettingError: naming the setting.
    """
    if group not in GROUPS:
        raise SettingError("split.group", group, GROUPS)
    if copies not in COPIES:
        raise SettingError("split.copies", copies, COPIES)
    if group == "patient+copies" and copies == "off":
        raise SettingError("split.copies", copies, ("near", "bytes"), "to part copies, say split.group=patient too")


def check_unseen_fold(unseen_fold: int, *, published: bool) -> None:
    """Refuse a value of ``split.unseen_fold`` that does not exist or contradicts ``split.unseen``.

    Args:
        unseen_fold: which of the drawn folds is the unseen one.
        published: whether the unseen fold is a published test set.

    Raises:
        SettingError: naming the setting.
    """
    if isinstance(unseen_fold, bool) or unseen_fold not in range(N_FOLDS):
        raise SettingError("split.unseen_fold", unseen_fold, f"0 to {N_FOLDS - 1}")
    if published and unseen_fold != UNSEEN_FOLD:
        raise SettingError(
            "split.unseen_fold", unseen_fold, f"{UNSEEN_FOLD} with split.unseen",
            "published test images are always the unseen fold; set split.unseen=null",
        )  # fmt: skip


def unseen_fold_of(split: Mapping[str, Any]) -> int:
    """Which drawn fold is the unseen one by the settings of a split; those of older runs do not say it: the last.

    Args:
        split: the group ``split``.
    """
    return int(split.get("unseen_fold", UNSEEN_FOLD))


def exchanged(fold: int, unseen_fold: int) -> int:
    """The number of a drawn fold where `unseen_fold` is the unseen one; the function is its own inverse.

    Args:
        fold: -1..10.
        unseen_fold: the drawn fold that exchanges its number with fold 10.

    Example:
        >>> [exchanged(fold, 3) for fold in (2, 3, 10)]
        [2, 10, 3]
    """
    return {unseen_fold: UNSEEN_FOLD, UNSEEN_FOLD: unseen_fold}.get(fold, fold)


def groups_of(manifest: pd.DataFrame, group: Group = "patient+copies", copies: Copies = "near") -> pd.Series:
    """The group of each image; no two folds may share a group.

    Copies of an image are one group. With ``group="patient+copies"`` the images of a patient are too, and groups merge:
    if an image of patient A is also filed under patient B, A and B are one group. An image of unknown patient (NaN,
    None or blank) is joined only to its copies. Two *different* patients with the same id are joined, and one patient
    with two ids is not: the guarantee is only as good as the ids.

    Args:
        manifest: columns image_id (unique str), unless ``group="image"`` patient_id, and optionally sha256. Without it,
            as in split.csv, the image id is used instead: it begins with 16 hexadecimal digits of the sha256. copy_of,
            if present, is equal for near copies and unknown for all other images.
        group: ``patient+copies``; ``patient``, the same, but copies may be ``off``; or ``image``.
        copies: which copies are joined: ``near`` (also those in column copy_of), ``bytes`` (identical files) or
            ``off``.

    Returns:
        The smallest image id of each row's group, on the manifest's index.

    Raises:
        SettingError: group or copies is not an allowed value, or the two contradict each other.
        DataError: a column is missing, or an image id is not unique.

    Example:
        >>> images = pd.DataFrame({"image_id": ["a", "b", "c"], "patient_id": ["p1", None, "p1"]})
        >>> groups_of(images).tolist()
        ['a', 'b', 'a']
    """
    check_groups(group, copies)
    _require(manifest, ["image_id"] + (["patient_id"] if group != "image" else []))
    ids = [str(image_id) for image_id in manifest["image_id"]]
    ties: list[list[Hashable]] = []
    if copies != "off":
        ties.append([_content(image_id) for image_id in ids])
        if "sha256" in manifest:
            ties.append([_known(digest) for digest in manifest["sha256"]])
    if copies == "near" and "copy_of" in manifest:
        ties.append([_known(first) for first in manifest["copy_of"]])
    if group != "image":
        ties.append([_known(patient) for patient in manifest["patient_id"]])
    roots = _joined(ties, len(ids))
    smallest: dict[int, str] = {}
    for root, image_id in zip(roots, ids, strict=True):
        smallest[root] = min(smallest.get(root, image_id), image_id)
    return pd.Series([smallest[root] for root in roots], index=manifest.index, name="group", dtype="str")


def balanced_folds(
    manifest: pd.DataFrame,
    *,
    group: Group = "patient+copies",
    seed: int = 0,
    copies: Copies = "near",
    unseen: Collection[str] = (),
    unseen_fold: int = UNSEEN_FOLD,
    balance: bool = True,
    classes: ClassList = DEFAULT_CLASSES,
) -> Split:
    """Draw eleven folds with exactly the same number of images of every class, and no group in two folds.

    Guaranteed, or else a SplitError: every fold has ``per_fold`` images of each class; no group of `groups_of` is in
    two folds; every image left out has a reason. The folds depend on the image ids, labels, groups and seed, and not on
    row order, paths or any random state.

    ``per_fold`` is the size of the smallest class divided by 11, rounded down, if the groups allow it. A random draw of
    whole groups leaves out the surplus. If whole groups cannot fill every fold, some groups are trimmed: the rest of
    such a group is in a single fold, and its other images are left out. If trimming cannot fill every fold either,
    ``per_fold`` is lowered to the largest number that the search finds. The search is a heuristic: it may trim or lower
    although a perfect packing exists, most likely if most groups span classes or there are hardly more groups than
    folds.

    The draw is uniform over the groups of a class, with three exceptions. The last few groups must make the sum exact,
    so small groups are more likely there. A group that spans classes is drawn with its scarcest class and brings its
    other images along. A group with more images of a class than a fold holds is drawn only to be trimmed.

    With `unseen`, the unseen fold is exactly these images, and the ten test folds are drawn as above from the images
    that share no group with them. The others of such a group are left out, and a warning names their patients.

    With `unseen_fold`, the same folds are drawn, and this one is the unseen one: it exchanges its number with fold 10.

    With ``balance=False`` every image is used: the folds are those of scikit-learn's ``StratifiedGroupKFold``, whose
    class ratios are as close to those of the data set as whole groups allow. Then only the groups are guaranteed, and
    that every fold has each class.

    Args:
        manifest: columns image_id, path, label, patient_id, view, source, and sha256 and copy_of if they are known.
        group: as in `groups_of`; ``image``, the paper's protocol, lets a patient's images lie in several folds.
        seed: another seed gives another draw and other folds.
        copies: which copies share a fold, as in `groups_of`.
        unseen: ids of the images of a published test set; none draws the unseen fold like the others.
        unseen_fold: which of the eleven drawn folds is the unseen one, 0..10.
        balance: whether every fold has the same number of images of every class.
        classes: of the labels. Their order is part of the draw.

    Returns:
        The split.

    Raises:
        SettingError: group or copies is not an allowed value, or unseen_fold is another fold than that of `unseen`.
        DataError: a column is missing, an image id is not unique, or a label is not one of the classes.
        SplitError: a class has fewer images or groups than folds to draw (11, or 10 with `unseen`) or no image in
            `unseen`, or no balanced folds were found.
    """
    _require(manifest, COLUMNS[:-1])
    unknown = sorted({str(label) for label in manifest["label"]} - set(classes))
    if unknown:
        raise DataError(f"the manifest has the label {unknown[0]!r}; must be one of {', '.join(classes)}")
    if "copy_of" not in manifest:
        manifest = manifest.assign(copy_of=pd.Series(float("nan"), index=manifest.index, dtype=object))
    images = manifest.assign(group=groups_of(manifest, group, copies)).sort_values("image_id", ignore_index=True)
    kept = images["image_id"].isin(list(unseen))
    check_unseen_fold(unseen_fold, published=bool(len(unseen)))
    bins = N_FOLDS - bool(len(unseen))
    across = images["group"].isin(set(images["group"][kept])) & ~kept
    drawn = images[~kept & ~across]
    sizes = pd.crosstab(drawn["group"], drawn["label"]).reindex(columns=list(classes), fill_value=0).sort_index()
    _refuse_small_classes(drawn, sizes, group, copies, bins, classes)
    absent = sorted(set(classes) - set(images["label"][kept])) if len(unseen) else []
    if absent:
        raise SplitError(
            f"split.unseen: no image of {', '.join(absent)} among {counted(int(kept.sum()), 'published test image')}; "
            "set split.unseen=null to draw the unseen fold"
        )

    if not balance:
        images["fold"] = LEFT_OUT
        images.loc[kept, "fold"] = UNSEEN_FOLD
        images.loc[drawn.index, "fold"] = _stratified(drawn, bins, seed, classes).map(
            lambda fold: exchanged(fold, unseen_fold)
        )
        images["reason"] = pd.Series([_PUBLISHED if one else None for one in across], dtype="str")
        return _split(images, None, _published_twice(images, kept, across), group, seed, copies, bins, classes)

    names = [str(name) for name in sizes.index]
    counts: list[Counts] = [tuple(map(int, row)) for row in sizes.to_numpy()]
    packing = pack(counts, names, bins=bins, seed=seed)
    if packing is None:
        raise SplitError(
            f"cannot make {bins} folds with equal numbers of {', '.join(classes)}: too many groups span classes; "
            "add patients with images of one class only"
        )
    # Bins are filled in order, so they are numbered at random. Otherwise the unseen fold would be a special one.
    drawn_numbers = shuffled([str(fold) for fold in range(bins)], seed, "fold")
    numbers = [exchanged(fold, unseen_fold) for fold in drawn_numbers]
    images["fold"] = LEFT_OUT
    images.loc[kept, "fold"] = UNSEEN_FOLD
    folds = _fold_column(drawn, dict(zip(names, range(len(names)), strict=True)), packing, numbers, seed, classes)
    images.loc[drawn.index, "fold"] = folds

    used = images[images["fold"] != LEFT_OUT]
    home = dict(zip(used["group"], used["fold"], strict=True))
    largest = sizes.max(axis=1).to_dict()
    images["reason"] = pd.Series(
        [
            None
            if fold != LEFT_OUT
            else _PUBLISHED
            if split_up
            else _reason(label, key, home, largest[key], packing.per_bin, seed, bins)
            for label, key, fold, split_up in zip(images["label"], images["group"], images["fold"], across, strict=True)
        ],
        dtype="str",
    )
    warnings = _too_large(drawn.assign(fold=folds), packing.per_bin, group) if copies == "near" else []
    warnings += _published_twice(images, kept, across)
    return _split(images, packing.per_bin, warnings, group, seed, copies, bins, classes)


def _split(
    images: pd.DataFrame,
    per_fold: int | None,
    warnings: list[str],
    group: Group,
    seed: int,
    copies: Copies,
    bins: int,
    classes: ClassList,
) -> Split:
    left_out = images[images["fold"] == LEFT_OUT].reset_index(drop=True)
    return Split(
        table=images[[*COLUMNS, "reason", "copy_of"]],
        left_out=left_out[["image_id", "path", "label", "patient_id", "reason"]],
        per_fold=per_fold,
        notes=[*_notes(images, per_fold, group, seed, copies, bins, classes), *warnings],
        warnings=warnings,
    )


def _stratified(images: pd.DataFrame, bins: int, seed: int, classes: ClassList) -> pd.Series:
    """The fold of each image: whole groups, with class ratios as equal as they allow."""
    # It takes a second to import, and balanced folds do not need it.
    from sklearn.model_selection import StratifiedGroupKFold

    folds = pd.Series(LEFT_OUT, index=images.index)
    splitter = StratifiedGroupKFold(bins, shuffle=True, random_state=seed)
    for fold, (_, rows) in enumerate(splitter.split(images, images["label"], images["group"])):
        folds.iloc[rows] = fold
    held = pd.crosstab(folds, images["label"]).reindex(columns=list(classes), fill_value=0)
    for label in classes:
        if (empty := held.index[held[label] == 0]).size:
            raise SplitError(
                f"class {label}: no image in {counted(len(empty), 'fold')} of {bins}, since few groups have most of "
                "its images; add patients, or set split.balance=true"
            )
    return folds


def inner_validation(
    table: pd.DataFrame,
    *,
    fold: int,
    seed: int,
    groups: pd.Series,
    share: float = 0.1,
    classes: ClassList = DEFAULT_CLASSES,
) -> frozenset[str]:
    """Ids of a patient-grouped share (a tenth) of one fold's training part: the images that decide when to stop.

    Guaranteed: no image of the test fold, the unseen fold or fold -1; no group split between training and validation;
    at least one image of each class, but not all of them. Not guaranteed: the size. Each class gives the same share, as
    close to the wanted one as whole groups allow and within 0.5 to 1.5 times it, so that balanced folds have equal
    counts. If none is found, the counts are those with the smallest difference. The draws of different test folds are
    independent.

    Args:
        table: columns image_id, label and fold.
        fold: the test fold, 0..9; the training part is the other nine.
        seed: another seed gives another draw.
        groups: the group of each row, on the table's index, from `groups_of`.
        share: the share of each class's training images to take, between 0 and 1.
        classes: of the labels.

    Returns:
        The image ids.

    Raises:
        SettingError: the fold is not one of 0..9, or the share is not between 0 and 1.
        SplitError: a class has only one group, so it cannot be in both training and validation.
    """
    fold = _test_fold(fold)
    if not 0 < share < 1:
        raise SettingError("share", share, "a number between 0 and 1")
    _require(table, ["image_id", "label", "fold"])
    training = table["fold"].between(0, N_FOLDS - 1) & ~table["fold"].isin([fold, UNSEEN_FOLD])
    images = table.loc[training, ["image_id", "label"]].assign(group=groups)
    sizes = pd.crosstab(images["group"], images["label"]).reindex(columns=list(classes), fill_value=0).sort_index()
    names = [str(name) for name in sizes.index]
    counts: list[Counts] = [tuple(map(int, row)) for row in sizes.to_numpy()]
    totals = [int(n) for n in sizes.sum()]
    for label, column in zip(classes, zip(*counts, strict=True) if counts else [()] * len(classes), strict=True):
        if sum(n > 0 for n in column) < 2:
            raise SplitError(
                f"class {label}: the training part of fold {fold} has {sum(n > 0 for n in column)} groups, but inner "
                "validation needs at least 2; add patients, or set split.validation=none"
            )

    goal = max(1, round(share * min(totals)))
    least = max(min(n for n in column if n) for column in zip(*counts, strict=True))
    best: tuple[tuple[int, float], list[int]] | None = None
    for target in sorted(range(max(1, goal // 2), max(goal * 3 // 2, least) + 1), key=lambda n: (abs(n - goal), n)):
        for attempt in range(_INNER_ATTEMPTS):
            # The target is of the smallest class.
            targets = [max(1, round(target * total / min(totals))) for total in totals]
            taken = draw(counts, targets, shuffled(names, seed, "inner", fold, attempt))
            got = [sum(column) for column in zip(*(counts[g] for g in taken), strict=True)] or [0] * len(classes)
            if min(got) == 0 or any(n == total for n, total in zip(got, totals, strict=True)):
                continue
            off = [n - wanted for n, wanted in zip(got, targets, strict=True)]
            far = [n - goal * total / min(totals) for n, total in zip(got, totals, strict=True)]
            cost = (max(off) - min(off), sum(map(abs, far)))
            if best is None or cost < best[0]:
                best = cost, taken
        if best is not None and best[0][0] == 0:
            break
    if best is None:
        raise SplitError(
            f"fold {fold}: inner validation cannot take whole groups from every class; add patients, or set "
            "split.validation=none"
        )
    chosen = {names[g] for g in best[1]}
    return frozenset(str(image_id) for image_id in images.loc[images["group"].isin(chosen), "image_id"])


def fold_roles(
    table: pd.DataFrame,
    *,
    fold: int,
    validation: Validation = "inner",
    seed: int = 0,
    group: Group = "patient+copies",
    copies: Copies = "near",
    classes: ClassList = DEFAULT_CLASSES,
) -> pd.DataFrame:
    """The role of every image in the run of one fold: boolean columns train, val, test and unseen.

    Only split.csv is needed. Test is the fold itself, unseen is fold 10, and images of fold -1 have no role.

    - ``validation="inner"``: val is `inner_validation`, taken out of train. The four columns are disjoint, by group.
    - ``validation="test"``: val equals test, which is why the roles are four columns and not one. The test fold then
      both selects and scores the model, so its scores are optimistic.
    - ``validation="none"``: val is empty.

    Args:
        table: a split's table, or split.csv read with pandas.
        fold: the test fold, 0..9.
        validation: ``inner``, ``test`` or ``none``.
        seed: the seed of the inner validation draw.
        group: the group that the table was made with.
        copies: which copies the table keeps together.
        classes: of the labels.

    Returns:
        Booleans on the table's index, with the columns ``train``, ``val``, ``test`` and ``unseen``.

    Raises:
        SettingError: the fold, the validation or the group is not an allowed value.
        DataError: a column is missing, an image id is not unique, or a fold is not one of -1..10.
        SplitError: a group is in two folds: the table was edited, or made with another `group`.

    Example:
        >>> ids = [f"image{n}" for n in range(33)]
        >>> folds = [n // 3 for n in range(33)]
        >>> table = pd.DataFrame({"image_id": ids, "patient_id": ids, "label": [*DEFAULT_CLASSES] * 11, "fold": folds})
        >>> fold_roles(table, fold=3).sum().to_dict()
        {'train': 24, 'val': 3, 'test': 3, 'unseen': 3}
    """
    fold = _test_fold(fold)
    if validation not in VALIDATIONS:
        raise SettingError("split.validation", validation, VALIDATIONS)
    _require(table, ["image_id", "label", "fold"])
    strange = [number for number in table["fold"] if number not in range(LEFT_OUT, N_FOLDS)]
    if strange:
        raise DataError(f"the split has an image in fold {strange[0]}; must be {LEFT_OUT} to {N_FOLDS - 1}")
    groups = groups_of(table, group, copies)
    used = table["fold"] != LEFT_OUT
    split_up = _in_several(table["fold"][used], groups[used])
    if split_up:
        inside = table[used & (groups == split_up[0])].sort_values("image_id")
        raise SplitError(
            f"images {', '.join(inside['image_id'][:4])} are one group (split.group={group}) but are in folds "
            f"{', '.join(map(str, sorted(set(inside['fold']))))}; make split.csv again"
        )
    test = table["fold"] == fold
    unseen = table["fold"] == UNSEEN_FOLD
    val = pd.Series(False, index=table.index)
    if validation == "inner":
        val = table["image_id"].isin(inner_validation(table, fold=fold, seed=seed, groups=groups, classes=classes))
    elif validation == "test":
        val = test
    return pd.DataFrame({"train": used & ~test & ~unseen & ~val, "val": val, "test": test, "unseen": unseen})


def _require(table: pd.DataFrame, columns: Iterable[str]) -> None:
    missing = [column for column in columns if column not in table]
    if missing:
        raise DataError(f"the table has no column {', '.join(missing)}; its columns are {', '.join(map(str, table))}")
    twice = table["image_id"][table["image_id"].duplicated()]
    if len(twice):
        raise DataError(f"image id {twice.iloc[0]} is not unique; give every row its own")


def _test_fold(fold: int) -> int:
    # bool is an int in Python and numpy integers are not; this check refuses bool and accepts numpy integers.
    if isinstance(fold, bool) or fold not in range(UNSEEN_FOLD):
        raise SettingError("fold", fold, f"0 to {UNSEEN_FOLD - 1}")
    return int(fold)


def _known(value: object) -> str | None:
    # NaN is the only value unequal to itself; pandas' NA has no truth value.
    return None if value is None or value is pd.NA or value != value else str(value).strip() or None


def _in_several(values: pd.Series, keys: pd.Series) -> list[str]:
    """The keys that have more than one value."""
    pairs = pd.DataFrame({"key": keys, "value": values}).drop_duplicates()
    return sorted(pairs["key"][pairs["key"].duplicated()].unique())


def _content(image_id: str) -> str | None:
    found = _CONTENT_ID.fullmatch(image_id)
    return found[1] if found else None


def _joined(ties: Sequence[Sequence[Hashable]], n: int) -> list[int]:
    """For each of n rows the root of its set. Rows with an equal value in any of the ties are in one set."""
    parent = list(range(n))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for values in ties:
        first: dict[Hashable, int] = {}
        for i, value in enumerate(values):
            if value is not None:
                parent[root(i)] = root(first.setdefault(value, i))
    return [root(i) for i in range(n)]


def _published_twice(images: pd.DataFrame, kept: pd.Series, across: pd.Series) -> list[str]:
    """A warning about images that are left out because their patient, or a copy, is among the published test images."""
    if not across.any():
        return []
    patients = images["patient_id"].map(_known)
    both = sorted(set(patients[across].dropna()) & set(patients[kept].dropna()))
    named = f" ({counted(len(both), 'patient is', 'patients are')} on both sides, such as {both[0]})" if both else ""
    return [
        f"split.unseen: {counted(int(across.sum()), 'image is', 'images are')} left out, since a copy or an image of "
        f"the same patient is among the published test images{named}."
    ]


def _refuse_small_classes(
    images: pd.DataFrame, sizes: pd.DataFrame, group: Group, copies: Copies, bins: int, classes: ClassList
) -> None:
    for label in classes:
        number, groups = int(sizes[label].sum()), int((sizes[label] > 0).sum())
        if number < bins:
            raise SplitError(f"class {label}: {number} images, at least {bins} are needed, one per fold; add images")
        if groups < bins:
            owner, remedy = ("patients", "add patients") if group != "image" else ("different images", "add images")
            apart = groups_of(images[images["label"] == label], group, "bytes").nunique()
            if copies == "near" and apart >= N_FOLDS:
                raise SplitError(
                    f"class {label}: {number} images of {apart} {owner}, but near copies join them to {groups} groups "
                    f"and at least {bins} are needed; check copies.csv, and set split.copies=bytes if they are not "
                    "copies"
                )
            raise SplitError(
                f"class {label}: {number} images of {groups} {owner}, at least {bins} {owner} are needed, one per "
                f"fold; {remedy}" + (" or set split.group=image" if group != "image" else "")
            )


def _fold_column(
    images: pd.DataFrame,
    position: dict[str, int],
    packing: Packing,
    numbers: Sequence[int],
    seed: int,
    classes: ClassList,
) -> list[int]:
    """The fold of each image. The images kept of a trimmed group are drawn at random."""
    ids, labels, groups = (images[column].tolist() for column in ("image_id", "label", "group"))
    folds = [LEFT_OUT] * len(ids)
    stay = {(key, label): packing.kept[at][c] for key, at in position.items() for c, label in enumerate(classes)}
    for i in shuffled(ids, seed, "trim"):
        if stay[groups[i], labels[i]] > 0:
            stay[groups[i], labels[i]] -= 1
            folds[i] = numbers[packing.bin_of[position[groups[i]]]]
    return folds


_PUBLISHED = "published: an image of its group is in the published unseen fold"


def _reason(label: str, key: str, home: dict[str, int], largest: int, per_fold: int, seed: int, bins: int) -> str:
    if key in home:
        return f"trimmed: the rest of its group is in fold {home[key]}, which is full with {per_fold} images of {label}"
    if largest > per_fold:
        return f"too large: its group has {largest} images of one class and a fold holds {per_fold}"
    return f"surplus: the folds are full with {per_fold * bins} images of {label}, drawn with seed {seed}"


def _too_large(images: pd.DataFrame, per_fold: int, group: Group) -> list[str]:
    """Warnings about groups that are joined by near copies and are too large for a fold."""
    found = []
    apart = groups_of(images, group, "bytes").groupby(images["group"]).nunique()
    for _, rows in images[images["group"].isin(apart.index[apart > 1])].groupby("group"):
        label, count = rows["label"].value_counts().index[0], int(rows["label"].value_counts().iloc[0])
        if count > per_fold:
            first = ", ".join(rows["path"].iloc[:3])
            found.append(
                f"near copies join {len(rows)} images ({first}, ...) into one group with {count} images of {label}, "
                f"but a fold holds {per_fold}: {int((rows['fold'] == LEFT_OUT).sum())} of them are left out; check "
                "copies.csv, and set split.copies=bytes if they are not copies."
            )
    return found


def _copies_note(images: pd.DataFrame, patients: pd.Series, copies: Copies) -> list[str]:
    """Counts copies once each, those that contradict labels or patients first."""
    identical = groups_of(images, "image", "bytes")
    content = groups_of(images, "image", copies) if copies == "near" else identical
    facts = pd.DataFrame({"label": images["label"], "patient": patients}).groupby(content)
    extra = facts.size() - 1
    kinds = pd.DataFrame(
        {
            "class": facts["label"].nunique().gt(1),
            "patient": facts["patient"].nunique().gt(1),
            "unknown": facts["patient"].count() <= extra,
            "within": True,
        }
    )
    count = extra.groupby(kinds.idxmax(axis=1)).sum().reindex(kinds.columns, fill_value=0)
    if not count.sum():
        return []
    parts = [
        f"{count['class']} across classes (a label is wrong)" if count["class"] else "",
        f"{count['patient']} across patients" if count["patient"] else "",
        "" if count["class"] or count["patient"] else "none across patients or classes",
        f"{count['unknown']} of unknown patients" if count["unknown"] else "",
        f"{count['within']} within one patient" if count["within"] else "",
    ]
    same = len(images) - identical.nunique()
    together = "split.copies=off allows them in different folds" if copies == "off" else "copies share a fold"
    return [
        f"Copies of another image: {', '.join(filter(None, parts))}"
        + (f"; {same} byte-identical" if same else "")
        + f"; {together}"
        + ("; pairs: copies.csv." if copies == "near" else ".")
    ]


def _notes(
    images: pd.DataFrame, per_fold: int | None, group: Group, seed: int, copies: Copies, bins: int, classes: ClassList
) -> list[str]:
    total = images["label"].value_counts()
    used = images["fold"] != LEFT_OUT
    if per_fold is None:
        sizes = pd.crosstab(images["fold"], images["label"]).loc[list(range(bins))]
        ends = {label: sorted({int(sizes[label].min()), int(sizes[label].max())}) for label in classes}
        ranges = ", ".join(f"{label} {' to '.join(map(str, both))}" for label, both in ends.items())
        shares = ", ".join(f"{label} {(images['label'][used] == label).mean():.1%}" for label in classes)
        notes = [
            f"{bins} folds of all images, not balanced, grouped by {group}, seed {seed}: {ranges} in a fold.",
            f"Prevalence: {shares}.",
        ]
    else:
        notes = [f"{bins} folds of {per_fold} images of each class, grouped by {group}, seed {seed}."]
    if bins < N_FOLDS:
        unseen = images["label"][images["fold"] == UNSEEN_FOLD]
        counts = ", ".join(f"{label} {int((unseen == label).sum())}" for label in classes)
        notes.append(f"The unseen fold is the {counted(len(unseen), 'published test image')} ({counts}).")
    if not used.all():
        out = images["label"][~used].value_counts()
        of_each = ", ".join(f"{label} {out[label]} of {total[label]}" for label in classes if label in out)
        trimmed = int(images["reason"][~used].str.startswith("trimmed: ").sum())
        notes.append(
            f"{counted(int((~used).sum()), 'image')} left out ({of_each})"
            + (f", {trimmed} of them to trim groups that do not fit whole" if trimmed else "")
            + ("" if per_fold is None else "; all folds are equally large, split.balance=false uses more")
            + "; reasons: left_out.csv."
        )
    drawable = images["label"][(images["fold"] != UNSEEN_FOLD) | (bins == N_FOLDS)].value_counts()
    smallest = min(classes, key=lambda label: drawable[label])
    if per_fold is not None and per_fold < drawable[smallest] // bins:
        notes.append(
            f"{smallest} has enough images for {drawable[smallest] // bins} in every fold, but some class has too "
            f"large or too few groups for more than {per_fold}."
        )
    patients = images["patient_id"].map(_known)
    known = patients.notna()
    if not known.all():
        notes.append(
            f"Unknown patient: {int((~known).sum())} of {counted(len(images), 'image')}; each counts as one patient."
        )
    notes += _copies_note(images, patients, copies)
    spread = len(_in_several(images["fold"][used & known], patients[used & known]))
    if spread:
        notes.append(
            f"{counted(spread, 'patient has', 'patients have')} images in more than one fold, as split.group={group} "
            "allows."
        )
    return notes
