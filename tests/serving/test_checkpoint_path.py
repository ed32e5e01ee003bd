"""Which file a setting refers to."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from covidnet.base.errors import SettingError, WeightsError
from covidnet.external.known_images import known_images
from covidnet.launch.arguments import quoted
from covidnet.launch.command import compose
from covidnet.serving.checkpoint_path import choose_runs, exported_name, find_checkpoint, find_models
from tests.conftest import PROJECT


def checkpoint(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "best.ckpt").write_bytes(b"")
    return folder / "best.ckpt"


def test_a_file_a_run_and_its_checkpoints_folder_give_the_same_file(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "run/checkpoints")
    for given in (file, str(file), tmp_path / "run", tmp_path / "run/checkpoints"):
        assert find_checkpoint(given) == file


def test_an_empty_setting_and_a_missing_file_are_reported(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="give checkpoint=PATH"):
        find_checkpoint(" ")
    with pytest.raises(WeightsError, match="no such file"):
        find_checkpoint(tmp_path / "gone.ckpt")
    with pytest.raises(WeightsError, match="give a run folder"):
        find_checkpoint(tmp_path)
    checkpoint(tmp_path / "fold=2/checkpoints")
    with pytest.raises(WeightsError, match=r"is a sweep; select one of its runs, such as only=fold=2$"):
        find_checkpoint(tmp_path)


def test_it_is_found_without_the_libraries_that_read_it() -> None:
    code = "import sys, covidnet.serving.checkpoint_path as found\n"
    code += "assert not {'torch', 'pytorch_lightning', 'numpy'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_models_of_a_sweep_are_sorted_by_fold(tmp_path: Path) -> None:
    files = [checkpoint(tmp_path / f"fold={fold}/checkpoints") for fold in (10, 2, 0)]
    (tmp_path / "report").mkdir()
    assert find_models(tmp_path) == files[::-1]
    assert find_models(tmp_path / "fold=2") == [files[1]]
    assert find_models(files[0]) == [files[0]]


def test_a_sweep_over_more_than_folds_is_not_an_ensemble(tmp_path: Path) -> None:
    for seed in (0, 1):
        checkpoint(tmp_path / f"fold=3,seed={seed}/checkpoints")
    remedy = "2 settings, which are never pooled; choose one: only=seed=0, only=seed=1$"
    with pytest.raises(WeightsError, match=remedy):
        find_models(tmp_path)
    # Not one of them has a fold twice.
    checkpoint(tmp_path / "others/fold=0,model=cnn/checkpoints")
    checkpoint(tmp_path / "others/fold=1,model=resnet8/checkpoints")
    with pytest.raises(WeightsError, match=r"choose one: only=model=cnn, only=model=resnet8$"):
        find_models(tmp_path / "others")
    checkpoint(tmp_path / "others/fold=2/checkpoints")
    with pytest.raises(WeightsError, match=r"3 settings, .*; or give one of its runs$"):
        find_models(tmp_path / "others")
    checkpoint(tmp_path / "copied/fold=0/checkpoints")
    checkpoint(tmp_path / "copied/fold=0-again/checkpoints")
    with pytest.raises(WeightsError, match=r"several runs of fold 0; give one of its runs, such as .*fold=0"):
        find_models(tmp_path / "copied")


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    for model in ("cnn", "densenet121"):
        for seed in (1, 10):
            for fold in (0, 1):
                checkpoint(tmp_path / f"fold={fold},model={model},seed={seed}/checkpoints")
    return tmp_path


@pytest.mark.parametrize(
    ("only", "runs"),
    [
        ("model=cnn,seed=1", ["fold=0,model=cnn,seed=1", "fold=1,model=cnn,seed=1"]),
        ("seed=1,model=cnn", ["fold=0,model=cnn,seed=1", "fold=1,model=cnn,seed=1"]),
        ("fold=1,model=cnn,seed=10", ["fold=1,model=cnn,seed=10"]),
        ("densenet121,seed=10", ["fold=0,model=densenet121,seed=10", "fold=1,model=densenet121,seed=10"]),
    ],
)
def test_only_selects_the_runs_of_one_group(grid: Path, only: str, runs: list[str]) -> None:
    assert find_models(grid, only=only) == [grid / run / "checkpoints/best.ckpt" for run in runs]
    # A report selects by the same rule.
    assert [path.name for path in choose_runs(sorted(grid.iterdir()), only, "")] == runs


def test_an_ambiguous_or_unknown_only_is_reported_with_the_groups(grid: Path) -> None:
    groups = "model=cnn,seed=1; model=cnn,seed=10; model=densenet121,seed=1; model=densenet121,seed=10"
    for missing in ("seed=2", "model=dense", "fold=3"):
        for find in (find_models, find_checkpoint):
            with pytest.raises(SettingError, match=rf"^only={missing}: must be part of .*; choose from {groups}$"):
                find(grid, only=missing)
    with pytest.raises(WeightsError, match=r"only=seed=1 matches runs with 2 settings.* only=model=cnn,seed=1, only="):
        find_models(grid, only="seed=1")
    with pytest.raises(WeightsError, match=r"matches 2 runs, but must match one; use only=fold=0,model=cnn,seed=1$"):
        find_checkpoint(grid, only="model=cnn,seed=1")
    assert find_checkpoint(grid, only="fold=1,model=cnn,seed=1").parents[1].name == "fold=1,model=cnn,seed=1"
    run = grid / "fold=0,model=cnn,seed=1"
    for given in (run, run / "checkpoints/best.ckpt"):
        for find in (find_models, find_checkpoint):
            with pytest.raises(SettingError, match=r"^only=seed=1: must be null; .* is one model"):
                find(given, only="seed=1")


@pytest.mark.parametrize("name", ["predict", "evaluate", "app", "export", "explain"])
def test_every_command_takes_only_without_quotes_and_pools_no_grid(grid: Path, name: str) -> None:
    module = importlib.import_module(f"covidnet.{name}")
    words = [f"checkpoint={grid}", *(["input=images"] if name in ("predict", "explain") else [])]
    with pytest.raises(SettingError, match=r"^only=model=cnn,seed=2: must be .*; choose from model=cnn,seed=1; "):
        module.main(compose(quoted([*words, "only=model=cnn,seed=2"], module.PATHS), name))
    remedy = "only=fold=0,model=cnn,seed=1$" if name == "explain" else "never pooled; choose one: only=model=cnn,seed=1"
    with pytest.raises(WeightsError, match=remedy):
        module.main(compose(quoted(words, module.PATHS), name))


def test_a_value_matches_only_as_a_whole(tmp_path: Path) -> None:
    for rate in ("1e-3", "10"):
        checkpoint(tmp_path / f"fold=0,optim.lr={rate}/checkpoints")
    with pytest.raises(SettingError, match=r"choose from optim\.lr=10; optim\.lr=1e-3"):
        find_models(tmp_path, only="lr=1")
    assert find_models(tmp_path, only="lr=10") == [tmp_path / "fold=0,optim.lr=10/checkpoints/best.ckpt"]


def test_a_trial_of_a_search_is_selected_by_its_name(tmp_path: Path) -> None:
    files = [checkpoint(tmp_path / f"trial={n}/checkpoints") for n in (1, 10)]
    with pytest.raises(WeightsError, match=r"without a fold in their names; choose one: only=trial=1, only=trial=10"):
        find_models(tmp_path)
    assert find_models(tmp_path, only="trial=1") == files[:1]


def test_an_exported_group_has_its_own_name(grid: Path) -> None:
    with pytest.raises(WeightsError, match=r"covidnet\.export checkpoint='.*' only=model=cnn,seed=1 writes one"):
        find_models(grid, onnx=True, only="model=cnn,seed=1")
    file = grid / exported_name("model=cnn,seed=1")
    file.write_bytes(b"")
    assert find_models(grid, onnx=True, only="model=cnn,seed=1") == [file] == [grid / "model-model=cnn,seed=1.onnx"]
    assert {run.name for run in known_images([file]).folders} == set()
    for run in grid.glob("fold=*"):
        (run / "predictions.csv").write_text("")
    assert {run.name for run in known_images([file]).folders} == {f"fold={n},model=cnn,seed=1" for n in (0, 1)}


def test_an_exported_model_is_found_in_its_folder(tmp_path: Path) -> None:
    checkpoint(tmp_path / "checkpoints")
    with pytest.raises(WeightsError, match=r"no exported model; python -m covidnet.export checkpoint="):
        find_models(tmp_path, onnx=True)
    (tmp_path / "model.onnx").write_bytes(b"")
    assert find_models(tmp_path, onnx=True) == [tmp_path / "model.onnx"]
    assert find_models(tmp_path / "model.onnx") == [tmp_path / "model.onnx"]
    # The checkpoint takes precedence if both exist.
    assert find_models(tmp_path) == [tmp_path / "checkpoints/best.ckpt"]


def test_an_error_without_a_model_names_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="make demo"):
        find_models("")
    with pytest.raises(WeightsError, match="make demo"):
        find_models(tmp_path)
