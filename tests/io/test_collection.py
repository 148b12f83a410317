"""One rule for names: predict, evaluate and prepare find the same label for an image."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from reunet.errors import ImageError
from reunet.io.collection import Labels, case_names, own_labels, passed_over
from reunet.io.meta import read_modalities
from reunet.metric import score_folder
from reunet.training.data.labels import find_label

LABELS = np.zeros((30, 40), np.uint16)
LABELS[5:15, 5:15], LABELS[18:28, 20:32] = 1, 2


def put(folder: Path, *names: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if name.lower().endswith(".png"):
            from PIL import Image

            Image.fromarray(LABELS.astype(np.uint8)).save(folder / name, format="PNG")
        else:
            tifffile.imwrite(folder / name, LABELS)
    return [folder / name for name in names]


@pytest.mark.parametrize(
    ("images", "names"),
    [
        (["a.b.png", "c.png"], ["a", "c"]),  # the challenge's rule
        (["2024.05.01_a.png", "2024.05.01_b.png"], ["2024.05.01_a", "2024.05.01_b"]),
        (["a.png", "a.x.png", "b.y.png"], ["a", "a.x", "b"]),
        (["a.png", "a.tif"], ["a", "a"]),  # the second is an error
        (["x.ome.tif", "y.ome.tif"], ["x", "y"]),
    ],
)
def test_case_names(images: list[str], names: list[str]) -> None:
    assert list(case_names([Path(name) for name in images]).values()) == names


@pytest.mark.parametrize(
    ("truth", "prediction"),
    [
        ("x.ome.tif", "x_label.tiff"),
        ("x.TIF", "x_label.tiff"),
        ("x_masks.png", "x_label.tiff"),
        ("x_label.PNG", "x_masks.tif"),
        ("x.png", "x_label.tiff"),
        ("2024.05.01_a.png", "2024.05.01_a_label.tiff"),
        ("2024.05.01_a_label.tif", "2024.05.01_a_masks.png"),
    ],
)
def test_evaluate_and_prepare_find_the_label(tmp_path: Path, truth: str, prediction: str) -> None:
    put(tmp_path / "gt", truth, "._x_label.tiff", ".hidden_label.tiff")
    put(tmp_path / "seg", prediction, "._x_label.tiff")
    evaluation = score_folder(tmp_path / "gt", tmp_path / "seg")
    assert [score.f1 for score in evaluation.scores.values()] == [1.0]
    assert not evaluation.missing
    assert not evaluation.failed
    image = Path("2024.05.01_a.tif" if truth.startswith("2024") else "x.jpg")
    assert find_label(tmp_path / "gt", image).name == truth


def test_names_that_begin_alike_are_all_scored(tmp_path: Path) -> None:
    stems = ["2024.05.01_a", "2024.05.01_b"]
    put(tmp_path / "gt", *(f"{stem}.png" for stem in stems))
    put(tmp_path / "seg", *(f"{stem}_label.tiff" for stem in stems))
    evaluation = score_folder(tmp_path / "gt", tmp_path / "seg")
    assert {name: score.f1 for name, score in evaluation.scores.items()} == dict.fromkeys(stems, 1)
    shutil.rmtree(tmp_path / "seg")
    put(tmp_path / "seg", "2024.05.01_b_label.tiff")
    evaluation = score_folder(tmp_path / "gt", tmp_path / "seg")
    assert len(evaluation.scores) == 1
    assert evaluation.missing == ["2024.05.01_a"]


def test_an_image_beside_its_label_is_no_label(tmp_path: Path) -> None:
    image, label = put(tmp_path, "a.ome.tif", "a_label.tiff")
    assert Labels(tmp_path).by_name == {"a": label}
    assert own_labels([image, label]) == {label}
    with pytest.raises(ImageError, match="no label"):
        find_label(tmp_path, Path("b.png"))


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    images = put(tmp_path, "a.png", "b.png", "a_label.tiff")[:2]
    put(tmp_path / "sub", "c.png")
    for name in ("d.czi", "e.czi", "f.txt", ".hidden"):
        (tmp_path / name).touch()
    told = passed_over(tmp_path, images)
    assert told == "1 sub-folder, 1 label, 3 other files (.czi, .txt)"
    assert passed_over(tmp_path / "sub", [tmp_path / "sub" / "c.png"]) == ""


def test_a_mask_as_truth_gets_a_hint(tmp_path: Path) -> None:
    put(tmp_path / "seg", "a_label.tiff")
    (tmp_path / "gt").mkdir()
    tifffile.imwrite(tmp_path / "gt" / "a.tif", (LABELS > 0) * np.uint8(255))
    (hint,) = score_folder(tmp_path / "gt", tmp_path / "seg").hints
    assert "0 and 255 alone" in hint
    assert not score_folder(tmp_path / "seg", tmp_path / "seg").hints


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("ending", ["", ".png", ".TIF"])
def test_meta_csv_as_spreadsheets_write_it(
    tmp_path: Path, encoding: str, separator: str, ending: str
) -> None:
    rows = [("name", "modality"), (f"a{ending}", "fluo"), (f"b{ending}", "pc")]
    text = "\r\n".join(separator.join(row) for row in rows)
    (tmp_path / "meta.csv").write_bytes(text.encode(encoding))
    assert read_modalities(tmp_path) == {"a": "fluo", "b": "pc"}


def test_a_meta_csv_without_names_is_complained_of(tmp_path: Path) -> None:
    (tmp_path / "meta.csv").write_text("image,modality\na,fluo\n")
    with pytest.raises(ValueError, match="no column called name"):
        read_modalities(tmp_path)
