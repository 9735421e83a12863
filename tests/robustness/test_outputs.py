"""A thousand random command lines in a folder of dear files: only what was named as an output, and
may be written over, is ever another file afterwards."""

import argparse
import hashlib
import os
import random
from pathlib import Path

import pytest

from avdiff_jax.errors import UserError
from avdiff_jax.io import files
from tests.commands.test_command_line import COMMANDS, every, parser_of

DEAR = (
    "store.h5", "split.json", "arrays.npz", "clips.csv", "model.npz", "run/config.json",
    "run/results.json", "run/model-draw0.npz", "run/plots/a.png", "begun/config.json", "sub/x.csv",
)
LINKS = {"link.h5": "store.h5", "link.json": "run/results.json", "to-run": "run", "gone": "nowhere"}
NEW = ("new.h5", "run/new.csv", "to-run/new.npz", "deep/er/new.json", "./sub/../new.npz")
PLACES = (*DEAR, *LINKS, *NEW, "run", "sub", "./store.h5", "sub/../model.npz", "run/../clips.csv")


def digests() -> dict[str, str]:
    """Of every file here, links followed."""
    return {
        os.path.realpath(os.path.join(folder, name)): hashlib.sha256(
            Path(folder, name).read_bytes()).hexdigest()
        for folder, _, names in os.walk(".") for name in names
        if os.path.exists(os.path.join(folder, name))
    }


def value(rng: random.Random, action: argparse.Action) -> str:
    """Something that the flag takes."""
    if action.choices:
        return str(rng.choice(list(action.choices)))
    return str(rng.randint(1, 3)) if action.type in (int, float) else rng.choice(PLACES)


def words(rng: random.Random, parser: argparse.ArgumentParser) -> list[str]:
    """A command line that gives what is required and some of the rest."""
    line, alone = [], {a: group for group in parser._mutually_exclusive_groups
                       for a in group._group_actions}
    chosen = {group: rng.choice(group._group_actions)
              for group in parser._mutually_exclusive_groups}
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            continue
        if action in alone and chosen[alone[action]] is not action:
            continue
        if action not in alone and not action.required and rng.random() < 0.7:
            continue
        count = action.nargs if isinstance(action.nargs, int) else 1
        line += action.option_strings[:1] + [value(rng, action) for _ in range(count)]
    return line


@pytest.mark.parametrize("name", COMMANDS)
def test_only_the_output_changes(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in DEAR:
        files.write_text(place, f"dear {place}")
    for link, target in LINKS.items():
        os.symlink(target, link)
    parser, rng = parser_of(name), random.Random(name)
    subcommands = [sub for sub in every(parser) if sub is not parser] or [parser]
    tried = written = 0
    while tried < 120:
        chosen = rng.choice(subcommands)
        names = [key for action in parser._actions if action.dest != "config"
                 and isinstance(action, argparse._SubParsersAction)
                 for key, sub in action.choices.items() if sub is chosen]
        line, before = [*names, *words(rng, chosen)], digests()
        tried += 1
        try:
            args = parser.parse_args(line)
        except UserError:
            assert digests() == before
            continue
        outputs = [out for key in getattr(args, "outputs", ()) if (out := getattr(args, key))]
        for out in outputs:
            if not os.path.isdir(out):
                files.write_text(out, f"written by {line}")
                written += 1
        allowed = {os.path.realpath(out) for out in outputs}
        for path, digest in digests().items():
            if path in allowed and path in before:
                assert args.overwrite, line
            if path not in allowed:
                assert before[path] == digest, line
            assert "/run/" not in path or (path in before and before[path] == digest), line
        named = [os.path.realpath(word) for word in line if word in PLACES]
        assert sum(path in allowed & before.keys() for path in named) <= len(outputs), line
    assert written or not any(sub.get_default("outputs") for sub in subcommands)
