"""The paper's baseline: a small convolutional network, trained from scratch."""

from __future__ import annotations

from torch import nn

WIDTHS = (16, 32, 64, 128)
"""Maps of the four layers."""


def cnn_features() -> nn.Sequential:
    """Four convolutions of stride 2, each with batch normalisation and ReLU: (N, 1, H, W) to (N, 128, H/16, W/16).

    Source: Luiz et al., the column CNN of Table 7. They describe it only as "a CNN-based model". The number of layers,
    their widths and everything else are ours, chosen so that ten folds can be trained without a GPU (49 million
    multiply-adds for an image of 224 pixels).
    """
    layers: list[nn.Module] = []
    before = 1
    for at, width in enumerate(WIDTHS):
        kernel = 5 if at == 0 else 3
        layers += [
            nn.Conv2d(before, width, kernel, stride=2, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        before = width
    return nn.Sequential(*layers)
