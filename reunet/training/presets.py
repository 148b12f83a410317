"""What is trained and how: the paper's numbers (§3.2.2, tables 3 and 4) and a set fit for CPUs."""

from dataclasses import dataclass

from reunet.network import COMPACT, PAPER, Architecture

ITERATIONS_PER_EPOCH = 250  # nnU-Net's


@dataclass(frozen=True)
class Preset:
    """A network and its training.

    patch: px edge of a training patch. zoom: range of the factor by which objects are enlarged
    in augmentation (None: nnU-Net's own augmentation untouched). halve_every: epochs after which
    the learning rate is halved (None: warm-up and cosine to zero over the whole training).
    """

    architecture: Architecture
    patch: int
    batch: int
    optimiser: str
    first_lr: float
    weight_decay: float
    epochs: int
    iterations_per_epoch: int = ITERATIONS_PER_EPOCH
    halve_every: int | None = None
    zoom: tuple[float, float] | None = None


PRESETS = {
    "paper": Preset(
        PAPER, 1024, 2, "sgd", first_lr=1e-2, weight_decay=3e-5, epochs=500, halve_every=250
    ),
    # 2 CPU cores see some ten thousand patches, not the paper's 250 000: small patches, an
    # adaptive optimiser and a rate that reaches zero within the time there is make the most of
    # them. Cells of the training data measure 6 to 200 px, hence the wide zoom.
    "compact": Preset(
        COMPACT, 320, 4, "adamw", first_lr=1e-3, weight_decay=1e-2, epochs=100,
        iterations_per_epoch=100, zoom=(0.5, 2.0),
    ),
}  # fmt: skip
