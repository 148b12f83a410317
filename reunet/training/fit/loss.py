"""`L = L_Dice + L_CE` with the weight map in the Dice term (§2.5), and that of the field."""

import torch
import torch.distributed
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.utilities.helpers import softmax_helper_dim1
from torch import Tensor, nn
from torch.nn import functional as F

from reunet.inference.sliding_window import CLASSES

SMOOTH = 1e-5  # nnU-Net's
FIELD = 4.0  # factor of the distance field's term: it then counts about as much as the others
BETA = 0.1  # of the smooth L1: smaller differences count squared
TARGETS = 3  # channels of a target by the truth: class, weight, distance field
IGNORE = 3  # class of pixels that teach nothing: as nnU-Net's ignore label, the one after the last


class WeightedDiceCE(nn.Module):
    """Soft Dice, its pixels weighted, plus plain cross-entropy.

    weight_dice: multiply true and false positives and negatives with the weight map, pixel by
    pixel, as the paper does. weight_ce: weight the cross-entropy too (an option of ours), as a
    weighted mean. batch_dice: one Dice over the batch instead of one an image. The mean runs over
    interior and boundary, as in nnU-Net's code: the background has no Dice term. ddp: the batch is
    spread over the ranks of a process group; the mean of their losses, and of their gradients, is
    then that of the whole batch in one process.
    """

    def __init__(
        self, weight_dice: bool, weight_ce: bool = False, batch_dice: bool = True, ddp: bool = False
    ) -> None:
        super().__init__()
        self.weight_dice, self.weight_ce, self.ddp = weight_dice, weight_ce, ddp
        self.dice = MemoryEfficientSoftDiceLoss(
            softmax_helper_dim1, batch_dice, do_bg=False, smooth=SMOOTH, ddp=ddp
        )

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """logits: (N, C, H, W), of the classes and, of a network that has it, the distance field.
        target: (N, 3, H, W): class, weight and distance field; the classes alone where nothing is
        weighted and there is no field. Pixels of class IGNORE count in no term. Returns a
        scalar."""
        logits = logits.float()  # half precision is for the network, not for sums over pixels
        classes, weights, field = target[:, :1].long(), target[:, 1:2], target[:, 2:3]
        logits, predicted_field = logits[:, :CLASSES], logits[:, CLASSES:]
        known = classes != IGNORE
        weighted = weights.shape[1] > 0
        mask = weights * known if weighted and self.weight_dice else known
        dice = self.dice(logits, classes * known, loss_mask=mask)
        entropy = F.cross_entropy(logits, classes[:, 0], reduction="none", ignore_index=IGNORE)
        if weighted and self.weight_ce:
            counted = weights[:, 0] * known[:, 0]
            entropy = (entropy * counted).sum() / self.of_all_ranks(counted.sum()).clamp_min(1e-8)
        else:
            entropy = entropy.sum() / self.of_all_ranks(known.sum()).clamp_min(1)
        total: Tensor = dice + entropy
        if predicted_field.shape[1]:
            error = F.smooth_l1_loss(predicted_field, field, reduction="none", beta=BETA) * known
            total = total + FIELD * error.sum() / self.of_all_ranks(known.sum()).clamp_min(1)
        return total

    def of_all_ranks(self, count: Tensor) -> Tensor:
        """The mean over the ranks of what a rank's sum is divided by: ranks with fewer known
        pixels then count less, as they do in one batch."""
        count = count.float()
        if self.ddp:
            torch.distributed.all_reduce(count)
            count = count / torch.distributed.get_world_size()
        return count


class TaughtLoss(nn.Module):
    """The loss by the truth, plus how far the network is from its teacher's soft output.

    truth: the loss of a network and (N, 3, H, W) targets. The soft output follows those three
    channels: the classes' probabilities and the field, of every pixel, with a label or without.
    Its terms are the Kullback-Leibler divergence of the classes (Hinton et al. 2015, at a
    temperature of 1) and the field's smooth L1.
    """

    def __init__(self, truth: WeightedDiceCE) -> None:
        super().__init__()
        self.truth = truth

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """logits: (N, C, H, W). target: (N, 3 + C, H, W), or (N, 3, H, W) where no teacher was
        asked, as in validation. Returns a scalar."""
        total: Tensor = self.truth(logits, target[:, :TARGETS])
        soft = target[:, TARGETS:]
        if not soft.shape[1]:
            return total
        logits = logits.float()
        mine, theirs = F.log_softmax(logits[:, :CLASSES], dim=1), soft[:, :CLASSES]
        total = total + F.kl_div(mine, theirs, reduction="none").sum(dim=1).mean()
        if logits.shape[1] > CLASSES:
            field = F.smooth_l1_loss(logits[:, CLASSES:], soft[:, CLASSES:], beta=BETA)
            total = total + FIELD * field
        return total


def add_maps(classes: Tensor, maps: Tensor) -> Tensor:
    """Classes (1, h, w) and (2, H, W) weights and field, averaged down to their size: (3, h, w).

    The mean over an area keeps the share of the loss that the area had at full resolution.
    """
    size = (int(classes.shape[-2]), int(classes.shape[-1]))
    if tuple(maps.shape[-2:]) != size:
        maps = F.interpolate(maps[None], size, mode="area")[0]
    return torch.cat((classes.to(maps.dtype), maps))
