"""The training section says of each head whether it converged, and where training may have ended too early."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from covidnet.report.rendering.document import Table
from covidnet.report.summary import SweepSummary, TrainingCurve
from covidnet.report.sweep.method import training
from covidnet.sweep.folder import read_sweep
from covidnet.sweep.summary import summarise
from tests.sweeps import split_table, write_run


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> SweepSummary:
    folder: Path = tmp_path_factory.mktemp("sweep")
    write_run(folder / "fold=0", split_table(), 0)
    return summarise(read_sweep(folder), resamples=100)


def tables(summary: SweepSummary, *curves: TrainingCurve) -> list[Table]:
    section = training(replace(summary, training_curves=list(curves)))
    assert section is not None
    return [block for block in section.blocks if isinstance(block, Table)]


def test_heads_that_did_not_converge_and_losses_that_still_fell_are_named(summary: SweepSummary) -> None:
    ended = TrainingCurve(0, [0, 1, 2], [0.9, 0.8, 0.7], [0.9, 0.8, 0.7], 2, gradient=0.02, converged=False)
    well = replace(ended, fold=1, best=1, gradient=4e-5, converged=True)
    (table,) = tables(summary, ended, well)
    assert [list(row) for row in table.rows] == [["0", "3", "2", "2.0e-02", "no"], ["1", "3", "1", "4.0e-05", "yes"]]
    notes = " ".join(table.notes)
    assert "The last epoch was the best in 1 of 2 models" in notes
    assert "trainer.max_epochs" in notes
    assert "1 of 2 heads did not converge" in notes
    (table,) = tables(summary, well)
    assert len(table.notes) == 1
    (table,) = tables(summary, replace(ended, converged=True, l2=0.003))
    assert "a weaker penalty (optim.l2) might be better" in " ".join(table.notes)
    assert tables(summary, replace(ended, gradient=None, converged=None)) == []
