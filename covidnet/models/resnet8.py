"""ResNet-8: the eight-layer residual network that Karakanis and Leontidis use as a baseline."""

from __future__ import annotations

from torch import Tensor, nn

WIDTHS = (16, 32, 64)
"""Maps of the three blocks."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut: (N, C, H, W) to (N, D, H/stride, W/stride).

    Args:
        channels: C.
        width: D.
        stride: of the first convolution. The shortcut is a 1x1 convolution if the stride is not 1 or the width changes.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            convolution = nn.Conv2d(channels, width, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(width))

    def forward(self, maps: Tensor) -> Tensor:
        """The block's maps."""
        inner = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(maps)))))
        return self.relu(inner + self.shortcut(maps))


def resnet8_features() -> nn.Sequential:
    """One convolution and three residual blocks, eight layers with the linear head; (N, 1, H, W) to (N, 64, h, w).

    Source: Karakanis and Leontidis 2021, https://doi.org/10.1016/j.compbiomed.2020.104181, as cited in the paper's
    Table 3; their abstract calls it a baseline. They do not give the layers, so this is the CIFAR design of He et al.
    2016 (https://doi.org/10.1109/CVPR.2016.90) with one block per stage. Stride 2 in the first convolution is our
    choice, because radiographs are seven times as wide as CIFAR's images.
    """
    stem = [nn.Conv2d(1, WIDTHS[0], 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU()]
    blocks = [
        ResidualBlock(channels, width, stride)
        for channels, width, stride in zip((WIDTHS[0], *WIDTHS), WIDTHS, (1, 2, 2), strict=False)
    ]
    return nn.Sequential(*stem, *blocks)
