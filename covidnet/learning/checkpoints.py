"""Checkpoints that are written whole or not at all, in their own folder, and no oftener than is of use."""

from __future__ import annotations

import errno
import io
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor
from torch.utils._pytree import tree_map_only

from covidnet.atomic import WriteError, make_folder, write_bytes


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint under a temporary name beside its own, then rename it.

    Lightning's way goes through the system's folder for temporary files, which is often another file system, where a
    rename becomes a copy that a killed run leaves half done.

    A linear head's epoch takes less time than writing the network down. So a checkpoint is kept in memory at first,
    and written when `seconds` have passed since the last writing, or by `flush`. A killed run loses that much work.
    Checkpoints are written in the order in which they were made: one that stands for all that was before it, such as
    a resume point, is on the disk after them.

    Args:
        seconds: between two writings; 0 writes at once.
        constant: tensors that never change, such as a frozen backbone's: no copy of them is kept.
    """

    def __init__(self, seconds: float = 0.0, constant: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.seconds = seconds
        # Held, so that no other tensor can come to lie in their place.
        self._constant = {tensor.data_ptr(): tensor for tensor in constant if tensor.numel()}
        self._waiting: dict[str, dict[str, Any]] = {}
        self._written = time.monotonic()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Replace the checkpoint at `path`, now or later.

        Raises:
            WriteError: where the disk is full; the checkpoint that was there is whole.
        """
        copied = tree_map_only(Tensor, self._copied, checkpoint)
        # Between the two lines the older checkpoint would be lost, and a resume point that counts on it would not.
        with _undisturbed():
            # The newest stands last.
            self._waiting.pop(str(path), None)
            self._waiting[str(path)] = copied
        if time.monotonic() - self._written >= self.seconds:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        while self._waiting:
            path = next(iter(self._waiting))
            write_checkpoint(self._waiting[path], Path(path))
            del self._waiting[path]
        self._written = time.monotonic()

    def _copied(self, tensor: Tensor) -> Tensor:
        # Training goes on in the same memory.
        still = self._constant.get(tensor.data_ptr())
        same = still is not None and still.shape == tensor.shape and still.dtype == tensor.dtype
        return tensor.detach() if same else tensor.detach().clone()

    def load_checkpoint(self, path: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Load a checkpoint, written first if it waits."""
        self.flush()
        return super().load_checkpoint(path, *arguments, **options)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint, written or waiting."""
        self._waiting.pop(str(path), None)
        super().remove_checkpoint(path)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let SIGTERM, whose handler raises, wait for a moment."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint whole or not at all, and read it back.

    Args:
        checkpoint: what ``torch.load`` with ``weights_only`` takes.
        path: the file; its folder is made.

    Raises:
        WriteError: the disk is full, or does not give back what was written.
    """
    make_folder(path.parent, path)
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    data = buffer.getvalue()
    write_bytes(path, data)
    # A disk that is about to fail says nothing when it is written to.
    if path.read_bytes() != data:
        raise WriteError(path, errno.EIO, "what was written cannot be read back")
