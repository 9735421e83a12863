"""Data flows one way: who may import whom, read off the source files."""

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT

PACKAGE = ROOT / "avdiff_jax"

# The rooms and open files from the lowest floor up: a file imports from its own room and from those
# before it. Within a room no circle may come of it.
FLOORS = [
    "errors",
    "io",
    "runtime",
    "losses",
    "nn",
    "diffusion",
    "sampling",
    "metrics",
    "probabilities",
    "cli",
    "data",
    "extract",
    "methods",
    "results",
    "inference",
    "train",
    "fitting",
    "speed",
    "__main__",
    "__init__",
]

FILES = sorted(PACKAGE.rglob("*.py"))
LAUNCH = sorted((ROOT / "launch").glob("*.py"))


def name_of(path: Path) -> str:
    """avdiff_jax/data/store.py -> data/store."""
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def rank(name: str) -> int:
    """The floor that a file stands on."""
    room = name.split("/")[0]
    assert room in FLOORS, f"{name}.py has no place in the house: give its room one in FLOORS"
    return FLOORS.index(room)


def run_at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a file that importing it runs: all but the bodies of functions."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
            yield from run_at_import(node)


def imported(path: Path, source: str, walk=ast.walk) -> Iterator[tuple[int, str]]:
    """Each import in a file as (line, dotted name of what it asks for)."""
    # How many leading dots stand for which package of ours.
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{stem}.{alias.name}") for alias in node.names)


def tops_of(path: Path, walk=ast.walk) -> set[str]:
    """The top-level packages that a file imports."""
    return {dotted.split(".")[0] for _, dotted in imported(path, path.read_text(), walk)}


def file_of(dotted: str) -> str | None:
    """The file of the package that an import reads: avdiff_jax.data.store.Store -> data/store."""
    parts = dotted.split(".")
    if parts[0] != "avdiff_jax":
        return None
    for length in range(len(parts), 0, -1):
        base = ROOT.joinpath(*parts[:length])
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return name_of(path)
    return None


def back_edges(path: Path, source: str) -> list[str]:
    """The imports of one package file that run back up, each as a sentence."""
    name, found = name_of(path), []
    for line, dotted in imported(path, source):
        target = file_of(dotted)
        # What the package itself holds, such as its version, is read before any of its rooms.
        if target not in (None, "__init__") and rank(target) > rank(name):
            found.append(f"{name}.py:{line} imports {target}, which stands above it")
    return found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_has_its_place_and_imports_only_from_below(path):
    assert not back_edges(path, path.read_text())


def test_no_circle():
    graph = {
        name_of(path): {
            file_of(dotted) for _, dotted in imported(path, path.read_text()) if file_of(dotted)
        }
        - {name_of(path), "__init__"}  # whose version is read before any room
        for path in FILES
    }
    assert set(graph) <= set(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_the_package_is_self_contained(path):
    """No launch script, configuration or test is imported, and no other framework at the top."""
    assert not tops_of(path) & {"launch", "configs", "tests"}
    assert not tops_of(path, run_at_import) & {"torch", "tensorflow"}


@pytest.mark.parametrize("path", LAUNCH, ids=lambda path: path.stem)
def test_launch_imports_only_the_package(path):
    assert not tops_of(path) & ({"launch", "configs", "tests"} | {other.stem for other in LAUNCH})


@pytest.mark.parametrize("path", [*FILES, *LAUNCH], ids=lambda path: path.stem)
def test_only_the_restricted_unpickler_unpickles(path):
    unpicklers = {"pickle", "dill", "cloudpickle", "joblib"}
    assert not tops_of(path) & unpicklers or path == PACKAGE / "io" / "safe_pickle.py"
    assert not re.search(r"allow_pickle=(?!False)|weights_only=(?!True)", path.read_text())


def test_no_drawer_for_everything():
    folders = ("avdiff_jax", "launch", "configs", "tests")
    assert not [path for folder in folders for path in (ROOT / folder).rglob("utils.py")]


@pytest.mark.parametrize(
    "file, source, complaint",
    [
        ("data/store.py", "from avdiff_jax.train import step", "data/store.py:1 imports train/st"),
        ("nn/trunk.py", "def f():\n    from ..metrics import x", "nn/trunk.py:2 imports metrics"),
        ("io/files.py", "import avdiff_jax.methods", "imports methods/__init__"),
        ("nn/trunk.py", "from avdiff_jax.nn.masks import x", ""),
        ("nn/trunk.py", "import jax\nfrom avdiff_jax import __version__", ""),
    ],
)
def test_back_edges_are_seen(file, source, complaint, tmp_path, monkeypatch):
    """The walk itself, on made-up files."""
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path / "avdiff_jax")
    for name in ("__init__", "nn/masks", "metrics", "train/step", "methods/__init__"):
        path = tmp_path / "avdiff_jax" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = back_edges(tmp_path / "avdiff_jax" / file, source)
    assert bool(found) == bool(complaint)
    assert complaint in " ".join(found)


@pytest.mark.parametrize("path", [*FILES, *LAUNCH], ids=lambda path: path.stem)
def test_everything_is_compiled_in_one_place(path):
    """Where XLA's options and the precision of products are given."""
    compiles = re.search(r"\bjax\.(jit|pmap)\b|from jax import .*\bjit\b", path.read_text())
    assert not compiles or path == PACKAGE / "runtime" / "compiling.py"
