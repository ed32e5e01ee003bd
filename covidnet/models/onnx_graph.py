"""A network as an ONNX graph, for engines other than PyTorch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from covidnet.errors import SettingError


def onnx_graph(
    network: nn.Module, example: Tensor, inputs: Sequence[str], outputs: Sequence[str], setting: tuple[str, str]
) -> bytes:
    """Export a network that takes one tensor; the number of films in a batch stays open.

    Args:
        network: in eval mode.
        example: an input of at least two films.
        inputs: the name of the input.
        outputs: the names of the outputs, in their order.
        setting: name and value of what asked for it, for the error.

    Returns:
        The file's content.

    Raises:
        SettingError: a library that exports is not installed.
    """
    # The exporter tells every step that it takes, and warns of its own parts.
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
                # By place: the name of the argument is the network's own.
                dynamic_shapes=({0: batch},),
                dynamo=True,
                verbose=False,
            )
        assert program is not None  # with dynamo=True and no file the exporter gives the program
        from onnx_ir.passes.common import ClearMetadataAndDocStringPass

        # The exporter notes for each operation which lines of code it comes from, with the folders of this machine.
        ClearMetadataAndDocStringPass()(program.model)
    except ImportError as error:
        name, value = setting
        raise SettingError(
            name, value, "torch", f'{error.name} is not installed: pip install "covidnet[onnx]"'
        ) from None
    finally:
        for logger, level in zip(talkative, levels, strict=True):
            logger.setLevel(level)
    return program.model_proto.SerializeToString()
