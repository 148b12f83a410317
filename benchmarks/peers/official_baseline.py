"""A folder of images the way the challenge's official baseline does it, for its time only.

    PYTHON official_baseline.py IMAGES OUT

Percentiles, windows of 256 px by MONAI, softmax, threshold, connected components, TIFF. The network
is the baseline's U-Net with random weights: the labels mean nothing. `run.py` starts it as a
process and times that.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from monai.networks.nets import UNet
from skimage import exposure, io, measure, morphology
from tifffile import imwrite

WINDOW, BATCH = 256, 4  # px, windows a pass; overlap and weighting are MONAI's defaults
FEATURES = (16, 32, 64, 128, 256)
RESIDUAL_UNITS = 2
THRESHOLD = 0.5
MIN_OBJECT = 16  # px


def main() -> None:
    """Segment one image after the other."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    network = build().eval()
    for path in sorted(options.images.iterdir()):
        labels = segment(io.imread(path), network)
        imwrite(options.out / f"{path.stem}_label.tiff", labels, compression="zlib")


def build() -> torch.nn.Module:
    """The baseline's smallest network: (N, 3, 256, 256) -> (N, 3, 256, 256)."""
    network: torch.nn.Module = UNet(
        spatial_dims=2,
        in_channels=3,
        out_channels=3,
        channels=FEATURES,
        strides=(2,) * (len(FEATURES) - 1),
        num_res_units=RESIDUAL_UNITS,
    )
    return network


@torch.no_grad()
def segment(pixels: np.ndarray, network: torch.nn.Module) -> np.ndarray:
    """Connected interiors. pixels: (H, W) or (H, W, 3). Returns (H, W) integers."""
    image = pixels if pixels.ndim == 3 else np.stack([pixels] * 3, axis=-1)
    stretched = np.stack([stretch(image[..., c]) for c in range(3)], axis=-1)
    scaled = torch.from_numpy(stretched.astype(np.float32) / max(1, stretched.max()))
    logits = sliding_window_inference(
        scaled.permute(2, 0, 1)[None], (WINDOW, WINDOW), BATCH, network
    )
    interior = torch.softmax(logits, dim=1)[0, 1].numpy() > THRESHOLD
    filled = morphology.remove_small_holes(interior)
    solid = morphology.remove_small_objects(filled, max_size=MIN_OBJECT - 1)
    labels: np.ndarray = measure.label(solid)
    return labels


def stretch(channel: np.ndarray) -> np.ndarray:
    """A channel from percentiles 1 and 99 of its non-zero pixels to 0..255."""
    values = channel[channel > 0]
    low, high = np.percentile(values, (1, 99)) if values.size else (0, 0)
    if high - low <= 1e-3:
        return channel.astype(np.uint8)
    stretched: np.ndarray = exposure.rescale_intensity(channel, (low, high), "uint8")
    return stretched.astype(np.uint8)


if __name__ == "__main__":
    main()
