"""Where a checkpoint lies, told in a moment: no library that reads it is needed."""

from __future__ import annotations

from pathlib import Path

from covidnet.errors import SettingError, WeightsError


def find_checkpoint(given: str | Path) -> Path:
    """The checkpoint file that a setting means.

    Args:
        given: a checkpoint, or a run folder, whose ``checkpoints/best.ckpt`` is meant.

    Raises:
        SettingError: nothing was given.
        WeightsError: there is none.
    """
    if not str(given).strip():
        raise SettingError("checkpoint", given, "a best.ckpt, or a run folder", "say checkpoint=PATH")
    path = Path(given).expanduser()
    if not path.is_dir():
        if not path.is_file():
            raise WeightsError(f"checkpoint={given}: no such file; give the best.ckpt of a run folder, or the folder")
        return path
    found = next((file for file in (path / "checkpoints/best.ckpt", path / "best.ckpt") if file.is_file()), None)
    if found is None:
        folds = sorted(file.parents[1].name for file in path.glob("*/checkpoints/best.ckpt"))
        hint = f"it is a sweep; give one of its runs, such as {path / folds[0]}" if folds else "give a run folder"
        raise WeightsError(f"checkpoint={given}: holds no checkpoints/best.ckpt; {hint}")
    return found
