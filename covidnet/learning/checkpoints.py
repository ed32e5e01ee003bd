"""Checkpoints that are written whole or not at all, in their own folder."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from covidnet.atomic import WriteError, write_bytes


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint under a temporary name beside its own, then rename it.

    Lightning's way goes through the system's folder for temporary files, which is often another file system, where a
    rename becomes a copy that a killed run leaves half done.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Replace the checkpoint at `path`.

        Raises:
            WriteError: where the disk is full; the checkpoint that was there is whole.
        """
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(path, error.errno or 0, error.strerror or str(error)) from error
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_bytes(path, buffer.getvalue())
