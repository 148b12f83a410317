"""nnU-Net's augmentation with a wider zoom, weight map and distance field carried along (§3.2.2).

The preprocessed segmentation has three channels: the class and 1000 times weight and field. These
two go through the spatial transforms as nnU-Net's `regression_target`: the same sampling grid as
the image, bilinear, untouched by intensity transforms.
"""

import math
import os
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from torch.nn import functional as F

from reunet.training.data.dataset import MAP_SCALE
from reunet.training.fit.loss import add_maps
from reunet.training.fit.repaint import Repaint
from reunet.training.processes import end_with

P_ZOOM, P_ROTATION = 0.8, 0.5  # where a preset sets a zoom range; nnU-Net: 0.2 each
P_SWAPPED, P_GREY, P_INVERTED = 0.3, 0.2, 0.2  # where a preset recolours, and …
P_UNEVEN, P_RELIEF, P_HALOS = 0.2, 0.12, 0.12


class Zoom:
    """Draws nnU-Net's `scaling` (above 1: smaller objects) evenly on a logarithmic axis."""

    def __init__(self, zoom: tuple[float, float]) -> None:
        self.low, self.high = -math.log(zoom[1]), -math.log(zoom[0])

    def __call__(self, **_: object) -> float:
        return math.exp(np.random.uniform(self.low, self.high))  # noqa: NPY002 nnU-Net's generator


class Beginning(BasicTransform):  # type: ignore[misc]
    """What a process that loads patches does first: it ends with the one that started it, and draws
    for itself.

    A killed training would leave its loaders behind, which wait for ever for somebody to take their
    batches. And nnU-Net seeds NumPy's generator in every loader, but not PyTorch's: forked, all of
    them would mirror, blur and darken alike, patch after patch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.parent = self.begun = os.getpid()

    def apply(self, data_dict: dict[str, Any], **_: object) -> dict[str, Any]:
        """Leave all as it is."""
        if self.begun != os.getpid():
            self.begun = os.getpid()
            end_with(self.parent)
            torch.manual_seed(int(np.random.randint(2**62)))  # noqa: NPY002 nnU-Net's generator
        return data_dict


class Recolour(BasicTransform):  # type: ignore[misc]
    """Another stain or mode of the microscope, which no training image shows, for the same cells.

    Channels are swapped, made one grey, or inverted: they have a mean of 0 (z-scores), so that is
    a change of sign. A light that is uneven is added. Grey images may get relief, as differential
    interference contrast shows it, or halos, as phase contrast does. The last three reach a little
    into what lies outside the picture.
    """

    def apply(self, data_dict: dict[str, Any], **_: object) -> dict[str, Any]:
        """image: (3, H, W) float32, z-scores."""
        swapped, grey, inverted, uneven, optics = torch.rand(5).tolist()
        image = data_dict["image"]
        if swapped < P_SWAPPED:
            image = image[torch.randperm(len(image))]
        if grey < P_GREY or optics < P_RELIEF + P_HALOS:
            image = image.mean(dim=0, keepdim=True).expand(image.shape)
        if optics < P_RELIEF:
            image = _mixed(image, relief(image[:1]))
        elif optics < P_RELIEF + P_HALOS:
            image = _mixed(image, halos(image[:1]))
        if uneven < P_UNEVEN:
            image = image + slope(image)
        data_dict["image"] = (-image if inverted < P_INVERTED else image).contiguous()
        return data_dict


def relief(grey: torch.Tensor) -> torch.Tensor:
    """Differences along a direction: what is dense gets a bright and a dark side. (1, H, W)."""
    angle = 2 * math.pi * torch.rand(1).item()
    reach = 1 + 2 * torch.rand(1).item()  # px
    shift = round(reach * math.sin(angle)), round(reach * math.cos(angle))
    return grey - torch.roll(grey, shift, (1, 2))


def halos(grey: torch.Tensor) -> torch.Tensor:
    """Differences to the surroundings: what is dense gets a rim of the other sign. (1, H, W)."""
    edge = 2 * int(4 + 12 * torch.rand(1).item()) + 1  # px
    around = F.avg_pool2d(grey[None], edge, 1, edge // 2, count_include_pad=False)
    return grey - F.avg_pool2d(around, edge, 1, edge // 2, count_include_pad=False)[0]


def _mixed(image: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    share = 0.5 + 0.5 * torch.rand(1).item()
    return share * other / other.std().clamp_min(1e-3) + (1 - share) * image


def slope(image: torch.Tensor) -> torch.Tensor:
    """A light that grows along a direction, from -s to s with s up to one standard deviation."""
    down, across = (torch.linspace(-1, 1, length) for length in image.shape[1:])
    angle, strength = 2 * math.pi * torch.rand(1).item(), torch.rand(1).item()
    return strength * (math.sin(angle) * down[:, None] + math.cos(angle) * across)


class SplitMaps(BasicTransform):  # type: ignore[misc]
    """Take weights and field out of the segmentation. Outside the picture (-1) they are 0."""

    def apply(self, data_dict: dict[str, Any], **_: object) -> dict[str, Any]:
        """segmentation: (3, H, W) int16 -> (1, H, W) int16 and regression_target (2, H, W)."""
        stored = data_dict["segmentation"]
        data_dict["segmentation"] = stored[:1]
        data_dict["regression_target"] = stored[1:].float().clamp_min(0) / MAP_SCALE
        return data_dict


class JoinMaps(BasicTransform):  # type: ignore[misc]
    """Put weights and field beside the classes at each resolution of deep supervision.

    weighted: False sets all weights to 1, a loss that is not weighted.
    """

    def __init__(self, weighted: bool) -> None:
        super().__init__()
        self.weighted = weighted

    def apply(self, data_dict: dict[str, Any], **_: object) -> dict[str, Any]:
        """segmentation: list of (1, h, w) -> list of (3, h, w) float32."""
        maps = data_dict.pop("regression_target")
        if not self.weighted:
            maps[:1] = 1
        classes = data_dict["segmentation"]
        if isinstance(classes, list):
            data_dict["segmentation"] = [add_maps(c, maps) for c in classes]
        else:
            data_dict["segmentation"] = add_maps(classes, maps)
        return data_dict


def with_maps(
    pipeline: BasicTransform, weighted: bool, recolour: bool = False
) -> ComposeTransforms:
    """nnU-Net's pipeline for segmentations that carry weights and a distance field.

    recolour: cells and images are given other looks first, see `repaint` and `Recolour`.
    """
    before = [Beginning(), *([Repaint(), Recolour()] * recolour), SplitMaps()]
    return ComposeTransforms([*before, pipeline, JoinMaps(weighted)])


def widen_zoom(pipeline: ComposeTransforms, zoom: tuple[float, float]) -> None:
    """Draw zooms from a wider range, and rotate and zoom more often, than nnU-Net does."""
    spatial = pipeline.transforms[0]
    assert isinstance(spatial, SpatialTransform)
    spatial.scaling = Zoom(zoom)
    spatial.p_scaling, spatial.p_rotation = P_ZOOM, P_ROTATION
