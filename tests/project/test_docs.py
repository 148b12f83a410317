"""The documentation and the program tell the same story."""

import ast
import re
import tomllib
from pathlib import Path

import click
import pytest

from conftest import ROOT
from reunet.cli import main
from reunet.io.export.tables import CELL_COLUMNS, IMAGE_COLUMNS
from reunet.iou_range import COLUMNS

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")])
LONGEST_README = 8000  # bytes: a first reader finishes it


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_readme_is_short() -> None:
    assert (ROOT / "README.md").stat().st_size <= LONGEST_README


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        file, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_scripts_that_are_named_exist(page: Path) -> None:
    script = r"\b(?:tests|benchmarks|train_scripts)/[\w/]+\.(?:py|sh)\b"
    named = set(re.findall(script, page.read_text()))
    for module in re.findall(r"python -m (benchmarks[.\w]+)", page.read_text()):
        named.add(f"{module.replace('.', '/')}.py")
    assert not [name for name in named if not (ROOT / name).exists()]


def test_usage_lists_every_option_of_predict() -> None:
    usage = (ROOT / "docs/usage.md").read_text()
    table = usage.partition("## Options of `reunet predict`")[2].partition("\n## ")[0]
    names = "\n".join(row.split(" | ")[0] for row in table.split("\n") if row.startswith("| `"))
    told = set(re.findall(r"--[a-z][a-z-]*", names))
    options = [
        p for p in main.commands["predict"].params if isinstance(p, click.Option) and not p.hidden
    ]
    there = {name for p in options for name in (*p.opts, *p.secondary_opts) if name[:2] == "--"}
    assert told == there


def test_troubleshooting_quotes_messages_that_exist() -> None:
    """Each first column in backticks; `…` stands for what differs."""
    page = (ROOT / "docs/troubleshooting.md").read_text()
    trees = [ast.parse(path.read_text()) for path in (ROOT / "reunet").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    texts = "\n".join(node.value for node in nodes if isinstance(node.value, str))
    quoted = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(quoted) > 20
    missing = [part for row in quoted for part in row.split("…") if part.strip() not in texts]
    assert not missing


def test_install_lists_every_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    page = (ROOT / "docs/install.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|", page.partition("## Extras")[2], re.MULTILINE)
    assert sorted(rows) == sorted(project["optional-dependencies"])


def test_outputs_lists_every_column() -> None:
    page = (ROOT / "docs/outputs.md").read_text()
    for title, columns in (
        ("`cells.csv`", CELL_COLUMNS),
        ("`images.csv`", IMAGE_COLUMNS),
        ("Accuracy", COLUMNS),
    ):
        table = page.partition(f"## {title}\n")[2].partition("\n## ")[0]
        cells = [row.split("|")[1] for row in table.split("\n") if row.startswith("| `")]
        assert re.findall(r"`([\w]+)`", " ".join(cells)) == list(columns)


def test_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert citation == [project["version"]]
    assert f"## {project['version']} (" in (ROOT / "CHANGELOG.md").read_text()
