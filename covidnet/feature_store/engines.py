"""Engines that run the frozen backbone: PyTorch, or ONNX Runtime, which is faster on a CPU."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from covidnet.base.atomic import write_bytes
from covidnet.base.errors import CovidnetError, SettingError, StoreError
from covidnet.models.backbones import Backbone
from covidnet.models.onnx_graph import onnx_graph
from covidnet.models.onnx_session import onnx_session

log = logging.getLogger(__name__)

ENGINES = ("auto", "torch", "onnx")

_NEEDED = ("onnxruntime", "onnx", "onnxscript")

TOLERANCE = 1e-4
"""The largest allowed difference between the features of two engines, relative to the largest feature if that is above
1."""


def check_engine(name: str) -> None:
    """Refuse an engine that cannot run here, before anything is computed.

    Args:
        name: one of `ENGINES`.

    Raises:
        SettingError: there is no such engine, or ONNX Runtime is not installed.
    """
    if name not in ENGINES:
        raise SettingError("features.engine", name, ENGINES)
    if name == "onnx" and not _installed("onnxruntime"):
        raise SettingError("features.engine", "onnx", ENGINES, "ONNX Runtime is not installed: pip install onnxruntime")


def best_engine(
    backbone: Backbone, image_size: int, folder: Path, trainer: Mapping[str, Any] | None = None
) -> tuple[str, str]:
    """The engine that ``features.engine=auto`` stands for: ONNX Runtime on a CPU if it agrees with PyTorch.

    Args:
        backbone: the network, in eval mode.
        image_size: side of its input in pixels.
        folder: where the exported network is kept. One that is there has agreed before.
        trainer: its ``accelerator`` says where the backbone runs; ``auto`` if missing.

    Returns:
        ``torch`` or ``onnx``, and why.

    Raises:
        WriteError: the exported network cannot be written.
    """
    accelerator = str((trainer or {}).get("accelerator") or "auto")
    if accelerator != "cpu" and (accelerator != "auto" or torch.accelerator.is_available()):
        return "torch", "the backbone does not run on a CPU"
    if lacking := [name for name in _NEEDED if not _installed(name)]:
        return "torch", f"{lacking[0]} is not installed"
    file = folder / "backbone.onnx"
    if not file.exists():
        try:
            OnnxBackbone(backbone, image_size, file)
        except StoreError:
            file.unlink(missing_ok=True)
            return "torch", "ONNX Runtime's features differ from PyTorch's"
        except CovidnetError:
            raise
        except Exception as error:  # exporter and engine raise a different type for every network that they cannot take
            file.unlink(missing_ok=True)
            return "torch", f"ONNX Runtime cannot run the network ({type(error).__name__})"
    return "onnx", "on a CPU, and ONNX Runtime agrees with PyTorch"


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # imported, but without a spec
        return False


def engine_of(name: str, backbone: Backbone, image_size: int, folder: Path) -> nn.Module:
    """The engine of that name, as a module from images (N, C, H, W) to features (N, D).

    Args:
        name: ``torch`` or ``onnx``.
        backbone: the network.
        image_size: side of its input in pixels.
        folder: where the exported network is kept; it must belong to these weights and this size.

    Raises:
        SettingError: there is no such engine, or ONNX Runtime is not installed.
        StoreError: ONNX Runtime's features differ from PyTorch's.
    """
    check_engine(name)
    return backbone if name == "torch" else OnnxBackbone(backbone, image_size, folder / "backbone.onnx")


class OnnxBackbone(nn.Module):
    """A backbone in ONNX Runtime, checked against PyTorch when it is loaded.

    Args:
        backbone: the network, in eval mode.
        image_size: side of its input in pixels.
        file: the exported network; written if it is not there.
    """

    def __init__(self, backbone: Backbone, image_size: int, file: Path) -> None:
        super().__init__()
        example = torch.randn(
            2, backbone.spec.channels, image_size, image_size, generator=torch.Generator().manual_seed(0)
        )
        if not file.exists():
            log.info("features: exporting the backbone for ONNX Runtime (once)")
            write_bytes(file, onnx_graph(backbone, example, ["images"], ["features"], ("features.engine", "onnx")))
        self.session = onnx_session(file, torch.get_num_threads())
        with torch.no_grad():
            expected = backbone(example)
            difference = (self(example) - expected).abs().max().item()
        # Features of a ResNet with random weights are in the hundreds, where float32 has no more precision.
        allowed = TOLERANCE * max(1.0, expected.abs().max().item())
        if not difference <= allowed:
            raise StoreError(
                f"{file}: features differ from PyTorch's by {difference:.2g}, more than {allowed:.2g}; "
                "delete the file, or use features.engine=torch"
            )

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to features (N, D), on the CPU."""
        batch = images.contiguous().cpu().numpy()
        return torch.from_numpy(self.session.run(None, {"images": batch})[0])
