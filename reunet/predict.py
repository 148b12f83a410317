"""Class logits of an image of any size: sliding window, mirroring, folds (paper §2.7, table 2).

Legend: N images, C = 3 classes, H, W pixels of the image, h, w pixels of its content box or of a
tile. A network is any callable (N, 3, h, w) float32 -> (N, C, h, w) logits on `Tiling.device`;
a module has to be in eval mode.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from reunet.normalise import z_score
from reunet.tiles import centred_padding, content_box, gaussian_importance, tile_windows

Network = Callable[[Tensor], Tensor]

CPU = torch.device("cpu")
CLASSES = 3  # background, interior, boundary
OUTSIDE_LOGITS = (10.0, 0.0, 0.0)  # of the black margins: background with 99.99 %, as softmax says
FLIPS = ((2,), (3,), (2, 3))  # axes of (N, C, h, w): upside down, left to right, both


@dataclass(frozen=True)
class Tiling:
    """How an image is cut for the network, and how the pieces are added up."""

    tile: int  # px, edge of a tile; a multiple of divisor
    smallest: int  # px, shortest edge an image is padded to: the training patch
    divisor: int  # px, edges that the network takes are multiples (`Architecture.divisor`)
    mirror: bool = True  # average over the four mirror images
    parity: bool = False  # nnU-Net to the bit: full tiles only, sums in half precision
    device: torch.device = CPU  # of the networks, the image and the sums

    def __post_init__(self) -> None:
        """Raises ValueError for edges that the network cannot take."""
        if not 1 <= self.smallest <= self.tile:
            raise ValueError(f"smallest edge {self.smallest} is not within 1..{self.tile} (tile)")
        if self.tile % self.divisor or self.smallest % self.divisor:
            raise ValueError(
                f"tile {self.tile} and smallest {self.smallest} have to be multiples of "
                f"{self.divisor}, the network's divisor"
            )

    def edge(self, length: int) -> int:
        """Edge of the tiles along an axis of `length` pixels.

        A short axis gets a tile that just holds it, so that small images cost little. nnU-Net
        pads them to the full tile, which changes the logits: instance norm sees the padding.
        """
        if self.parity or length >= self.tile:
            return self.tile
        return max(self.smallest, -(-length // self.divisor) * self.divisor)


def predict_logits(image: np.ndarray, networks: Sequence[Network], tiling: Tiling) -> np.ndarray:
    """Logits of background, interior and boundary, averaged over the networks (folds).

    image: (H, W, 3) uint8 from `normalise_channels`, H and W at least 1.
    Returns (3, H, W) float32. Black margins are not shown to the networks, as in training: they
    are OUTSIDE_LOGITS. An all-black image has no margins.
    Raises ValueError where there is no network.
    """
    channels = image.transpose(2, 0, 1)  # (3, H, W)
    rows, columns = content_box(channels)
    inside = predict_scaled(z_score(channels[:, rows, columns]), networks, tiling)
    if inside.shape == channels.shape:
        return inside
    logits = np.empty(channels.shape, np.float32)
    logits[:] = np.reshape(OUTSIDE_LOGITS, (CLASSES, 1, 1))
    logits[:, rows, columns] = inside
    return logits


@torch.inference_mode()
def predict_scaled(content: np.ndarray, networks: Sequence[Network], tiling: Tiling) -> np.ndarray:
    """Logits of an image that is cropped and z-scored already.

    content: (3, h, w) float32. Returns (3, h, w) float32. In parity mode these are the very bits
    that nnU-Net computes on the CPU (values of half precision). Raises ValueError where
    there is no network.
    """
    if not networks:
        raise ValueError("no network to predict with: pass one or more")
    _, h, w = content.shape
    tile = tiling.edge(h), tiling.edge(w)
    (above, below), (left, right) = centred_padding((h, w), tile)
    data = torch.from_numpy(content).to(tiling.device)
    if h < tile[0] or w < tile[1]:  # else F.pad would copy the image for nothing
        data = F.pad(data, (left, right, above, below))
    total = _slide(data, tile, networks[0], tiling)
    for network in networks[1:]:
        total += _slide(data, tile, network, tiling)
    total /= len(networks)
    inside = total[:, above : above + h, left : left + w]
    return inside.float().contiguous().cpu().numpy()


def _slide(data: Tensor, tile: tuple[int, int], network: Network, tiling: Tiling) -> Tensor:
    shape = data.shape[1], data.shape[2]
    precision = torch.half if tiling.parity else torch.float32
    importance = gaussian_importance(*tile, np.float16 if tiling.parity else np.float32)
    weight = torch.from_numpy(importance).to(tiling.device)  # (h, w)
    logits = torch.zeros((CLASSES, *shape), dtype=precision, device=tiling.device)
    weights = torch.zeros(shape, dtype=precision, device=tiling.device)
    for rows, columns in tile_windows(shape, tile):
        piece = data[None, :, rows, columns].contiguous()  # (1, 3, h, w)
        # Multiplied in float32 and rounded when added: nnU-Net's order, which parity relies on.
        logits[:, rows, columns] += _mirrored(network, piece, tiling.mirror)[0] * weight
        weights[rows, columns] += weight
    return logits.div_(weights)


def _mirrored(network: Network, piece: Tensor, mirror: bool) -> Tensor:
    """Mean logits over the mirror images, one after the other: on a CPU batches gain nothing."""
    logits = network(piece)
    if not mirror:
        return logits
    for axes in FLIPS:
        logits = logits + network(piece.flip(axes)).flip(axes)
    return logits / (len(FLIPS) + 1)
