"""Breaks the code in many small ways, and says which of them no test notices.

`make mutants` runs it. Each mutant of `table.py` is put into a copy of the tree, where the tests
that its row names have to fail. Results are kept in `runs/mutants.jsonl`: a run that was stopped
goes on with what is left, as long as the tree is the same.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from tests import ROOT
from tests.mutants.table import MUTANTS, Mutant

COPIED = ("avdiff_jax", "configs", "launch", "tests", "pyproject.toml")
SECONDS = 300  # after which tests that hang count as failed


def copy_tree(root: Path, copy: Path) -> None:
    """Copies what the tests of a mutant need."""
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (root / name).exists():
            shutil.copy(root / name, copy / name)


def digest_tree(copy: Path) -> str:
    """Tells trees apart, all but the table and its runner."""
    digest = hashlib.sha256()
    for path in sorted(copy.rglob("*")):
        if path.is_file() and copy / "tests" / "mutants" not in path.parents:
            digest.update(f"{path.relative_to(copy)} {path.stat().st_size} ".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def find_misplaced(mutants: Sequence[Mutant], copy: Path) -> list[str]:
    """Says of which mutants the text is not found exactly once."""
    sentences = []
    for mutant in mutants:
        path = copy / mutant.file
        count = path.read_text().count(mutant.text) if path.exists() else 0
        if count != 1:
            sentences.append(f"{mutant.file}: found {count} times, not once: {mutant.text!r}")
    return sentences


def run_tests(tests: Sequence[str], copy: Path, *more: str) -> tuple[str, str]:
    """Runs tests in a copy of the tree; returns "passed", "failed" or "broken", and the output."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *more, *tests]
    # Two versions of a file may have one size and one time: compiled code would be mistaken.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return "failed", f"more than {SECONDS} s"
    return {0: "passed", 1: "failed"}.get(done.returncode, "broken"), done.stdout + done.stderr


def try_mutant(mutant: Mutant, copy: Path) -> str:
    """Returns "died", "lived", or "broken" where the tests could not be run."""
    path = copy / mutant.file
    source = path.read_text()
    path.write_text(source.replace(mutant.text, mutant.replacement))
    try:
        outcome, _ = run_tests(mutant.tests, copy, "-x")
    finally:
        path.write_text(source)
    return {"failed": "died", "passed": "lived"}.get(outcome, outcome)


def read_results(file: Path, digest: str) -> dict[Mutant, str]:
    """The results so far of this tree."""
    results = {}
    for line in file.read_text().splitlines() if file.exists() else ():
        row = json.loads(line)
        if row["tree"] == digest:
            *start, tests = row["mutant"]
            results[Mutant(*start, tuple(tests))] = row["result"]
    return results


def check_tests(mutants: Sequence[Mutant], copy: Path) -> None:
    """Ends the run unless all tests pass without any mutant: a test that always fails would let
    every mutant die."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    print(f"{len(mutants)} mutants left; their {len(tests)} tests first, without any", flush=True)
    outcome, output = run_tests(tests, copy)
    if outcome != "passed":
        sys.exit(f"{output}\nerror: these tests do not pass without any mutant: {outcome}")


def report(results: dict[Mutant, str]) -> int:
    """Prints what did not die; returns the exit code."""
    remaining = {mutant: result for mutant, result in results.items() if result != "died"}
    for mutant, result in remaining.items():
        print(f"{result}: {mutant}")
    print(f"{len(results)} mutants: {len(results) - len(remaining)} died, {len(remaining)} did not")
    return min(len(remaining), 1)


def main(
    words: Sequence[str] | None = None, table: Sequence[Mutant] = MUTANTS, root: Path = ROOT
) -> int:
    """Tries the mutants of `table` that the command line asks for, on a copy of `root`."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("-k", metavar="WORD", default="", help="those with this word in their row")
    chosen = [m for m in table if parser.parse_args(words).k in f"{m} {' '.join(m.tests)}"]
    if not chosen:
        sys.exit("error: no row of the table has that word: give another one to -k")
    results_file = root / "runs" / "mutants.jsonl"
    results_file.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder)
        copy_tree(root, copy)
        if misplaced := find_misplaced(chosen, copy):
            sys.exit("\n".join([*misplaced, "error: bring these rows of the table up to date"]))
        digest = digest_tree(copy)
        results = read_results(results_file, digest)
        left = [mutant for mutant in chosen if mutant not in results]
        if left:
            check_tests(left, copy)
        with results_file.open("a") as file, tqdm(left, unit="mutant", disable=not left) as bar:
            for mutant in bar:
                results[mutant] = result = try_mutant(mutant, copy)
                if result != "died":
                    bar.write(f"{result}: {mutant}", file=sys.stderr)
                print(json.dumps({"tree": digest, "mutant": mutant, "result": result}), file=file,
                      flush=True)
    return report({mutant: results[mutant] for mutant in chosen})


if __name__ == "__main__":
    sys.exit(main())
