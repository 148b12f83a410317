"""Who may import whom: rooms lie above each other, and what start-up cannot afford stays below."""

import ast
import graphlib
from pathlib import Path

import pytest

from conftest import ROOT

BELOW_ALL = {"errors", "options"}
ROOMS = {  # room: those below it that it may import from, besides itself and BELOW_ALL
    "io": set[str](),
    "inference": set[str](),
    "instances": {"inference"},
    "network": {"io", "inference"},
    "run": {"io", "inference", "instances", "network", "top"},
    "top": {"io", "inference", "instances", "network", "run", "top"},
}
MODULES = [p for p in sorted((ROOT / "reunet").rglob("*.py")) if "training" not in p.parts]


def room_of(module: str) -> str:
    """`reunet.io.images` -> io; what lies at the top -> top."""
    name = module.split(".")[1] if "." in module else "top"
    return name if name in ROOMS else "top"


def imports(path: Path) -> set[tuple[str, bool]]:
    """Names that a module imports, and whether at its top; what types alone need is left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing = {n for i in ast.walk(tree) if isinstance(i, ast.If) for n in ast.walk(i)
              if ast.unparse(i.test) == "TYPE_CHECKING"}  # fmt: skip
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    names = set()
    for node in nodes:
        if node not in typing:
            prefix = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            names |= {(prefix + alias.name, node in tree.body) for alias in node.names}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_import_from_below(path: Path) -> None:
    own = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for name, at_top in imports(path):
        top = name.split(".")[0]
        assert top != "nnunetv2"
        if name.startswith("reunet.training"):  # the one door, opened when somebody trains
            assert path.stem == "cli_train"
            assert not at_top
            continue
        if top == "torch":
            assert not at_top or path.stem in ("unet", "torch_backend")  # imported where needed
        if name.startswith("reunet.") and name.split(".")[1] in BELOW_ALL:
            continue
        assert path.stem not in BELOW_ALL or top != "reunet"  # they import nothing of ours
        if top == "reunet" and room_of(name) != own:
            assert room_of(name) in ROOMS[own], f"{own} imports {name}"


def used_by(path: Path, modules: dict[str, Path]) -> set[str]:
    """Modules of ours that one imports, within functions and by name, too."""
    strings = (
        n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)
    )
    names = {name for name, _ in imports(path)} | {s for s in strings if isinstance(s, str)}
    named = {name if name in modules else name.rpartition(".")[0] for name in names}
    return {name for name in named if name in modules and modules[name] != path}


def test_no_modules_import_each_other_in_a_circle() -> None:
    paths = (path for path in (ROOT / "reunet").rglob("*.py") if path.name != "__init__.py")
    modules = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in paths}
    graph = {name: used_by(path, modules) for name, path in modules.items()}
    assert graph["reunet.io.images"] >= {"reunet.io.limits", "reunet.io.tiff", "reunet.io.vendors"}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle
