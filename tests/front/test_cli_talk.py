"""What `reunet predict` says on the way, and what its help teaches."""

import json
import os
import pty
import select
import shlex
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from PIL import Image

from conftest import REUNET, SAMPLE_IMAGES
from reunet.cli import GROUPS, main

COMMANDS = [name for name, command in main.commands.items() if not command.hidden]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two images, and one that cannot be read."""
    folder = tmp_path / "images"
    folder.mkdir()
    small = Image.open(SAMPLE_IMAGES / "dsb2018__00ae65c1c6631ae6.png").crop((0, 0, 200, 150))
    small.save(folder / "a.png")
    (folder / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    small.save(folder / "c.png")
    return folder


def predict(images: Path, bundle: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [REUNET, "predict", images, images.with_name("out"), "--weights", bundle, "--no-tta"]
    return subprocess.run([*command, *more], capture_output=True, text=True)


def test_a_pipe_gets_a_line_an_image(images: Path, bundle: Path) -> None:
    lines = predict(images, bundle).stdout.splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == ["a.png", "b.png", "c.png"]
    assert lines[1] == "b.png: failed"
    assert lines[3].startswith("2 of 3 images, ")
    assert len(lines) == 4


def test_quiet_leaves_errors(images: Path, bundle: Path) -> None:
    result = predict(images, bundle, "--quiet")
    assert result.returncode == 1
    assert result.stdout == ""
    assert [line for line in result.stderr.splitlines() if "note: " in line] == []
    assert result.stderr.startswith("error: ")


def test_verbose_tells_seconds_and_settings(images: Path, bundle: Path) -> None:
    lines = predict(images, bundle, "-v").stdout.splitlines()
    assert lines[0].startswith("weights bundle (")
    assert "network " in lines[1]
    assert "decoding " in lines[1]


def test_machines_get_json(images: Path, bundle: Path) -> None:
    events = [
        json.loads(line) for line in predict(images, bundle, "--log-json").stdout.splitlines()
    ]
    assert [event["event"] for event in events] == ["start", "image", "image", "image", "end"]
    assert events[0]["images"] == 3
    assert events[0]["settings"]["tta"] is False
    assert [event.get("status") for event in events[1:4]] == ["done", "failed", "done"]
    assert events[4]["failed"] == 1


def test_a_terminal_gets_tiles_and_time_left(images: Path, bundle: Path) -> None:
    leader, follower = pty.openpty()
    command = [REUNET, "predict", images / "a.png", images.with_name("out"), "--weights", bundle]
    with subprocess.Popen([*command, "--no-tta"], stdout=follower, stderr=follower) as process:
        os.close(follower)
        shown = b""
        while select.select([leader], [], [], 60)[0]:
            try:
                shown += os.read(leader, 65536)
            except OSError:  # Linux says so where the other side is closed
                break
        assert process.wait(60) == 0
    os.close(leader)
    text = shown.decode()
    assert "segmenting" in text
    assert "tile " in text
    assert "100%" in text
    assert text.rstrip().splitlines()[-2].startswith("a.png: ")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_an_example_that_it_understands(name: str) -> None:
    help_ = CliRunner().invoke(main, [name, "--help"]).output
    examples = [line.strip() for line in help_.splitlines() if line.strip().startswith("reunet ")]
    assert examples
    for line in examples:
        words = shlex.split(line.split(" > ")[0], comments=True)
        command = main.commands[words[1]]
        command.make_context(words[1], words[2:])  # parses, and runs nothing


def test_options_of_predict_are_in_one_group_each() -> None:
    command = main.commands["predict"]
    named = [name for names in GROUPS.values() for name in names]
    options = {p.name for p in command.params if isinstance(p, click.Option)}
    assert len(named) == len(set(named))
    assert {*named} <= options
    shown = CliRunner().invoke(main, ["predict", "--help"]).output
    assert all(f"{title}:" in shown for title in GROUPS)
    others = shown.partition("Others:\n")[2].partition("\n\n")[0]
    assert others.strip().startswith(("-h", "--help"))  # nothing has been forgotten
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            assert option.opts[-1] in shown
