"""The U-Net of paper §2.3 in PyTorch, built from a small description: for training and for GPUs.

`openvino_backend` builds the same network for CPUs. Legend: N images, C channels, H, W pixels.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from reunet.network.architecture import (
    COMPACT,
    LEAK,
    NORM_EPS,
    PAPER,
    SIZE_OUTPUTS,
    SIZE_STAGE,
    Architecture,
)

__all__ = ["COMPACT", "PAPER", "Architecture", "UNet", "build"]


class ConvNormAct(nn.Module):
    """3×3 convolution, dropout, instance norm, leaky ReLU: (N, C, H, W) -> (N, C', H', W')."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
        self.dropout = nn.Dropout2d(dropout)
        self.norm = nn.InstanceNorm2d(outputs, eps=NORM_EPS, affine=True)
        self.act = nn.LeakyReLU(LEAK, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.dropout(self.conv(x))))  # type: ignore[no-any-return]


class Block(nn.Module):
    """`convs_per_block` convolutions; the first takes the block's stride."""

    def __init__(self, inputs: int, outputs: int, stride: int, arch: Architecture) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            ConvNormAct(inputs, outputs, stride, arch.dropout),
            *(
                ConvNormAct(outputs, outputs, 1, arch.dropout)
                for _ in range(1, arch.convs_per_block)
            ),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.convs(x)  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Blocks that halve the resolution, the first excepted. Returns every block's output."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        inputs = (arch.in_channels, *arch.features[:-1])
        blocks = (
            nn.Sequential(Block(i, o, 1 if n == 0 else 2, arch))
            for n, (i, o) in enumerate(zip(inputs, arch.features, strict=True))
        )
        self.stages = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> outputs of all stages, finest first."""
        skips = []
        for stage in self.stages:
            x = stage(x)
            skips.append(x)
        return skips


class Decoder(nn.Module):
    """Transposed convolution, concatenation with the skip, block; a head at every resolution."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        coarse_to_fine = arch.features[::-1]
        pairs = list(pairwise(coarse_to_fine))
        self.transpconvs = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, stride=2) for i, o in pairs)
        self.stages = nn.ModuleList(Block(2 * o, o, 1, arch) for _, o in pairs)
        self.seg_layers = nn.ModuleList(nn.Conv2d(o, arch.outputs, 1) for _, o in pairs)

    def forward(self, skips: list[Tensor]) -> Tensor:
        """Outputs of the encoder -> (N, classes, H, W) logits."""
        x = skips[-1]
        for up, stage, skip in zip(self.transpconvs, self.stages, skips[-2::-1], strict=True):
            x = stage(torch.cat((up(x), skip), dim=1))
        return self.seg_layers[-1](x)  # type: ignore[no-any-return]  # the full-resolution head


class UNet(nn.Module):
    """(N, 3, H, W) float32 z-scored image -> (N, classes, H, W) logits.

    H and W are multiples of `Architecture.divisor`. The heads of the lower resolutions serve
    training alone (deep supervision); they are kept so that a bundle can be trained further.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.encoder = Encoder(arch)
        self.decoder = Decoder(arch)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))  # type: ignore[no-any-return]


class SizeUNet(nn.Module):
    """The U-Net read out at decoder stage SIZE_STAGE: (N, 3, H, W) -> (N, SIZE_OUTPUTS, h, w)."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        whole = UNet(arch)
        self.encoder, self.decoder = whole.encoder, whole.decoder
        kept = SIZE_STAGE + 1
        self.decoder.transpconvs = self.decoder.transpconvs[:kept]
        self.decoder.stages = self.decoder.stages[:kept]
        head = nn.Conv2d(arch.features[-2 - SIZE_STAGE], SIZE_OUTPUTS, 1)
        self.decoder.seg_layers = nn.ModuleList([*(nn.Identity() for _ in range(SIZE_STAGE)), head])

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, SIZE_OUTPUTS, H / 8, W / 8): presence of a cell, log2 of its size."""
        skips = self.encoder(x)
        x = skips[-1]
        pairs = zip(self.decoder.transpconvs, self.decoder.stages, strict=True)
        for (up, stage), skip in zip(pairs, skips[-2::-1], strict=False):
            x = stage(torch.cat((up(x), skip), dim=1))
        return self.decoder.seg_layers[SIZE_STAGE](x)  # type: ignore[no-any-return]


def build(arch: Architecture) -> UNet:
    """The network with He-normal weights and zero biases, as nnU-Net starts (paper §3.2.2)."""
    network = UNet(arch)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, a=LEAK)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network
