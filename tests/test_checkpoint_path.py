"""Which file a setting means."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from covidnet.checkpoint_path import find_checkpoint, find_models
from covidnet.errors import SettingError, WeightsError


def checkpoint(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "best.ckpt").write_bytes(b"")
    return folder / "best.ckpt"


def test_a_file_a_run_and_its_folder_of_checkpoints_mean_one_file(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "run/checkpoints")
    for given in (file, str(file), tmp_path / "run", tmp_path / "run/checkpoints"):
        assert find_checkpoint(given) == file


def test_nothing_and_what_is_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="say checkpoint=PATH"):
        find_checkpoint(" ")
    with pytest.raises(WeightsError, match="no such file"):
        find_checkpoint(tmp_path / "gone.ckpt")
    with pytest.raises(WeightsError, match="give a run folder"):
        find_checkpoint(tmp_path)
    checkpoint(tmp_path / "fold=2/checkpoints")
    with pytest.raises(WeightsError, match=r"it is a sweep; give one of its runs, such as .*fold=2"):
        find_checkpoint(tmp_path)


def test_it_is_found_without_the_libraries_that_read_it() -> None:
    code = "import sys, covidnet.checkpoint_path\nassert not {'torch', 'pytorch_lightning', 'numpy'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_models_of_a_sweep_come_by_their_folds(tmp_path: Path) -> None:
    files = [checkpoint(tmp_path / f"fold={fold}/checkpoints") for fold in (10, 2, 0)]
    (tmp_path / "report").mkdir()
    assert find_models(tmp_path) == files[::-1]
    assert find_models(tmp_path / "fold=2") == [files[1]]
    assert find_models(files[0]) == [files[0]]


def test_a_sweep_over_more_than_folds_is_no_ensemble(tmp_path: Path) -> None:
    for seed in (0, 1):
        checkpoint(tmp_path / f"fold=3,seed={seed}/checkpoints")
    with pytest.raises(WeightsError, match=r"several runs of fold 3; give one of its runs, such as .*fold=3,seed=0"):
        find_models(tmp_path)


def test_an_exported_model_is_found_in_its_folder(tmp_path: Path) -> None:
    checkpoint(tmp_path / "checkpoints")
    with pytest.raises(WeightsError, match=r"no exported model; python -m covidnet.export checkpoint="):
        find_models(tmp_path, onnx=True)
    (tmp_path / "model.onnx").write_bytes(b"")
    assert find_models(tmp_path, onnx=True) == [tmp_path / "model.onnx"]
    assert find_models(tmp_path / "model.onnx") == [tmp_path / "model.onnx"]
    # The checkpoint comes first where both are there.
    assert find_models(tmp_path) == [tmp_path / "checkpoints/best.ckpt"]


def test_who_has_no_model_is_told_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="make demo"):
        find_models("")
    with pytest.raises(WeightsError, match="make demo"):
        find_models(tmp_path)
