"""What it takes to build the U-Net of paper §2.3, without the library that runs it.

Start-up counts: nothing slow is imported here. Parameters carry the names that nnU-Net gives
them, so that trained weights move between the two without renaming.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

NORM_EPS = 1e-5
LEAK = 0.01
DROPOUT = 0.1  # reading: the paper draws dropout layers but names no rate

SIZE_STAGE = 1  # decoder stage at which the size network is read out: an eighth of the resolution
SIZE_OUTPUTS = 2  # logit of a cell's presence, log2 of its diameter over `size.REFERENCE`

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Architecture:
    """What it takes to build the network: one entry of `features` a stage, finest first."""

    features: tuple[int, ...]
    dropout: float = DROPOUT
    convs_per_block: int = 2
    in_channels: int = 3
    classes: int = 3
    field: bool = False  # a further output: the distance field of `encode.distance_field`

    @property
    def outputs(self) -> int:
        """Channels of the network's output: a logit for each class, then the field."""
        return self.classes + self.field

    @property
    def divisor(self) -> int:
        """Heights and widths that the network takes are multiples of this many pixels."""
        return int(2 ** (len(self.features) - 1))


PAPER = Architecture(features=(32, 64, 128, 256, 480, 480, 480, 480, 480))  # 52 564 152 parameters
COMPACT = Architecture(features=(16, 32, 64, 128, 256, 256), dropout=0.0, field=True)


def parameter_shapes(arch: Architecture) -> dict[str, Shape]:
    """Name and shape of every parameter of the network, in the order of the layers."""
    return dict(_parameters(arch))


def size_parameter_shapes(arch: Architecture) -> dict[str, Shape]:
    """`parameter_shapes` of the size network: the U-Net up to decoder stage SIZE_STAGE.

    Its head there has two outputs, whatever the classes: a cell's presence and its size.
    """
    stages = tuple(f"decoder.{part}.{n}." for part in ("transpconvs", "stages")
                   for n in range(SIZE_STAGE + 1))  # fmt: skip
    head = f"decoder.seg_layers.{SIZE_STAGE}."
    shapes = {
        name: shape
        for name, shape in _parameters(arch)
        if name.startswith(("encoder.", *stages, head))
    }
    return {
        name: (SIZE_OUTPUTS, *shape[1:]) if name.startswith(head) else shape
        for name, shape in shapes.items()
    }


def _parameters(arch: Architecture) -> Iterator[tuple[str, Shape]]:
    features = arch.features
    for n, (inputs, outputs) in enumerate(pairwise((arch.in_channels, *features))):
        yield from _block(f"encoder.stages.{n}.0", inputs, outputs, arch)
    for n, (inputs, outputs) in enumerate(pairwise(features[::-1])):
        yield f"decoder.transpconvs.{n}.weight", (inputs, outputs, 2, 2)
        yield f"decoder.transpconvs.{n}.bias", (outputs,)
        yield from _block(f"decoder.stages.{n}", 2 * outputs, outputs, arch)
        yield f"decoder.seg_layers.{n}.weight", (arch.outputs, outputs, 1, 1)
        yield f"decoder.seg_layers.{n}.bias", (arch.outputs,)


def _block(name: str, inputs: int, outputs: int, arch: Architecture) -> Iterator[tuple[str, Shape]]:
    for n in range(arch.convs_per_block):
        yield f"{name}.convs.{n}.conv.weight", (outputs, inputs if n == 0 else outputs, 3, 3)
        for vector in ("conv.bias", "norm.weight", "norm.bias"):
            yield f"{name}.convs.{n}.{vector}", (outputs,)
