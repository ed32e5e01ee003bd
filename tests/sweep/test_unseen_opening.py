"""The unseen fold: how often it was scored is counted, and a locked one stays out until it is opened."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from omegaconf import OmegaConf

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.errors import DataError, WeightsError
from covidnet.data.folds.unseen_ledger import UnseenLedger
from covidnet.evaluation.predictions import read_predictions
from covidnet.external.training_results import study_numbers
from covidnet.fold.setup import FoldSetup
from covidnet.launch.command import compose
from covidnet.sweep.folder import read_sweep
from covidnet.sweep.reports import card_of, report_sweeps, summaries_of
from covidnet.sweep.summary import unseen_use
from tests.refusals import refused
from tests.sweeps import write_sweep

Train = Callable[..., Path]
FEW = {"resamples": 100}


def entered(tmp_path: Path, folds: int = 3, *, ledger: bool = True, counted: int | None = None) -> Path:
    """A sweep whose runs are in the ledger, or only say that they are."""
    folder = write_sweep(tmp_path / "sweep", range(folds))
    kept = UnseenLedger.of(tmp_path / "cache", "abc")
    for fold in range(folds):
        total = kept.add("run", f"id{fold}", {}) if ledger else None
        file = folder / f"fold={fold}/environment.json"
        unseen = {"setting": "scored", "run_id": f"id{fold}", "ledger": str(kept.folder), "scored_in": counted or total}
        file.write_text(json.dumps({**json.loads(file.read_text()), "unseen": unseen}))
    return folder


def words(folder: Path) -> str:
    return unseen_use(read_sweep(folder)).words or ""


def without_unseen(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["split"] != "unseen"]


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    return write_sweep(tmp_path / "sweep", settings={"unseen": "locked"}, change=without_unseen)


# How often


def test_the_runs_of_other_sweeps_count_too(tmp_path: Path) -> None:
    folder = entered(tmp_path)
    assert words(folder) == "has been scored in 3 runs (runs with another cache_dir are not counted)"
    UnseenLedger.of(tmp_path / "cache", "abc").add("run", "another", {})
    assert words(folder) == "has been scored in 4 runs (runs with another cache_dir are not counted)"


def test_a_cache_that_lacks_runs_gives_a_lower_bound(tmp_path: Path) -> None:
    folder = entered(tmp_path)
    (tmp_path / "cache/unseen/abc/run-id1.json").unlink()
    assert "in at least 3 runs (the cache does not have all of them)" in words(folder)


def test_a_deleted_cache_is_noticed_by_what_the_runs_remember(tmp_path: Path) -> None:
    folder = entered(tmp_path, counted=12)
    assert "in at least 12 runs" in words(folder)


@pytest.mark.parametrize("known", [True, False])
def test_without_a_ledger_the_sweep_counts_its_own_runs(tmp_path: Path, known: bool) -> None:
    folder = entered(tmp_path, ledger=False) if known else write_sweep(tmp_path / "sweep", range(3))
    assert "in at least 3 runs" in words(folder)


@pytest.mark.usefixtures("undrawn")
def test_the_report_says_it_and_no_longer_that_it_was_looked_at_once(tmp_path: Path) -> None:
    folder = entered(tmp_path)
    (summary,) = report_sweeps([folder], **FEW)
    said = "the unseen fold was not used for selection and has been scored in 3 runs (runs with another cache_dir"
    assert said in summary.selection.label
    for name in ("report.md", "model_card.md", "report.html"):
        text = (folder / "report" / name).read_text()
        assert said in text
        assert "looked at once" not in text


# Locked


def test_a_locked_fold_is_not_opened_through_a_link(locked: Path, tmp_path: Path) -> None:
    (locked / "fold=3").rename(tmp_path / "elsewhere")
    (locked / "fold=3").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"fold=3: a link that leads out"):
        report_sweeps([locked], unseen="open", cache_dir=tmp_path / "cache", **FEW)
    assert not (tmp_path / "elsewhere/unseen.csv").exists()
    assert not (locked / "unseen.json").exists()


@pytest.mark.usefixtures("undrawn")
def test_a_locked_sweep_is_reported_without_the_unseen_fold(locked: Path) -> None:
    (summary,) = report_sweeps([locked], **FEW)
    assert summary.problems == []
    assert summary.unseen is None
    assert summary.selection.fold is not None
    assert summary.selection.paper_fold is None
    assert summary.calibration.ensemble_unseen is None
    # Table 4 counts images: those of the split.
    assert summary.data.classes["Normal"].unseen == 6
    text = (locked / "report/report.md").read_text()
    assert "no run of this sweep has scored the unseen fold (whether others did is unknown)" in text
    assert "Accuracy: unseen" not in text
    assert "Unseen fold, ensemble" not in text + (locked / "report/model_card.md").read_text()
    assert "Unseen fold" not in card_of(locked / "fold=3")


@pytest.mark.usefixtures("undrawn")
def test_a_locked_sweep_is_compared_with_another(locked: Path, tmp_path: Path) -> None:
    first, second = report_sweeps([locked, write_sweep(tmp_path / "other", seed=4)], **FEW)
    assert first.unseen is None
    assert second.unseen.ensemble.n == 18


def test_the_study_of_a_locked_model_has_its_test_folds_alone(locked: Path) -> None:
    for folds in ((0,), (0, 1)):
        folders = [locked / f"fold={fold}" for fold in folds]
        assert set(study_numbers(folders, [None] * len(folders), **FEW, seed=0, classes=CLASSES)) == {"test"}


def test_the_papers_selection_is_refused_where_the_fold_is_locked(locked: Path) -> None:
    with refused("selection", "paper", "inner", "the unseen fold is locked"):
        summaries_of([locked], selection="paper", **FEW)
    settings: Any = OmegaConf.to_container(compose(["unseen=locked", "selection=paper"]))
    with refused("selection", "paper", "inner with unseen=locked"):
        FoldSetup(settings)
    with refused("unseen", "open", ("scored", "locked")):
        FoldSetup({**settings, "unseen": "open"})


def test_runs_that_scored_the_fold_are_no_study_with_locked_ones(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep", range(5))
    write_sweep(folder, range(5, 10), settings={"unseen": "locked"}, change=without_unseen)
    problems = read_sweep(folder).problems
    assert any("unseen=locked, not None" in problem for problem in problems)


# Opened


def test_what_is_not_locked_is_not_opened(tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_sweep(tmp_path / "sweep")
    summaries_of([folder], unseen="open", cache_dir=cache, **FEW)
    assert "nothing to open" in caplog.text
    assert not (folder / "unseen.json").exists()
    with refused("unseen", "closed", "open"):
        summaries_of([folder], unseen="closed", **FEW)


def test_without_a_checkpoint_nothing_is_opened(locked: Path, cache: Path) -> None:
    with pytest.raises(WeightsError, match=r"best\.ckpt: no such file; train fold 0 again"):
        summaries_of([locked], unseen="open", cache_dir=cache, **FEW)
    assert not (locked / "unseen.json").exists()


# A network that learns pixels needs no feature store, and its few weights no time.
SMALL = ("fold=2", "model=resnet8", "data.images_per_class=22", "split.copies=bytes", "trainer.max_epochs=1")


@pytest.fixture(scope="module")
def scored_run(train: Train) -> Path:
    return train(*SMALL, "explain=off")


@pytest.fixture(scope="module")
def locked_run(train: Train, scored_run: Path) -> Path:
    return train(*SMALL, "unseen=locked", "explain.sanity_images=0")


def ledger_of(run: Path) -> UnseenLedger:
    return UnseenLedger(Path(json.loads((run / "environment.json").read_text())["unseen"]["ledger"]))


def test_a_locked_run_leaves_the_fold_alone(scored_run: Path, locked_run: Path) -> None:
    own = json.loads((scored_run / "environment.json").read_text())["unseen"]["run_id"]
    other = json.loads((locked_run / "environment.json").read_text())["unseen"].get("run_id")
    names = ledger_of(scored_run).names("run") or set()
    assert own in names
    assert other not in names
    whole, table = (read_predictions(folder / "predictions.csv") for folder in (scored_run, locked_run))
    assert set(table["split"]) == {"val", "test"}
    pd.testing.assert_frame_equal(without_unseen(whole), table)
    assert json.loads((locked_run / "metrics.json").read_text())["splits"]["unseen"]["n"] == 0
    assert "unseen" not in (locked_run / "curves/metrics.csv").read_text()
    content = json.loads((locked_run / "explanations/explanations.json").read_text())
    assert content["part"] == "test"
    assert content["panels"][:3] == [f"panels/test-{label}.png" for label in CLASSES]
    split = pd.read_csv(locked_run / "split.csv").set_index("image_id")["fold"]
    assert set(split[pd.read_csv(locked_run / "explanations/localisation.csv")["image_id"]]) == {2}


def test_opening_a_locked_fold_gives_what_the_run_would_have_predicted(
    scored_run: Path, locked_run: Path, cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run, ledger = shutil.copytree(locked_run, tmp_path / "run"), ledger_of(scored_run)
    before = len(ledger.names("run") or ())
    opened = {"unseen": "open", "cache_dir": cache, **FEW}

    # Opened once: the same predictions, one run more in the ledger.
    _, (summary,) = summaries_of([run], **opened)
    whole = read_predictions(scored_run / "predictions.csv")
    unseen = whole[whole["split"] == "unseen"].reset_index(drop=True)
    pd.testing.assert_frame_equal(read_predictions(run / "unseen.csv"), unseen)
    assert set(read_predictions(run / "predictions.csv")["split"]) == {"val", "test"}
    assert len(ledger.names("run") or ()) == before + 1
    assert len(ledger.names("opening") or ()) == 1
    assert summary.unseen.ensemble.n == len(unseen)
    assert any("has been opened once" in note for note in summary.notes)

    # Opened twice: said, counted, and not scored again.
    _, (summary,) = summaries_of([run], **opened)
    assert "the unseen fold was opened before" in caplog.text
    assert any("has been opened 2 times" in note for note in summary.notes)
    assert len(ledger.names("run") or ()) == before + 1
    # The sweep folder's record may go; the ledger has it too.
    (run / "unseen.json").unlink()
    _, (summary,) = summaries_of([run], **FEW)
    assert any("has been opened 2 times" in note for note in summary.notes)


@pytest.mark.slow
def test_opening_a_grid_opens_its_finished_groups_together_and_names_the_others(
    locked_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Other tests are of what it writes.
    monkeypatch.setattr("covidnet.report.write.write_report", lambda *args, **kwargs: None)
    grid, cache = tmp_path / "grid", tmp_path / "cache"
    shutil.copytree(locked_run, grid / "fold=2,seed=0")
    shutil.copytree(locked_run, grid / "fold=2,seed=2")
    (grid / "fold=2,seed=1").mkdir()
    (grid / "fold=2,seed=1/train.log").write_text("")
    summaries = report_sweeps([grid], unseen="open", cache_dir=cache, **FEW)
    assert [summary.arguments["only"] for summary in summaries] == ["seed=0", "seed=2"]
    assert all(summary.unseen.ensemble.n for summary in summaries)
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert line.startswith("seed=1: left out: ")
    # They were opened at one time.
    assert len(json.loads((grid / "unseen.json").read_text())["openings"]) == 1
    # What nothing has finished in is one line, and nothing is opened.
    for folder in grid.glob("fold=*"):
        (folder / "predictions.csv").unlink(missing_ok=True)
    with pytest.raises(DataError, match="nothing to report"):
        report_sweeps([grid], unseen="open", cache_dir=cache, **FEW)
    assert len(json.loads((grid / "unseen.json").read_text())["openings"]) == 1
