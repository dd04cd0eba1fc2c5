"""The CIFAR ResNet of He et al. 2015 (https://arxiv.org/abs/1512.03385), section 4.2, for 32 x 32 images."""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

DEMO_BLOCKS: Final = 3
"""Blocks in each of the three stages; depth is 6 x blocks + 2, so this is ResNet-20."""

DEMO_WIDTH: Final = 16
"""Channels of the first stage; the second and third have two and four times as many."""


class Block(nn.Module):  # type: ignore[misc]
    """Two 3 x 3 convolutions beside a shortcut without parameters (the paper's option A)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.stride = stride
        self.added = channels_out - channels_in

    def forward(self, x: Tensor) -> Tensor:
        """Map float [N, channels_in, H, W] to [N, channels_out, H / stride, W / stride]."""
        out = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(out)) + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.stride == 1 and self.added == 0:
            return x
        kept = x[:, :, :: self.stride, :: self.stride]
        return functional.pad(kept, (0, 0, 0, 0, self.added // 2, self.added - self.added // 2))


class CifarResNet(nn.Module):  # type: ignore[misc]
    """A 3 x 3 stem, three stages of `blocks` blocks at 32, 16 and 8 pixels, global average, one linear layer."""

    def __init__(self, classes: int, blocks: int = DEMO_BLOCKS, width: int = DEMO_WIDTH) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.stages = nn.Sequential(
            _stage(width, width, blocks, 1),
            _stage(width, 2 * width, blocks, 2),
            _stage(2 * width, 4 * width, blocks, 2),
        )
        self.fc = nn.Linear(4 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map float [N, 3, 32, 32] to logits [N, classes]."""
        out = self.stages(functional.relu(self.bn1(self.conv1(x))))
        logits: Tensor = self.fc(torch.mean(out, dim=(2, 3)))
        return logits


def _stage(channels_in: int, channels_out: int, blocks: int, stride: int) -> nn.Sequential:
    first = Block(channels_in, channels_out, stride)
    return nn.Sequential(first, *(Block(channels_out, channels_out, 1) for _ in range(blocks - 1)))
