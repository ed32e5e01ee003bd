"""A self-contained ONNX file of one or more models: from 8-bit grey squares to calibrated probabilities."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from covidnet import __version__
from covidnet.models.backbones import Backbone
from covidnet.models.onnx_graph import onnx_graph
from covidnet.models.saliency import linear_weights
from covidnet.serving.facts import NOTICE
from covidnet.serving.model import example_square
from covidnet.serving.onnx_model import EVIDENCE, FORMAT, INPUT, NO_HASH, OUTPUTS, SHA256, content_sha256
from covidnet.serving.torch_model import TorchModel

TOLERANCE = 1e-4
"""The largest difference allowed between a probability of the file and PyTorch's."""

READING = (
    "One grey channel of 8 bits: values of more bits are scaled by the depth that the file declares; colour becomes "
    "ITU-R 601 luma; transparent becomes black; EXIF orientation, DICOM modality and VOI transformations are applied; "
    "MONOCHROME1 is inverted, so that bone is bright."
)
FITS = {
    "squash": "The image is resized to {side} x {side} pixels whatever its aspect ratio",
    "crop": "The central square of the image is resized to {side} x {side} pixels",
    "pad": "The image is centred on a black square, which is resized to {side} x {side} pixels",
}


class _Graph(nn.Module):
    """Everything between a square image and its probabilities."""

    mean: Tensor
    std: Tensor
    temperatures: Tensor
    weights: Tensor

    def __init__(self, model: TorchModel) -> None:
        super().__init__()
        facts, classifiers = model.facts, model.classifiers
        self.shared = model.shared
        self.backbones = nn.ModuleList([classifiers[0].backbone] if self.shared else [c.backbone for c in classifiers])
        self.heads = nn.ModuleList([classifier.head for classifier in classifiers])
        self.register_buffer("mean", torch.tensor(facts.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(facts.std).view(1, -1, 1, 1))
        temperatures = [1.0 if temperature is None else temperature for temperature in facts.temperatures]
        self.register_buffer("temperatures", torch.tensor(temperatures, dtype=torch.float32))
        weights = [linear_weights(head) for head in self.heads]
        # A linear head's evidence for a class is a weighted sum of the feature maps (CAM): no gradient is needed.
        averages = all(classifier.backbone.averages for classifier in classifiers)
        self.explains = averages and all(one is not None for one in weights)
        if self.explains:
            stacked = torch.stack([one.detach().float() for one in weights if one is not None])
            self.register_buffer("weights", stacked.mean(0, keepdim=True) if self.shared else stacked)

    def forward(self, squares: Tensor) -> tuple[Tensor, ...]:
        images = (squares.unsqueeze(1).float() / 255.0 - self.mean) / self.std
        backbones = [cast("Backbone", backbone) for backbone in self.backbones]
        maps = [backbone.feature_maps(images) for backbone in backbones]
        pooled = [backbone.pool(found) for backbone, found in zip(backbones, maps, strict=True)]
        members = [
            (head(pooled[0 if self.shared else number]) / self.temperatures[number]).softmax(1)
            for number, head in enumerate(self.heads)
        ]
        stacked = torch.stack(members, 1)
        evidence = (
            [torch.stack([torch.einsum("nkhw,ck->nchw", m, w) for m, w in zip(maps, self.weights, strict=True)], 1)]
            if self.explains
            else []
        )
        return (stacked.mean(1), stacked, pooled[0], *evidence)


def exported(model: TorchModel, card: str = "") -> bytes:
    """The content of a file for ONNX Runtime.

    Its input is ``squares`` (N, S, S), 8-bit grey. Its outputs are ``probabilities`` (N, classes), ``members`` (N, M,
    classes), ``features`` (N, D), and for linear heads ``evidence`` (N, K, classes, h, w) for each class: one map for
    all models if they share a backbone (K = 1), else one for each. The metadata entry ``covidnet`` is JSON with the
    preprocessing, the classes, the temperatures, the `ModelFacts` and the input gate; ``card`` is the model card.

    Args:
        model: the model to export.
        card: its model card in Markdown.

    Raises:
        SettingError: a library needed for the export is not installed.
    """
    side = model.facts.image_size
    example = torch.randint(0, 256, (2, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    network = _Graph(model).eval()
    outputs = [*OUTPUTS, *([EVIDENCE] if network.explains else [])]
    content = onnx_graph(network, example, [INPUT], outputs, ("format", "onnx"))
    import onnx

    graph = onnx.load_from_string(content)
    graph.producer_name, graph.producer_version = "covidnet", __version__
    graph.doc_string = f"{model.facts.title}. {NOTICE}"
    for name, value in {
        "covidnet": json.dumps(description(model, outputs)),
        "preprocessing": " ".join(preprocessing(model)),
        "classes": ", ".join(model.facts.classes),
        "notice": NOTICE,
        "card": card,
    }.items():
        graph.metadata_props.add(key=name, value=value)
    graph.metadata_props.add(key=SHA256, value=NO_HASH)
    content = graph.SerializeToString()
    return content.replace(NO_HASH.encode(), content_sha256(content, NO_HASH).encode())


def description(model: TorchModel, outputs: Sequence[str] = OUTPUTS) -> dict[str, Any]:
    """The file's metadata.

    Args:
        model: the exported model.
        outputs: names of the graph's outputs.
    """
    return {
        "format": FORMAT,
        "classes": list(model.facts.classes),
        "input": {"name": INPUT, "shape": ["N", model.facts.image_size, model.facts.image_size], "type": "uint8"},
        "outputs": list(outputs),
        "preprocessing": preprocessing(model),
        "facts": model.facts.plain(),
        "gate": _packed(model.gate.arrays()) if model.gated else None,
        "example": model.outputs(example_square(model.facts.image_size)).members[0].tolist(),
        "notice": NOTICE,
    }


def preprocessing(model: TorchModel) -> list[str]:
    """How an image must be prepared for the graph, in sentences."""
    facts = model.facts
    return [
        READING,
        FITS[facts.fit].format(side=facts.image_size)
        + ", by averaging (OpenCV INTER_AREA) to shrink it, linearly to enlarge it.",
        f"The graph itself scales to 0..1, subtracts {list(facts.mean)} and divides by {list(facts.std)}.",
    ]


def _packed(arrays: dict[str, npt.NDArray[Any]]) -> str:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # numpy takes its options for arrays
    return base64.b64encode(buffer.getvalue()).decode("ascii")
