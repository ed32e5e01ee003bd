"""A network as an ONNX graph, for engines other than PyTorch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from covidnet.base.errors import SettingError


def onnx_graph(
    network: nn.Module, example: Tensor, inputs: Sequence[str], outputs: Sequence[str], setting: tuple[str, str]
) -> bytes:
    """Export a network that takes one tensor, with a dynamic batch size.

    Args:
        network: in eval mode.
        example: an input of at least two images.
        inputs: the name of the input.
        outputs: the names of the outputs, in order.
        setting: name and value of the setting that requires the export, for the error.

    Returns:
        The file's content.

    Raises:
        SettingError: a library needed for the export is not installed.
    """
    # The exporter logs every step and warns about its own internals.
    talkative = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in talkative]
    try:
        for logger in talkative:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            batch = torch.export.Dim("batch", min=1, max=4096)
            program = torch.onnx.export(
                network,
                (example,),
                input_names=list(inputs),
                output_names=list(outputs),
                # By position, since the argument's name depends on the network.
                dynamic_shapes=({0: batch},),
                dynamo=True,
                verbose=False,
            )
        assert program is not None  # with dynamo=True and no file the exporter returns the program
        from onnx_ir.passes.common import ClearMetadataAndDocStringPass

        # The exporter records the source lines of each operation, including paths of this machine.
        ClearMetadataAndDocStringPass()(program.model)
    except ImportError as error:
        name, value = setting
        raise SettingError(name, value, "torch", f"{error.name} is not installed: pip install {error.name}") from None
    finally:
        for logger, level in zip(talkative, levels, strict=True):
            logger.setLevel(level)
    return program.model_proto.SerializeToString()
