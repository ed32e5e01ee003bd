"""Checkpoints that are written completely or not at all, in their own folder, and no more often than useful."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor
from torch.utils._pytree import tree_map_only

from covidnet.base.atomic import WriteError, make_folder, write_bytes
from covidnet.base.errors import WeightsError
from covidnet.base.trust import archive_damage

# The parts that predictions depend on; a checkpoint also has the training state.
_HASHED = ("state_dict", "hyper_parameters", "serving")

# Placeholder in a checkpoint for its own folder.
_HERE = "{checkpoints}"


class DamagedCheckpointError(WeightsError):
    """A checkpoint differs from what was written."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint under a temporary name in its own folder, then rename it.

    Lightning writes to the system's folder for temporary files first. That is often another file system, where the
    rename becomes a copy, which a killed run leaves incomplete.

    An epoch of a linear head takes less time than writing the network. So a checkpoint is first kept in memory, and
    written when `seconds` have passed since the last write, or by `flush`. A killed run loses at most that much work.
    Checkpoints are written in the order in which they were saved, so a resume point is on disk only after the
    checkpoints that it depends on.

    Paths kept by callbacks, such as that of the best checkpoint, are stored relative to the checkpoint's folder. So a
    run can be moved, and its files do not reveal paths of the training machine.

    Args:
        seconds: between two writes; 0 writes at once.
        constant: tensors that never change, such as a frozen backbone's; they are not copied.
    """

    def __init__(self, seconds: float = 0.0, constant: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.seconds = seconds
        self.added: dict[str, Tensor] = {}
        """Tensors that never change and precede those of every state dict: a backbone that `head_alone` left out."""
        # Keep references, so that no other tensor can get the same memory address.
        self._constant = {tensor.data_ptr(): tensor for tensor in constant if tensor.numel()}
        self._waiting: dict[str, dict[str, Any]] = {}
        self._written = time.monotonic()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Replace the checkpoint at `path`, now or later.

        Raises:
            WriteError: the disk is full; an existing checkpoint stays intact.
        """
        copied = tree_map_only(Tensor, self._copied, checkpoint)
        if "callbacks" in copied:
            copied["callbacks"] = _rebased(copied["callbacks"], str(Path(path).parent), _HERE)
        if self.added:
            copied["state_dict"] = {**self.added, **copied["state_dict"]}
        # The newest comes last. In one step: the older one must not be lost to SIGTERM, which no mask of this thread
        # defers where another thread receives it.
        others = {other: content for other, content in self._waiting.items() if other != str(path)}
        self._waiting = {**others, str(path): copied}
        if time.monotonic() - self._written >= self.seconds:
            self.flush()

    def flush(self) -> None:
        """Write all pending checkpoints."""
        while self._waiting:
            path = next(iter(self._waiting))
            write_checkpoint(self._waiting[path], Path(path))
            del self._waiting[path]
        self._written = time.monotonic()

    def waiting(self, path: str | Path) -> dict[str, Any] | None:
        """The checkpoint that is to be written to `path`; None if none is waiting."""
        return self._waiting.get(str(path))

    def discard(self, path: str | Path) -> None:
        """Do not write the checkpoint that is waiting for `path`, if there is one."""
        self._waiting.pop(str(path), None)

    def _copied(self, tensor: Tensor) -> Tensor:
        # Training continues to change the original.
        still = self._constant.get(tensor.data_ptr())
        same = still is not None and still.shape == tensor.shape and still.dtype == tensor.dtype
        return tensor.detach() if same else tensor.detach().clone()

    def load_checkpoint(self, path: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Load a checkpoint; a pending one is written first."""
        self.flush()
        checkpoint: dict[str, Any] = super().load_checkpoint(path, *arguments, **options)
        if "callbacks" in checkpoint:
            checkpoint["callbacks"] = _rebased(checkpoint["callbacks"], _HERE, str(Path(path).parent))
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint, written or pending."""
        self.discard(path)
        super().remove_checkpoint(path)


def _rebased(value: Any, old: str, new: str) -> Any:
    """Replace a folder by another in all paths in nested plain values."""
    if isinstance(value, str):
        return new + value[len(old) :] if value == old or value.startswith(old + os.sep) else value
    if isinstance(value, dict):
        return {_rebased(key, old, new): _rebased(item, old, new) for key, item in value.items()}
    return [_rebased(item, old, new) for item in value] if isinstance(value, list) else value


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint completely or not at all, and verify it.

    Args:
        checkpoint: content that ``torch.load`` accepts with ``weights_only``.
        path: the file; its folder is created.

    Raises:
        WriteError: the disk is full, or the file cannot be read back.
    """
    make_folder(path.parent, path)
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    data = buffer.getvalue()
    write_bytes(path, data)
    # A failing disk may not report errors on write.
    if path.read_bytes() != data:
        raise WriteError(path, errno.EIO, "what was written cannot be read back")


def content_sha256(checkpoint: Mapping[str, Any]) -> str:
    """The hash of a checkpoint's weights, settings and serving record, without the record's own ``sha256``.

    Args:
        checkpoint: from ``torch.load``.

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
    """Read a checkpoint without running code, and verify it.

    Args:
        path: the file. If its serving record has no hash, only the archive's checksums are verified.

    Raises:
        DamagedCheckpointError: it differs from what was written, or a weight is not finite.
        Exception: what ``torch.load`` raises for a file that is not a checkpoint, which can be many types.
    """
    if damage := archive_damage(Path(path)):
        raise DamagedCheckpointError(f"{path}: damaged ({damage}); copy it again, or train again")
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    serving = checkpoint.get("serving")
    expected = serving.get("sha256") if isinstance(serving, Mapping) else None
    if expected is not None and expected != content_sha256(checkpoint):
        raise DamagedCheckpointError(f"{path}: damaged (it does not match its hash); copy it again, or train again")
    check_finite(checkpoint["state_dict"], path)
    return dict(checkpoint)


def check_finite(state: Mapping[str, Tensor], path: str | Path) -> None:
    """Refuse weights that are not finite.

    Args:
        state: a state dict.
        path: the checkpoint that it is from.

    Raises:
        DamagedCheckpointError: naming the weight.
    """
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise DamagedCheckpointError(
                f"{path}: {name} is not finite; copy it again, or, if its training diverged, lower optim.lr"
            )
