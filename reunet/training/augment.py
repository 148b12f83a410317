"""nnU-Net's augmentation with a wider zoom and the weight map carried along (paper §3.2.2).

The preprocessed segmentation has two channels: the class and 1000 times the weight. The weight
goes through the spatial transforms as nnU-Net's `regression_target`: the same sampling grid as the
image, bilinear, untouched by intensity transforms.
"""

import math
from typing import Any

import numpy as np
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms

from reunet.training.dataset import WEIGHT_SCALE
from reunet.training.loss import add_weights

P_ZOOM = P_ROTATION = 0.5  # where a preset sets a zoom range; nnU-Net: 0.2 each


class Zoom:
    """Draws nnU-Net's `scaling` (above 1: smaller objects) evenly on a logarithmic axis."""

    def __init__(self, zoom: tuple[float, float]) -> None:
        self.low, self.high = -math.log(zoom[1]), -math.log(zoom[0])

    def __call__(self, **_: object) -> float:
        return math.exp(np.random.uniform(self.low, self.high))  # noqa: NPY002 nnU-Net's generator


class SplitWeights(BasicTransform):  # type: ignore[misc]
    """Take the weights out of the segmentation. Outside the picture (-1) they are 0."""

    def apply(self, data_dict: dict[str, Any], **_: object) -> dict[str, Any]:
        """segmentation: (2, H, W) int16 -> (1, H, W) int16 and regression_target (1, H, W)."""
        both = data_dict["segmentation"]
        data_dict["segmentation"] = both[:1]
        data_dict["regression_target"] = both[1:].float().clamp_min(0) / WEIGHT_SCALE
        return data_dict


class DropWeights(BasicTransform):  # type: ignore[misc]
    """Leave the weights out: an unweighted training."""

    def apply(self, data_dict: dict[str, Any], **_: object) -> dict[str, Any]:
        """segmentation: (2, H, W) -> (1, H, W)."""
        data_dict["segmentation"] = data_dict["segmentation"][:1]
        return data_dict


class JoinWeights(BasicTransform):  # type: ignore[misc]
    """Put the weights beside the classes at each resolution of deep supervision."""

    def apply(self, data_dict: dict[str, Any], **_: object) -> dict[str, Any]:
        """segmentation: list of (1, h, w) -> list of (2, h, w) float32."""
        weights = data_dict.pop("regression_target")
        classes = data_dict["segmentation"]
        if isinstance(classes, list):
            data_dict["segmentation"] = [add_weights(c, weights) for c in classes]
        else:
            data_dict["segmentation"] = add_weights(classes, weights)
        return data_dict


def with_weights(pipeline: BasicTransform, weighted: bool) -> ComposeTransforms:
    """nnU-Net's pipeline for segmentations that carry a weight channel."""
    if weighted:
        return ComposeTransforms([SplitWeights(), pipeline, JoinWeights()])
    return ComposeTransforms([DropWeights(), pipeline])


def widen_zoom(pipeline: ComposeTransforms, zoom: tuple[float, float]) -> None:
    """Draw zooms from a wider range, and rotate and zoom more often, than nnU-Net does."""
    spatial = pipeline.transforms[0]
    assert isinstance(spatial, SpatialTransform)
    spatial.scaling = Zoom(zoom)
    spatial.p_scaling, spatial.p_rotation = P_ZOOM, P_ROTATION
