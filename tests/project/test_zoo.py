"""Every kind of file there is: each gives the labels of a plain PNG, or the error it should."""

import fnmatch
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tifffile
from PIL import Image

from conftest import REUNET, ROOT
from reunet.errors import ImageError, one_line
from reunet.inference.normalise import normalise_channels
from reunet.io.collection import case_names
from reunet.io.images import read_image

MAKE = ROOT / "tests" / "zoo" / "make.py"
FUZZ = ROOT / "tests" / "fuzz" / "reader.py"
FROM_THE_RUN = ("would overwrite", "name too long")  # errors that a reader alone cannot meet
FOLDER_NOTES = (  # of the run, too
    "passed over 3 sub-folders, 2 other files (.txt, no ending)",
    "its label is same.too_label.tiff",
)
TO_BE_COVERED = """png-grey-1.* png-*-8.* png-*-16.* png-palette-* png-*-interlaced.* png-*alpha*
png-exif.* png-icc.* jpeg-grey.* jpeg-cmyk.* jpeg-progressive.* jpeg-exif-* bmp-1.* bmp-4.* bmp-8.*
bmp-24.* bmp-32.* tiff-*-strips.* tiff-*-tiles.* tiff-*-separate-* tiff-*-contig-* tiff-lzw-*
tiff-zlib-* tiff-jpeg-* tiff-zstd-* tiff-lerc-* tiff-packbits-* tiff-*-big-* tiff-*-little-*
tiff-bigtiff-* tiff-ome-* tiff-imagej-hyperstack* tiff-white-is-zero-* tiff-float-not-finite.*
tiff-int32.* tiff-bool.* tiff-*pyramid.* tiff-samples-2.* tiff-*-4.* tiff-*-5.* tiff-*-7.*
name?with* name-several.* name-ünï* name-UPPER* .hidden* sub-folder/* link*"""


class Zoo(NamedTuple):
    """A folder of files, and what is expected of each by name."""

    folder: Path
    expected: dict[str, dict[str, Any]]

    def of(self, outcome: str) -> dict[str, dict[str, Any]]:
        return {name: about for name, about in self.expected.items() if about["outcome"] == outcome}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    out = tmp_path_factory.mktemp("zoo")
    command = [sys.executable, MAKE, out, "--table", out / "inputs.md"]
    subprocess.run(command, check=True, capture_output=True)
    return Zoo(out, json.loads((out / "expectations.json").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def light_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped networks, with small images padded less: five times as fast."""
    bundle = tmp_path_factory.mktemp("bundle") / "compact"
    shutil.copytree(ROOT / "weights" / "compact", bundle)
    card = json.loads((bundle / "card.json").read_text())
    (bundle / "card.json").write_text(json.dumps(card | {"smallest": 64}))
    return bundle


@pytest.fixture(scope="module")
def runs(zoo: Zoo, light_bundle: Path) -> dict[str, subprocess.CompletedProcess[bytes]]:
    """`reunet predict` over all files, and over the plain PNGs."""
    options = ("--weights", light_bundle, "--folds", "all", "--no-tta", "--device", "cpu")
    return {
        folder: subprocess.run(
            [REUNET, "predict", zoo.folder / folder, zoo.folder / f"{folder}-labels", *options],
            capture_output=True,
            timeout=600,
        )
        for folder in ("images", "plain")
    }


def plain_pixels(path: Path) -> np.ndarray:
    stored = np.asarray(Image.open(path))
    return stored if stored.ndim == 3 else np.stack([stored] * 3, axis=-1)


def test_all_kinds_are_covered(zoo: Zoo) -> None:
    assert len(zoo.expected) > 260
    kinds = TO_BE_COVERED.split()
    assert not [kind for kind in kinds if not fnmatch.filter(zoo.expected, kind)]


def test_the_pixels_are_those_of_the_plain_png(zoo: Zoo, capfd: pytest.CaptureFixture[str]) -> None:
    wrong = []
    for name, about in zoo.of("labels").items():
        picture = read_image(zoo.folder / "images" / name)
        pixels = normalise_channels(picture.pixels)
        plain = normalise_channels(plain_pixels(zoo.folder / "plain" / f"{about['plain']}.png"))
        if not np.array_equal(pixels, plain) or len(picture.notes) != about["notes"]:
            wrong.append((name, picture.notes))
    assert not wrong
    assert capfd.readouterr().err == ""  # decoders keep their opinions to themselves


def test_bad_files_are_named_errors(zoo: Zoo, capfd: pytest.CaptureFixture[str]) -> None:
    for name, about in zoo.of("error").items():
        if about["error"] not in FROM_THE_RUN or name.startswith("link"):
            with pytest.raises(ImageError) as caught:
                read_image(zoo.folder / "images" / name)
            assert about["error"] in str(caught.value)
            assert str(caught.value).isprintable()
    assert capfd.readouterr().err == ""


def test_a_run_over_all_gives_the_labels_of_the_plain_pngs(
    zoo: Zoo, runs: dict[str, subprocess.CompletedProcess[bytes]]
) -> None:
    assert runs["plain"].returncode == 0, runs["plain"].stderr
    wrong, cells = [], 0
    names = case_names(
        [Path(n) for n, about in zoo.expected.items() if about["outcome"] != "passed over"]
    )
    for name, about in zoo.of("labels").items():
        labels = tifffile.imread(zoo.folder / "images-labels" / f"{names[Path(name)]}_label.tiff")
        plain = tifffile.imread(zoo.folder / "plain-labels" / f"{about['plain']}_label.tiff")
        cells += labels.max()
        if labels.dtype != plain.dtype or not np.array_equal(labels, plain):
            wrong.append(name)
    assert not wrong
    assert cells > len(zoo.of("labels"))  # the pictures do hold cells
    assert len(list((zoo.folder / "images-labels").iterdir())) == len(zoo.of("labels"))


def test_a_run_over_all_says_what_went_wrong_line_by_line(
    zoo: Zoo, runs: dict[str, subprocess.CompletedProcess[bytes]]
) -> None:
    run = runs["images"]
    failed = zoo.of("error")
    assert run.returncode == 1
    lines = run.stderr.decode().split("\n")[:-1]
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == len(failed)
    for about in failed.values():
        assert any(about["error"] in line for line in errors), about
    notes = [line for line in lines if line.startswith("note: ")]
    of_sizes = [line for line in notes if "cells of about" in line or "no cell to tell" in line]
    named = {one_line(name) for name in zoo.of("labels")}
    assert all(any(name in line for line in of_sizes) for name in named)
    expected = sum(about["notes"] for about in zoo.expected.values()) + len(FOLDER_NOTES)
    assert len(notes) - len(of_sizes) == expected
    assert all(note in run.stderr.decode() for note in FOLDER_NOTES)
    total = len(failed) + len(zoo.of("labels"))
    assert lines[-1] == f"{len(failed)} of {total} images failed, see above"
    assert len(lines) == len(errors) + sum(line.startswith("note: ") for line in lines) + 1
    assert all(line.isprintable() for line in lines)
    assert all(line.isprintable() for line in run.stdout.decode().split("\n"))


def test_the_documented_table_is_the_one_that_is_made(zoo: Zoo) -> None:
    made = (zoo.folder / "inputs.md").read_text(encoding="utf-8")
    assert (ROOT / "docs" / "inputs.md").read_text(encoding="utf-8") == made


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_a_truncated_file_is_an_error_or_whole(zoo: Zoo, tmp_path: Path, every: int) -> None:
    """Cut at every sixteenth of its length: never half a picture."""
    wrong = []
    names = [name for name, about in zoo.of("labels").items() if about["group"] != "Names"]
    for name in names[::every]:
        content = (zoo.folder / "images" / name).read_bytes()
        whole = read_image(zoo.folder / "images" / name).pixels
        path = tmp_path / name
        for sixteenths in range(16):
            path.write_bytes(content[: len(content) * sixteenths // 16])
            try:
                pixels = read_image(path).pixels
            except ImageError:
                continue
            if not np.array_equal(pixels, whole):
                wrong.append((name, sixteenths))
    assert not wrong


@pytest.mark.skipif(sys.platform != "linux", reason="the use of memory is read from /proc")
def test_damaged_files_do_no_harm(zoo: Zoo, tmp_path: Path) -> None:
    """A short run of tests/fuzz/reader.py, always the same."""
    options = ("--inputs", "800", "--seed", "0", "--keep", tmp_path)
    command = [sys.executable, FUZZ, zoo.folder / "images", *options]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr
    assert json.loads(run.stdout)["inputs"] == 800
