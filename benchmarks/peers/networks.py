"""A folder of images through a peer, in the peer's own environment, for its time only.

    PYTHON networks.py PEER IMAGES OUT

PYTHON is that of an environment from `environments.py`. Cut and stitched as the peer does it by
default, with random weights: what is written is no label, and decoding it would mean nothing, so
the peer's way from there to cells comes on top, but for the official baseline, which thresholds.
`run.py` starts this as a process and times that.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

Picture = np.ndarray  # (H, W, 3) float32, 0 to 1
Run = Callable[[Picture], np.ndarray]


def main() -> None:
    """Load a network, write its output for every image."""
    peer, images, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    out.mkdir(parents=True, exist_ok=True)
    run = PEERS[peer]()
    for path in sorted(images.iterdir()):
        picture = np.asarray(Image.open(path).convert("RGB"), np.float32) / 255
        np.save(out / f"{path.stem}.npy", run(picture))


def cellpose3() -> Run:
    """The residual U-Net of Cellpose 1 to 3 on two channels, tiles of 224 px, by oneDNN."""
    from cellpose.core import check_mkl, run_net
    from cellpose.resnet_torch import CPnet

    net = CPnet([2, 32, 64, 128, 256], 3, 3, mkldnn=check_mkl(True)).eval()
    return lambda picture: run_net(net, picture[np.newaxis, ..., :2])[0][0]


def cellpose4() -> Run:
    """Cellpose-SAM: a ViT-L on tiles of 256 px, in bfloat16, its default."""
    import torch

    # Of torchvision nothing but Python is used here: it need not fit PyTorch's build.
    sys.modules["torchvision._meta_registrations"] = ModuleType("left out")
    from cellpose.core import run_net
    from cellpose.vit import CPSAM

    net = CPSAM(dtype=torch.bfloat16).to(torch.bfloat16).eval()
    return lambda picture: run_net(net, picture[np.newaxis], bsize=256)[0][0]


def stardist() -> Run:
    """StarDist's U-Net with 32 rays, configured as its models 2D_versatile are."""
    from stardist.models import Config2D, StarDist2D

    config = Config2D(n_channel_in=3, n_rays=32, grid=(2, 2))
    model = StarDist2D(config, name=None, basedir=None)
    return lambda picture: np.concatenate(
        [np.atleast_3d(part) for part in model.predict(picture, show_tile_progress=False)[:2]], -1
    )


def instanseg() -> Run:
    """InstanSeg's U-Net for one kind of object, windows of 512 px that share 200."""
    import torch
    from instanseg.utils.models.InstanSeg_UNet import InstanSeg_UNet
    from instanseg.utils.tiling import _chops, _tiles_from_chops

    net = InstanSeg_UNet(3, [[2, 2, 1]], layers=[256, 128, 64, 32]).eval()

    @torch.inference_mode()
    def run(picture: Picture) -> np.ndarray:
        pixels = torch.from_numpy(picture).permute(2, 0, 1)
        margins = [-length % 16 for length in picture.shape[:2]]
        padded = torch.nn.functional.pad(pixels, (0, margins[1], 0, margins[0]))
        window = tuple(min(512, length) for length in padded.shape[1:])
        chops = _chops(padded.shape, window, 200 if min(padded.shape[1:]) > 200 else 0)
        tiles = _tiles_from_chops(padded, window, chops)
        return np.stack([net(tile[None])[0].numpy() for tile in tiles])

    return run


def baseline() -> Run:
    """The official baseline: percentiles, windows of 256 px by MONAI, softmax, components."""
    import torch
    from monai.inferers import sliding_window_inference
    from monai.networks.nets import UNet
    from skimage import exposure, measure, morphology

    features = (16, 32, 64, 128, 256)
    net = UNet(
        spatial_dims=2, in_channels=3, out_channels=3, channels=features, strides=(2,) * 4,
        num_res_units=2,
    ).eval()  # fmt: skip

    @torch.inference_mode()
    def run(picture: Picture) -> np.ndarray:
        ranges = [tuple(np.percentile(picture[..., c], (1, 99))) for c in range(3)]
        channels = [
            exposure.rescale_intensity(picture[..., c], ranges[c], (0, 1)) for c in range(3)
        ]
        pixels = torch.from_numpy(np.stack(channels).astype(np.float32))[None]
        logits = sliding_window_inference(pixels, (256, 256), 4, net)
        interior = torch.softmax(logits, dim=1)[0, 1].numpy() > 0.5
        solid = morphology.remove_small_objects(
            morphology.remove_small_holes(interior), max_size=15
        )
        labels: np.ndarray = measure.label(solid)
        return labels

    return run


PEERS = {
    "baseline": baseline,
    "cellpose3": cellpose3,
    "cellpose4": cellpose4,
    "stardist": stardist,
    "instanseg": instanseg,
}

if __name__ == "__main__":
    main()
