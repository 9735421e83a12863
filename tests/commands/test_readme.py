"""The README's index of equations points at code that is there, and its commands exist."""

import ast
import re

from tests import ROOT

README = (ROOT / "README.md").read_text()


def docstrings():
    for path in (ROOT / "avdiff_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                yield path.relative_to(ROOT).as_posix(), ast.get_docstring(node) or ""


def test_equation_index():
    rows = re.findall(r"^\| Eq\. \((\d)\) .*`(avdiff_jax/[\w/]+\.py)` `(\w+)` \|$", README, re.M)
    assert [int(number) for number, *_ in rows] == list(range(1, 10))
    found = {}
    for path, text in docstrings():
        for number in re.findall(r"Eq\. \((\d)\)", text):
            found.setdefault(number, []).append(path)
    for number, path, name in rows:
        assert found[number] == [path], f"Eq. ({number}) belongs to {path}"
        assert re.search(rf"^(def|class) {name}\b", (ROOT / path).read_text(), re.M)


def test_lines_fit_a_terminal():
    long = [line for line in README.splitlines() if len(line) > 120 and not line.startswith("|")]
    assert not long


def test_commands_name_files_that_exist():
    for script in re.findall(r"python (launch/\w+\.py)", README):
        assert (ROOT / script).is_file(), script
    for config in re.findall(r"--config=(configs/\w+\.py)", README):
        assert (ROOT / config).is_file(), config
