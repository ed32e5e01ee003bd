"""Opens a trained model with the engine that can run it."""

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
        engine: ``torch``, ``onnx`` (an exported file, or the ``model.onnx`` of the folder), or ``auto``: what the file
            is made for.
        threads: that one call may take; all cores if None. Calls from several threads at once, with one each, answer
            more images per second than one call after the other that takes all.
        only: of a sweep folder the runs with this in their names.

    Raises:
        SettingError: there is no such engine, or it does not go with the file, or `only` fits no run.
        WeightsError: there is no checkpoint, it is none of ours or damaged, or the models of a sweep do not go
            together.
    """
    if engine not in ENGINES:
        raise SettingError("engine", engine, ENGINES)
    files = find_models(checkpoint, onnx=engine == "onnx", only=only)
    if files[0].suffix == ONNX:
        if engine == "torch":
            raise SettingError("engine", engine, ("onnx", "auto"), f"{files[0].name} was exported for ONNX Runtime")
        # Each engine is loaded where it is used: one of them may not be installed.
        from covidnet.serving.onnx_model import OnnxModel

        found = OnnxModel(files[0], threads)
        found.check()
        return found
    from covidnet.serving.torch_model import TorchModel

    return TorchModel.open(files, Path(checkpoint), threads)
