"""The network against nnU-Net's own class and the paper's size."""

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn

from reunet.architecture import parameter_shapes
from reunet.network import COMPACT, PAPER, Architecture, UNet, build

TINY = Architecture(features=(4, 8, 8), dropout=0.0)


def reference(arch: Architecture) -> PlainConvUNet:
    """nnU-Net's network of the same description, deep supervision off, random affine norms."""
    stages = len(arch.features)
    network = PlainConvUNet(
        input_channels=arch.in_channels,
        n_stages=stages,
        features_per_stage=arch.features,
        conv_op=nn.Conv2d,
        kernel_sizes=3,
        strides=[1] + [2] * (stages - 1),
        n_conv_per_stage=arch.convs_per_block,
        num_classes=arch.classes,
        n_conv_per_stage_decoder=arch.convs_per_block,
        conv_bias=True,
        norm_op=nn.InstanceNorm2d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=False,
    )
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network.eval()


@pytest.mark.parametrize(("arch", "expected"), [(PAPER, 52_564_152), (COMPACT, 5_160_127)])
def test_number_of_parameters(arch: Architecture, expected: int) -> None:
    with torch.device("meta"):  # shapes only: the paper's network takes 210 MB
        network = UNet(arch)
    assert all(parameter.is_meta for parameter in network.parameters())
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


def test_the_divisor_is_256_for_the_paper() -> None:
    assert PAPER.divisor == 256


@torch.inference_mode()
def test_logits_equal_nnunets() -> None:
    torch.manual_seed(0)
    theirs = reference(TINY)
    mine = UNet(TINY).eval()
    names = mine.state_dict().keys()
    mine.load_state_dict({k: v for k, v in theirs.state_dict().items() if k in names})
    image = torch.randn(2, 3, 24, 40)
    assert torch.equal(mine(image), theirs(image))


def test_parameters_are_called_as_in_nnunet() -> None:
    mine = dict(UNet(TINY).named_parameters())
    theirs = dict(reference(TINY).named_parameters())  # names every shared tensor once
    assert {k: v.shape for k, v in mine.items()} == {k: v.shape for k, v in theirs.items()}


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
