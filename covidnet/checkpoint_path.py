"""Where a checkpoint lies, told in a moment: no library that reads it is needed."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from covidnet.errors import SettingError, WeightsError

ONNX = ".onnx"
"""The suffix of exported models."""

EXPORTED = f"model{ONNX}"
"""The name that an exported model has in its run or sweep folder."""


def find_checkpoint(given: str | Path) -> Path:
    """The checkpoint file that a setting means.

    Args:
        given: a checkpoint, or a run folder, whose ``checkpoints/best.ckpt`` is meant.

    Raises:
        SettingError: nothing was given.
        WeightsError: there is none.
    """
    path = _given(given)
    if not path.is_dir():
        return _file(given, path)
    found = _of_run(path)
    if found is None:
        folds = sorted(file.parents[1].name for file in path.glob("*/checkpoints/best.ckpt"))
        hint = f"it is a sweep; give one of its runs, such as {path / folds[0]}" if folds else "give a run folder"
        raise WeightsError(f"checkpoint={given}: holds no checkpoints/best.ckpt; {hint}")
    return found


def find_models(given: str | Path, *, onnx: bool = False) -> list[Path]:
    """The files of the models that a setting means.

    Args:
        given: a checkpoint, an exported model, a run folder, or a sweep folder, whose models predict together.
        onnx: whether an exported model is wanted: of a folder its ``model.onnx``.

    Returns:
        One exported model, or one checkpoint or more, by their folds.

    Raises:
        SettingError: nothing was given.
        WeightsError: there is none, or the sweep has several runs of one fold.
    """
    path = _given(given)
    if onnx:
        file = path / EXPORTED if path.is_dir() else path
        if not file.is_file() or file.suffix != ONNX:
            raise WeightsError(
                f"checkpoint={given}: no exported model; python -m covidnet.export checkpoint='{given}' writes one"
            )
        return [file]
    if not path.is_dir():
        return [_file(given, path)]
    alone = _of_run(path)
    if alone is not None:
        return [alone]
    runs = {file.parents[1]: file for file in sorted(path.glob("*/checkpoints/best.ckpt"))}
    folds = {run: int(match[1]) for run in runs if (match := re.match(r"fold=(\d+)", run.name))}
    if not folds:
        exported = path / EXPORTED
        if exported.is_file():
            return [exported]
        raise WeightsError(
            f"checkpoint={given}: holds no checkpoint; give a best.ckpt, a run folder, or a sweep folder. "
            "make demo trains a small model and prints its run folder"
        )
    twice = [fold for fold, count in Counter(folds.values()).items() if count > 1]
    if twice:
        raise WeightsError(
            f"checkpoint={given}: holds several runs of fold {min(twice)}; give one of its runs, such as "
            f"{sorted(runs)[0]}"
        )
    return [runs[run] for run in sorted(folds, key=folds.__getitem__)]


def _given(given: str | Path) -> Path:
    if not str(given).strip():
        # checkpoint=$DIR with DIR unset: the empty path would mean the current folder.
        raise SettingError(
            "checkpoint",
            given,
            "a best.ckpt, a run folder or a sweep folder",
            "say checkpoint=PATH; make demo trains a small model and prints its run folder",
        )
    return Path(given).expanduser()


def _file(given: str | Path, path: Path) -> Path:
    if not path.is_file():
        raise WeightsError(f"checkpoint={given}: no such file; give the best.ckpt of a run folder, or the folder")
    return path


def _of_run(path: Path) -> Path | None:
    return next((file for file in (path / "checkpoints/best.ckpt", path / "best.ckpt") if file.is_file()), None)
