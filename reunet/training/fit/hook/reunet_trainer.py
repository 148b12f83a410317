"""Where nnU-Net's search for trainers (`nnUNet_extTrainer`) finds ours.

A folder of its own: nnU-Net imports every module of the folder as a top-level module.
"""

from reunet.training.fit.trainer import nnUNetTrainerReUNet

__all__ = ["nnUNetTrainerReUNet"]
