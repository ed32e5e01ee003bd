"""Open a trained model with the engine that can run it."""

from __future__ import annotations

from pathlib import Path

from covidnet.base.errors import SettingError
from covidnet.serving.checkpoint_path import ONNX, find_models
from covidnet.serving.model import ServedModel

ENGINES = ("auto", "torch", "onnx")
"""The setting ``engine``."""


def open_model(checkpoint: str | Path, engine: str = "auto", threads: int | None = None, only: str = "") -> ServedModel:
    """Open a model for predictions.

    Args:
        checkpoint: a best.ckpt, a run folder, a sweep folder (whose models then predict together), or a file that
            ``python -m covidnet.export`` wrote.
        engine: ``torch``, ``onnx`` (an exported file, or the ``model.onnx`` of the folder), or ``auto``: by the type of
            the file.
        threads: threads of one call; None for all cores. Concurrent calls with one thread each process more images per
            second than consecutive calls with all threads.
        only: selects runs of a sweep folder by their names.

    Raises:
        SettingError: there is no such engine, it cannot run the file, or `only` matches no run.
        WeightsError: there is no checkpoint, it is damaged or not from covidnet, or the models of a sweep cannot be
            combined.
    """
    if engine not in ENGINES:
        raise SettingError("engine", engine, ENGINES)
    files = find_models(checkpoint, onnx=engine == "onnx", only=only)
    if files[0].suffix == ONNX:
        if engine == "torch":
            raise SettingError("engine", engine, ("onnx", "auto"), f"{files[0].name} was exported for ONNX Runtime")
        # Each engine is imported only when used: one of them may not be installed.
        from covidnet.serving.onnx_model import OnnxModel

        found = OnnxModel(files[0], threads)
        found.check()
        return found
    from covidnet.serving.torch_model import TorchModel

    return TorchModel.open(files, Path(checkpoint), threads)
