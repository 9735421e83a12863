"""README and docs: commands are understood, files and links are there, equations where they say."""

import ast
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from avdiff_jax.cli import configuration
from configs import common
from tests import ROOT
from tests.test_structure import FLOORS

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in PAGES}
README = TEXTS["README.md"]
LAUNCH = ROOT / "launch"
# Words that stand for something that the reader puts in.
PLACEHOLDERS = re.compile(r"\.\.\.|…|\b(NAME|FLAGS|COMMAND)\b")


def quoted(text: str) -> list[str]:
    """What stands between single backticks outside of blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a language; "" is that of commands."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def lines_of_commands() -> list[tuple[str, str]]:
    """(page, command line) of all that a reader may type."""
    lines = []
    for page, text in TEXTS.items():
        typed = "".join(blocks(text, "")).replace("\\\n", " ").splitlines()
        lines += [(page, re.sub(r"\s+#.*", "", line)) for line in [*typed, *quoted(text)]]
    return [(page, line) for page, line in lines if not PLACEHOLDERS.search(line)]


def commands(start: str) -> list[tuple[str, str]]:
    """(page, what follows `start`) of each command line that begins so."""
    return [(page, line.removeprefix(start)) for page, line in lines_of_commands()
            if line.startswith(start)]


LAUNCHED = commands("python launch/")


def module_of(name: str):
    spec = importlib.util.spec_from_file_location(f"_{name}", LAUNCH / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def understand(name: str, words: list[str]) -> None:
    """Parses the flags of a command as it does itself, and resolves the configuration."""
    args, overrides = module_of(name).parser().parse_with_overrides(words)
    config = getattr(args, "config", None) or []
    for file in [config] if isinstance(config, str) else config:
        configuration.resolve(file, overrides)


@pytest.mark.parametrize("page, line", LAUNCHED)
def test_commands_are_understood(page, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no file is in the way of what they write
    script, *words = shlex.split(line)
    understand(script.removesuffix(".py"), words)


def test_each_command_is_shown():
    shown = {line.split()[0] for _, line in LAUNCHED}
    assert shown == {path.name for path in LAUNCH.glob("*.py")}


@pytest.mark.parametrize("page, line", commands("make "))
def test_targets_are_in_the_makefile(page, line):
    assert re.search(rf"^{line.split()[0]}:", (ROOT / "Makefile").read_text(), re.M)


def test_tests_that_are_named_exist():
    named = [re.findall(r"\btests/[\w/.]+", line) for _, line in lines_of_commands()]
    assert any(named) and not [n for names in named for n in names if not (ROOT / n).exists()]


def test_overrides_and_words_of_configurations():
    tried = 0
    for text in TEXTS.values():
        for words in quoted(text):
            for override in re.findall(r"^(?!python).*?(--config\.[a-z]\S*=\S+)", words):
                if not PLACEHOLDERS.search(override) and "x.y" not in override:
                    configuration.resolve("configs/ucf.py:5shot", [override])
                    tried += 1
            if re.match(r"\d+shot(,|$)", words) and not PLACEHOLDERS.search(words):
                common.words(words.split()[0])
                tried += 1
    assert tried > 10


def test_files_that_are_named_exist():
    """Those of the checkout: by their path from its root or from the package."""
    rooms = {path.name for path in (ROOT / "avdiff_jax").iterdir() if path.is_dir()}
    start = "|".join(sorted({"avdiff_jax", "launch", "configs", "tests", "docs", *rooms}))
    path = re.compile(rf"({start})/[\w/.]*(?<!\.h5)(?<!\.json)")
    named = {(p, n) for p, text in TEXTS.items() for n in filter(path.fullmatch, quoted(text))}
    roots = ROOT, ROOT / "avdiff_jax"
    assert named
    assert not [pair for pair in named if not any((root / pair[1]).exists() for root in roots)]


def test_the_rooms_are_in_the_order_of_their_floors():
    table = TEXTS["docs/design.md"].split("\n\n", 4)[3]
    rooms = [re.sub(r"\.py$|/$", "", name) for row in table.splitlines()
             for name in re.findall(r"`([\w./]+)`", row.split("|")[1])]
    assert rooms == [room for room in FLOORS if not room.startswith("__")]


def test_links_lead_somewhere():
    for page, text in TEXTS.items():
        for target in re.findall(r"\]\(([^)#]+)", text):
            if not target.startswith("http"):
                assert (ROOT / page).parent.joinpath(target).exists(), f"{page}: {target}"


@pytest.mark.parametrize("page", [page for page, text in TEXTS.items() if blocks(text, "python")])
def test_imports_of_python_blocks(page):
    for code in blocks(TEXTS[page], "python"):
        kinds = ast.Import, ast.ImportFrom
        imports = [node for node in ast.parse(code).body if isinstance(node, kinds)]
        assert imports
        exec(compile(ast.Module(imports, []), page, "exec"), {})


def test_the_readme_is_a_page():
    assert len(README.splitlines()) <= 130


@pytest.mark.parametrize("page", TEXTS)
def test_lines_fit_a_terminal(page):
    lines = TEXTS[page].splitlines()
    assert not [line for line in lines if len(line) > 120 and not line.startswith("|")]


def test_the_picture_is_drawn_by_its_script(tmp_path):
    spec = importlib.util.spec_from_file_location("draw_method", ROOT / "docs" / "draw_method.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.draw(tmp_path / "method.svg")
    drawn, kept = (Path(folder, "method.svg").read_text() for folder in (tmp_path, ROOT / "docs"))

    def shapes(text: str) -> int:
        return text.count("<path")

    assert shapes(drawn) == shapes(kept) > 100


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
