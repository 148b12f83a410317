"""Bundles: what is saved comes back, and what is damaged is one clear line."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from conftest import TINY, save_tiny_bundle
from reunet.errors import WeightsError
from reunet.network.bundle import choose_folds, load_tensors, open_bundle, save_bundle
from reunet.network.unet import build


def test_round_trip(tmp_path: Path) -> None:
    states = {fold: build(TINY).state_dict() for fold in ("0", "all")}
    about = {"encoding": "thin", "decoder": "paper", "tile": 64, "smallest": 32, "note": "é"}
    save_bundle(tmp_path / "b", TINY, states, about)
    opened = open_bundle(tmp_path / "b")
    assert opened.architecture == TINY
    assert (opened.encoding, opened.decoder, opened.tile, opened.smallest) == (
        "thin",
        "paper",
        64,
        32,
    )
    assert opened.folds == ("0", "all")
    assert opened.about["note"] == "é"
    for fold in choose_folds(opened):
        loaded = load_tensors(opened, fold)
        assert loaded.keys() == states[fold].keys()
        for name, tensor in loaded.items():  # stored in half precision, used in single
            assert tensor.dtype == np.float32
            assert np.array_equal(tensor, states[fold][name].half().float().numpy())


def test_folds_are_chosen_by_name(bundle: Path) -> None:
    assert choose_folds(open_bundle(bundle)) == ("0", "1")
    assert choose_folds(open_bundle(bundle), ["1"]) == ("1",)
    with pytest.raises(WeightsError, match="has no fold 7"):
        choose_folds(open_bundle(bundle), ["0", "7"])


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink])
def test_damaged_tensors(bundle: Path, damage: Callable[[Path], None]) -> None:
    damage(bundle / "fold_1.safetensors")
    opened = open_bundle(bundle)
    load_tensors(opened, "0")
    with pytest.raises(WeightsError, match=r"fold_1\.safetensors") as error:
        load_tensors(opened, "1")
    assert "\n" not in str(error.value)
    assert choose_folds(opened, ["0"]) == ("0",)
    if damage is not flip_a_bit:  # which only the hash shows, for which all has to be read
        with pytest.raises(WeightsError, match=r"fold_1\.safetensors"):
            choose_folds(opened)


@pytest.mark.parametrize("name", ["encoder.stages.0.0.convs.0.conv.weight", "a_tensor_too_many"])
def test_tensors_that_do_not_fit(bundle: Path, name: str) -> None:
    state = {**build(TINY).state_dict(), name: torch.zeros(3)}
    save_file({k: t.contiguous() for k, t in state.items()}, bundle / "fold_0.safetensors")
    card = json.loads((bundle / "card.json").read_text())
    content = (bundle / "fold_0.safetensors").read_bytes()
    card["sha256"]["fold_0.safetensors"] = hashlib.sha256(content).hexdigest()
    (bundle / "card.json").write_text(json.dumps(card))
    with pytest.raises(WeightsError, match="do not fit") as error:
        choose_folds(open_bundle(bundle))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("decoder", "watershed"), ("encoding", "thick"), ("tile", 98), ("tile", "64"),
        ("smallest", 128), ("folds", []), ("folds", "all"), ("sha256", None),
        ("architecture", {"features": ["a"]}), ("architecture", {"features": []}),
        ("architecture", {"features": [4, 8], "classes": 2}), ("architecture", {"depth": 3}),
    ],
)  # fmt: skip
def test_a_card_that_asks_for_what_there_is_not(bundle: Path, key: str, value: object) -> None:
    card = json.loads((bundle / "card.json").read_text())
    (bundle / "card.json").write_text(json.dumps({**card, key: value}))
    with pytest.raises(WeightsError, match=r"card\.json") as error:
        open_bundle(bundle)
    assert "\n" not in str(error.value)


def test_a_bundle_saved_anew_holds_no_old_folds(bundle: Path) -> None:
    save_tiny_bundle(bundle, folds=("all",))
    assert sorted(p.name for p in bundle.iterdir()) == ["card.json", "fold_all.safetensors"]


@pytest.mark.parametrize("card", ["", "{", "[]", "{}", '{"architecture": 3}', "\0"])
def test_damaged_card(bundle: Path, card: str) -> None:
    (bundle / "card.json").write_text(card)
    with pytest.raises(WeightsError, match=r"card\.json") as error:
        open_bundle(bundle)
    assert "\n" not in str(error.value)


def test_missing_bundle(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="No such file"):
        open_bundle(tmp_path / "nowhere")


def test_an_interrupted_save_leaves_no_card(tmp_path: Path) -> None:
    save_tiny_bundle(tmp_path / "b")
    with pytest.raises(ValueError, match="no number"):
        save_bundle(tmp_path / "b", TINY, {"0": {"x": "no number"}}, {})
    with pytest.raises(WeightsError):
        open_bundle(tmp_path / "b")
