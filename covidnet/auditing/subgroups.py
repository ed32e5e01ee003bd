"""Subgroups: accuracy by view, source, sex, age, device and any column of the table; the worst group and its test."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.auditing.acquisition import AGES, DEVICES, SEXES
from covidnet.auditing.finding import Answer, Finding
from covidnet.auditing.identity import age_in_years
from covidnet.auditing.study import NotPossibleError, Study
from covidnet.base.classes import key_of
from covidnet.base.names import counted
from covidnet.evaluation.bootstrap import cluster_codes
from covidnet.evaluation.calibration import expected_calibration_error
from covidnet.evaluation.intervals import proportion_interval
from covidnet.sweep.summary import pooled_predictions

NAME = "subgroups"

MIN_IMAGES, MIN_PATIENTS = 20, 10
"""Smaller groups are not compared."""

_BANDS, _MOST_VALUES = (0, 18, 40, 65, 200), 12
_DIFFERENCE = 0.05


def subgroups(study: Study) -> Answer:
    """Compare each group's accuracy with what its classes let expect.

    A group is compared with images of its own classes, so that a group of an easy class is not a good one. The test
    exchanges groups between the patients of a class and takes the worst of all groups each time, so that its p value
    knows how many groups were tried.

    Raises:
        NotPossibleError: there is no sweep, or no column with two groups that are large enough.
    """
    sweep = study.sweep
    table = pooled_predictions(sweep.runs)
    columns = _columns(study, table)
    codes = cluster_codes(table)
    groups: list[tuple[str, str, npt.NDArray[np.bool_]]] = []
    for name, values in columns.items():
        parts = [(name, value, (values == value).to_numpy(bool)) for value in sorted(set(values.dropna()))]
        large = [part for part in parts if part[2].sum() >= MIN_IMAGES and len(set(codes[part[2]])) >= MIN_PATIENTS]
        groups += large if len(parts) > 1 else []
    if not groups:
        least = f"{MIN_IMAGES} test images of {MIN_PATIENTS} patients"
        raise NotPossibleError(f"no column of the table has two groups, one of them of {least}")
    right = (table["label"] == table["prediction"]).to_numpy(bool)
    label = table["label"].to_numpy(str)
    members = np.stack([part for _, _, part in groups], 1)
    z, p = worst_group_test(right, label, codes, members, study.resamples, study.seed)
    expected = pd.Series(right).groupby(label).transform("mean").to_numpy(float)
    rows = []
    for at, (name, value, part) in enumerate(groups):
        low, high = proportion_interval(right[part], codes[part]) or (np.nan, np.nan)
        error = expected_calibration_error(table[part].reset_index(drop=True), classes=sweep.classes)
        n, patients = int(part.sum()), len(set(codes[part]))
        numbers = right[part].mean(), low, high, expected[part].mean(), z[at], p[at], error
        rows.append((name, value, n, patients, *map(float, numbers)))
    names = ["column", "value", "images", "patients", "accuracy", "low", "high", "expected", "z", "p", "ece"]
    found = pd.DataFrame(rows, columns=names).sort_values("z", ignore_index=True)
    findings = []
    for row in found.to_dict("records"):
        if row["p"] < 0.01 and row["accuracy"] <= row["expected"] - _DIFFERENCE:
            part = next(part for name, value, part in groups if (name, value) == (row["column"], row["value"]))
            wrong = tuple(table["path"][part & ~right])
            what = (
                f"Accuracy where {row['column']} is {row['value']} ({row['images']:,} images; expected from its "
                f"classes: {row['expected']:.1%}; p = {row['p']:.2g} among {counted(len(groups), 'group')} tried)."
            )
            meaning = "One number for all hides a group that the model serves worse."
            remedy = "Report the groups beside the whole; look at the images that it gets wrong, and add such images."
            findings.append(
                Finding(NAME, "weakens", what, row["accuracy"], (row["low"], row["high"]), wrong, meaning, remedy)
            )
    worst = found.iloc[0]
    notes = [
        f"{counted(len(groups), 'group')} of {counted(len(columns), 'column')} compared ({', '.join(columns)}). "
        f"Worst is {worst['column']} {worst['value']}: {worst['accuracy']:.1%} of {worst['images']:,} images, where "
        f"its classes let expect {worst['expected']:.1%}; p = {worst['p']:.2g}.",
        "Low and high are the ends of the 95% interval; ece is the expected calibration error.",
    ]
    return Answer(findings, {"subgroups": found}, notes)


def worst_group_test(
    right: npt.NDArray[np.bool_],
    label: npt.NDArray[np.str_],
    patients: npt.NDArray[np.intp],
    members: npt.NDArray[np.bool_],
    permutations: int,
    seed: int,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """How far each group is below what its classes let expect, and the p value of the worst of as many groups.

    Args:
        right: (n,) whether each prediction is right.
        label: (n,) the class of each image.
        patients: (n,) 0..patients-1.
        members: (n, G) whether each image is in each group.
        permutations: how often patients of a class exchange their groups.
        seed: of the permutations.

    Returns:
        (G,) the deviation in standard errors, negative where the group is worse; and (G,) the share of permutations,
        the data among them, whose worst group deviates as much (Westfall and Young's maxT).

    Source: Westfall and Young 1993, Resampling-based multiple testing, ISBN 978-0-471-55761-6
    """
    residual = right - pd.Series(right).groupby(label).transform("mean").to_numpy(float)
    units = int(patients.max()) + 1
    # A patient's images stay together: with the class of the first, and in a group for their share of it.
    first = np.zeros(units, np.intp)
    first[patients[::-1]] = np.arange(len(patients))[::-1]
    strata = [np.flatnonzero(label[first] == one) for one in np.unique(label[first])]
    total = np.bincount(patients, residual, units).astype(np.float64)
    size = np.bincount(patients, minlength=units).astype(float)
    share = np.stack([np.bincount(patients, part, units) for part in members.T.astype(float)], 1) / size[:, None]

    def deviations(sums: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        spread = np.zeros((len(sums), share.shape[1]))
        for rows in strata:
            # Exchanged freely in a class, a group's sum has this variance.
            inside = share[rows] - share[rows].mean(0)
            part = sums[:, rows] - sums[:, rows].mean(1, keepdims=True)
            spread += (part**2).sum(1)[:, None] * (inside**2).sum(0) / max(1, len(rows) - 1)
        away = sums @ share
        for rows in strata:
            away -= sums[:, rows].sum(1)[:, None] * share[rows].mean(0)
        return np.divide(away, np.sqrt(spread), out=np.zeros_like(away), where=spread > 1e-12)

    observed = deviations(total[None, :])[0]
    rng, worst = np.random.default_rng(seed), np.empty(permutations)
    for start in range(0, permutations, 100):
        count = min(100, permutations - start)
        drawn = np.tile(total, (count, 1)).astype(np.float64)
        for rows in strata:
            drawn[:, rows] = rng.permuted(drawn[:, rows], axis=1)
        worst[start : start + count] = deviations(drawn).min(1)
    p = [(1 + (worst <= one + 1e-9).sum()) / (1 + permutations) for one in observed]
    return observed, np.array(p)


def _columns(study: Study, table: pd.DataFrame) -> dict[str, pd.Series]:
    """The groups of each test image, by column; unknown is NaN."""
    run = study.sweep.runs[0]
    known: dict[str, pd.Series] = {}
    ids = run.split["image_id"] if run.split is not None else pd.Series(dtype=object)
    if run.split is not None:
        known |= {name: run.split[name] for name in ("view", "source")}
    if study.table is not None:
        ids = study.images["image_id"]
        known = {name: study.images[name] for name in ("view", "source")}
        named = {"sex": study.column(*SEXES), "device": study.column(*DEVICES)}
        known |= {name: column for name, column in named.items() if column is not None}
        if (age := study.column(*AGES)) is not None:
            bands = [f"{low} to {high - 1}" for low, high in pairwise(_BANDS)]
            known["age"] = pd.cut(age.map(age_in_years), _BANDS, right=False, labels=bands).astype(object)
        for name in study.columns:
            values = study.columns[name].set_axis(study.images.index)
            if key_of(str(name)) in (*SEXES, *AGES, *DEVICES):
                continue
            if 2 <= values.nunique() <= _MOST_VALUES:
                known[str(name)] = values
    found = {}
    for name, values in known.items():
        column = table["image_id"].map(dict(zip(ids, values.astype(object), strict=True)))
        if len(set(column.dropna())) > 1:
            found[name] = column
    return found
