"""The runs beside a run: methods without networks on the same clips, which cost seconds."""

import copy
from pathlib import Path

from ml_collections import ConfigDict

from avdiff_jax.cli.choices import OF_WORD
from avdiff_jax.cli.configuration import differences
from avdiff_jax.data.of_config import find_files
from avdiff_jax.data.splits import split_file
from avdiff_jax.errors import UserError
from avdiff_jax.io.documents import plain
from avdiff_jax.io.files import write_text
from avdiff_jax.methods import reads
from avdiff_jax.methods.without_text import settle_text
from avdiff_jax.results.controls import Comparison, compare, harmonic_mean, weigh_clip
from avdiff_jax.results.overview import draw_overview
from avdiff_jax.results.results_json import read_results
from avdiff_jax.results.runs import Finished
from avdiff_jax.train import protocol

CONTROLS = ("linear", "ncm")


def wanted(config: ConfigDict) -> bool:
    """Whether a run is one on a user's own store that controls say something about."""
    return config.dataset == "own" and config.method not in CONTROLS


def compare_with_controls(config: ConfigDict, workdir: Path) -> Comparison:
    """Runs each control on the store and split of a finished run, in workdirs below its own, and
    writes their table there, as `controls.md`.

    Raises:
      UserError, Stopped: as `protocol.run`.
    """
    folder = workdir / "controls"
    controls = [finish_run(configure_control(config, name), folder / name) for name in CONTROLS]
    weight = weigh_clip(split_file.load(find_files(config, workdir)[1]))
    comparison = compare([Finished(workdir, read_results(workdir)), *controls], weight)
    draw_overview(workdir, max(controls, key=harmonic_mean).workdir)
    write_text(workdir / "controls.md", comparison.markdown())
    return comparison


def configure_control(config: ConfigDict, name: str) -> ConfigDict:
    """The configuration of a control: that of the run, less what the control does not read."""
    control = copy.deepcopy(config)
    with control.unlocked():
        control.method = name
        if config.method in control:  # the group of the method's own fields
            delattr(control, config.method)
        for choice in OF_WORD.values():
            if not reads(name, choice.field):
                group, _, field = choice.field.rpartition(".")
                (control[group] if group else control)[field] = choice.usual
    return control.lock()


def finish_run(config: ConfigDict, workdir: Path) -> Finished:
    """Does what is left of a run: all of it, the rest of an interrupted one, or nothing.

    Raises:
      UserError: another configuration was run there, or as `protocol.run`.
      Stopped: after a stop signal, once the state is saved.
    """
    if not (workdir / "results.json").exists():
        protocol.run(config, workdir, resume=(workdir / "config.json").exists())
    results = read_results(workdir)
    asked = plain(settle_text(config)[0])
    for name, (ours, theirs) in differences(asked, results["config"]).items():
        raise UserError(f"{workdir} was run with {name}={theirs}, now {ours} is asked for: use the "
                        f"same value, or another folder")
    return Finished(workdir, results)
