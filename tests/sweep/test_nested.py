"""Nested selection: every fold is once the unseen one, and its labels select nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score, recall_score

from covidnet.base.caveats import Caveat
from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.errors import DataError, SettingError
from covidnet.data.folds.splits import exchanged
from covidnet.evaluation.nested import compared_estimates
from covidnet.evaluation.selection import Candidate, choose
from covidnet.report.rendering.html import page_of
from covidnet.report.rendering.markdown import markdown_of
from covidnet.report.sweep.nested import nested_document, nested_table, outer_note, outer_of
from covidnet.sweep.folder import groups_of, read_sweep
from covidnet.sweep.nested import NestedStudy, nested_study
from covidnet.sweep.reports import report_sweeps
from tests.commands import command
from tests.conftest import quickly
from tests.sweeps import split_table, write_nested, write_run


def read(root: Path, **more: Any) -> NestedStudy:
    sweeps = {group: read_sweep(root, only=group) for group in groups_of(root)}
    return nested_study("", sweeps, **{"resamples": 100, "seed": 0, **more})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nested(tmp_path_factory.mktemp("nested"), skill=0.8)


@pytest.fixture(scope="module")
def study(whole: Path) -> NestedStudy:
    return read(whole)


def test_every_image_is_unseen_once_and_predicted_by_the_model_that_validation_selects(
    whole: Path, study: NestedStudy
) -> None:
    drawn = split_table().set_index("image_id")["fold"]
    for _, rows in study.predictions.groupby("by"):
        assert sorted(rows["image_id"]) == sorted(drawn.index)
        assert (rows["image_id"].map(drawn) == rows["outer_fold"]).all()
    for outer in study.scores.outer:
        tables = {
            fold: pd.read_csv(whole / f"fold={fold},split.unseen_fold={outer.fold}/predictions.csv")
            for fold in range(10)
        }
        right = {
            part: {fold: (t["prediction"] == t["label"])[t["split"] == part].mean() for fold, t in tables.items()}
            for part in ("val", "test", "unseen")
        }
        assert right["val"][outer.selected] == max(right["val"].values()) == pytest.approx(outer.validation)
        assert outer.models == pytest.approx(list(right["unseen"].values()))
        assert outer.test == pytest.approx(np.mean(list(right["test"].values())))
        unseen = [t[t["split"] == "unseen"].sort_values("image_id") for t in tables.values()]
        mean = np.mean([t[list(CLASSES.columns)].to_numpy() for t in unseen], axis=0)
        labels = unseen[0]["label"].to_list()
        assert outer.ensemble == pytest.approx(accuracy_score(labels, [CLASSES[at] for at in mean.argmax(1)]))


def test_the_pooled_table_is_that_of_scikit_learn(study: NestedStudy) -> None:
    for by, found in (("selected", study.scores.selected), ("ensemble", study.scores.ensemble)):
        rows = study.predictions[study.predictions["by"] == by]
        truth, predicted = rows["label"], rows["prediction"]
        assert found.accuracy.value == pytest.approx(accuracy_score(truth, predicted))
        for label in CLASSES:
            one, positive, called = found.classes[label], truth == label, predicted == label
            assert one.sensitivity.value == pytest.approx(recall_score(positive, called))
            assert one.specificity.value == pytest.approx(recall_score(~positive, ~called))
            assert one.f1.value == pytest.approx(f1_score(positive, called))
            assert all(one.of(metric).ci is not None for metric in ("sensitivity", "specificity", "f1"))


def test_the_estimates_are_differences_from_nested_selection(study: NestedStudy) -> None:
    found = {one.key: one for one in compared_estimates(study.scores)}
    table = nested_table({"": study.scores})
    nested = study.scores.selected.accuracy.value
    assert nested is not None
    # Equal folds: the mean of the outer folds is the pooled accuracy.
    assert table["selected"].mean() == pytest.approx(nested)
    for key, column in (
        ("models", "models_mean"), ("test", "test_mean"), ("validation", "validation"), ("best", "models_best")
    ):  # fmt: skip
        assert found[key].accuracy.value == pytest.approx(table[column].mean())
        assert found[key].optimism == pytest.approx(table[column].mean() - nested)
        assert found[key].accuracy.ci is None
    assert found["selected"].optimism is None
    # Models that differ by chance alone: the selected one's own validation is too good, and so is the best unseen one.
    assert found["validation"].optimism > 0.05  # type: ignore[operator]
    assert found["best"].optimism > 0.05  # type: ignore[operator]


def test_permuted_labels_of_the_outer_folds_select_the_same_models(study: NestedStudy, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)

    def permuted(table: pd.DataFrame) -> pd.DataFrame:
        unseen = table["split"] == "unseen"
        return table.assign(label=table["label"].where(~unseen, rng.permutation(table["label"])))

    write_nested(tmp_path, [0, 5, 10], skill=0.8, change=permuted)
    for file in tmp_path.glob("*/split.csv"):
        file.unlink()  # its labels would contradict these
    after, before = read(tmp_path).scores.outer, study.scores.outer[::5]
    assert [one.selected for one in after] == [one.selected for one in before]
    assert [one.validation for one in after] == [one.validation for one in before]
    assert all(one.accuracy != other.accuracy for one, other in zip(after, before, strict=True))
    candidates = [Candidate(fold, val_accuracy=fold / 10, unseen_accuracy=1 - fold / 10) for fold in range(10)]
    assert choose(candidates, "inner") == 9


def test_an_incomplete_outer_fold_is_left_out_and_named(tmp_path: Path) -> None:
    write_nested(tmp_path, [0, 3, 10], skip=(3, 7))
    failed = tmp_path / "fold=7,split.unseen_fold=3"
    failed.mkdir()
    (failed / "train.log").write_text("2026-11-28 10:00:00 ERROR covidnet: data.root=DIR: gone\n")
    report_sweeps([tmp_path], resamples=100)
    (found,) = json.loads((tmp_path / "report/nested.json").read_text())["studies"].values()
    assert [one["fold"] for one in found["outer"]] == [0, 10]
    problems = "\n".join(found["problems"])
    assert "split.unseen_fold=3: left out: 9 of 10 models have finished" in problems
    assert "fold=7,split.unseen_fold=3: the run did not finish: data.root=DIR: gone" in problems
    assert "covers 2 of 11 outer folds; incomplete or missing: 1, 2, 3, 4, 5, 6, 7, 8, 9." in problems
    page = (tmp_path / "report/nested.html").read_text()
    assert "9 of 10 models have finished" in page


def test_an_outer_fold_of_another_draw_or_other_settings_is_left_out(tmp_path: Path) -> None:
    write_nested(tmp_path, [0])
    write_nested(tmp_path, [1], split=split_table(seed=5))
    for fold in range(10):
        table = split_table().assign(fold=lambda t: t["fold"].map(lambda f: exchanged(f, 2)))
        write_run(tmp_path / f"fold={fold},split.unseen_fold=2", table, fold,
                  settings={"split": {"unseen_fold": 2}, "optim": {"lr": 1.0}})  # fmt: skip
    scores = read(tmp_path).scores
    assert [one.fold for one in scores.outer] == [0]
    text = "\n".join(scores.problems)
    assert "split.unseen_fold=1: left out: other folds than the first outer fold" in text
    assert "split.unseen_fold=2: left out: other settings than the first outer fold (optim.lr)" in text


def test_selection_by_the_unseen_fold_and_a_sweep_without_a_complete_fold_are_refused(tmp_path: Path) -> None:
    write_nested(tmp_path, [0, 1], skip=(0, 1))
    with pytest.raises(SettingError, match=r"selection=paper: must be inner for a sweep over split.unseen_fold"):
        report_sweeps([tmp_path], selection="paper", resamples=100)
    sweep = {"split.unseen_fold=0": read_sweep(tmp_path, only="split.unseen_fold=0")}
    with pytest.raises(DataError, match="no outer fold is complete"):
        nested_study("", sweep, resamples=100, seed=0)


def test_seeds_are_studies_of_their_own_and_no_outer_fold_is_a_method(study: NestedStudy) -> None:
    assert outer_of("split.unseen_fold=3,seed=1") == ("seed=1", "3")
    document = nested_document({"seed=0": study.scores, "seed=1": study.scores}, CLASSES, "mine", "phantom")
    text, page = markdown_of(document), page_of(document)
    for words in (
        "seed=0",
        "seed=1",
        "never the best outer fold",
        "take the models as fixed",
        "Minus nested selection",
        "Nested selection: mine",
        f"Data: phantom; {study.scores.selected.n} images in the outer folds.",
        Caveat.SYNTHETIC,
        Caveat.RANDOM_BACKBONE,
    ):
        assert words in text
        assert words in page
    assert page.count("data:image/svg+xml") == 2
    note = outer_note("split.unseen_fold=3,seed=1")
    assert note is not None
    assert "nested.html" in note
    assert outer_note("seed=1") is None


def test_the_report_of_one_outer_fold_says_that_it_is_one_of_several(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Any] = []
    monkeypatch.setattr("covidnet.report.write.write_report", lambda summary, *_, **__: written.append(summary))
    report_sweeps([whole], only=["split.unseen_fold=1"], resamples=100)
    assert "one outer fold of nested selection (split.unseen_fold=1)" in written[0].notes[-1]
    # 1 and not 10.
    assert written[0].folder == str(whole)
    assert len(written[0].folds) == 10
    assert not any("two runs" in problem for problem in written[0].problems)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["unseen=locked"], "unseen=locked: must be scored in a sweep over split.unseen_fold; "),
        (["split.unseen=folder:test"], "split.unseen=folder:test: must be null in a sweep over split.unseen_fold; "),
        (["selection=paper"], "selection=paper: must be inner in a sweep over split.unseen_fold; "),
        (["split.validation=none"], "split.validation=none: must be inner or test in a sweep over split.unseen_fold; "),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(words: list[str], answer: str) -> None:
    from covidnet.launch.command import compose
    from covidnet.launch.launchers import check_nested

    with pytest.raises(SettingError) as caught:
        check_nested(compose(["experiment=nested", *words]))
    assert str(caught.value).startswith(answer)


def test_a_single_run_refuses_it_too(train: Callable[..., Path]) -> None:
    with pytest.raises(SettingError, match=r"unseen=locked: must be scored with split.unseen_fold=3"):
        train("split.unseen_fold=3", "unseen=locked")


@pytest.mark.slow
def test_the_experiment_sweeps_by_itself_trains_all_heads_together_and_ends_with_one_report(tmp_path: Path) -> None:
    words = quickly("split.unseen_fold=2,10", "experiment=nested", "augment=none", "trainer.max_epochs=1")
    # The experiment draws no heat maps.
    words = [word for word in words if not word.startswith(("explain", "fold="))]
    done = command("covidnet.train", "-m", *words, "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "20 heads trained together" in done.stderr
    sweep = tmp_path / "sweep"
    assert len(list(sweep.glob("fold=*,split.unseen_fold=*/predictions.csv"))) == 20
    assert sorted(file.name for file in (sweep / "report").iterdir()) == [
        "nested.csv", "nested.html", "nested.json", "nested_predictions.csv"
    ]  # fmt: skip
    two, ten = (pd.read_csv(sweep / f"fold=0,split.unseen_fold={u}/split.csv", index_col="image_id") for u in (2, 10))
    assert (two["fold"] == ten["fold"].map(lambda fold: exchanged(fold, 2))).all()
    assert (two["patient_id"] == ten["patient_id"]).all()
    outer = pd.read_csv(sweep / "report/nested.csv")
    assert outer["outer_fold"].tolist() == [2, 10]
    assert not list(sweep.glob("*/panels/*"))
    before = (sweep / "report/nested_predictions.csv").read_bytes()
    again = command("covidnet.crossval", "sweep_dir=sweep", "resamples=100", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (sweep / "report/nested_predictions.csv").read_bytes() == before
    refused = command("covidnet.train", "-m", *words, "unseen=locked", "hydra.sweep.dir=other", cwd=tmp_path)
    assert refused.returncode != 0
    assert refused.stderr.strip().startswith("error: unseen=locked: must be scored in a sweep over split.unseen_fold")
    assert len(refused.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "other").exists()
