"""Training images whose cells look otherwise: fills, rims, textures, debris (beyond the paper).

A network that is to find cells in pictures unlike those it has learnt from should not rely on how
these look. What is labelled stays where it is, and is painted anew, wholly or in part: cells
brighter or darker than the ground, each by as much as it likes, or no more than an outline; grain
on cells or ground; specks on the ground that are no cells. Legend: H × W px.
"""

from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from scipy import ndimage as ndi
from torch.nn import functional as F

from reunet.training.fit.loss import IGNORE

P_REPAINTED = 0.3
P_FILL, P_RIM, P_DOME, P_GRAIN, P_SPECKS = 0.7, 0.5, 0.4, 0.6, 0.3
P_GREY = 0.5  # all channels alike
NOISE = 0.05  # of every pixel of paint, whose fills deviate by about 1


class Repaint(BasicTransform):  # type: ignore[misc]
    """`repainted` for some of nnU-Net's patches: of those whose cells are known, P_REPAINTED."""

    def apply(self, data_dict: dict[str, Any], **_: object) -> dict[str, Any]:
        """image: (3, H, W) float32, z-scores. segmentation: (C, H, W) int16, the class first."""
        classes = data_dict["segmentation"][0].numpy()
        if torch.rand(1).item() < P_REPAINTED and not (classes == IGNORE).any():
            cells = ndi.label(classes == 1)[0]
            rim = torch.from_numpy((classes == 2).astype(np.float32))
            picture = torch.from_numpy((classes >= 0).astype(np.float32))
            data_dict["image"] = repainted(data_dict["image"], cells, rim, picture)
        return data_dict


def repainted(
    image: torch.Tensor, cells: np.ndarray, rim: torch.Tensor, picture: torch.Tensor
) -> torch.Tensor:
    """The image with its cells painted anew: (3, H, W) float32 of mean 0 and deviation 1.

    image: (3, H, W) float32. cells: (H, W) int, their interiors, 0 elsewhere. rim: (H, W) float32,
    1 at their borders. picture: (H, W) float32, 0 outside it.
    """
    paint = torch.stack([_paint(cells, rim) for _ in range(1 if _chance(P_GREY) else len(image))])
    kept = torch.rand(1).item()
    image = (kept * image / image.std().clamp_min(1e-3) + (1 - kept) * paint) * picture
    inside = picture > 0
    if not inside.any():
        return image
    mean, deviation = image[:, inside].mean(), image[:, inside].std()
    return (image - mean) / deviation.clamp_min(1e-3) * picture


def _paint(cells: np.ndarray, rim: torch.Tensor) -> torch.Tensor:
    """One channel: (H, W)."""
    shape = rim.shape
    whole = torch.from_numpy((cells > 0).astype(np.float32)).maximum(rim)
    ground = 1 - whole
    channel = torch.zeros(shape)
    if _chance(P_FILL):
        shades = torch.randn(1) + _uniform(0, 0.7) * torch.randn(int(cells.max()) + 1)
        shades[0] = 0
        fill = shades[torch.from_numpy(cells.astype(np.int64))]
        channel += _blurred(fill, _uniform(0.5, 3))
    if _chance(P_DOME):
        channel += 1.5 * torch.randn(1) * _blurred(whole, _uniform(4, 8)) * whole
    if _chance(P_RIM):
        channel += torch.randn(1) * _blurred(rim, _uniform(0.5, 1.5))
    if _chance(P_SPECKS):
        channel += torch.randn(1) * _specks(shape) * ground
    if _chance(P_GRAIN):
        where = (torch.ones(shape), whole, ground)[int(torch.randint(3, (1,)))]
        channel += _uniform(0.1, 0.7) * _grain(shape, _uniform(1, 16)) * where
    return channel + NOISE * torch.randn(shape)


def _specks(shape: torch.Size) -> torch.Tensor:
    """Blobs of some 5 to 12 px on a few per cent of the ground. (H, W)."""
    blobs = _grain(shape, _uniform(2, 5)) > _uniform(1.5, 2.2)
    return _blurred(blobs.float(), _uniform(0.5, 1.5))


def _grain(shape: torch.Size, size: float) -> torch.Tensor:
    """Smooth noise of deviation 1 whose spots measure about `size` px. (H, W)."""
    coarse = [max(2, round(edge / size)) for edge in shape]
    noise = F.interpolate(torch.randn(1, 1, *coarse), tuple(shape), mode="bicubic")[0, 0]
    return noise / noise.std().clamp_min(1e-3)


def _blurred(plane: torch.Tensor, sigma: float) -> torch.Tensor:
    return torch.from_numpy(ndi.gaussian_filter(plane.numpy(), sigma, truncate=3))


def _chance(probability: float) -> bool:
    return torch.rand(1).item() < probability


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * torch.rand(1).item()
