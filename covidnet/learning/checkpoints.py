"""Checkpoints that are written whole or not at all, in their own folder, and no oftener than is of use."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor
from torch.utils._pytree import tree_map_only

from covidnet.atomic import WriteError, make_folder, write_bytes
from covidnet.errors import WeightsError
from covidnet.trust import archive_damage

# What predictions depend on; a checkpoint also holds the state of the training.
_HASHED = ("state_dict", "hyper_parameters", "serving")

# Stands in a checkpoint for the folder that it lies in.
_HERE = "{checkpoints}"


class DamagedCheckpointError(WeightsError):
    """A checkpoint is not what was written."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint under a temporary name beside its own, then rename it.

    Lightning's way goes through the system's folder for temporary files, which is often another file system, where a
    rename becomes a copy that a killed run leaves half done.

    A linear head's epoch takes less time than writing the network down. So a checkpoint is kept in memory at first,
    and written when `seconds` have passed since the last writing, or by `flush`. A killed run loses that much work.
    Checkpoints are written in the order in which they were made: one that stands for all that was before it, such as
    a resume point, is on the disk after them.

    Paths that callbacks keep, such as that of the best checkpoint, are relative to the checkpoint's folder in the file:
    a run can be moved, and says nothing of the machine that trained it.

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
        if "callbacks" in copied:
            copied["callbacks"] = _rebased(copied["callbacks"], str(Path(path).parent), _HERE)
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
        checkpoint: dict[str, Any] = super().load_checkpoint(path, *arguments, **options)
        if "callbacks" in checkpoint:
            checkpoint["callbacks"] = _rebased(checkpoint["callbacks"], _HERE, str(Path(path).parent))
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint, written or waiting."""
        self._waiting.pop(str(path), None)
        super().remove_checkpoint(path)


def _rebased(value: Any, old: str, new: str) -> Any:
    """Nested plain values in which paths that lie in one folder lie in another one."""
    if isinstance(value, str):
        return new + value[len(old) :] if value == old or value.startswith(old + os.sep) else value
    if isinstance(value, dict):
        return {_rebased(key, old, new): _rebased(item, old, new) for key, item in value.items()}
    return [_rebased(item, old, new) for item in value] if isinstance(value, list) else value


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


def content_sha256(checkpoint: Mapping[str, Any]) -> str:
    """The hash of a checkpoint's weights, settings and serving record, the record's own ``sha256`` left out.

    Args:
        checkpoint: as ``torch.load`` gives it.

    Returns:
        Hexadecimal digits.
    """
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            digest.update(f"tensor {value.dtype} {tuple(value.shape)};".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(value, Mapping):
            digest.update(f"mapping {len(value)};".encode())
            for key in sorted(value, key=str):
                digest.update(f"{str(key)!r};".encode("utf-8", "surrogateescape"))
                add(value[key])
        elif isinstance(value, Sequence) and not isinstance(value, str):
            digest.update(f"sequence {len(value)};".encode())
            for item in value:
                add(item)
        else:
            digest.update(f"{value!r};".encode("utf-8", "surrogateescape"))

    for name in _HASHED:
        part = checkpoint.get(name)
        add(
            {k: v for k, v in part.items() if k != "sha256"}
            if name == "serving" and isinstance(part, Mapping)
            else part
        )
    return digest.hexdigest()


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint without running code, and check that it is what was written.

    Args:
        path: the file. One without a hash in its serving record is checked by the archive's checksums alone.

    Raises:
        DamagedCheckpointError: it is not what was written, or a weight is not finite.
        Exception: what ``torch.load`` raises on what is no checkpoint; torch has a type for every way of being wrong.
    """
    if damage := archive_damage(Path(path)):
        raise DamagedCheckpointError(f"{path}: damaged ({damage}); copy it again, or train again")
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    serving = checkpoint.get("serving")
    told = serving.get("sha256") if isinstance(serving, Mapping) else None
    if told is not None and told != content_sha256(checkpoint):
        raise DamagedCheckpointError(f"{path}: damaged (it does not match its hash); copy it again, or train again")
    for name, tensor in checkpoint["state_dict"].items():
        if not torch.isfinite(tensor).all():
            raise DamagedCheckpointError(
                f"{path}: {name} is not finite; copy it again, or, if its training diverged, lower optim.lr"
            )
    return dict(checkpoint)
