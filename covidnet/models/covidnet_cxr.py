"""COVID-Net CXR of Wang et al.: light projection-expansion-projection-extension blocks with long-range connections."""

from __future__ import annotations

import torch
from torch import Tensor, nn

STAGES = ((256, 3), (512, 4), (1024, 6), (2048, 3))
"""Maps and number of blocks of the four stages."""

NARROW, WIDE = 3 / 16, 7 / 16
"""Maps inside a block, as shares of its input maps: after a projection, and after the expansion."""


class PepxBlock(nn.Module):
    """Projection, expansion, depth-wise convolution, projection, extension: (N, C, H, W) to (N, D, H, W).

    1x1 convolutions to 3C/16 and then 7C/16 maps, a depth-wise 3x3 convolution, and 1x1 convolutions back to 3C/16 and
    out to D. So the spatial layer has many maps but few weights.

    Args:
        channels: C, a multiple of 16.
        width: D.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        narrow, wide = int(channels * NARROW), int(channels * WIDE)
        self.projection = nn.Conv2d(channels, narrow, 1)
        self.expansion = nn.Conv2d(narrow, wide, 1)
        self.depthwise = nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False)
        self.norm = nn.BatchNorm2d(wide)
        self.projection2 = nn.Conv2d(wide, narrow, 1)
        self.extension = nn.Conv2d(narrow, width, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        """The block's maps, after a ReLU."""
        inner = self.relu(self.norm(self.depthwise(self.expansion(self.projection(maps)))))
        return self.relu(self.norm2(self.extension(self.projection2(inner))))


class _Stage(nn.Module):
    """Blocks of one width. The input of each is the sum of all earlier outputs and a 1x1 shortcut from the start."""

    def __init__(self, channels: int, width: int, blocks: int) -> None:
        super().__init__()
        self.shortcut = nn.Conv2d(channels, width, 1)
        self.blocks = nn.ModuleList(PepxBlock(channels if at == 0 else width, width) for at in range(blocks))

    def forward(self, maps: Tensor) -> Tensor:
        total = self.shortcut(maps)
        found = maps
        for block in self.blocks:
            found = block(found)
            total = found = found + total
        return found


class CovidNetCxr(nn.Module):
    """The layers of COVID-Net CXR up to its last maps: (N, 1, H, W) to (N, 2048, H/32, W/32).

    Source: Wang, Lin and Wong 2020, https://doi.org/10.1038/s41598-020-76550-z: a 7x7 convolution, then stages of 3, 4,
    6 and 3 projection-expansion-projection-extension blocks with long-range connections. The article leaves some points
    open, which are our choices: the widths inside a block (in the article they differ between blocks; here one pair of
    shares, chosen to match the article's 11.75 million weights), the position of normalisation and ReLU, and the blocks
    joined by long-range connections (all of one stage). In place of the original's fully connected layers there is the
    linear head on pooled maps, as for every other network. The original was pre-trained on ImageNet and takes images of
    480 pixels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        self.pool = nn.MaxPool2d(2)
        widths = [64, *(width for width, _ in STAGES)]
        self.stages = nn.ModuleList(
            _Stage(channels, width, blocks) for channels, (width, blocks) in zip(widths, STAGES, strict=False)
        )

    def forward(self, images: Tensor) -> Tensor:
        """The last maps."""
        maps = self.stem(images)
        for stage in self.stages:
            maps = stage(self.pool(maps))
        return torch.relu(maps)
