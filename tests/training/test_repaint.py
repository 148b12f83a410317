"""Cells painted anew: where they lie stays, how they look does not."""

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms

from reunet.training.fit import augment, repaint
from reunet.training.fit.augment import with_maps
from reunet.training.fit.loss import IGNORE
from reunet.training.fit.repaint import Repaint, repainted


def a_picture(seed: int) -> tuple[torch.Tensor, np.ndarray, torch.Tensor, torch.Tensor]:
    """Noise with three cells of one look, whose last 16 columns are outside the picture."""
    torch.manual_seed(seed)
    cells = np.zeros((96, 112), np.int32)
    cells[10:30, 10:30], cells[40:70, 20:50], cells[60:80, 60:90] = 1, 2, 3
    picture = torch.ones(cells.shape)
    picture[:, 96:] = 0
    image = torch.randn(3, *cells.shape) * picture
    return image, cells, torch.zeros(cells.shape), picture


@pytest.mark.parametrize("seed", range(30))
def test_a_repainted_image_is_an_image_of_the_same_shape(seed: int) -> None:
    image, cells, rim, picture = a_picture(seed)
    before = image.clone()
    after = repainted(image, cells, rim, picture)
    assert torch.equal(image, before), "what was given is left alone"
    assert after.shape == image.shape
    assert after.dtype == torch.float32
    assert torch.isfinite(after).all()
    assert (after[:, picture == 0] == 0).all(), "outside the picture is nothing"
    inside = after[:, picture > 0]
    assert abs(inside.mean()) < 1e-4
    assert abs(inside.std() - 1) < 1e-3


def test_paint_follows_the_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """With fill alone, cells differ from the ground and from each other, and the ground is even."""
    for what in ("P_DOME", "P_RIM", "P_GRAIN", "P_SPECKS"):
        monkeypatch.setattr(repaint, what, 0)
    monkeypatch.setattr(repaint, "P_FILL", 1)
    apart, from_ground = [], []
    for seed in range(10):
        _, cells, rim, _ = a_picture(seed)
        channel = repaint._paint(cells, rim).numpy()
        far = np.ones(cells.shape, bool)
        far[:90, :100] = False
        assert abs(channel[far].mean()) < 0.02
        assert channel[far].std() < 0.06
        shades = [channel[15:25, 15:25].mean(), channel[50:60, 30:40].mean()]
        apart.append(abs(shades[0] - shades[1]))
        from_ground.append(abs(shades[0]))
    assert np.median(apart) > 0.1
    assert np.median(from_ground) > 0.3


@pytest.mark.parametrize("kind", ["P_RIM", "P_DOME"])
def test_outlines_and_domes_lie_where_they_belong(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for what in ("P_FILL", "P_DOME", "P_RIM", "P_GRAIN", "P_SPECKS"):
        monkeypatch.setattr(repaint, what, float(what == kind))
    contrasts = []
    for seed in range(10):
        _, cells, rim, _ = a_picture(seed)
        rim[38:40, 18:52] = 1  # above the second cell
        channel = np.abs(repaint._paint(cells, rim).numpy())
        assert channel[0:8].mean() < 0.06, "paint far from every cell"
        middle = channel[50:60, 30:40].mean()
        outline = channel[38:40, 25:45].mean()
        contrasts.append(outline - middle if kind == "P_RIM" else middle - channel[:8].mean())
    assert np.median(contrasts) > 0.1


def test_training_repaints_where_it_recolours_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The labels stay to the bit; validation and `reunet train` see images as they are."""
    monkeypatch.setattr(repaint, "P_REPAINTED", 1.0)
    for what in ("P_SWAPPED", "P_GREY", "P_INVERTED", "P_UNEVEN", "P_RELIEF", "P_HALOS"):
        monkeypatch.setattr(augment, what, 0.0)
    image, cells, _, _ = a_picture(0)
    stored = torch.from_numpy((cells > 0).astype(np.int16)).expand(3, -1, -1)
    seen = {}
    for recolour in (True, False):
        given = {"image": image.clone(), "segmentation": stored.clone()}
        after = with_maps(ComposeTransforms([]), weighted=True, recolour=recolour)(**given)
        assert torch.equal(after["segmentation"][0], stored[0].float())
        seen[recolour] = torch.equal(after["image"], image)
    assert seen == {True: False, False: True}


def test_specks_lie_on_the_ground_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for what in ("P_FILL", "P_DOME", "P_RIM", "P_GRAIN"):
        monkeypatch.setattr(repaint, what, 0)
    monkeypatch.setattr(repaint, "P_SPECKS", 1)
    spread = []
    for seed in range(10):
        _, cells, rim, _ = a_picture(seed)
        channel = repaint._paint(cells, rim).numpy()
        assert channel[cells > 0].std() < 0.06, "a speck on a cell"
        spread.append(channel[cells == 0].std())
    assert max(spread) > 0.1, "no specks at all"


@pytest.mark.parametrize("value", [-1, 0, 1])
def test_a_patch_of_one_class_can_be_repainted(value: int) -> None:
    """All outside of the picture, no cell, all one cell: numbers come out, none of them endless."""
    for seed in range(20):
        torch.manual_seed(seed)
        given = {
            "image": torch.zeros(3, 32, 40),
            "segmentation": torch.full((3, 32, 40), value, dtype=torch.int16),
        }
        after = Repaint()(**given)
        assert torch.isfinite(after["image"]).all()
        assert (after["segmentation"] == value).all()


def test_about_as_many_patches_are_repainted_as_said() -> None:
    torch.manual_seed(0)
    changed = 0
    for _ in range(300):
        image = torch.randn(3, 16, 16)
        given = {"image": image.clone(), "segmentation": torch.zeros(3, 16, 16, dtype=torch.int16)}
        changed += not torch.equal(Repaint()(**given)["image"], image)
    share = changed / 300
    assert abs(share - repaint.P_REPAINTED) < 0.1, share


def test_what_is_not_known_is_not_repainted() -> None:
    """The unlabelled images of a student's training: their cells may be anywhere."""
    classes = torch.zeros(1, 16, 16, dtype=torch.int16)
    classes[0, :4] = IGNORE
    for seed in range(20):
        torch.manual_seed(seed)
        image = torch.randn(3, 16, 16)
        after = Repaint()(image=image.clone(), segmentation=classes)["image"]
        assert torch.equal(after, image)
