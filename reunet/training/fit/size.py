"""Training of the network that estimates the size of cells, over all scales (beyond the paper).

It sees patches of the images at any zoom and learns, for places of 8 × 8 px, whether there is a
cell and the log of its diameter. It starts from a trained fold: the U-Net up to the decoder stage
that it is read out at. Its loop is PyTorch's own: nnU-Net, which stores images at one size, has no
place for it. Legend: N patches of PATCH px.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from queue import Empty, Queue

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from reunet.errors import ImageError
from reunet.inference.normalise import normalise_channels
from reunet.inference.scale import scale_image, scale_labels, scaled_shape, typical_diameter
from reunet.inference.size import REFERENCE, STRIDE
from reunet.io.atomic import replacing
from reunet.io.collection import Labels
from reunet.io.images import read_image
from reunet.io.meta import read_meta
from reunet.network.architecture import SIZE_STAGE, Architecture, size_parameter_shapes
from reunet.network.unet import SizeUNet
from reunet.training.data.dataset import Cases
from reunet.training.data.labels import check_fit, label_of, read_instances, training_images
from reunet.training.data.sampling import balanced
from reunet.training.fit.augment import Recolour
from reunet.training.fit.device import autocast
from reunet.training.fit.schedule import warm_cosine
from reunet.training.fit.start import start_tensors
from reunet.training.talk import Ticker

PATCH, BATCH = 256, 6
FIRST_LR, WEIGHT_DECAY, LARGEST_GRADIENT = 1e-3, 1e-2, 5.0
SMALLEST, LARGEST = 7.0, 160.0  # px: diameters that patches show the typical cell with …
SHARP = 45.0  # … as far as it is no more enlarged than to this many px, or not at all
AROUND_A_CELL = 0.5  # share of the patches
BETA = 0.2  # of the smooth L1 on log2 of the diameter
SAVE_EVERY = 60.0  # s
AHEAD = 6  # batches
Tell = Callable[[str], object]
Batch = tuple[Tensor, Tensor, Tensor]  # images (N, 3, P, P), presence and log2 size (N, P, P)


@dataclass(frozen=True)
class Sample:
    """An image with its instances; the pixels are read when they are first drawn, and kept."""

    path: Path
    instances: np.ndarray  # (H, W) int32
    diameter: float  # px, of the typical cell

    @cached_property
    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8. Raises ImageError where they cannot be read, or do not fit the label."""
        pixels = normalise_channels(read_image(self.path).pixels)
        check_fit(self.path, pixels, self.instances)
        return pixels

    @cached_property
    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each channel, as `size` computes them."""
        pixels = self.pixels[::4, ::4].reshape(-1, 3).astype(np.float32)
        return pixels.mean(axis=0), np.maximum(pixels.std(axis=0), 1)

    @cached_property
    def log_sizes(self) -> np.ndarray:
        """log2 of each instance's diameter over REFERENCE: (N + 1,) float32."""
        diameters = np.sqrt(4 / np.pi * np.bincount(self.instances.ravel()))
        logs: np.ndarray = np.log2(np.maximum(diameters, 1) / REFERENCE).astype(np.float32)
        return logs


def read_samples(
    images: Path, labels: Path, without: Sequence[str], tell: Tell
) -> tuple[list[Sample], Cases]:
    """The labelled training images, and what `sampling.balanced` asks about them, by index.

    tell: is told, in a line each, of images whose label is missing or cannot be read. Raises
    ImageError for folders that cannot be listed and ValueError where there is no image.
    """
    meta, cases, found = read_meta(images), Cases(), Labels(labels)
    samples: list[Sample] = []
    for path, case in training_images(images).items():
        about = meta.get(case, {})
        if about.get("split", "train") != "train" or about.get("source") in without:
            continue
        try:
            instances = read_instances(label_of(found, labels, path)).astype(np.int32)
        except ImageError as error:
            tell(f"left out: {error}")
            continue
        if not (diameter := typical_diameter(instances)):
            continue
        cases[str(len(samples))] = {
            "modality": about.get("modality") or "unknown",
            "source": about.get("source") or "unknown",
            "pixels": str(instances.size),
        }
        samples.append(Sample(path, instances, diameter))
    if not samples:
        raise ValueError(f"{images}: no image with labelled cells")
    return samples, cases


def draw(
    sample: Sample, rng: np.random.Generator, recolour: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A patch at a random zoom: image (3, P, P), presence and log2 size of cells (P, P)."""
    zoom = _draw_zoom(sample.diameter, rng)
    window = _draw_window(sample.instances, int(np.ceil(PATCH / zoom)), rng)
    pixels, instances = sample.pixels[window], sample.instances[window]
    shape = scaled_shape(instances.shape, zoom)
    pixels = scale_image(pixels, shape)[:PATCH, :PATCH].astype(np.float32)
    instances = scale_labels(instances, shape)[:PATCH, :PATCH]
    mean, deviation = sample.statistics
    pixels = (_distorted(pixels, rng) - mean) / deviation
    pixels = _recoloured(pixels) if recolour else pixels
    logs = np.where(instances > 0, sample.log_sizes[instances] + np.log2(zoom), 0)
    turns, mirror = int(rng.integers(4)), bool(rng.integers(2))
    parts = [pixels, (instances > 0).astype(np.float32), logs.astype(np.float32)]
    image, presence, log_size = (_placed(part, turns, mirror) for part in parts)
    return np.ascontiguousarray(image.transpose(2, 0, 1), np.float32), presence, log_size


def _draw_zoom(diameter: float, rng: np.random.Generator) -> float:
    """A factor of the edges, even on a logarithmic axis."""
    low = SMALLEST / diameter
    high = max(low * 1.01, min(LARGEST / diameter, max(1.0, SHARP / diameter)))
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _draw_window(instances: np.ndarray, edge: int, rng: np.random.Generator) -> tuple[slice, slice]:
    """Where a patch of `edge` px lies: anywhere, or around a pixel of a cell."""
    start = [int(rng.integers(0, max(1, n - edge + 1))) for n in instances.shape]
    if rng.random() < AROUND_A_CELL:
        places = np.argwhere(instances[::4, ::4])
        if len(places):
            middle = places[rng.integers(len(places))] * 4
            room = np.maximum(np.array(instances.shape) - edge, 0)
            start = np.clip(middle - edge // 2, 0, room).tolist()
    return slice(start[0], start[0] + edge), slice(start[1], start[1] + edge)


def _distorted(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gamma and noise. pixels: (h, w, 3), 0 to 255."""
    if rng.random() < 0.3:
        pixels = 255 * (pixels / 255) ** np.exp(rng.uniform(-0.6, 0.6))
    if rng.random() < 0.2:
        pixels = pixels + rng.normal(0, rng.uniform(0, 15), pixels.shape)
    return pixels


def _recoloured(scores: np.ndarray) -> np.ndarray:
    """As other microscopes would show it, see `augment.Recolour`. scores: (h, w, 3) float32."""
    image = torch.from_numpy(np.ascontiguousarray(scores.transpose(2, 0, 1), np.float32))
    recoloured: np.ndarray = Recolour()(image=image)["image"].numpy().transpose(1, 2, 0)
    return recoloured


def _placed(part: np.ndarray, turns: int, mirror: bool) -> np.ndarray:
    """Turned, mirrored and in the middle of a patch of zeros."""
    part = np.rot90(part, turns)
    part = part[:, ::-1] if mirror else part
    height, width = part.shape[:2]
    top, left = (PATCH - height) // 2, (PATCH - width) // 2
    patch = np.zeros((PATCH, PATCH, *part.shape[2:]), np.float32)
    patch[top : top + height, left : left + width] = part
    return patch


def loss_of(output: Tensor, presence: Tensor, log_size: Tensor) -> Tensor:
    """Cross-entropy of presence plus smooth L1 of the log size in cells, a mean over patches.

    output: (N, 2, h, w). presence, log_size: (N, P, P), averaged here over places of 8 × 8 px.
    """
    share = F.avg_pool2d(presence[:, None], STRIDE)[:, 0]
    wanted = F.avg_pool2d((log_size * presence)[:, None], STRIDE)[:, 0] / share.clamp_min(1e-3)
    output = output.float()
    entropy = F.binary_cross_entropy_with_logits(output[:, 0], share)
    error = F.smooth_l1_loss(output[:, 1], wanted, reduction="none", beta=BETA) * share
    cells = share.sum((1, 2))
    per_patch = error.sum((1, 2)) / cells.clamp_min(1) * (cells > 0)
    total: Tensor = entropy + per_patch.mean()
    return total


def batches(
    samples: list[Sample], cases: Cases, seed: int, tell: Tell = print, recolour: bool = True
) -> Iterator[Batch]:
    """Batches for ever, drawn on a thread of their own, evenly over modalities.

    The thread ends with the iterator: one that still draws as Python ends would abort the process.
    tell: is told, in a line, of each image that proves unreadable; it is drawn no more. Raises
    ImageError where none is left.
    """
    queue: Queue[Batch | Exception] = Queue(AHEAD)
    ended = threading.Event()

    def fill() -> None:
        """Keep the queue full; what goes wrong comes out of it."""
        rng = np.random.default_rng(seed)
        names = balanced(cases, cases, PATCH)
        try:
            while not ended.is_set():
                drawn = [draw_usable(names, rng) for _ in range(BATCH)]
                image, presence, size = (
                    torch.from_numpy(np.stack(p)) for p in zip(*drawn, strict=True)
                )
                queue.put((image, presence, size))
        except Exception as error:
            queue.put(error)

    def draw_usable(names: list[str], rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """A patch of one of the names; those that cannot be used are taken out of them."""
        while True:
            name = names[rng.integers(len(names))]
            try:
                return draw(samples[int(name)], rng, recolour)
            except ImageError as error:
                names[:] = [other for other in names if other != name]
                if not names:
                    raise
                tell(f"left out: {error}")

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    try:
        while True:
            batch = queue.get()
            if isinstance(batch, Exception):
                raise batch
            yield batch
    finally:
        ended.set()
        while thread.is_alive():  # it may wait for room in the queue
            with suppress(Empty):
                queue.get(timeout=0.05)


def new_network(arch: Architecture, start: Path | None) -> SizeUNet:
    """The network, with the weights of a fold or of another size network up to its head."""
    network = SizeUNet(arch)
    if start:
        shapes = size_parameter_shapes(arch)
        tensors = {n: t for n, t in start_tensors(start).items() if tuple(t.shape) == shapes.get(n)}
        missing = {*shapes} - {*tensors}
        if any(f".seg_layers.{SIZE_STAGE}." not in name for name in missing):
            raise ValueError(
                f"{start}: weights of another architecture: choose others to start from"
            )
        network.load_state_dict(tensors, strict=False)
    return network


def train_size(
    samples: list[Sample],
    cases: Cases,
    output: Path,
    arch: Architecture,
    *,
    hours: float,
    start: Path | None,
    first_lr: float = FIRST_LR,
    recolour: bool = True,
) -> Path:
    """Train for a time, from where an interrupted run stopped. Returns the file of the weights.

    samples, cases: of `read_samples`. output: folder; `size_latest.pth` there is what a later run
    goes on from, `size.pth` the result. recolour: patches, see `augment.Recolour`. Raises
    ImageError where no image can be read any longer and ValueError for a start that cannot be used.
    """
    output.mkdir(parents=True, exist_ok=True)
    latest, final = output / "size_latest.pth", output / "size.pth"
    if final.exists():
        return final
    network = new_network(arch, start)
    optimiser = torch.optim.AdamW(network.parameters(), FIRST_LR, weight_decay=WEIGHT_DECAY)
    before, iteration = 0.0, 0
    if latest.exists():
        state = torch.load(latest, weights_only=True)
        network.load_state_dict(state["weights"])
        optimiser.load_state_dict(state["optimiser"])
        before, iteration = float(state["seconds"]), int(state["iteration"])
    ticker, started, saved = Ticker(), time.monotonic(), time.monotonic()
    for image, presence, log_size in batches(samples, cases, iteration, recolour=recolour):
        seconds = before + time.monotonic() - started
        progress = seconds / (hours * 3600)
        if progress >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = first_lr * warm_cosine(progress)
        with autocast(torch.device("cpu")):
            found = network(image)
        loss = loss_of(found, presence, log_size)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), LARGEST_GRADIENT)
        optimiser.step()
        iteration += 1
        ticker.tick(progress, loss.item())
        if time.monotonic() - saved > SAVE_EVERY:
            saved = time.monotonic()
            _save(latest, network, optimiser, seconds, iteration)
    ticker.end()
    _save(final, network, optimiser, hours * 3600, iteration, start)
    latest.unlink(missing_ok=True)
    return final


def _save(
    path: Path,
    network: SizeUNet,
    optimiser: torch.optim.Optimizer,
    seconds: float,
    iteration: int,
    start: Path | None = None,
) -> None:
    """Write a checkpoint in one step."""
    weights, state = network.state_dict(), optimiser.state_dict()
    content = {"weights": weights, "optimiser": state, "seconds": seconds, "iteration": iteration}
    content["start"] = f"{start.parent.name}/{start.name}" if start else ""
    with replacing(path) as temporary:
        torch.save(content, temporary)
