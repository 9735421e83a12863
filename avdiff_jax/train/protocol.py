"""The whole experiment (Section 3.2 and 4 of the paper): data, stage 1, stage 2, test, results."""

import pathlib
import time

import jax

from avdiff_jax.cli.choices import check_values
from avdiff_jax.data.feed import Feed
from avdiff_jax.data.of_config import open_data
from avdiff_jax.data.splits import stages as stage_sets
from avdiff_jax.errors import UserError
from avdiff_jax.methods import check
from avdiff_jax.methods import method as find_method
from avdiff_jax.results.metrics_log import Writer
from avdiff_jax.runtime import devices, hosts
from avdiff_jax.runtime.lock import held
from avdiff_jax.runtime.stop import Stop
from avdiff_jax.train.context import Bench, bench, initial_vars
from avdiff_jax.train.report import report
from avdiff_jax.train.stage import apart, draw_phases, first_state, stage1, stage2
from avdiff_jax.train.substage import Services
from avdiff_jax.train.workdir import (
    checkpoints,
    claimed,
    committed,
    read_record,
    writable,
    write_record,
)

RUNS = ("all", "stage1", "stage2", "evaluate")


def parameter_table(vars) -> str:
    """Parameters by group and in all."""
    sizes = {
        group: sum(x.size for x in jax.tree.leaves(tree)) for group, tree in vars.params.items()
    }
    lines = [f"  {group:8s} {size:>10,d}" for group, size in sizes.items()]
    total = sum(sizes.values())
    return "\n".join(["parameters (stage 2):", *lines, f"  {'all':8s} {total:>10,d}"])


def run(config, workdir: pathlib.Path, what: str = "all", resume: bool = False) -> dict | None:
    """Runs the protocol and returns the results, None where only stage 1 was asked for.

    Args:
      config: a locked configuration.
      workdir: everything is written here.
      what: one of `RUNS`; "stage2" and "evaluate" go on in a workdir with the parts before.
      resume: go on with an interrupted run.

    Raises:
      UserError: anything that a user can put right.
      Stopped: after a stop signal, once the state is saved.
    """
    started = time.monotonic()
    workdir = pathlib.Path(workdir)
    check_values(config)
    chosen_method = find_method(config.method)
    check(config)
    resume = resume or what in ("stage2", "evaluate")
    mesh = devices.mesh()
    devices.check_divides(config.train.batch, mesh, "train.batch")
    devices.check_divides(config.eval.batch, mesh, "eval.batch")
    with (
        Stop().listening() as stop, writable(workdir), held(workdir),
        hosts.own_folder(workdir) as folder,
    ):
        def begin():
            with claimed(workdir, config, resume or jax.process_index() > 0):
                store, split = open_data(config, workdir)
                return store, {n: _stage(config, split, store, n) for n in (1, 2)}

        store, stages = hosts.in_turn(begin)
        feed = Feed(store, mesh, config.data.residence)
        where = "streamed" if feed.streamed else "resident"
        print(f"device: {devices.describe()}; features {where}")
        last, best = checkpoints(workdir)
        stop.check()
        with Writer.open_at(workdir, committed(last)) if resume else Writer(workdir) as writer:
            services = Services(writer, last, best, stop)
            found = read_record(workdir)
            if found is None and what in ("all", "stage1"):
                found = stage1(bench(config, chosen_method, feed, stages[1], 1), services)
                write_record(folder, found)
            if found is None:
                raise UserError(
                    f"{workdir / 'stage1.json'} does not exist: run stage 1 first (--run=stage1)"
                )
            if what == "stage1":
                return None
            two = bench(config, chosen_method, feed, stages[2], 2)
            vars = initial_vars(two)
            print(parameter_table(vars))
            if what == "evaluate":
                outcomes = _trained(two, vars, last)
            else:
                outcomes = stage2(two, vars, services, found)
            return report(two, services, folder, found, outcomes, started)


def _stage(config, split, store, number):
    stage = stage_sets.stage(split, store, number)
    if config.data.shuffle_labels:
        stage = stage._replace(
            base=stage_sets.shuffled(stage.base, config.seed),
            novel=tuple(stage_sets.shuffled(m, config.seed) for m in stage.novel),
        )
    return stage


def _trained(b: Bench, vars, last):
    """(draw, outcome) of a finished run, from its checkpoints; `vars` have their structure."""
    for phase in draw_phases(b):
        like = first_state(b, phase, vars, None)
        with last(phase) as manager:
            number = manager.latest()
            record = manager.metadata(number) if number is not None else {"finished": False}
            if not record["finished"]:
                raise UserError(
                    f"{manager.folder} holds no finished training: run stage 2 first (--run=stage2)"
                )
            state = manager.restore(number, like)
        yield from apart(b, phase, state, record)
