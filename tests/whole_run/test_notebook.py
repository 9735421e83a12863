"""docs/own_clips.ipynb: its cells parse, and run one after the other."""

import ast
import json
import os
import subprocess
import sys

import pytest

from avdiff_jax.data.importers import text_encoders
from avdiff_jax.errors import UserError
from avdiff_jax.extract import encoders, recipes
from tests import ROOT

NOTEBOOK = ROOT / "docs" / "own_clips.ipynb"
CELLS = ["".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text())["cells"]
         if cell["cell_type"] == "code"]

# Runs the cells as a notebook does, and looks at what they leave.
DRIVER = """
import json, sys
space = {}
for number, cell in enumerate(json.load(open(sys.argv[1]))):
    exec(compile(cell, f"cell {number}", "exec"), space)
assert len(space["bigger"].info.classes) == len(space["model"].info.classes) + 1 == 8
assert space["classes"].shape == space["probabilities"].shape == (7, 1)
"""


def test_the_cells_parse_and_the_notebook_has_outputs():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    for cell in CELLS:
        ast.parse(cell)
        assert not [line for line in cell.splitlines() if len(line) > 100]
    printed = "".join("".join(output.get("text", ())) for cell in cells
                      for output in cell.get("outputs", ()))
    assert "On your clips" in printed and "8 classes" in printed
    assert "/tmp" not in NOTEBOOK.read_text() and "Traceback" not in printed


@pytest.mark.slow
def test_the_cells_run(tmp_path):
    try:
        for modality, name in encoders.DEFAULTS.items():
            encoders.make(name, modality, recipes.RECIPES["plain"])
        text_encoders.identify()
    except UserError as error:
        pytest.skip(str(error))
    (tmp_path / "cells.json").write_text(json.dumps(CELLS))
    made = subprocess.run(
        [sys.executable, "-c", DRIVER, "cells.json"], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"})
    assert made.returncode == 0, made.stderr
    assert "On your clips" in made.stdout and (tmp_path / "bigger.npz").exists()
    assert (tmp_path / "new.png").exists()
