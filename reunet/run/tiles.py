"""One large image on many workers: they do the networks' work, a tile a task.

The image is read, tiles are added up and cells are found where this is called, exactly as without
workers, so labels are the same to the bit. Legend: N tiles, C channels, h, w pixels of a tile.
"""

import contextlib
import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from reunet.errors import ReUNetError
from reunet.inference.ensemble import Network
from reunet.inference.tiles import Flip
from reunet.model import Model
from reunet.network.ensemble import ensemble_of
from reunet.run.workers import Weights, model_here, weights_of

if TYPE_CHECKING:
    from distributed import Client

TILES = 64  # that are on their way to workers and back at a time; one takes 2 MB
MIRRORED = 4  # images of a tile, at most


def on_workers(model: Model, client: "Client", device: str | None = None) -> Model:
    """The same model, whose networks compute on workers, many tiles at once.

    device: of the workers (None: as here).
    """
    weights = weights_of(model, device or model.device)
    folds = tuple(RemoteFold(client, weights, n) for n in range(len(model.folds)))
    return replace(model, networks=folds, together=_together, batch=MIRRORED * TILES)


@dataclass(frozen=True)
class RemoteFold:
    """A fold that workers compute. number: among those of the model."""

    client: "Client"
    weights: Weights
    number: int

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        """(N, 3, h, w) to (N, C, h, w), float32."""
        return Remote([self]).mean_logits(tiles, [()], 1)


@dataclass(frozen=True)
class Remote:
    """Folds as an `Ensemble`: each tile goes to one worker, wherever there is time, and back once.

    Raises ReUNetError where one worker after the other dies with a tile.
    """

    networks: Sequence[RemoteFold]

    def mean_logits(self, tiles: np.ndarray, flips: Sequence[Flip], batch: int) -> np.ndarray:  # noqa: ARG002
        """See `Ensemble`. A worker takes the batches that suit it."""
        from distributed import KilledWorker

        client, weights = self.networks[0].client, self.networks[0].weights
        numbers = [fold.number for fold in self.networks]
        tasks = [
            client.submit(mean_logits_here, weights, numbers, tile, [*flips], pure=False)
            for tile in tiles
        ]
        try:
            logits: Sequence[np.ndarray] = client.gather(tasks)
        except KilledWorker as error:
            raise ReUNetError(
                "the workers die with its tiles; give them more memory, or crop the image"
            ) from error
        except BaseException:
            client.cancel(tasks)
            raise
        stacked = np.stack(logits)
        del logits, tasks
        _give_back()
        return stacked


def _give_back() -> None:
    """Give freed memory back to the system: what threads of Dask leave in pieces adds up over a
    slide to a megabyte a tile."""
    with contextlib.suppress(OSError, AttributeError):  # there is no such call but in Linux's libc
        ctypes.CDLL(None).malloc_trim(0)


def _together(networks: Sequence[Network]) -> Remote:
    return Remote([fold for fold in networks if isinstance(fold, RemoteFold)])


def mean_logits_here(
    weights: Weights, numbers: Sequence[int], tile: np.ndarray, flips: Sequence[Flip]
) -> np.ndarray:
    """What a worker's networks say of one tile: (3, h, w) to (C, h, w) float32."""
    model: Model = model_here(weights)
    ensemble = ensemble_of([model.networks[n] for n in numbers])
    alone: Any = np.ascontiguousarray(tile[np.newaxis])
    logits: np.ndarray = ensemble.mean_logits(alone, flips, model.batch)[0]
    return logits
