"""Which run folders and checkpoints a setting refers to; nothing heavy is imported to find out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from covidnet.base.errors import SettingError, WeightsError

ONNX = ".onnx"
"""The suffix of exported models."""

EXPORTED = f"model{ONNX}"
"""The name of an exported model in its run or sweep folder."""


def fold_and_group(folder: Path) -> tuple[int, str] | None:
    """The test fold in a run folder's name, and the rest of the name; None without a fold.

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
    """The groups of run folders in a sweep over more than the folds; the name is empty in a sweep over folds only.

    Args:
        folders: such as ``fold=0,seed=1``; folders without a fold in their names belong to no group.
    """
    return sorted({found[1] for folder in folders if (found := fold_and_group(folder)) is not None})


def choose_runs(folders: Sequence[Path], only: str, of: str) -> list[Path]:
    """The run folders of a sweep that ``only=`` selects.

    Args:
        folders: the run folders.
        only: the name of a group, parts of folder names separated by commas (all must match; ``seed=1`` does not match
            ``seed=10``), or a text in the names. Empty selects every folder.
        of: the sweep's name in the error.

    Raises:
        SettingError: none of them matches.
    """
    if not only or not folders:
        return list(folders)
    group = [path for path in folders if (found := fold_and_group(path)) and found[1] == only]
    parts = [path for path in folders if set(only.split(",")) <= set(path.name.split(","))]
    # For names not made of such parts. Values still match as a whole: lr=1 is not lr=1e-3.
    text = re.compile(re.escape(only) + ("(?![A-Za-z0-9.])" if "=" in only else ""))
    chosen = group or parts or [path for path in folders if text.search(path.name)]
    if not chosen:
        groups = [name for name in group_names(folders) if name] or sorted(path.name for path in folders)
        raise SettingError("only", only, f"part of a run folder's name in {of}", f"choose from {_some(groups, '; ')}")
    return chosen


def find_checkpoint(given: str | Path, only: str = "") -> Path:
    """The checkpoint file that a setting refers to.

    Args:
        given: a checkpoint, or a run folder, which stands for its ``checkpoints/best.ckpt``.
        only: selects one run of a sweep folder by its name; see `choose_runs`.

    Raises:
        SettingError: nothing was given, or `only` matches no run.
        WeightsError: there is no checkpoint, or more than one.
    """
    path = _given(given)
    alone = _single(given, path, only)
    if alone is not None:
        return alone
    runs = _runs(path)
    if not runs:
        raise WeightsError(f"checkpoint={given}: contains no checkpoints/best.ckpt; give a run folder")
    chosen = choose_runs(sorted(runs), only, str(given))
    if only and len(chosen) == 1:
        return runs[chosen[0]]
    if only:
        raise WeightsError(
            f"checkpoint={given}: only={only} matches {len(chosen)} runs, but must match one; use only={chosen[0].name}"
        )
    raise WeightsError(f"checkpoint={given}: is a sweep; select one of its runs, such as only={chosen[0].name}")


def find_models(given: str | Path, *, onnx: bool = False, only: str = "") -> list[Path]:
    """The files of the models that a setting refers to.

    Args:
        given: a checkpoint, an exported model, a run folder, or a sweep folder, whose models predict together.
        onnx: whether to use an exported model; in a folder, the file named by `exported_name`.
        only: selects runs of a sweep folder by their names; see `choose_runs`.

    Returns:
        One exported model, or one or more checkpoints, sorted by fold.

    Raises:
        SettingError: nothing was given, or `only` matches no run.
        WeightsError: there is no model, or the runs have different settings, or several runs have the same fold.
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
            f"checkpoint={given}: contains no checkpoint; give a best.ckpt, a run folder, or a sweep folder. "
            "make demo trains a small model and prints its run folder"
        )
    chosen = choose_runs(sorted(runs), only, str(given))
    if len(chosen) == 1:
        return [runs[chosen[0]]]
    found_here = f"checkpoint={given}: " + (f"only={only} matches" if only else "contains")
    groups = group_names(chosen)
    if not groups:
        names = [run.name for run in chosen]
        raise WeightsError(f"{found_here} runs without a fold in their names; choose one: {_only(names)}")
    if len(groups) > 1:
        # Models with different settings were not meant as one ensemble.
        named = [group for group in groups if group]
        remedy = f"choose one: {_only(named)}" + ("" if "" not in groups else "; or give one of its runs")
        raise WeightsError(f"{found_here} runs with {len(groups)} settings, which are never pooled; {remedy}")
    folds = {run: found[0] for run in chosen if (found := fold_and_group(run)) is not None}
    twice = [fold for fold, count in Counter(folds.values()).items() if count > 1]
    if twice:
        raise WeightsError(f"{found_here} several runs of fold {min(twice)}; give one of its runs, such as {chosen[0]}")
    return [runs[run] for run in sorted(folds, key=folds.__getitem__)]


def exported_name(only: str = "") -> str:
    """The name of an exported model in the folder of its run or sweep: ``model.onnx``, or ``model-seed=1.onnx``."""
    return f"model-{only.replace('/', '_')}{ONNX}" if only else EXPORTED


def _single(given: str | Path, path: Path, only: str) -> Path | None:
    """The checkpoint if a file or a run folder was given, else None."""
    if not path.is_dir():
        alone: Path | None = _file(given, path)
    else:
        alone = _of_run(path)
    if alone is not None and only:
        raise _single_has_no_parts(given, only)
    return alone


def _single_has_no_parts(given: str | Path, only: str) -> SettingError:
    return SettingError("only", only, "null", f"checkpoint={given} is one model; only= selects runs of a sweep folder")


def _runs(path: Path) -> dict[Path, Path]:
    """The run folders of a sweep and their checkpoints."""
    return {file.parents[1]: file for file in path.glob("*/checkpoints/best.ckpt")}


def _some(names: Sequence[str], between: str) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return between.join(names[:8]) + more


def _only(groups: Sequence[str]) -> str:
    return _some([f"only={group}" for group in groups], ", ")


def _given(given: str | Path) -> Path:
    if not str(given).strip():
        # checkpoint=$DIR with DIR unset: the empty path would mean the current folder.
        raise SettingError(
            "checkpoint",
            given,
            "a best.ckpt, a run folder or a sweep folder",
            "give checkpoint=PATH; make demo trains a small model and prints its run folder",
        )
    return Path(given).expanduser()


def _file(given: str | Path, path: Path) -> Path:
    if not path.is_file():
        raise WeightsError(f"checkpoint={given}: no such file; give the best.ckpt of a run folder, or the folder")
    return path


def _of_run(path: Path) -> Path | None:
    return next((file for file in (path / "checkpoints/best.ckpt", path / "best.ckpt") if file.is_file()), None)
