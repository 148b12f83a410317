"""The organiser's way of running a submission, bare and in the container (`harness`)."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import harness
import pytest
from harness import CONTAINER_CHECK, SAMPLES, SITUATIONS, Root, Situation
from PIL import Image

HARDEST = Situation(user=harness.NOBODY, read_only=True, cores=1)
SAMPLE = SAMPLES / "dsb2018__00ae65c1c6631ae6.png"

needs_isolation = pytest.mark.skipif(
    not harness.can_isolate(), reason="file systems can be mounted by root on Linux only"
)
needs_container_check = pytest.mark.skipif(
    not os.access(CONTAINER_CHECK, os.X_OK), reason=f"{CONTAINER_CHECK.name} is not there"
)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Root:
    folder = tmp_path_factory.mktemp("bare")
    folder.chmod(0o755)
    return harness.bare(folder)


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Root]:
    """Built, and run once as container-check does."""
    inputs, outputs, layer = (tmp_path_factory.mktemp(name) for name in ("in", "out", "layer"))
    shutil.copy(SAMPLE, inputs)
    subprocess.run([CONTAINER_CHECK, harness.REPOSITORY, inputs, outputs], check=True)
    harness.check_label(outputs / f"{SAMPLE.stem}_label.tiff", SAMPLE)
    layer.chmod(0o755)
    with harness.container(layer) as root:
        yield root


def assert_in_time(root: Root, situation: Situation, images: list[Path], results: Path) -> None:
    for image in images:
        seconds = harness.evaluate_time(root, situation, image, results)
        busy = f"processes that want a core: {os.getloadavg()[0]:.0f}"
        said = f"{image.name}, {situation}: {harness.in_words(seconds, image)}; {busy}"
        print(said)
        # other jobs stretch the clock's time: then that of the cores has to be within
        assert min(seconds) <= harness.tolerance(image), said


@needs_isolation
def test_the_organiser_under_the_hardest_conditions(bare: Root, tmp_path: Path) -> None:
    """A name of several dots, as the organiser cuts it. Here the time of the cores counts, which
    other tests on the same machine do not stretch."""
    image = tmp_path / "cell 1.v2.ome.png"
    Image.open(SAMPLE).crop((0, 0, 90, 70)).save(image)
    seconds = harness.evaluate_time(bare, HARDEST, image, tmp_path)
    assert seconds.cores <= harness.tolerance(image), harness.in_words(seconds, image)
    assert (tmp_path / "cell 1_label.tiff").exists()


@needs_isolation
def test_many_files_and_a_bad_one(bare: Root, tmp_path: Path) -> None:
    """The other form: the whole set in one run. Exit code 1, and nothing is missing."""
    inputs, outputs = tmp_path / "inputs", tmp_path / "outputs"
    inputs.mkdir()
    outputs.mkdir()
    for number in range(5):
        Image.open(SAMPLE).crop((number, 0, 64 + number, 50)).save(inputs / f"{number}.bmp")
    (inputs / "2.5.png").write_bytes(b"no image")
    code, said, _ = harness.run(bare, HARDEST, inputs, outputs)
    assert code == 1
    assert "2.5.png" in said
    for image in inputs.glob("*.bmp"):
        harness.check_label(outputs / f"{image.stem}_label.tiff", image)
    assert len([*outputs.iterdir()]) == 5  # no report either: it has to be asked for


@pytest.mark.slow
@needs_isolation
@pytest.mark.parametrize("situation", SITUATIONS, ids=str)
def test_the_organiser_bare(situation: Situation, bare: Root, tmp_path: Path) -> None:
    assert_in_time(bare, situation, sorted(SAMPLES.iterdir()), tmp_path)


@pytest.mark.slow
@needs_isolation
@needs_container_check
@pytest.mark.parametrize("situation", SITUATIONS, ids=str)
def test_the_organiser_in_the_container(
    situation: Situation, container: Root, tmp_path: Path
) -> None:
    assert_in_time(container, situation, sorted(SAMPLES.iterdir()), tmp_path)
