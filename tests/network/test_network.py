"""The network: the paper's size, names and shapes."""

import pytest
import torch
from torch import nn

from conftest import TINY
from reunet.network.architecture import parameter_shapes
from reunet.network.unet import COMPACT, PAPER, Architecture, UNet, build


@pytest.mark.parametrize(("arch", "expected"), [(PAPER, 52_564_152), (COMPACT, 5_160_628)])
def test_number_of_parameters(arch: Architecture, expected: int) -> None:
    with torch.device("meta"):  # shapes only: the paper's network takes 210 MB
        network = UNet(arch)
    assert all(parameter.is_meta for parameter in network.parameters())
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


def test_the_divisor_is_256_for_the_paper() -> None:
    assert PAPER.divisor == 256


@pytest.mark.parametrize(
    "arch", [PAPER, COMPACT, TINY, Architecture(features=(3, 5), convs_per_block=3)]
)
def test_shapes_are_known_without_pytorch(arch: Architecture) -> None:
    with torch.device("meta"):
        network = UNet(arch)
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert parameter_shapes(arch) == shapes


def test_a_new_network_starts_without_biases() -> None:
    network = build(TINY)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert convolutions
    for module in convolutions:
        assert module.bias is not None
        assert not module.bias.any()
        assert module.weight.std() > 0
