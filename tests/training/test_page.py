"""The page of predictions beside truth, and the validation whose segmentations it shows."""

import base64
import io
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from reunet.instances.encode import encode
from reunet.io.export.verdict import FALSE, HIT, MISS
from reunet.metric import score_pair
from reunet.training import layout
from reunet.training.data.field import distance_field
from reunet.training.fit.page import NAME, WINDOW, Page, busiest
from reunet.training.fit.validate import Validated, Validator, means
from reunet.training.presets import PRESETS


def cells() -> np.ndarray:
    """Three squares of 20 px, two of which touch: (96, 128) int32."""
    labels = np.zeros((96, 128), np.int32)
    for n, (y, x) in enumerate([(20, 20), (20, 40), (60, 80)], 1):
        labels[y : y + 20, x : x + 20] = n
    return labels


def case(name: str, truth: np.ndarray, found: np.ndarray, modality: str = "bf") -> Validated:
    picture = np.where(truth > 0, 1.0, 0.0)[..., np.newaxis].repeat(3, axis=2)
    return Validated(name, modality, picture, truth, found, score_pair(truth, found))


def painted(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Where a colour shows, but for what JPEG makes of it."""
    found: np.ndarray = np.abs(picture.astype(int) - colour).sum(axis=2) < 130
    return found


def test_the_page_shows_hits_misses_and_false_cells(tmp_path: Path) -> None:
    """Outlines in three colours, where the cells lie; the worst image comes first."""
    found = cells()
    found[found == 3] = 0
    found[70:85, 10:30] = 4
    page = Page(["right", "half & half"])
    validated = [case("right", cells(), cells()), case("half & half", cells(), found, "dic")]
    validated.append(case("other", cells(), found))
    figures = means(page.watch(validated))
    wanted = {"bf": 0.833, "dic": 0.667, "mean of modalities": 0.75}
    assert figures == pytest.approx(wanted, abs=1e-3)
    page.write(tmp_path, 5, "held out")
    html = (tmp_path / NAME).read_text(encoding="utf-8")
    assert "after epoch 5" in html
    assert re.findall(r"<th>([^<]+)<p>(\w+)</p><p>F1 ([\d.]+)", html) == [
        ("half &amp; half", "dic", "0.667"),
        ("right", "bf", "1.000"),
    ]
    assert "3 true cells, 3 found, 2 of them right" in html
    assert not re.search(r'(?:src|href)="(?!data:)', html)  # nothing from elsewhere
    pictures = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        for data in re.findall(r"base64,([^\"]+)", html)
    ]
    truth, prediction, right, again = pictures
    factor = len(truth) // 96
    rows, columns = (slice(factor * (n - 2), factor * (n + 22)) for n in (60, 80))
    for picture, colour, present in (
        (truth, MISS, True), (truth, FALSE, False), (prediction, FALSE, True),
        (prediction, MISS, False), (truth, HIT, True), (prediction, HIT, True),
    ):  # fmt: skip
        assert painted(picture, colour).any() == present
    assert painted(truth, MISS)[rows, columns].sum() == painted(truth, MISS).sum()
    assert not painted(prediction, HIT)[rows, columns].any()
    np.testing.assert_array_equal(right, again)


def test_a_large_image_is_shown_where_its_cells_lie() -> None:
    labels = np.zeros((2000, 1500), np.uint16)
    labels[1900:1930, 1400:1430] = 1
    window = busiest(labels)
    assert labels[window].shape == (WINDOW, WINDOW)
    assert labels[window].any()
    empty = np.zeros((100, 1500), np.uint16)
    assert empty[busiest(empty)].shape == (100, WINDOW)


class Told(torch.nn.Module):
    """A network that is told the answer: the first channel holds classes, the second the field."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        classes = torch.stack([-10 * (image[:, 0] - n) ** 2 for n in range(3)], dim=1)
        return torch.cat([classes, image[:, 1:2]], dim=1)


@pytest.mark.parametrize("preset", ["compact", "tiny"])
def test_validation_puts_cells_where_they_lie(tmp_path: Path, preset: str) -> None:
    """With the decoder that the network is used with; the content box is all that is stored."""
    truth, encoding = cells(), "paper"
    box = slice(10, 90), slice(12, 120)
    content = np.zeros((3, 1, 96, 128), np.float32)
    content[0, 0], content[1, 0] = encode(truth, encoding), distance_field(truth)
    about = {"bbox_used_for_cropping": [[0, 1], *([s.start, s.stop] for s in box)]}
    dataset = SimpleNamespace(
        identifiers=["a"], load_case=lambda _: (content[(..., *box)], None, None, about)
    )
    path = layout.instances_file(tmp_path, "a")
    path.parent.mkdir(parents=True)
    tifffile.imwrite(path, truth)
    tiling = PRESETS[preset].judging()
    validator = Validator(dataset, tmp_path, {"a": {"modality": "pc"}}, encoding, tiling)
    (validated,) = validator.look(Told(), torch.device("cpu"))
    assert validated.score.f1 == 1
    assert (validated.name, validated.modality) == ("a", "pc")
    overlap = [np.bincount(validated.found[truth == n]).argmax() for n in (1, 2, 3)]
    assert sorted(overlap) == [1, 2, 3]
    np.testing.assert_array_equal(
        validated.picture[box], content[:, 0][(..., *box)].transpose(1, 2, 0)
    )
