"""The whole way from an image to its cells: normalise, network, decode. The package's front door.

>>> from reunet import load_model, segment
>>> model = load_model()
>>> labels = segment("image.png", model)  # (H, W) int32, 0 background, cells 1..N
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from reunet.images import Picture, as_picture, read_image
from reunet.instances import decode
from reunet.network import UNet
from reunet.normalise import normalise_channels
from reunet.predict import Tiling, predict_logits
from reunet.weights import Bundle, WeightsError, load_networks, open_bundle

DEVICES = ("auto", "cpu", "cuda", "mps")
DEFAULT_BUNDLE = "compact"


@dataclass(frozen=True)
class Model:
    """A bundle's networks on their device."""

    bundle: Bundle
    networks: tuple[UNet, ...]
    device: torch.device


def load_model(
    weights: str | Path | None = None, device: str = "auto", folds: Sequence[str] | None = None
) -> Model:
    """Load a weight bundle.

    weights: folder of a bundle (None: the one that comes with reunet). device: auto, cpu, cuda or
    mps; auto takes the fastest there is. folds: names of the folds to average (None: all).
    Raises WeightsError, or ValueError for a device that this machine lacks.
    """
    chosen = choose_device(device)
    bundle = open_bundle(Path(weights) if weights else default_weights())
    networks = load_networks(bundle, folds)
    try:
        return Model(bundle, tuple(network.to(chosen) for network in networks), chosen)
    except RuntimeError as error:
        cause = " ".join(str(error).split())[:200]
        raise ValueError(f"device {chosen.type} fails ({cause}): use --device cpu") from error


def segment(
    image: str | Path | np.ndarray | Picture,
    model: Model,
    *,
    tta: bool = True,
    decoder: str | None = None,
) -> np.ndarray:
    """Find the cells of one image.

    image: a file, or an array (H, W) or (H, W, C) of any real dtype. tta: average over the four
    mirror images. decoder: `regrow` or `paper` (None: the bundle's). Returns (H, W) int32:
    0 background, cells 1..N. Raises ImageError for a file that cannot be read.
    """
    if isinstance(image, str | Path):
        image = read_image(Path(image))
    elif isinstance(image, np.ndarray):
        image = as_picture(image)
    classes = predict_classes(image, model, tta=tta)
    return decode(classes, decoder or model.bundle.decoder, model.bundle.encoding)


def predict_classes(picture: Picture, model: Model, *, tta: bool = True) -> np.ndarray:
    """Most probable class of every pixel. Returns (H, W) uint8: background, interior, boundary."""
    bundle = model.bundle
    tiling = Tiling(
        bundle.tile,
        bundle.smallest,
        bundle.architecture.divisor,
        mirror=tta,
        device=model.device,
    )
    logits = predict_logits(normalise_channels(picture.pixels), model.networks, tiling)
    classes: np.ndarray = logits.argmax(axis=0).astype(np.uint8)
    return classes


def choose_device(name: str) -> torch.device:
    """The torch device of a name in DEVICES. Raises ValueError where this machine lacks it."""
    found = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.mps.is_available()}
    if name == "auto":
        name = next(n for n in ("cuda", "mps", "cpu") if found[n])
    if name not in found:
        raise ValueError(f"device {name!r} does not exist: choose from {', '.join(DEVICES)}")
    if not found[name]:
        raise ValueError(f"device {name} is not available on this machine: use --device auto")
    return torch.device(name)


def default_weights() -> Path:
    """The bundle that comes with reunet: below $REUNET_WEIGHTS, or `weights/` of the checkout."""
    root = os.environ.get("REUNET_WEIGHTS")
    folder = Path(root) if root else Path(__file__).resolve().parents[1] / "weights"
    bundle = folder / DEFAULT_BUNDLE
    if not bundle.is_dir():
        raise WeightsError(
            f"{bundle}: no weights there: give a bundle with --weights or set REUNET_WEIGHTS"
        )
    return bundle
