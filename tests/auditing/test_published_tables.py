"""Printed rates that no confusion matrix gives; the paper's own tables are the example."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from covidnet.auditing.published_tables import RATES, consistent, printed, published_tables
from covidnet.auditing.study import NotPossibleError, Study
from covidnet.base.errors import DataError
from covidnet.report.paper.published import TABLE3, TABLE5, TABLE7


def test_rates_of_real_counts_always_hold() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        positives, negatives = rng.integers(1, 200, 2)
        tp, tn = rng.integers(0, positives + 1), rng.integers(0, negatives + 1)
        fn, fp = positives - tp, negatives - tn
        values = {
            "sensitivity": tp / positives,
            "specificity": tn / negatives,
            "accuracy": (tp + tn) / (positives + negatives),
        }
        values |= {"f1": 2 * tp / (2 * tp + fp + fn)} if tp + fp + fn else {}
        values |= {"ppv": tp / (tp + fp)} if tp + fp else {}
        for digits in (2, 3):
            given = {name: printed(f"{value:.{digits}f}") for name, value in values.items()}
            assert all(holds for _, _, holds in consistent(given, int(positives), int(negatives)).values())
            percent = {name: printed(f"{100 * value:.1f}%") for name, value in values.items()}
            assert all(holds for _, _, holds in consistent(percent, int(positives), int(negatives)).values())


def test_a_rate_that_is_no_fraction_of_n_is_found() -> None:
    assert not consistent({"sensitivity": printed("0.95")}, 7, 7)["sensitivity"][2]
    assert consistent({"sensitivity": printed("0.86")}, 7, 7)["sensitivity"][2]
    # Each is possible, but not with the same counts: 1 of 2 and 9 of 10 give F1 = 0.5.
    given = {"f1": printed("0.50"), "accuracy": printed("0.50")}
    assert not consistent(given, 2, 10)["together"][2]


def row(name: str, positives: int, negatives: int, rates: dict[str, object]) -> str:
    cells = [f"{rates[rate]:.3f}" if rates.get(rate) is not None else "" for rate in RATES]
    return ",".join([name, str(positives), str(negatives), *cells])


def test_the_papers_tables(tmp_path: Path) -> None:
    zhang, narin = TABLE3["Zhang"], TABLE3["Narin"]
    rows = [row("Zhang", int(zhang["covid19"]), int(zhang["normal"]), dict(zhang))]
    rows += [row("Narin", int(narin["covid19"]), int(narin["viral"]), dict(narin))]
    rows += [row(f"Table 5 {name}", 520, 1040, dict(rates)) for name, rates in TABLE5.items()]
    rows += [row(f"Table 7 {name}", 520, 1040, dict(rates)) for name, rates in TABLE7.items() if "RT" not in name]
    file = tmp_path / "published.csv"
    file.write_text("\n".join([",".join(["name", "positives", "negatives", *RATES]), *rows]))
    answer = published_tables(Study(None, published=file))
    (found,) = answer.findings
    assert found.level == "blocks"
    table = answer.tables["published_tables"]
    wrong = {(one.name, one.rate) for one in table[table["holds"] == "no"].itertuples(index=False)}
    # What covidnet.report.paper.published says of these tables, found by arithmetic alone.
    for one in (("Zhang", "accuracy"), ("Narin", "accuracy"), ("Table 5 COVID-19", "f1")):
        assert one in wrong
    assert ("Table 7 Narin et al. (ResNet-50)", "accuracy") in wrong
    assert not {rate for name, rate in wrong if name == "Table 7 Our approach"}
    zhangs = table[(table["name"] == "Zhang") & (table["rate"] == "accuracy")].iloc[0]
    assert (zhangs["possible_low"], zhangs["possible_high"]) == pytest.approx((0.723, 0.723), abs=0.001)


def test_a_table_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(NotPossibleError, match=r"give audit\.published=FILE"):
        published_tables(Study(None))
    file = tmp_path / "t.csv"
    for text, words in (
        ("name,positives\na,1\n", "no column negatives"),
        ("name,positives,negatives,f1\na,many,2,0.5\n", "must be counts above 0"),
        ("name,positives,negatives,f1\na,2,2,high\n", "high: not a rate"),
        ("name,positives,negatives,f1\na,2,2,120\n", "120: not a rate"),
    ):
        file.write_text(text)
        with pytest.raises(DataError, match=words):
            published_tables(Study(None, published=file))
