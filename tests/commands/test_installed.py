"""The wheel: commands, configurations and package work where there is no checkout."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from avdiff_jax import __main__ as installed

ROOT = Path(__file__).resolve().parents[2]
BUILD = ["avdiff_jax", "configs", "launch", "pyproject.toml", "setup.py", "README.md", "LICENSE",
         "requirements-base.txt"]
# A model that trains in no time, on the smallest made-up set.
TINY = ["--methods=ncm", "--config.data.synthetic.classes=8", "--config.eval.batch=8",
        "--config.data.synthetic.clips_per_class=40"]


def run(command: list, folder: Path, code: int = 0) -> str:
    """What a command prints, run in `folder` without this checkout on its path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(list(map(str, command)), cwd=folder, env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == code, done.stdout
    return done.stdout


def test_each_command_is_described():
    """The first lines of the files are what `avdiff-jax --help` shows."""
    lines = installed.describe_commands().splitlines()[2:]
    assert [line.split()[0] for line in lines] == [
        path.stem for path in sorted((ROOT / "launch").glob("*.py"))
    ]
    for line in lines:
        name, *words = line.split()
        assert len(words) > 2 and "python" not in words and len(line) <= 110, name


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> Path:
    """The folder of programs of a fresh environment that the wheel is installed in.

    Its dependencies are those of the running one.
    """
    folder = tmp_path_factory.mktemp("installed")
    (folder / "source").mkdir()  # setuptools leaves its `build` beside what it builds
    for name in BUILD:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / "source" / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", ".", "./source"],
        folder)
    run([sys.executable, "-m", "venv", "--without-pip", "env"], folder)
    python = folder / "env" / "bin" / "python"
    [wheel] = folder.glob("*.whl")
    run([*pip, "--python", python, "install", "--no-deps", "--no-index", wheel], folder)
    [site] = (folder / "env" / "lib").glob("python*/site-packages")
    dependencies = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(dependencies) + "\n")
    return python.parent


@pytest.mark.slow
def test_the_wheel_holds_each_file_and_one_top_level_name(programs):
    [site] = programs.parent.glob("lib/python*/site-packages")
    held = {path.relative_to(site) for path in site.glob("avdiff_jax/**/*") if path.is_file()}
    wanted = {path.relative_to(ROOT) for path in ROOT.glob("avdiff_jax/**/*") if path.is_file()}
    wanted |= {Path("avdiff_jax/home") / path.relative_to(ROOT)
               for folder in ("configs", "launch") for path in (ROOT / folder).glob("*.py")}
    assert not {path for path in wanted - held if path.suffix != ".pyc"}
    tops = {path.name for path in site.iterdir() if not path.name.endswith((".dist-info", ".pth"))}
    assert tops == {"avdiff_jax"}


@pytest.mark.slow
def test_a_run_from_another_folder(programs, tmp_path):
    """The benchmark starts launch/main.py by itself; a folder named configs is not in the way."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "__init__.py").touch()
    (tmp_path / "configs" / "common.py").write_text("raise ImportError('not ours')\n")
    printed = run([programs / "avdiff-jax", "benchmark", "--config=configs/synthetic.py",
                   "--root=bench", *TINY], tmp_path)
    assert "ncm" in printed and list(tmp_path.glob("bench/**/results.json"))
    script = ("from avdiff_jax.cli.configuration import resolve;"
              "print(resolve('configs/ucf.py').shots)")
    assert run([programs / "python", "-c", script], tmp_path).strip() == "5"


@pytest.mark.slow
def test_commands_start(programs, tmp_path):
    assert "add_class" in run([programs / "avdiff-jax"], tmp_path)
    for name in ("main", "data", "predict"):
        assert "--" in run([programs / "avdiff-jax", name, "--help"], tmp_path), name
    assert "error: there is no command 'trian'" in run(
        [programs / "avdiff-jax", "trian"], tmp_path, code=2)
