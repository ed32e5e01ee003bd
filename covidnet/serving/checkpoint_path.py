"""Which run folders and checkpoints a setting means, told in a moment: no library that reads them is needed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from covidnet.base.errors import SettingError, WeightsError

ONNX = ".onnx"
"""The suffix of exported models."""

EXPORTED = f"model{ONNX}"
"""The name that an exported model has in its run or sweep folder."""


def fold_and_group(folder: Path) -> tuple[int, str] | None:
    """The test fold that a run folder has in its name, and what the name says beside it; None without a fold.

    Example:
        >>> fold_and_group(Path("sweep/fold=3,model=cnn,seed=1"))
        (3, 'model=cnn,seed=1')
    """
    parts = folder.name.split(",")
    folds = [part for part in parts if re.match(r"fold=\d", part)]
    if not folds:
        return None
    return int(re.findall(r"\d+", folds[0])[0]), ",".join(part for part in parts if part != folds[0])


def group_names(folders: Iterable[Path]) -> list[str]:
    """The groups of run folders in a sweep over more than the folds; the empty name is that of folds alone.

    Args:
        folders: such as ``fold=0,seed=1``; those without a fold in their names belong to no group.
    """
    return sorted({found[1] for folder in folders if (found := fold_and_group(folder)) is not None})


def choose_runs(folders: Sequence[Path], only: str, of: str) -> list[Path]:
    """The run folders of a sweep that ``only=`` means.

    Args:
        folders: the run folders.
        only: the name of a group, parts of folder names separated by commas (each must be there, ``seed=1`` does not
            mean ``seed=10``), or a text in the names. Every folder if empty.
        of: the sweep, for the error.

    Raises:
        SettingError: none of them matches.
    """
    if not only or not folders:
        return list(folders)
    group = [path for path in folders if (found := fold_and_group(path)) and found[1] == only]
    parts = [path for path in folders if set(only.split(",")) <= set(path.name.split(","))]
    # Where names are not made of such parts. A value is whole all the same: lr=1 is not lr=1e-3.
    text = re.compile(re.escape(only) + ("(?![A-Za-z0-9.])" if "=" in only else ""))
    chosen = group or parts or [path for path in folders if text.search(path.name)]
    if not chosen:
        groups = [name for name in group_names(folders) if name] or sorted(path.name for path in folders)
        raise SettingError("only", only, f"a part of a run folder's name in {of}", f"there {_are(groups)}")
    return chosen


def find_checkpoint(given: str | Path, only: str = "") -> Path:
    """The checkpoint file that a setting means.

    Args:
        given: a checkpoint, or a run folder, whose ``checkpoints/best.ckpt`` is meant.
        only: of a sweep folder the one run with this in its name; see `choose_runs`.

    Raises:
        SettingError: nothing was given, or `only` fits no run.
        WeightsError: there is none, or there are several.
    """
    path = _given(given)
    alone = _single(given, path, only)
    if alone is not None:
        return alone
    runs = _runs(path)
    if not runs:
        raise WeightsError(f"checkpoint={given}: holds no checkpoints/best.ckpt; give a run folder")
    chosen = choose_runs(sorted(runs), only, str(given))
    if only and len(chosen) == 1:
        return runs[chosen[0]]
    if only:
        raise WeightsError(
            f"checkpoint={given}: only={only} means {len(chosen)} runs, and one is needed; say only={chosen[0].name}"
        )
    raise WeightsError(f"checkpoint={given}: it is a sweep; give one of its runs, such as only={chosen[0].name}")


def find_models(given: str | Path, *, onnx: bool = False, only: str = "") -> list[Path]:
    """The files of the models that a setting means.

    Args:
        given: a checkpoint, an exported model, a run folder, or a sweep folder, whose models predict together.
        onnx: whether an exported model is wanted: of a folder its ``model.onnx``, or what `exported_name` says.
        only: of a sweep folder the runs with this in their names; see `choose_runs`.

    Returns:
        One exported model, or one checkpoint or more, by their folds.

    Raises:
        SettingError: nothing was given, or `only` fits no run.
        WeightsError: there is none, or the runs are of several settings, or several of one fold.
    """
    path = _given(given)
    if onnx:
        if only and not path.is_dir():
            raise _single_has_no_parts(given, only)
        file = path / exported_name(only) if path.is_dir() else path
        if not file.is_file() or file.suffix != ONNX:
            words = f"checkpoint='{given}'" + (f" only={only}" if only else "")
            raise WeightsError(f"checkpoint={given}: no exported model; python -m covidnet.export {words} writes one")
        return [file]
    alone = _single(given, path, only)
    if alone is not None:
        return [alone]
    runs = _runs(path)
    exported = path / exported_name(only)
    if not any(map(fold_and_group, runs)) and exported.is_file():
        return [exported]
    if not runs:
        raise WeightsError(
            f"checkpoint={given}: holds no checkpoint; give a best.ckpt, a run folder, or a sweep folder. "
            "make demo trains a small model and prints its run folder"
        )
    chosen = choose_runs(sorted(runs), only, str(given))
    if len(chosen) == 1:
        return [runs[chosen[0]]]
    told = f"checkpoint={given}: " + (f"only={only} means" if only else "holds")
    groups = group_names(chosen)
    if not groups:
        names = [run.name for run in chosen]
        raise WeightsError(f"{told} runs without a fold in their names; choose one: {_only(names)}")
    if len(groups) > 1:
        # Models of different settings are no ensemble that anybody asked for.
        named = [group for group in groups if group]
        remedy = f"choose one: {_only(named)}" + ("" if "" not in groups else "; or give one of its runs")
        raise WeightsError(f"{told} runs of {len(groups)} settings, which are never pooled; {remedy}")
    folds = {run: found[0] for run in chosen if (found := fold_and_group(run)) is not None}
    twice = [fold for fold, count in Counter(folds.values()).items() if count > 1]
    if twice:
        raise WeightsError(f"{told} several runs of fold {min(twice)}; give one of its runs, such as {chosen[0]}")
    return [runs[run] for run in sorted(folds, key=folds.__getitem__)]


def exported_name(only: str = "") -> str:
    """The name of an exported model in the folder of its run or sweep: ``model.onnx``, or ``model-seed=1.onnx``."""
    return f"model-{only.replace('/', '_')}{ONNX}" if only else EXPORTED


def _single(given: str | Path, path: Path, only: str) -> Path | None:
    """The checkpoint where a file or a run folder was given."""
    if not path.is_dir():
        alone: Path | None = _file(given, path)
    else:
        alone = _of_run(path)
    if alone is not None and only:
        raise _single_has_no_parts(given, only)
    return alone


def _single_has_no_parts(given: str | Path, only: str) -> SettingError:
    return SettingError("only", only, "null", f"checkpoint={given} is one model; only= chooses runs of a sweep folder")


def _runs(path: Path) -> dict[Path, Path]:
    """Run folders of a sweep, with their checkpoints."""
    return {file.parents[1]: file for file in path.glob("*/checkpoints/best.ckpt")}


def _are(groups: Sequence[str]) -> str:
    more = f" and {len(groups) - 8} more" if len(groups) > 8 else ""
    return f"{'is' if len(groups) == 1 else 'are'} {'; '.join(groups[:8])}{more}"


def _only(groups: Sequence[str]) -> str:
    more = f" and {len(groups) - 8} more" if len(groups) > 8 else ""
    return ", ".join(f"only={group}" for group in groups[:8]) + more


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
