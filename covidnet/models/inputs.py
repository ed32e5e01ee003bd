"""How an 8-bit grey image becomes the input of a network."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class InputSpec:
    """How an 8-bit grey image becomes the input of a network.

    The grey values are scaled to 0..1, repeated over the channels, then ``(value - mean) / std``.

    Args:
        channels: 1 or 3.
        mean: one value per channel, on the scale 0..1.
        std: one value per channel, on the same scale.
        size: height and width of the input in pixels that the weights were trained with.
    """

    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int


IMAGENET_SPEC = InputSpec(3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224)
"""The input of torchvision's weights, and of its networks with random weights."""

INCEPTION_SPEC = InputSpec(3, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 299)
"""The input of the Inception family's weights; torchvision's `transform_input` is equivalent."""

LITE_SPEC = InputSpec(3, (127 / 255,) * 3, (128 / 255,) * 3, 224)
"""The input of the weights of EfficientNet-Lite: grey values of 0..255 minus 127, divided by 128."""

CHEST_SPEC = InputSpec(1, (0.5,), (0.5 / 1024,), 224)
"""The input of torchxrayvision's weights: one channel, black at -1024 and white at 1024."""

GREY_SPEC = InputSpec(1, (0.5,), (0.25,), 224)
"""The input of networks that are trained from scratch: one channel."""
