"""Open ONNX graphs in ONNX Runtime. Nothing here needs PyTorch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def onnx_session(graph: str | Path | bytes, threads: int) -> Any:
    """Open a graph in ONNX Runtime, on a GPU if there is one.

    Args:
        graph: a file, or its content.
        threads: CPU threads of the engine.

    Returns:
        An ``onnxruntime.InferenceSession``.

    Raises:
        ImportError: ONNX Runtime is not installed.
        Exception: what the engine raises for a graph that it cannot run.
    """
    import onnxruntime

    if os.environ.get("ORT_DISABLE_TELEMETRY", "1") == "1":
        # The environment variable may have no effect if it was imported before covidnet, or on Windows.
        onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # It names the kinds of processor that it was built for and that this machine has.
    available = onnxruntime.get_available_providers()
    providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
    return onnxruntime.InferenceSession(graph, options, providers=providers)
