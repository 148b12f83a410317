"""What is trained and how: the paper's numbers (§3.2.2, tables 3 and 4) and a set fit for CPUs."""

from dataclasses import dataclass, replace

from reunet.inference.tiles import FLIPS, STEP, STRETCH, STRETCH_OF_SIZED, WIDE_STEP, Tiling
from reunet.network.unet import COMPACT, PAPER, Architecture

ITERATIONS_PER_EPOCH = 250  # nnU-Net's
ROUNDS = ("round1", "round2", "round3")  # of self-training (paper §2.6)
DISTIL = "distil"  # one student of all folds, no stage of the paper
STAGES = ("baseline", "weightmap", *ROUNDS, DISTIL)
SPLITS = ("image", "source")  # what the folds of the data hold back, see `sampling.write_folds`
WITH_UNLABELLED = (*ROUNDS, DISTIL)  # stages whose cases are more than the labelled ones
# defaults of self-training, the one place to change them
THRESHOLD = 0.0  # confidence under which pixels are ignored; 0: none are, as in the paper
REJECT = True  # images whose pseudo-labels cannot be right are left out
EARLY_STOP = False  # end when a round's students are no better than their teacher
PSEUDO_SHARE = (
    0.3  # of the draws that are pseudo-labelled, where a preset draws evenly over modalities
)
GENTLE = 0.3  # share of the retraining's rate that a student learns at: its start is good already


@dataclass(frozen=True)
class Schedule:
    """Epochs and learning rate of a stage.

    halve_every: epochs after which the learning rate is halved (None: warm-up, then a cosine that
    reaches zero with the end of the training).
    """

    epochs: int
    first_lr: float
    halve_every: int | None = None


@dataclass(frozen=True)
class Preset:
    """A network and its training.

    patch: px edge of a training patch. tile: px edge of the sliding window at inference. zoom:
    range of the factor by which objects are enlarged in augmentation (None: nnU-Net's own
    augmentation untouched). diameter: px, to which the typical cell of every image is brought
    before training and inference (None: images keep their size). balanced: draw cases evenly over
    modalities and sources instead of as nnU-Net does. recolour: see `augment.Recolour`, `repaint`.
    vote: pseudo-labels are the cells that the folds agree on, not the classes of their mean.
    steady: pseudo-labels hold no cell that is not found again at other scales.
    retraining: schedule of weight-map fine-tuning and of each round of self-training.
    """

    architecture: Architecture
    patch: int
    tile: int
    batch: int
    optimiser: str
    weight_decay: float
    baseline: Schedule
    retraining: Schedule
    iterations_per_epoch: int = ITERATIONS_PER_EPOCH
    zoom: tuple[float, float] | None = None
    diameter: float | None = None
    balanced: bool = False
    recolour: bool = False
    vote: bool = False
    steady: bool = False

    def schedule(self, stage: str) -> Schedule:
        """The schedule of a stage in STAGES."""
        if stage == DISTIL:
            return replace(self.retraining, first_lr=GENTLE * self.retraining.first_lr)
        return self.baseline if stage == "baseline" else self.retraining

    def tiling(self, mirror: bool) -> Tiling:
        """How images are cut for the network in labelling and validation."""
        divisor = self.architecture.divisor
        views = len(FLIPS) if mirror else 1
        stretch = STRETCH_OF_SIZED if self.diameter else STRETCH
        return Tiling(self.tile, self.patch, divisor, views, self.step, stretch)

    @property
    def step(self) -> float:
        """Distance of neighbouring tiles as a share of their edge, here and in the bundle."""
        return WIDE_STEP if self.diameter else STEP

    def judging(self) -> Tiling:
        """How the network is judged: without mirroring, with its field where it has one."""
        return replace(self.tiling(mirror=False), outputs=self.architecture.outputs)

    def batch_of(self, patch: int) -> int:
        """Patches of another edge (px) that hold about as many pixels as a batch; 1 at least."""
        return max(1, round(self.batch * (self.patch / patch) ** 2))


PRESETS = {
    "paper": Preset(
        PAPER, patch=1024, tile=1024, batch=2, optimiser="sgd", weight_decay=3e-5,
        baseline=Schedule(500, 1e-2, halve_every=250),
        retraining=Schedule(200, 3e-3, halve_every=100),
    ),
    # for tests of the chain: learns a handful of images by heart within minutes
    "tiny": Preset(
        Architecture(features=(8, 16, 32, 32), dropout=0.0), patch=128, tile=256, batch=4,
        optimiser="adamw", weight_decay=1e-2,
        baseline=Schedule(4, 3e-3), retraining=Schedule(2, 1e-3), iterations_per_epoch=30,
    ),
    # 2 CPU cores see some ten thousand patches, not the paper's 250 000: small patches, an
    # adaptive optimiser and a rate that reaches zero within the time there is make the most of
    # them. Cells of the training data measure 6 to 400 px: with all of them brought to one size the
    # network spends its parameters on shapes, and the zoom is what the size estimate errs by.
    "compact": Preset(
        COMPACT, patch=256, tile=256, batch=6, optimiser="adamw", weight_decay=1e-2,
        baseline=Schedule(100, 1e-3), retraining=Schedule(40, 1e-3),
        iterations_per_epoch=100, zoom=(0.67, 1.5), diameter=30.0, balanced=True, recolour=True,
        vote=True, steady=True,
    ),
}  # fmt: skip
