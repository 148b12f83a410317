"""What the runtime must not contain, read from its source; and what it stands on, pinned."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import ROOT

RUNTIME = sorted(  # without reunet/training, which is for one's own
    path for path in (ROOT / "reunet").rglob("*.py") if "training" not in path.parts
)
REQUIREMENTS = sorted(ROOT.glob("requirements*.txt"))
MODULES = {  # that run code out of data, run other programs, or reach for the network
    *("pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "runpy", "code"),
    *("subprocess", "pty", "multiprocessing"),
    *("socket", "ssl", "http", "urllib", "ftplib", "requests", "httpx", "aiohttp"),
}
CALLS = re.compile(
    r"""(builtins\.)?(eval|exec|compile|__import__)
    | os\.(system|popen|exec\w+|spawn\w+|posix_spawn\w*|startfile)
    | torch\.(load|hub\..*|jit\.load|package\..*) | (np|numpy)\.(load|fromregex|loads)""",
    re.VERBOSE,
)
IMPORT_NAMES = {  # unlike the package's
    "pillow": "PIL",
    "connected-components-3d": "cc3d",
    "openslide-python": "openslide",
}


def suspects(source: str) -> Iterator[str]:
    """Lines of a module that import or call what they should not."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        if {name.split(".")[0] for name in names if name != "urllib.parse"} & MODULES:
            yield f"{node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.Call):
            insecure = {
                keyword.arg
                for keyword in node.keywords
                if keyword.arg in ("shell", "allow_pickle")
                and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
            }
            called = ast.unparse(node.func)
            computed = not all(isinstance(argument, ast.Constant) for argument in node.args)
            if called.endswith("import_module") and computed:
                insecure.add(called)
            told = {keyword.arg for keyword in node.keywords} - insecure
            arrays_alone = called == "np.load" and "allow_pickle" in told
            if insecure or (CALLS.fullmatch(called) and not arrays_alone):
                yield f"{node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("path", RUNTIME, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_runtime_runs_no_foreign_code(path: Path) -> None:
    assert not list(suspects(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from subprocess import run",
        "import urllib.request",
        "eval(text)",
        "torch.load(path)",
        "torch.hub.load('a/b', 'c')",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "os.system(command)",
        "os.execvp(name, arguments)",
        "run(command, shell=True)",
        "read(path, allow_pickle=flag)",
        "importlib.import_module(name)",
    ],
)
def test_the_check_finds_what_it_looks_for(source: str) -> None:
    assert list(suspects(source))


def test_the_check_leaves_the_rest_alone() -> None:
    harmless = "model.eval()\ncore.compile_model(m)\nre.compile('a')\njson.load(file)\nnp.loadtxt"
    harmless += "\nnp.load(path, allow_pickle=False)"
    assert not list(suspects(harmless))


def test_shell_scripts_evaluate_nothing() -> None:
    for script in (ROOT / "predict.sh", *ROOT.glob("train_scripts/*.sh")):
        lines = script.read_text(encoding="utf-8").splitlines()
        code = [line for line in lines if not line.lstrip().startswith("#")]
        assert not [line for line in code if re.search(r"\beval\b|`", line)], script.name


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda path: path.name)
def test_every_requirement_is_pinned(path: Path) -> None:
    for line in path.read_text(encoding="utf-8").splitlines():
        requirement = line.split("#")[0].strip()
        assert not requirement or re.fullmatch(r"[\w.-]+==[\w.+]+", requirement), line


def test_the_runtime_imports_what_is_required_and_nothing_else() -> None:
    imported = set()
    for path in RUNTIME:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").split(".")[0])
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    names = [line.split("==")[0] for line in lines if "==" in line]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra in project["optional-dependencies"].values():
        names += [re.split(r"[<>=!~\[]", line)[0] for line in extra]
    required = {IMPORT_NAMES.get(name, name) for name in names}
    assert imported - set(sys.stdlib_module_names) - {"reunet"} <= required
