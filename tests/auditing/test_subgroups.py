"""A group that the models serve worse is found; its p value knows how many groups were tried."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import StratifiedTable

from covidnet.auditing.study import NotPossibleError, Study
from covidnet.auditing.subgroups import subgroups, worst_group_test
from tests.sweeps import split_table, write_sweep


def random_groups(seed: int, n: int = 240) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    label = rng.choice(["a", "b"], n)
    right = rng.random(n) < np.where(label == "a", 0.9, 0.6)
    member = rng.random(n) < np.where(label == "a", 0.7, 0.3)
    return right, label, member


def test_one_image_per_patient_is_the_mantel_haenszel_test() -> None:
    right, label, member = random_groups(0)
    z, p = worst_group_test(right, label, np.arange(len(right)), member[:, None], 4000, 0)
    tables = [pd.crosstab(member[label == one], right[label == one]).to_numpy() for one in ("a", "b")]
    found = StratifiedTable(tables).test_null_odds(correction=False)
    assert z[0] ** 2 == pytest.approx(found.statistic)
    assert p[0] == pytest.approx(stats.norm.cdf(z[0]), abs=0.05)


def test_p_values_of_nothing_are_uniform_however_many_groups() -> None:
    rng = np.random.default_rng(5)
    least = []
    for seed in range(60):
        right, label, _ = random_groups(seed)
        patients = np.repeat(np.arange(80), 3)
        right = np.repeat(right[::3], 3)  # a patient's images are right or wrong together
        label = np.repeat(label[::3], 3)
        members = np.repeat(rng.random((80, 10)) < 0.3, 3, axis=0)
        least.append(worst_group_test(right, label, patients, members, 200, seed)[1].min())
    assert stats.kstest(least, "uniform").pvalue > 0.01


@pytest.fixture(scope="module")
def groups() -> pd.DataFrame:
    table = split_table(per_fold=12)
    number = table["patient_id"].map(lambda text: hash_of(text))
    return table.assign(
        source=number.map(lambda n: f"hospital {n % 4}"), view=number.map(lambda n: ("PA", "AP")[n // 4 % 2])
    )


def hash_of(text: str) -> int:
    return int.from_bytes(text.encode(), "big") % 1009


def test_equal_groups_have_nothing_to_find(groups: pd.DataFrame, tmp_path: Path) -> None:
    answer = subgroups(Study(None, sweep_dir=write_sweep(tmp_path / "sweep", split=groups)))
    assert not answer.findings
    assert answer.notes[0].startswith("6 groups of 2 columns compared (view, source). Worst is ")
    table = answer.tables["subgroups"]
    assert ((table["low"] <= table["accuracy"]) & (table["accuracy"] <= table["high"])).all()


def test_a_worse_group_is_named_with_its_images(groups: pd.DataFrame, tmp_path: Path) -> None:
    bad = set(groups.loc[groups["source"] == "hospital 2", "image_id"])

    def worse(table: pd.DataFrame) -> pd.DataFrame:
        rows = table["image_id"].isin(bad) & (np.arange(len(table)) % 2 == 0)
        names = {"COVID-19": "Normal", "Normal": "Pneumonia", "Pneumonia": "COVID-19"}
        columns = {"COVID-19": "p_covid19", "Normal": "p_normal", "Pneumonia": "p_pneumonia"}
        for row in np.flatnonzero(rows):
            wrong = names[table.loc[row, "label"]]
            table.loc[row, list(columns.values())] = 0.0
            table.loc[row, [columns[wrong], "prediction"]] = [1.0, wrong]
        return table

    folder = write_sweep(tmp_path / "sweep", split=groups, skill=3.0, change=worse)
    (found,) = subgroups(Study(None, sweep_dir=folder)).findings
    assert found.level == "weakens"
    assert found.what.startswith("Accuracy where source is hospital 2 (")
    assert "among 6 groups tried" in found.what
    assert set(found.images) <= set(groups.loc[groups["source"] == "hospital 2", "path"])
    table = pd.concat([pd.read_csv(file, dtype=str) for file in folder.glob("*/predictions.csv")])
    mine = table[(table["split"] == "test") & table["image_id"].isin(bad)]
    assert found.number == pytest.approx((mine["label"] == mine["prediction"]).mean())


def test_the_table_of_the_images_gives_more_groups(clean: Study) -> None:
    answer = subgroups(clean)
    assert not [one for one in answer.findings if one.level != "information"]
    assert set(answer.tables["subgroups"]["column"]) == {"sex", "age"}
    assert {"40 to 64", "18 to 39"} <= set(answer.tables["subgroups"]["value"])


def test_without_groups_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotPossibleError, match="no column of the table has two groups, one of them of 20 test images"):
        subgroups(Study(None, sweep_dir=write_sweep(tmp_path / "sweep")))
