"""Networks, and ensembles of them: what the sliding window asks for, wherever it is computed.

Legend: N tiles, C channels, h, w pixels of a tile.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from reunet.inference.tiles import Flip

# (N, 3, h, w) float32, C-contiguous -> (N, C, h, w) float32 logits; on which device is its affair.
Network = Callable[[np.ndarray], np.ndarray]


class Ensemble(Protocol):
    """Some networks that predict as one: by the mean of their logits (paper §2.7)."""

    @property
    def networks(self) -> Sequence[Network]:
        """The networks, at least one."""

    def mean_logits(self, tiles: np.ndarray, flips: Sequence[Flip], batch: int) -> np.ndarray:
        """Mean logits over networks and mirror images.

        tiles: (N, 3, h, w) float32. flips: of `tiles.FLIPS`. batch: mirror images of tiles that a
        network is given at once. Returns (N, C, h, w) float32.
        """


@dataclass(frozen=True)
class Average:
    """An ensemble of any networks, averaged here. Raises ValueError where there is none."""

    networks: Sequence[Network]

    def __post_init__(self) -> None:
        """Complain of nothing to predict with."""
        if not self.networks:
            raise ValueError("no network to predict with: pass one or more")

    def mean_logits(self, tiles: np.ndarray, flips: Sequence[Flip], batch: int) -> np.ndarray:
        """See `Ensemble`."""
        views = np.concatenate([np.flip(tiles, axes) for axes in flips])
        total: np.ndarray | None = None
        for network in self.networks:
            for first in range(0, len(views), batch):
                for n, logits in enumerate(network(views[first : first + batch]), first):
                    if total is None:
                        total = np.zeros((len(tiles), *logits.shape), np.float32)
                    flip, tile = divmod(n, len(tiles))
                    total[tile] += np.flip(logits, flips[flip])
        assert total is not None, "no tiles"
        total /= len(self.networks) * len(flips)
        return total
