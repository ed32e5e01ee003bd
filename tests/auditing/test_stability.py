"""Trainings cut off, lucky seeds and changing winners are found; a learning curve rises where images are too few."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from covidnet.auditing.acquisition import balanced_accuracy, class_means
from covidnet.auditing.stability import stability, still_falling
from covidnet.auditing.study import NotPossibleError, Study
from covidnet.evaluation.bootstrap import percentile_interval
from tests.auditing.conftest import altered, stored
from tests.sweeps import split_table, write_run, write_sweep

SPLIT = split_table(per_fold=12)


def curves(folder: Path, loss: Sequence[float]) -> Path:
    """Write the same curves for every run of a sweep, as the CSV logger does."""
    rows = [{"epoch": epoch, "val/loss": value} for epoch, value in enumerate(loss)]
    rows += [{"epoch": epoch, "train/loss": value} for epoch, value in enumerate(loss)]
    for run in folder.glob("fold=*"):
        (run / "curves").mkdir()
        # The best checkpoint is validated once more at the end.
        pd.DataFrame([*rows, {"epoch": len(loss), "val/loss": min(loss)}]).to_csv(
            run / "curves/metrics.csv", index=False
        )
    return folder


def grid(folder: Path, skills: dict[str, float]) -> Study:
    """A sweep over more than the folds; a skill for each group, such as ``model=cnn,seed=1``."""
    for name, skill in skills.items():
        parts = dict(part.split("=") for part in name.split(","))
        settings = {"seed": int(parts["seed"]), "model": {"name": parts.get("model", "cnn")}}
        for fold in range(3):
            write_run(
                folder / f"fold={fold},{name}", SPLIT, fold, skill=skill, seed=settings["seed"], settings=settings
            )
    return Study(None, sweep_dir=folder, why_no_images="gone")


def test_a_training_that_was_cut_off_is_found(tmp_path: Path) -> None:
    folder = curves(write_sweep(tmp_path / "sweep", folds=range(3), split=SPLIT), [1.0, 0.9, 0.8, 0.7, 0.6, 0.5])
    answer = stability(Study(None, sweep_dir=folder))
    (found,) = answer.findings
    assert found.level == "weakens"
    assert found.what.startswith("Training was cut off")
    assert found.number == 1.0
    table = answer.tables["convergence"]
    assert table["epochs"].tolist() == [6, 6, 6]
    assert table["best_epoch"].tolist() == [5, 5, 5]  # as in the report: counted from 0
    assert table["fall_in_last_quarter"].tolist() == pytest.approx([1 - 0.5 / 0.7] * 3)


@pytest.mark.parametrize(
    "loss", [[1.0, 0.6, 0.5, 0.5, 0.52, 0.55], [1.0, 0.6, 0.5, 0.5, 0.5, 0.499]], ids=["stopped", "flat"]
)
def test_a_training_that_converged_is_silent(tmp_path: Path, loss: list[float]) -> None:
    folder = curves(write_sweep(tmp_path / "sweep", folds=range(3), split=SPLIT), loss)
    answer = stability(Study(None, sweep_dir=folder))
    assert not answer.findings
    assert "more than 5% in the last quarter of its epochs for 0." in answer.notes[0]


def test_losses_that_are_not_finite() -> None:
    assert still_falling(np.array([np.nan, np.nan, np.nan, 0.4])) == (3, 0.0)
    assert still_falling(np.array([0.4])) == (0, 0.0)


def test_seeds_that_agree_are_silent(tmp_path: Path) -> None:
    answer = stability(grid(tmp_path, {f"seed={seed}": 3.0 for seed in range(3)}))
    assert not answer.findings
    table = answer.tables["seeds"]
    assert table["seed"].tolist() == [0, 1, 2]
    for row in table.itertuples():
        runs = [pd.read_csv(file) for file in tmp_path.glob(f"fold=*,seed={row.seed}/predictions.csv")]
        tested = pd.concat(runs).query("split == 'test'")
        assert row.accuracy == pytest.approx((tested["label"] == tested["prediction"]).mean())
    mean, sd = table["accuracy"].mean(), 100 * table["accuracy"].std()
    assert f"Accuracy over 3 seeds or splits: mean {mean:.1%}, standard deviation {sd:.1f} points." in answer.notes
    assert not any("stability over seeds" in note for note in answer.notes)
    assert any(note.startswith("Not possible: stability over splits; the sweep has one split") for note in answer.notes)


def test_a_lucky_seed_is_found(tmp_path: Path) -> None:
    answer = stability(grid(tmp_path, {"seed=0": 1.0, "seed=1": 1.0, "seed=2": 4.0}))
    (found,) = answer.findings
    assert found.level == "weakens"
    assert found.what.startswith("The accuracy depends on the seed")
    accuracy = answer.tables["seeds"]["accuracy"]
    assert found.number == pytest.approx(100 * (accuracy.max() - accuracy.min()))
    assert found.unit == "points"


def test_seeds_that_differ_by_chance_are_silent(tmp_path: Path) -> None:
    answer = stability(grid(tmp_path, {f"seed={seed}": 1.0 for seed in range(5)}))
    assert not answer.findings
    accuracy = answer.tables["seeds"]["accuracy"]
    assert accuracy.max() - accuracy.min() > 0.05


@pytest.mark.slow
def test_a_winner_that_changes_with_the_seed_is_found(tmp_path: Path) -> None:
    clear = {f"model={name},seed={seed}": skill for name, skill in (("a", 4.0), ("b", 1.0)) for seed in range(2)}
    answer = stability(grid(tmp_path / "clear", clear))
    assert not answer.findings
    assert answer.tables["method_ranks"]["method"].tolist() == ["model=a", "model=b"]
    assert answer.tables["method_ranks"]["mean_rank"].tolist() == [1.0, 2.0]
    close = {"model=a,seed=0": 3.2, "model=b,seed=0": 3.6, "model=a,seed=1": 3.6, "model=b,seed=1": 3.2}
    found = stability(grid(tmp_path / "close", close)).findings[-1]
    assert found.level == "weakens"
    assert "model=a: 1" in found.what
    assert "model=b: 1" in found.what
    assert found.number == 0.5


@pytest.mark.slow
def test_more_images_would_help_where_they_are_few(clean: Study, tmp_path: Path) -> None:
    alone = replace(clean, sweep_dir=None)
    few, many = (stability(stored(alone, tmp_path / str(skill), skill)) for skill in (2.0, 9.0))
    (found,) = few.findings
    assert found.level == "information"
    assert found.what.startswith("More images would help")
    table = few.tables["learning_curve"]
    assert table["share_of_patients"].tolist() == [0.25, 0.5, 1.0]  # a tenth is fewer than ten patients
    rise = table["balanced_accuracy"].iloc[-1] - table["balanced_accuracy"].iloc[-2]
    assert (found.number, found.unit) == (pytest.approx(100 * rise), "points")
    assert table["images"].iloc[-1] == round(0.8 * 99)
    assert not many.findings
    assert many.notes[-1].endswith("more images of the same kind would help little.")


def test_the_interval_is_that_of_the_balanced_accuracy() -> None:
    rng = np.random.default_rng(0)
    patients, labels = np.repeat(np.arange(40), 2), rng.integers(0, 3, 80)
    hits = rng.random(80) < 0.7
    values, drawn = class_means(hits[:, None].astype(float), labels, patients, 300, 5)
    value, interval = balanced_accuracy(hits, labels.astype(str), patients, 300, 5)
    assert values[0] == pytest.approx(value)
    assert percentile_interval(drawn[:, 0], 40) == pytest.approx(interval)


@pytest.mark.slow
def test_what_cannot_be_looked_at_is_said(clean: Study) -> None:
    answer = stability(clean)
    assert not [one for one in answer.findings if one.level != "information"]
    assert answer.notes[0] == "Not possible: training; no run logged a validation loss (curves/metrics.csv)."
    assert any(note.startswith("Not possible: stability over seeds; the sweep has one seed") for note in answer.notes)
    with pytest.raises(NotPossibleError, match=r"there is no sweep; .*; all images are of one class"):
        stability(altered(replace(clean, sweep_dir=None), label="Normal"))
