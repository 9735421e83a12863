"""The runner on a tree of one function: what dies, what lives, and what is not there."""

import json

import pytest

from tests import ROOT
from tests.mutants import run
from tests.mutants.table import MUTANTS, Mutant

DIES = Mutant("avdiff_jax/sums.py", "a + b", "a - b", ("tests/test_sums.py::test_add",))
LIVES = DIES._replace(replacement="b + a")


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # they take longer than the tests
    for name, content in (
        ("avdiff_jax/sums.py", "def add(a, b):\n    return a + b\n"),
        ("tests/test_sums.py", "from avdiff_jax.sums import add\n\n"
                               "def test_add():\n    assert add(1, 2) == 3\n"),
    ):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(content)
    return tmp_path


def test_what_lives_is_reported_and_the_tree_stays(tree, capsys):
    assert run.main([], [DIES, LIVES], tree) == 1
    said = capsys.readouterr().out
    assert "lived: avdiff_jax/sums.py: 'a + b' -> 'b + a', unnoticed by" in said
    assert "2 mutants: 1 died, 1 did not" in said and "died: " not in said
    assert "a + b" in (tree / "avdiff_jax" / "sums.py").read_text()


def test_it_goes_on_after_a_stop_unless_the_tree_has_changed(tree, capsys, monkeypatch):
    assert run.main(["-k", "a - b"], [DIES, LIVES], tree) == 0  # one of the two
    tried = []
    monkeypatch.setattr(run, "try_mutant", lambda mutant, copy: tried.append(mutant) or "died")
    for _ in range(2):
        assert run.main([], [DIES, LIVES], tree) == 0 and tried == [LIVES]
    (tree / "avdiff_jax" / "more.py").touch()
    assert run.main([], [DIES, LIVES], tree) == 0 and tried == [LIVES, DIES, LIVES]
    lines = (tree / "runs" / "mutants.jsonl").read_text().splitlines()
    assert [json.loads(line)["result"] for line in lines] == ["died"] * 4


@pytest.mark.parametrize("text, count", [("a * b", 0), ("b", 2)])
def test_a_text_that_is_not_there_once_is_refused(text, count, tree):
    with pytest.raises(SystemExit, match=rf"sums.py: found {count} times, not once: '{text[0]}"):
        run.main([], [DIES, DIES._replace(text=text)], tree)
    assert not (tree / "runs" / "mutants.jsonl").exists()


def test_a_word_that_no_row_has_is_refused(tree):
    with pytest.raises(SystemExit, match="no row of the table has that word"):
        run.main(["-k", "nothing"], [DIES], tree)


def test_tests_that_fail_anyway_prove_nothing(tree):
    (tree / "avdiff_jax" / "sums.py").write_text("def add(a, b):\n    return a + b + 1\n")
    with pytest.raises(SystemExit, match="do not pass without any mutant"):
        run.main([], [DIES], tree)


def test_tests_that_cannot_be_run_are_no_death(tree):
    (tree / "tests" / "test_sums.py").write_text("import avdiff_jax.sums\n")
    with pytest.raises(SystemExit, match="broken"):
        run.main([], [DIES], tree)
    broken = Mutant("tests/test_sums.py", "import ", "import not_there.", ("tests/test_sums.py",))
    assert run.try_mutant(broken, tree) == "broken"


def test_each_row_of_the_table_is_another_change():
    assert len({mutant[:3] for mutant in MUTANTS}) == len(MUTANTS)
    assert all(mutant.text != mutant.replacement and mutant.tests for mutant in MUTANTS)


def test_the_table_follows_the_code():
    assert run.find_misplaced(MUTANTS, ROOT) == []
    files = {test.partition("::")[0] for mutant in MUTANTS for test in mutant.tests}
    assert [file for file in files if not (ROOT / file).exists()] == []
