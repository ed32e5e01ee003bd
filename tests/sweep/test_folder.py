"""Sweep folders: what is finished is found, and every oddity is one clear line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from covidnet.base.classes import DEFAULT_CLASSES, ClassList
from covidnet.base.errors import DataError
from covidnet.sweep.folder import groups_of, read_sweep
from tests.sweeps import split_table, write_run, write_sweep


def only(problems: list[str]) -> str:
    assert len(problems) == 1, problems
    assert "\n" not in problems[0]
    return problems[0]


def test_a_whole_sweep_has_ten_folds_and_no_problem(tmp_path: Path) -> None:
    sweep = read_sweep(write_sweep(tmp_path / "sweep"))
    assert sweep.folds == list(range(10))
    assert sweep.problems == []
    assert sweep.name == "sweep"
    assert sweep.runs[4].fold == 4
    assert len(sweep.runs[4].rows("test")) == 18


def test_a_missing_fold_is_named_with_the_command_that_runs_it(tmp_path: Path) -> None:
    sweep = read_sweep(write_sweep(tmp_path / "sweep", [0, 1, 2, 3, 4, 5, 6, 8, 9]))
    problem = only(sweep.problems)
    assert "fold 7: no finished run" in problem
    assert "9 of 10 folds" in problem
    run = tmp_path / "sweep/fold=0"
    assert f"python -m covidnet.train --config-dir '{run}' --config-name config fold=7 " in problem


def test_a_crashed_run_is_named_with_its_last_error(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep", range(9))
    (folder / "fold=9").mkdir()
    (folder / "fold=9/train.log").write_text(
        "2026-01-01 10:00:00,000 INFO covidnet.x: hello\n"
        "2026-01-01 10:00:01,000 ERROR covidnet.launch.command: error: no space\n"
    )
    problems = read_sweep(folder).problems
    assert problems[0] == "fold=9: the run did not finish: no space"
    assert "fold 9: no finished run" in problems[1]


def test_a_run_that_was_killed_left_no_error(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep", range(9))
    (folder / "fold=9/.hydra").mkdir(parents=True)
    (folder / "fold=9/.hydra/config.yaml").write_text("fold: 9\n")
    assert read_sweep(folder).problems[0] == "fold=9: the run did not finish: it has no log"


def test_of_two_runs_of_a_fold_the_newer_is_reported(tmp_path: Path) -> None:
    folder, split = write_sweep(tmp_path / "sweep"), split_table()
    newer = write_run(folder / "fold=3-again", split, 3, seed=5)
    sweep = read_sweep(folder)
    assert only(sweep.problems) == "fold 3: two runs, fold=3 and fold=3-again; the newer, fold=3-again, is reported"
    assert sweep.runs[3].folder == newer


def test_a_run_with_other_settings_is_left_out_and_the_setting_named(tmp_path: Path) -> None:
    folder, split = write_sweep(tmp_path / "sweep", range(9)), split_table()
    write_run(folder / "fold=9", split, 9, settings={"seed": 1})
    sweep = read_sweep(folder)
    assert sweep.folds == list(range(9))
    assert "fold=9: left out: other settings than fold=0 (seed=1, not 0)" in sweep.problems[0]


def test_runs_of_different_weights_are_never_pooled(tmp_path: Path) -> None:
    folder, split = write_sweep(tmp_path / "sweep", range(9)), split_table()
    write_run(folder / "fold=9", split, 9, settings={"model": {"weights": "imagenet", "weights_from": "auto: found"}})
    (problem,) = read_sweep(folder).problems[:1]
    assert "fold=9: left out: other settings than fold=0 (model.weights=imagenet, not random)" in problem


def test_how_a_run_was_carried_out_makes_no_difference(tmp_path: Path) -> None:
    folder, split = write_sweep(tmp_path / "sweep", range(9)), split_table()
    other = {"trainer": {"accelerator": "gpu"}, "progress": True, "model": {"download": False, "weights_from": "auto"}}
    write_run(folder / "fold=9", split, 9, settings=other)
    assert read_sweep(folder).problems == []


def test_predictions_of_other_images_are_left_out(tmp_path: Path) -> None:
    folder, split = write_sweep(tmp_path / "sweep", range(9)), split_table()

    def other_ids(table: pd.DataFrame) -> pd.DataFrame:
        test = table["split"] == "test"
        return table.assign(image_id=table["image_id"].where(~test, "ffff" + table["image_id"]))

    write_run(folder / "fold=9", split, 9, change=other_ids)
    sweep = read_sweep(folder)
    assert sweep.folds == list(range(9))
    assert sweep.problems[0].startswith(
        "fold=9: left out: 18 predictions of the test split are of images outside fold 9"
    )


def test_images_without_a_prediction_are_counted(tmp_path: Path) -> None:
    folder, split = write_sweep(tmp_path / "sweep", range(9)), split_table()
    write_run(
        folder / "fold=9", split, 9, change=lambda t: t[t["image_id"] != t.query("split == 'test'")["image_id"].min()]
    )
    assert "fold=9: 1 image of its test split without a prediction" in only(read_sweep(folder).problems)


def test_a_class_without_predictions_is_named_and_the_rest_reported(tmp_path: Path) -> None:
    folder, split = write_sweep(tmp_path / "sweep", range(9)), split_table()
    write_run(folder / "fold=9", split, 9, change=lambda t: t[(t["split"] != "test") | (t["label"] != "Normal")])
    sweep = read_sweep(folder)
    assert sweep.folds == list(range(10))
    assert any("no images of Normal in its test split" in problem for problem in sweep.problems)


def test_a_damaged_predictions_file_is_named(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep")
    file = folder / "fold=2/predictions.csv"
    file.write_text(file.read_text().replace(",COVID-19,", ",Covid,", 1))
    problems = read_sweep(folder).problems
    assert problems[0].startswith("fold=2: left out: ")
    assert "predictions.csv" in problems[0]
    assert "column label: 'Covid': must be one of" in problems[0]


def test_folds_of_another_split_are_left_out(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep", range(9))
    write_run(folder / "fold=9", split_table(per_fold=5, seed=1), 9)
    problems = read_sweep(folder).problems
    assert "another split than fold=0" in problems[0]
    assert read_sweep(folder).folds == list(range(9))


def test_saved_predictions_alone_are_enough(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep")
    for file in [*folder.glob("*/config.yaml"), *folder.glob("*/metrics.json"), *folder.glob("*/environment.json")]:
        file.unlink()
    sweep = read_sweep(folder)
    assert sweep.folds == list(range(10))
    assert all("no settings in config.yaml" in problem for problem in sweep.problems)


def test_the_report_of_before_is_no_run(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep")
    shutil.copytree(folder / "fold=0", folder / "report")
    assert read_sweep(folder).problems == []


def test_a_single_run_folder_is_a_sweep_of_one(tmp_path: Path) -> None:
    sweep = read_sweep(write_sweep(tmp_path / "sweep") / "fold=4")
    assert sweep.folds == [4]
    assert "1 of 10 folds" in only(sweep.problems)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_a_folder_without_runs_is_one_line(tmp_path: Path, make) -> None:  # type: ignore[no-untyped-def]
    make(tmp_path / "sweep")
    with pytest.raises(DataError, match=r"no such folder|nothing to report") as caught:
        read_sweep(tmp_path / "sweep")
    assert "\n" not in str(caught.value)


def test_a_label_that_is_not_that_of_the_split_is_noticed(tmp_path: Path) -> None:
    folder, split = write_sweep(tmp_path / "sweep", range(9)), split_table()

    def relabel(table: pd.DataFrame) -> pd.DataFrame:
        first = table.index[(table["split"] == "test") & (table["label"] == "Normal")][0]
        table.loc[first, "label"] = "Pneumonia"
        return table

    write_run(folder / "fold=9", split, 9, change=relabel)
    problems = read_sweep(folder).problems
    assert problems[0].startswith("fold=9: left out: 1 image of the test split with another label in split.csv")


def test_validation_images_of_the_unseen_fold_are_noticed(tmp_path: Path) -> None:
    folder, split = write_sweep(tmp_path / "sweep", range(9)), split_table()
    unseen = split.loc[split["fold"] == 10, "image_id"].iloc[0]

    def peek(table: pd.DataFrame) -> pd.DataFrame:
        first = table.index[table["split"] == "val"][0]
        table.loc[first, "image_id"] = unseen
        return table

    write_run(folder / "fold=9", split, 9, change=peek)
    assert "1 predictions of the val split are of images outside folds 0 to 9" in read_sweep(folder).problems[0]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"image_id,fold\na,x\n"])
def test_a_damaged_split_costs_one_fold(tmp_path: Path, content: bytes) -> None:
    folder = write_sweep(tmp_path / "sweep")
    (folder / "fold=4/split.csv").write_bytes(content)
    sweep = read_sweep(folder)
    assert sweep.folds == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert sweep.problems[0].startswith("fold=4: left out: split.csv is damaged")


@pytest.mark.parametrize("name", ["metrics.json", "config.yaml", "environment.json"])
def test_a_run_without_one_of_its_files_is_still_of_the_study(tmp_path: Path, name: str) -> None:
    folder = write_sweep(tmp_path / "sweep")
    (folder / "fold=5" / name).unlink()
    sweep = read_sweep(folder)
    assert sweep.folds == list(range(10))
    expected = ["fold=5: no settings in config.yaml, so they cannot be checked"] if name == "config.yaml" else []
    assert sweep.problems == expected


def test_runs_of_one_setting_can_be_picked_by_their_names(tmp_path: Path) -> None:
    folder, split = tmp_path / "sweep", split_table()
    for seed in (0, 1):
        for fold in range(10):
            write_run(folder / f"fold={fold},seed={seed}", split, fold, seed=seed, settings={"seed": seed})
    both, second = read_sweep(folder), read_sweep(folder, only="seed=1")
    assert "seed=1, not 0" in only(both.problems)
    assert second.problems == []
    assert {run.settings["seed"] for run in second.runs} == {1}


def test_one_seed_is_not_another_that_begins_like_it(tmp_path: Path) -> None:
    folder, split = tmp_path / "sweep", split_table()
    for seed in (1, 10):
        write_run(folder / f"fold=0,seed={seed}", split, 0, seed=seed, settings={"seed": seed})
    assert groups_of(folder) == ["seed=1", "seed=10"]
    assert [run.folder.name for run in read_sweep(folder, only="seed=1").runs] == ["fold=0,seed=1"]
    assert groups_of(write_sweep(tmp_path / "folds", [0, 1])) == []


def test_the_remedy_for_a_missing_fold_is_a_command_that_hydra_reads(tmp_path: Path) -> None:
    import shlex

    from hydra.core.override_parser.overrides_parser import OverridesParser

    problem = only(read_sweep(write_sweep(tmp_path / "my sweep", range(9))).problems)
    words = shlex.split(problem[problem.index("python -m") :])
    home = f"{tmp_path / 'my sweep'}/fold=0"
    assert words[:8] == [*["python", "-m", "covidnet.train", "--config-dir"], home, "--config-name", "config", "fold=9"]
    parsed = OverridesParser.create().parse_overrides(words[7:])
    assert str(parsed[1].value()) == f"{tmp_path / 'my sweep'}/fold=9"


def test_the_remedy_for_a_fold_of_a_grid_makes_a_job_of_that_grid(tmp_path: Path) -> None:
    folder, split = tmp_path / "sweep", split_table()
    for seed in (0, 1):
        write_run(folder / f"fold=0,seed={seed}", split, 0, settings={"seed": seed})
    problem = only(read_sweep(folder, only="seed=1").problems)
    # The seed is that of the run whose settings are repeated.
    assert f"--config-dir '{folder}/fold=0,seed=1' --config-name config fold=1 " in problem
    assert f"{folder}/fold=1,seed=1'" in problem


def test_patients_that_are_not_those_of_the_split_are_noticed(tmp_path: Path) -> None:
    def forget(table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(patient_id=np.nan)

    folder, split = write_sweep(tmp_path / "sweep", range(9)), split_table()
    write_run(folder / "fold=9", split, 9, change=forget)
    assert "18 images of the test split with another patient in split.csv" in read_sweep(folder).problems[0]


def test_runs_of_other_classes_are_left_out_in_one_line(tmp_path: Path) -> None:
    write_sweep(tmp_path / "sweep", range(4))
    table = split_table().replace({"label": {"Normal": "Rest", "Pneumonia": "Rest"}})
    names = ("COVID-19", "Rest")
    write_run(
        tmp_path / "sweep/fold=4", table, 4, settings={"data": {"classes": list(names)}}, classes=ClassList(names)
    )
    sweep = read_sweep(tmp_path / "sweep")
    assert sweep.folds == [0, 1, 2, 3]
    assert sweep.problems[0].startswith(
        "fold=4: left out: other classes than fold=0 (COVID-19, Rest, not COVID-19, Normal, Pneumonia)"
    )
    alone = read_sweep(tmp_path / "sweep/fold=4")
    assert alone.classes == ClassList(names)


def test_classes_of_a_run_without_settings_are_those_of_its_metrics(tmp_path: Path) -> None:
    run = write_run(tmp_path / "fold=0", split_table(), 0)
    (run / "config.yaml").unlink()
    assert read_sweep(run).classes == DEFAULT_CLASSES
    names = ("Normal", "COVID-19", "Pneumonia")
    content = {"splits": {"val": None, "test": {"classes": {name: {} for name in names}}}}
    (run / "metrics.json").write_text(json.dumps(content))
    assert read_sweep(run).classes == ClassList(names)
