"""Checkpoints that are written whole or not at all, in their own folder, and no oftener than is of use."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor
from torch.utils._pytree import tree_map_only

from covidnet.atomic import WriteError, write_bytes
from covidnet.errors import SettingError, WeightsError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint under a temporary name beside its own, then rename it.

    Lightning's way goes through the system's folder for temporary files, which is often another file system, where a
    rename becomes a copy that a killed run leaves half done.

    A linear head's epoch takes less time than writing the network down. So a checkpoint is kept in memory at first,
    and written when `seconds` have passed since the last writing, or by `flush`. A killed run loses that much work.

    Args:
        seconds: between two writings; 0 writes at once.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.seconds = seconds
        self._waiting: dict[str, dict[str, Any]] = {}
        self._written = time.monotonic()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Replace the checkpoint at `path`, now or later.

        Raises:
            WriteError: where the disk is full; the checkpoint that was there is whole.
        """
        # Copied, because training goes on in the same memory.
        self._waiting[str(path)] = tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), checkpoint)
        if time.monotonic() - self._written >= self.seconds:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        while self._waiting:
            path, checkpoint = self._waiting.popitem()
            _write(checkpoint, Path(path))
        self._written = time.monotonic()

    def load_checkpoint(self, path: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Load a checkpoint, written first if it waits."""
        self.flush()
        return super().load_checkpoint(path, *arguments, **options)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint, written or waiting."""
        self._waiting.pop(str(path), None)
        super().remove_checkpoint(path)


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


def _write(checkpoint: dict[str, Any], path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(path, error.errno or 0, error.strerror or str(error)) from error
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    write_bytes(path, buffer.getvalue())
