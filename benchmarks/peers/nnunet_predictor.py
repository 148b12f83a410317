"""A folder of images by nnU-Net's own predictor, as a script of its users would do it.

    python nnunet_predictor.py MODEL IMAGES OUT --folds 5 [--sequential]

IMAGES holds NAME_0000.png. `run.py` starts it as a process and times that.
"""

import argparse
from pathlib import Path


def main() -> None:
    """Load all folds, predict, write class maps."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--folds", type=int, default=1)
    parser.add_argument("--sequential", action="store_true", help="without worker processes")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    cpu = torch.device("cpu")
    predictor = nnUNetPredictor(use_mirroring=False, device=cpu, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(options.model), tuple(range(options.folds)))
    images, out = str(options.images), str(options.out)
    if options.sequential:
        predictor.predict_from_files_sequential(images, out)
    else:
        predictor.predict_from_files(
            images, out, num_processes_preprocessing=1, num_processes_segmentation_export=1
        )


if __name__ == "__main__":  # nnU-Net's workers import this file again
    main()
