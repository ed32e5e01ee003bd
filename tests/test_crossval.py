"""The report from saved predictions: in seconds, without torch, one clear line for what is wrong."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score, recall_score, roc_auc_score

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.errors import CovidnetError, DataError, SettingError
from covidnet.crossval import PATHS, main
from covidnet.evaluation.results import UNDEFINED_ESTIMATE, from_json
from covidnet.launch.arguments import quoted
from covidnet.launch.command import compose
from covidnet.report.summary import SweepSummary
from covidnet.report.sweep.results import abstract
from covidnet.sweep.reports import card_of, report_sweeps, summaries_of
from tests.commands import command as run
from tests.refusals import refused
from tests.sweeps import split_table, write_run, write_sweep

FILES = {
    "report.html", "report.md", "model_card.html", "model_card.md", "table4.csv", "table5.csv", "table6.csv",
    "table7.csv", "summary.json",
}  # fmt: skip
QUICK = {"resamples": 200}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep(tmp_path_factory.mktemp("study") / "sweep")


@pytest.fixture(scope="module")
def summary(sweep: Path) -> SweepSummary:
    report_sweeps([sweep], **QUICK)
    return from_json(SweepSummary, json.loads((sweep / "report/summary.json").read_text()))


def predictions(sweep: Path, split: str) -> pd.DataFrame:
    return pd.concat([pd.read_csv(f) for f in sorted(sweep.glob("fold=*/predictions.csv"))]).query("split == @split")


def begun(*words: str) -> None:
    """The command in this process."""
    main(compose(quoted(words, PATHS), "crossval"))


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run("covidnet.crossval", *arguments, cwd=cwd, timeout=300)


def test_the_report_has_the_files_of_the_contract(sweep: Path, summary: SweepSummary) -> None:
    assert {file.name for file in (sweep / "report").iterdir()} == FILES
    assert summary.folds == list(range(10))
    assert summary.problems == []


def test_pooled_numbers_recompute_from_predictions(sweep: Path, summary: SweepSummary) -> None:
    table = predictions(sweep, "test")
    pooled = summary.pooled
    assert pooled.n == len(table) == table["image_id"].nunique()
    assert pooled.accuracy.value == pytest.approx(accuracy_score(table["label"], table["prediction"]))
    for label, column in zip(CLASSES, ("p_covid19", "p_normal", "p_pneumonia"), strict=True):
        told = pooled.classes[label]
        truth, called = table["label"] == label, table["prediction"] == label
        assert told.sensitivity.value == pytest.approx(recall_score(truth, called))
        assert told.specificity.value == pytest.approx(recall_score(~truth, ~called))
        assert told.f1.value == pytest.approx(f1_score(truth, called))
        assert told.auc.value == pytest.approx(roc_auc_score(truth, table[column]))


def test_fold_means_and_deviations_are_numpys(sweep: Path, summary: SweepSummary) -> None:
    table = predictions(sweep, "test")
    by_fold = [accuracy_score(t["label"], t["prediction"]) for _, t in table.groupby("fold")]
    assert summary.mean.accuracy == pytest.approx(np.mean(by_fold))
    assert summary.sd.accuracy == pytest.approx(np.std(by_fold, ddof=1))
    f1 = [f1_score(t["label"] == "Normal", t["prediction"] == "Normal") for _, t in table.groupby("fold")]
    assert summary.mean.classes["Normal"].f1 == pytest.approx(np.mean(f1))
    assert summary.sd.classes["Normal"].f1 == pytest.approx(np.std(f1, ddof=1))


def test_the_unseen_fold_is_told_by_model_by_choice_and_by_ensemble(sweep: Path, summary: SweepSummary) -> None:
    table = predictions(sweep, "unseen")
    columns = ["p_covid19", "p_normal", "p_pneumonia"]
    scores = {fold: accuracy_score(t["label"], t["prediction"]) for fold, t in table.groupby("fold")}
    assert summary.unseen.mean.accuracy == pytest.approx(np.mean(list(scores.values())))
    mean = table.groupby("image_id")[columns].mean()
    truth = table.groupby("image_id")["label"].first()
    ensemble = accuracy_score(truth, [CLASSES[k] for k in mean.to_numpy().argmax(1)])
    assert summary.unseen.ensemble.accuracy.value == pytest.approx(ensemble)
    val = {f: accuracy_score(t["label"], t["prediction"]) for f, t in predictions(sweep, "val").groupby("fold")}
    chosen = summary.selection.fold
    assert val[chosen] == max(val.values())
    assert summary.unseen.selected.accuracy.value == pytest.approx(scores[chosen])
    assert (
        scores[summary.selection.paper_fold]
        == max(scores.values())
        == pytest.approx(summary.unseen.paper_selected.accuracy.value)
    )


@pytest.mark.usefixtures("undrawn")
def test_the_papers_selection_is_labelled_a_selection_score(sweep: Path, tmp_path: Path) -> None:
    (summary,) = report_sweeps([sweep], selection="paper", report_dir=tmp_path, **QUICK)
    assert summary.selection.fold == summary.selection.paper_fold
    assert "selection score" in summary.selection.label
    assert "selection score" in (tmp_path / "report.html").read_text()
    assert any("selection=paper" in note for note in summary.notes)


@pytest.mark.slow
def test_the_same_predictions_give_the_same_report(sweep: Path, summary: SweepSummary, tmp_path: Path) -> None:
    report_sweeps([sweep], report_dir=tmp_path, **QUICK)
    for file in FILES:
        assert (tmp_path / file).read_bytes() == (sweep / "report" / file).read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_guessing_models_have_a_best_above_chance_and_the_report_says_why(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "coins", split=split_table(per_fold=52), skill=0.0)
    (summary,) = report_sweeps([folder], **QUICK)
    told = summary.selection
    assert told.data.best > 1 / 3 + 0.02
    assert told.data.best == pytest.approx(told.chance.expected_best, abs=0.05)
    assert told.data.split_half_optimism > 0.02
    low, high = summary.pooled.accuracy.ci
    assert low < 1 / 3 < high
    text = (folder / "report/report.md").read_text()
    assert "What selecting the best model adds" in text
    assert "as many guessing models" in text


def test_models_without_validation_are_not_selected_by_it(tmp_path: Path) -> None:
    folder = write_sweep(
        tmp_path / "sweep",
        settings={"split": {"validation": "none"}},
        change=lambda table: table[table["split"] != "val"],
    )
    _, (summary,) = summaries_of([folder], **QUICK)
    assert summary.selection.fold is None
    assert summary.unseen.selected is None
    assert "no model is selected" in summary.selection.label


@pytest.mark.slow
def test_what_can_be_reported_is_and_what_cannot_is_named(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep", [0, 1, 2])
    (folder / "fold=3").mkdir()
    (folder / "fold=3/train.log").write_text(
        "2026-01-01 10:00:00,0 ERROR covidnet.launch.command: error: out of images\n"
    )
    done = command(f"sweep_dir={folder}", "resamples=200", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "fold=3: the run did not finish: out of images" in done.stderr
    assert "folds 3, 4, 5, 6, 7, 8, 9: no finished run" in done.stderr
    assert done.stdout.strip().splitlines()[-1] == f"Report: {folder}/report/report.html"
    assert "out of images" in (folder / "report/report.html").read_text()
    assert "Leaks of the split" in json.loads((folder / "report/summary.json").read_text())["audit"]["ran"]


@pytest.mark.parametrize("with_split", [True, False])
def test_patients_and_images_in_several_folds_are_counted_whatever_the_settings_say(
    tmp_path: Path, with_split: bool
) -> None:
    split = split_table()
    split.loc[split["fold"] > 7, "patient_id"] = "everywhere"
    split.loc[split["fold"] == 0, "patient_id"] = np.nan
    folder = write_sweep(tmp_path / "sweep", split=split)
    if not with_split:
        for file in folder.glob("*/split.csv"):
            file.unlink()
    (told,) = summaries_of([folder], resamples=100)[1]
    known = split["patient_id"].nunique()
    assert any(
        note.startswith(f"1 of {known} known patients is in more than one fold, so in both training and test")
        for note in told.notes
    )
    assert any(note.startswith("The patient of 18 of 198 images is unknown; each") for note in told.notes)


def test_an_image_of_test_and_unseen_is_in_two_folds(tmp_path: Path) -> None:
    def twice(table: pd.DataFrame) -> pd.DataFrame:
        test, unseen = (table.index[table["split"] == part][0] for part in ("test", "unseen"))
        table.loc[unseen, "image_id"] = table.loc[test, "image_id"]
        return table

    folder = write_run(tmp_path / "fold=0", split_table(), 0, change=twice)
    (folder / "split.csv").unlink()
    (told,) = summaries_of([folder], resamples=100)[1]
    assert any(note.startswith("1 of 35 images is in more than one fold") for note in told.notes)


def test_the_summary_says_n_and_patients_and_what_is_absent(summary: SweepSummary) -> None:
    first, lines = abstract(summary)
    assert first.text.endswith("In brackets: 95% intervals.")
    assert f"of 180 predictions, on images of {summary.pooled.patients} patients, are correct" in lines.items[0]
    assert "of 60 images and the specificity is " in lines.items[1]
    assert "of 120 images of the other classes" in lines.items[1]
    assert "the selected model, that of fold" in lines.items[2]
    assert "the mean of all models' probabilities (the ensemble) is correct for" in lines.items[3]
    pooled = summary.pooled
    covid = replace(pooled.classes["COVID-19"], support=0, sensitivity=UNDEFINED_ESTIMATE)
    absent = abstract(replace(summary, pooled=replace(pooled, classes={**pooled.classes, "COVID-19": covid})))[1]
    assert "There are no images of COVID-19, so its sensitivity is undefined; the specificity is " in absent.items[1]


def test_a_report_is_written_through_no_link(tmp_path: Path) -> None:
    sweep, other = write_sweep(tmp_path / "sweep", folds=range(2)), tmp_path / "other"
    other.mkdir()
    (other / "report.md").write_text("thesis")
    (sweep / "report").symlink_to(other)
    with pytest.raises(DataError, match=r"report: a link that leads out .* remove it"):
        report_sweeps([sweep], **QUICK)
    (sweep / "report").unlink()
    (sweep / "report").mkdir()
    (sweep / "report/report.md").symlink_to(other / "report.md")
    with pytest.raises(DataError, match=r"report\.md: a link that leads out"):
        report_sweeps([sweep], **QUICK)
    assert [(file.name, file.read_text()) for file in other.iterdir()] == [("report.md", "thesis")]


def test_nor_is_that_of_a_grid(tmp_path: Path) -> None:
    grid, other, split = tmp_path / "grid", tmp_path / "other", split_table()
    other.mkdir()
    for model in ("a", "b"):
        write_run(grid / f"fold=0,model={model}", split, 0, settings={"model": {"name": model}})
    (grid / "report").symlink_to(other)
    with pytest.raises(DataError, match=r"report: a link that leads out"):
        report_sweeps([grid], **QUICK)
    assert not list(other.iterdir())


@pytest.mark.parametrize("seed", [-1, 1.5, "x", True])
def test_a_seed_that_is_none_is_one_line(sweep: Path, seed: Any) -> None:
    with refused("seed", seed, "an integer of at least 0"):
        report_sweeps([sweep], resamples=100, seed=seed)


@pytest.mark.usefixtures("undrawn")
def test_two_sweeps_are_compared_and_other_splits_refused(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweep", range(3))
    other = write_sweep(tmp_path / "other", range(3), seed=1, skill=0.3, settings={"model": {"name": "cnn"}})
    foreign = write_sweep(tmp_path / "foreign", range(3), split=split_table(seed=4))
    summaries = report_sweeps([sweep, other], names=["one", "two"], report_dir=tmp_path / "report", **QUICK)
    assert [s.name for s in summaries] == ["one", "two"]
    text = (tmp_path / "report/report.html").read_text()
    assert "McNemar" in text
    table = pd.read_csv(tmp_path / "report/table7.csv")
    assert {"one", "two"} <= set(table["name"].dropna())
    with pytest.raises(DataError, match="different splits cannot be compared"):
        report_sweeps([sweep, foreign], report_dir=tmp_path / "report", **QUICK)


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_identical_sweeps_differ_by_nothing(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweep", range(3))
    copy = shutil.copytree(sweep, tmp_path / "copy")
    report_sweeps([sweep, copy], report_dir=tmp_path / "report", **QUICK)
    (told,) = json.loads((tmp_path / "report/comparisons.json").read_text())
    assert told["mcnemar"]["p"] == told["t_test"]["p"] == 1.0
    assert {test["p"] for test in told["delong"].values()} == {1.0}


@pytest.mark.slow
def test_the_command_is_without_torch_and_pyplot(tmp_path: Path, sweep: Path) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['crossval', 'sweep_dir={sweep}', 'resamples=200', 'report_dir={tmp_path}/r']\n"
        "runpy.run_module('covidnet.crossval', run_name='__main__')\n"
        "print(sorted({'torch', 'pytorch_lightning', 'torchvision', 'matplotlib.pyplot'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip().splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sweep_dir=nowhere"], "no such folder"),
        (["sweep_dir=."], "nothing to report"),
        (["sweep_dir={sweep}", "selection=best"], "selection=best: must be one of inner, paper"),
        (["sweep_dir={sweep}", "resamples=3"], "resamples=3"),
        (["sweep_dir={sweep}", "names=[a,b]"], "1 different names"),
        (["sweep_dir=[{sweep},{sweep}/.]"], "is given twice"),
        (["sweep_dir="], "sweep_dir=: must be the folder of a sweep"),
        (["sweep_dir={sweep}", "only=[a,b]"], "only="),
    ],
)
def test_a_slip_is_one_line(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CovidnetError, match=re.escape(words)) as caught:
        begun(*(argument.format(sweep=sweep) for argument in arguments))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "sweep_dir=: must be the folder of a sweep"),
        (["sweep_dir={sweep}", "report_dir=/proc/none"], "give another folder with report_dir=DIR"),
    ],
)
def test_the_command_answers_a_slip_with_one_line(
    sweep: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    done = command(*(argument.format(sweep=sweep) for argument in arguments), cwd=tmp_path)
    assert done.returncode != 0
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_sweeps_of_one_name_are_told_apart_by_their_path(tmp_path: Path) -> None:
    for study in ("x", "y"):
        write_sweep(tmp_path / study / "sweep", [0, 1])
    _, summaries = summaries_of([tmp_path / "x/sweep", tmp_path / "y/sweep"], **QUICK)
    assert [s.name for s in summaries] == ["x/sweep", "y/sweep"]
    with pytest.raises(SettingError, match="2 different names"):
        summaries_of([tmp_path / "x/sweep", tmp_path / "y/sweep"], names=["a"])


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_fold_of_one_class_alone_is_reported_with_gaps(tmp_path: Path) -> None:
    folder, split = write_sweep(tmp_path / "sweep", [0, 1]), split_table()
    write_run(folder / "fold=2", split, 2, change=lambda t: t[(t["split"] != "test") | (t["label"] == "Normal")])
    (summary,) = report_sweeps([folder], **QUICK)
    assert summary.per_fold[2].test.classes["COVID-19"].sensitivity is None
    assert sum("no images of" in problem for problem in summary.problems) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_the_seeds_of_one_sweep_can_be_compared(tmp_path: Path) -> None:
    folder, split = tmp_path / "sweep", split_table()
    for seed in (0, 1):
        for fold in range(3):
            write_run(folder / f"fold={fold},seed={seed}", split, fold, seed=seed, settings={"seed": seed})
    chosen = ["seed=0", "seed=1"]
    summaries = report_sweeps([folder, folder], only=chosen, report_dir=tmp_path / "report", **QUICK)
    assert [s.name for s in summaries] == ["sweep seed=0", "sweep seed=1"]
    text = (tmp_path / "report/report.md").read_text()
    assert f"'sweep_dir=[{folder},{folder}]' \"only=['seed=0','seed=1']\" resamples=200" in text.replace(
        '"sweep', "'sweep"
    ).replace(']" "', "]' \"")
    assert (tmp_path / "report/comparisons.json").exists()
    report_sweeps([folder], only=["seed=0"], report_dir=tmp_path / "report", **QUICK)
    assert not (tmp_path / "report/comparisons.json").exists()


@pytest.mark.usefixtures("undrawn")
def test_a_part_of_a_sweep_is_reported_in_a_folder_of_its_own(tmp_path: Path) -> None:
    for fold in range(2):
        write_run(tmp_path / f"sweep/fold={fold}", split_table(), fold)
    (summary,) = report_sweeps([tmp_path / "sweep"], only=["fold=1"], **QUICK)
    assert [path.name for path in (tmp_path / "sweep/report").iterdir()] == ["fold=1"]
    told = json.loads((tmp_path / "sweep/report/fold=1/summary.json").read_text())
    assert told["folds"] == list(summary.folds) == [1]


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of model a, one of b, and a group of which no run has finished."""
    folder, split = tmp_path_factory.mktemp("grid") / "sweep", split_table()
    for group, skill in (("model=a,seed=0", 3.0), ("model=a,seed=1", 3.0), ("model=b,seed=0", 0.0)):
        model, seed = group[6], int(group[-1])
        for fold in range(2):
            settings = {"seed": seed, "model": {"name": model}}
            write_run(folder / f"fold={fold},{group}", split, fold, seed=seed, skill=skill, settings=settings)
    stopped = folder / "fold=0,model=b,seed=1"
    stopped.mkdir()
    (stopped / "train.log").write_text("2026-01-01 10:00:00,0 ERROR covidnet.launch.command: error: out of images\n")
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_grid_has_a_report_of_each_group_and_a_table_of_methods_and_seeds(
    grid: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begun(f"sweep_dir={grid}", "resamples=100")
    # A group without a finished run is named, and stops no other.
    (line,) = [line for line in caplog.messages if "model=b,seed=1" in line]
    assert "model=b,seed=1: left out: " in line
    assert "the run did not finish: out of images" in line
    table = pd.read_csv(grid / "report/grid.csv").query("metric == 'accuracy'").set_index("method")
    assert list(table.index) == ["model=a", "model=b"]
    assert dict(table["n"]) == {"model=a": 2, "model=b": 1}
    assert set(table["folds"]) == {2}
    for model, seeds in (("a", (0, 1)), ("b", (0,))):
        values = []
        for seed in seeds:
            group = f"model={model},seed={seed}"
            told = json.loads((grid / f"report/{group}/summary.json").read_text())
            assert told["problems"][0].startswith("folds 2, 3")
            rows = pd.concat([pd.read_csv(grid / f"fold={n},{group}/predictions.csv") for n in (0, 1)])
            rows = rows[rows["split"] == "test"]
            values.append((rows["label"] == rows["prediction"]).mean())
        row = table.loc[f"model={model}"]
        assert [row[f"seed={seed}"] for seed in seeds] == pytest.approx(values)
        assert row["mean"] == pytest.approx(np.mean(values))
        assert row["sd"] == pytest.approx(np.std(values, ddof=1) if len(values) > 1 else np.nan, nan_ok=True)
    assert "model=a & accuracy &" in (grid / "report/grid.tex").read_text()
    assert set(pd.read_csv(grid / "report/repeats.csv")["method"]) == {"model=a"}
    for seed in (0, 1):
        notes = json.loads((grid / f"report/model=a,seed={seed}/summary.json").read_text())["notes"]
        assert notes[-1].startswith("This is one of ")
    # Its command writes it again, in its place.
    written = {name: (grid / f"report/model=a,seed=1/{name}").read_bytes() for name in ("report.md", "summary.json")}
    (said,) = [line for line in written["report.md"].decode().splitlines() if "covidnet.crossval sweep_dir" in line]
    assert said.endswith(" only=model=a,seed=1 resamples=100")
    shutil.rmtree(grid / "report")
    begun(*shlex.split(said)[3:])
    assert {name: (grid / f"report/model=a,seed=1/{name}").read_bytes() for name in written} == written
    assert [path.name for path in (grid / "report").iterdir()] == ["model=a,seed=1"]
    # As --help writes it, without quotes.
    with pytest.raises(SettingError) as caught:
        begun(f"sweep_dir={grid}", "only=model=c,seed=1")
    groups = "model=a,seed=0; model=a,seed=1; model=b,seed=0; model=b,seed=1"
    assert str(caught.value) == (
        f"only=model=c,seed=1: must be part of a run folder's name in {grid}; choose from {groups}"
    )


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_part_of_a_grid_is_reported_by_its_groups(grid: Path, tmp_path: Path) -> None:
    summaries = report_sweeps([grid], only=["seed=0"], report_dir=tmp_path, resamples=100)
    assert [summary.model["name"] for summary in summaries] == ["a", "b"]
    assert {path.name for path in tmp_path.iterdir()} == {"model=a,seed=0", "model=b,seed=0", "grid.csv", "grid.tex"}
    with refused("unseen", "closed", "open"):
        report_sweeps([grid], unseen="closed")
    # The card of a part of a group is not the group's.
    one, whole = (card_of(grid, only) for only in ("fold=0,model=a,seed=0", "model=a,seed=0"))
    assert "the model of fold 0" in one
    assert one != whole


@pytest.mark.slow
def test_jobs_that_fail_alike_say_so_once_and_each_log_has_it(tmp_path: Path) -> None:
    words = ("-m", "fold=0,1", "data=folder", "data.root=nowhere", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    done = run("covidnet.train", *words, cwd=tmp_path)
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if "nowhere: no such folder" in line]
    # When it happened, and as the last word.
    assert len(said) == 2
    assert said[-1] == done.stderr.splitlines()[-1]
    for fold in range(2):
        assert (tmp_path / f"sweep/fold={fold}/train.log").read_text().count("nowhere: no such folder") == 1


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_the_report_says_how_it_was_asked_for_and_gives_an_area_one_interval(sweep: Path, tmp_path: Path) -> None:
    (summary,) = report_sweeps([sweep], report_dir=tmp_path, selection="paper", resamples=300, seed=4)
    assert "selection=paper resamples=300 seed=4" in (tmp_path / "report.html").read_text()
    for label in CLASSES:
        assert summary.curves.pooled[label].roc.auc == summary.pooled.classes[label].auc


def test_the_card_of_a_sweep_is_the_one_beside_its_report(sweep: Path, summary: SweepSummary) -> None:
    card = card_of(sweep)
    assert card == (sweep / "report/model_card.md").read_text()
    low, high = summary.pooled.accuracy.ci
    assert f"{100 * summary.pooled.accuracy.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]" in card


def test_the_card_of_one_run_is_made_from_its_predictions(sweep: Path) -> None:
    run = sweep / "fold=3"
    (run / "checkpoints").mkdir(exist_ok=True)
    (run / "checkpoints/best.ckpt").write_bytes(b"")
    before = sorted(path.name for path in run.iterdir())
    card = card_of(run)
    table = pd.read_csv(run / "predictions.csv").query("split == 'test'")
    assert f"| Accuracy | {100 * accuracy_score(table['label'], table['prediction']):.1f} [" in card
    assert "500 resamples; too few for a stable interval" in card
    assert "the model of fold 3" in card
    assert str(sweep) not in card
    assert card_of(run / "checkpoints/best.ckpt") == card
    assert sorted(path.name for path in run.iterdir()) == before
    with pytest.raises(DataError, match="no such folder"):
        card_of(sweep / "fold=33")


def test_a_reader_who_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    code = f"{sys.executable} -m covidnet.train --help | head -2"
    done = subprocess.run(["bash", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "error" not in done.stderr
