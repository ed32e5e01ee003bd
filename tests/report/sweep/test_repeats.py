"""Repeats are reported by their mean and spread, and each says that it is one of several."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from covidnet.report.rendering.html import page_of
from covidnet.report.rendering.markdown import markdown_of
from covidnet.report.summary import SweepSummary
from covidnet.report.sweep.grid import grid_table
from covidnet.report.sweep.repeats import repeat_of, repeats_document, repeats_note, repeats_table
from covidnet.sweep.folder import read_sweep
from covidnet.sweep.summary import summarise
from tests.sweeps import split_table, write_run

NAMES = ("split.seed=0,seed=0", "split.seed=0,seed=1", "split.seed=1,seed=0", "split.seed=1,seed=1")
ACCURACIES = (0.90, 0.92, 0.94, 0.96)


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> SweepSummary:
    folder = tmp_path_factory.mktemp("sweep")
    write_run(folder / "fold=0", split_table(), 0)
    return summarise(read_sweep(folder), resamples=100)


def of(summary: SweepSummary, accuracy: float) -> SweepSummary:
    value = replace(summary.pooled.accuracy, value=accuracy, ci=(accuracy - 0.0392, accuracy + 0.0392))
    return replace(summary, pooled=replace(summary.pooled, accuracy=value))


def test_table_and_figure_separate_split_seed_and_images(summary: SweepSummary) -> None:
    repeats = {name: of(summary, accuracy) for name, accuracy in zip(NAMES, ACCURACIES, strict=True)}
    row = repeats_table(repeats).set_index("metric").loc["accuracy"]
    assert (row["repeats"], row["splits"], row["method"]) == (4, 2, "all runs")
    assert (row["mean"], row["low"], row["high"]) == pytest.approx((0.93, 0.90, 0.96))
    assert (row["sd_split"], row["sd_seed"], row["sd_images"]) == pytest.approx((0.02646, 0.01414, 0.02), abs=1e-4)
    document = repeats_document(repeats)
    assert document is not None
    text, page = markdown_of(document), page_of(document)
    for words in ("Report the mean, never the best repeat", "93.0", "90.0", "96.0", "2.65", "1.41", "2.00"):
        assert words in text
        assert words in page
    assert page.count("data:image/svg+xml") == 1
    # The older table has a column for each repeat.
    assert set(NAMES) <= set(grid_table(repeats).columns)


def test_methods_are_apart_and_what_was_not_repeated_is_left_out(summary: SweepSummary) -> None:
    groups = {name: of(summary, 0.9) for name in ("model=a,seed=0", "model=a,seed=1", "model=b,seed=0")}
    assert set(repeats_table(groups)["method"]) == {"model=a"}
    assert repeats_document({"model=a,seed=0": summary, "model=b,seed=0": summary}) is None
    assert repeat_of("model=a,seed=1,optim.lr=0.1") == ("model=a,optim.lr=0.1", "", "1")
    assert repeats_note("model=b,seed=0", list(groups)) is None
    assert repeats_note("", list(groups)) is None
    note = repeats_note("model=a,seed=1", list(groups))
    assert note is not None
    assert note.startswith("This is one of 2 repeats")


def test_a_single_seed_reported_alone_says_that_it_is_one_of_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from covidnet.sweep.reports import report_sweeps

    for seed in (0, 1):
        write_run(tmp_path / f"fold=0,seed={seed}", split_table(), 0, seed=seed, settings={"seed": seed})
    written: list[SweepSummary] = []
    monkeypatch.setattr("covidnet.report.write.write_report", lambda summary, *_, **__: written.append(summary))
    report_sweeps([tmp_path], only=["seed=1"], resamples=100)
    assert written[0].notes[-1].startswith("This is one of 2 repeats")
    written.clear()
    report_sweeps([tmp_path], resamples=100)
    assert [summary.notes[-1][:24] for summary in written] == ["This is one of 2 repeats"] * 2
    assert (tmp_path / "report/repeats.html").is_file()
    assert (
        (tmp_path / "report/repeats.csv").read_text().startswith("method,metric,repeats,splits,mean,low,high,sd_split")
    )
