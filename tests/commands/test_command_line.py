"""What the commands of launch/ have in common: help, complaints, overrides, configurations."""

import argparse
import importlib.util
from pathlib import Path

import pytest

from avdiff_jax.cli import configuration
from avdiff_jax.cli.flags import Parser
from avdiff_jax.errors import UserError
from tests import ROOT

LAUNCH = ROOT / "launch"
COMMANDS = sorted(path.stem for path in LAUNCH.glob("*.py"))


def parser_of(name: str) -> Parser:
    spec = importlib.util.spec_from_file_location(f"_{name}", LAUNCH / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.parser()


def every(parser):
    """The parser and those of its subcommands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_says_what_it_is(name):
    for parser in every(parser_of(name)):
        flags = [action for action in parser._actions if action.option_strings]
        assert flags and all(action.help for action in flags)
        shown = " ".join(parser.format_help().split())
        for action in flags:
            if isinstance(action.default, int | float) and not isinstance(action.default, bool):
                assert f"{action.help}; default: {action.default}" in shown


def made() -> Parser:
    p = Parser("A command.")
    p.add_argument("--out", required=True, metavar="FILE", help="goes there")
    p.add_argument("--seed", type=int, default=0, metavar="S", help="of all")
    p.add_argument("--names", type=list, default=["a", "b"], metavar="N", help="some")
    p.add_argument("--quiet", action="store_true", help="says nothing")
    source = p.add_mutually_exclusive_group(required=True)
    source.add_argument("--store", help="one")
    source.add_argument("--npz", help="two")
    return p


@pytest.mark.parametrize("words, complaint", [
    (["--seed=99999999999999999999"], "--seed 99999999999999999999 must be at most 4294967295"),
    (["--share", "nan"], "--share nan must be a finite number"),
    (["--share=-inf"], "--share -inf must be a finite number"),
    (["--pair", "1", "1e999"], "--pair inf must be a finite number"),
    (["--out=f\udcff"], r"a word of the command line, '--out=f\\udcff', is not UTF-8: rename it"),
])
def test_numbers_and_words_that_mean_nothing(words, complaint):
    p = made()
    p.add_argument("--share", type=float)
    p.add_argument("--pair", type=float, nargs=2)
    with pytest.raises(UserError, match=complaint):
        p.parse_args(["--out=x", "--npz=y", *words])


def test_defaults_are_shown_where_there_are_some():
    lines = [" ".join(line.split()) for line in made().format_help().splitlines()]
    for line in ("--out FILE goes there", "--seed S of all; default: 0",
                 "--names N some; default: a,b", "--quiet says nothing"):
        assert line in lines


@pytest.mark.parametrize("words, complaint", [
    ([], "required: --out, --store or --npz (--help"),
    (["--out=x"], "one of the arguments --store --npz is required"),
    (["--out=x", "--stor=x", "y"], "unrecognized arguments: --stor (--help"),
    (["--npz=x"], "required: --out (--help"),
    (["--out=x", "--npz=y", "--see=3"], "unrecognized arguments: --see=3"),
])
def test_complaints_name_all_that_is_missing(words, complaint):
    with pytest.raises(UserError) as caught:
        made().parse_args(words)
    assert complaint in str(caught.value)


def test_overrides_are_set_apart():
    words = ["--config.data.store=my clips.h5", "--out=x", "--config.seed=3", "--npz=y"]
    args, overrides = made().parse_with_overrides(words)
    assert (args.out, overrides) == ("x", ["--config.data.store=my clips.h5", "--config.seed=3"])
    with pytest.raises(UserError, match=r"--config.seed: write --config.field=value"):
        made().parse_with_overrides(["--config.seed", "3"])


def test_a_configuration_is_found_here_before_the_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert configuration.locate("configs/ucf.py:5shot") == f"{ROOT}/configs/ucf.py:5shot"
    Path("configs").mkdir()
    Path("configs/ucf.py").touch()
    assert configuration.locate("configs/ucf.py:5shot") == "configs/ucf.py:5shot"


def test_an_output_is_no_input_of_any_flag(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("in.h5", "a.npz", "made.csv", "out"):
        Path(name).write_text("dear")
    p = Parser("A command.")
    p.add_output("FILE", "goes there")
    p.add_output("FILE", "a picture", flag="--plot", required=False)
    p.add_argument("--npz", action="append", help="several")
    p.add_argument("path", help="one")
    for words in (["in.h5", "--out=in.h5"], ["x", "--npz=b.npz", "--npz=a.npz", "--out=a.npz"],
                  ["in.h5", "--out=x", "--plot", tmp_path / "in.h5"]):
        with pytest.raises(UserError, match="is read and would be written over"):
            p.parse_args([*map(str, words), "--overwrite"])
    for words in (["x", "--out=made.csv"], ["x", "--out=y", "--plot=made.csv"]):
        with pytest.raises(UserError, match=r"made.csv exists already"):
            p.parse_args(words)
        p.parse_args([*words, "--overwrite"])
    with pytest.raises(UserError, match=r"out exists already"):
        p.parse_args(["x", "--out=out"])


def test_home_is_expanded_after_the_sign_too(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    words = ["--out=~/a", "--npz", "~/b", "--config.data.store=~/c", "--names=~x"]
    args, overrides = made().parse_with_overrides(words)
    assert (args.out, args.npz, args.names) == ("/home/me/a", "/home/me/b", ["~", "x"])
    assert overrides == ["--config.data.store=/home/me/c"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_output_of_a_command_is_guarded(name):
    """What is called --out, or names a file to draw or write, is declared as an output."""
    for parser in every(parser_of(name)):
        declared = parser.get_default("outputs") or ()
        for action in parser._actions:
            if action.dest in ("out", "plot", "json") and (name, action.metavar) != (
                    "benchmark", "DIR"):  # tables that it keeps up to date itself
                assert action.dest in declared
