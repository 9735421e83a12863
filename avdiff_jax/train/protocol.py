"""The whole experiment (Section 3.2 and 4 of the paper): data, stage 1, stage 2, test, results."""

import functools
import pathlib
import time
from collections.abc import Iterator

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from avdiff_jax.cli.choices import check_values
from avdiff_jax.data.feed import Feed
from avdiff_jax.data.splits import stages as stage_sets
from avdiff_jax.data.splits.split_file import Split
from avdiff_jax.data.splits.stages import Stage
from avdiff_jax.data.store import Store
from avdiff_jax.errors import UserError
from avdiff_jax.io.text_files import check_text
from avdiff_jax.methods import check
from avdiff_jax.methods import method as find_method
from avdiff_jax.methods.method import Method, Vars
from avdiff_jax.methods.without_text import settle_text
from avdiff_jax.results.metrics_log import Writer
from avdiff_jax.runtime import devices, hosts
from avdiff_jax.runtime.lock import hold_lock
from avdiff_jax.runtime.progress import announce
from avdiff_jax.runtime.stop import Stop
from avdiff_jax.train.ahead import compile_ahead
from avdiff_jax.train.announcements import describe_parameters
from avdiff_jax.train.context import StageContext, initialise_variables, prepare_stage
from avdiff_jax.train.draws import choose_draw_phases, split_draws
from avdiff_jax.train.records import Stage1Record, SubstageRecord
from avdiff_jax.train.report import report
from avdiff_jax.train.run_data import hold_data
from avdiff_jax.train.saves import Saves
from avdiff_jax.train.stage import prepare_state, run_stage1, run_stage2
from avdiff_jax.train.substage import Outcome, Services
from avdiff_jax.train.workdir import (
    PhaseCheckpoints,
    claim_workdir,
    count_committed_epochs,
    open_checkpoints,
    read_record,
    writable,
    write_record,
)

RUNS = ("all", "stage1", "stage2", "evaluate")


def run(
    config: ConfigDict, workdir: pathlib.Path, what: str = "all", resume: bool = False
) -> dict | None:
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
    check_text(workdir.absolute(), "the folder of the run")
    config, note = settle_text(config)
    if note:
        announce(f"note: {note}")
    method, mesh = check_config(config)
    resume = resume or what in ("stage2", "evaluate")
    with (
        Stop().listening() as stop, writable(workdir), hold_lock(workdir),
        hosts.own_folder(workdir) as folder,
    ):
        store, stages = claim_and_open(config, workdir, resume)
        feed = Feed(store, mesh, config.data.residence)
        where = "streamed" if feed.streamed else "resident"
        announce(f"device: {devices.describe()}; features {where}")
        last, best = open_checkpoints(workdir)
        stop.check()
        record = read_record(workdir)
        left = list_stages_left(what, record)
        contexts = {n: prepare_stage(config, method, feed, stages[n], n) for n in {*left, 2}}
        with (
            open_writer(workdir, last, resume) as writer,
            compile_ahead([contexts[n] for n in left], last) as wait_compiled,
            Saves() as saves,
        ):
            jax.block_until_ready(feed.data)  # the steps are traced meanwhile
            services = Services(writer, last, best, saves, stop, wait_compiled)
            if 1 in left:
                record = run_stage1(contexts[1], services)
                saves.then(functools.partial(write_record, folder, record))
            if record is None:
                raise UserError(
                    f"{workdir / 'stage1.json'} does not exist: run stage 1 first (--run=stage1)"
                )
            if what == "stage1":
                return None
            second = contexts[2].fill_fields(record.filled)
            variables = initialise_variables(second)
            announce(describe_parameters(second.info, variables))
            if what == "evaluate":
                outcomes = restore_draws(second, variables, last)
            else:
                outcomes = run_stage2(second, variables, services, record)
            return report(second, services, folder, record, outcomes, started)


def list_stages_left(what: str, record: Stage1Record | None) -> list[int]:
    """Lists the stages that are left to train; arguments as of `run` and of a workdir."""
    first = [1] if record is None and what in ("all", "stage1") else []
    return first + ([2] if what in ("all", "stage2") else [])


def check_config(config: ConfigDict) -> tuple[Method, Mesh]:
    """Checks what can be checked before anything is written; returns the method and the devices.

    Raises:
      UserError: a field has a value that means nothing, here or to the method.
    """
    check_values(config)
    method = find_method(config.method)
    check(config)
    mesh = devices.mesh()
    devices.check_divides(config.train.batch, mesh, "train.batch")
    devices.check_divides(config.eval.batch, mesh, "eval.batch")
    return method, mesh


def claim_and_open(
    config: ConfigDict, workdir: pathlib.Path, resume: bool
) -> tuple[Store, dict[int, Stage]]:
    """Claims the workdir and opens store and stages; the first process does so before the others.
    Where it fails nothing is left in a new workdir."""

    def begin():
        with claim_workdir(workdir, config, resume or jax.process_index() > 0):
            store, split = hold_data(config, workdir)
            return store, {n: choose_stage(config, split, store, n) for n in (1, 2)}

    return hosts.in_turn(begin)


def choose_stage(config: ConfigDict, split: Split, store: Store, number: int) -> Stage:
    """Returns the clips of a stage; as a control, with training labels at random."""
    stage = stage_sets.stage(split, store, number)
    if not config.data.shuffle_labels:
        return stage
    return stage._replace(
        base=stage_sets.shuffle_labels(stage.base, config.seed),
        novel=tuple(stage_sets.shuffle_labels(members, config.seed) for members in stage.novel),
    )


def open_writer(workdir: pathlib.Path, last: PhaseCheckpoints, resume: bool) -> Writer:
    """Opens the curves of a run; a resumed one forgets what checkpoints do not vouch for."""
    return Writer.open_at(workdir, count_committed_epochs(last)) if resume else Writer(workdir)


def restore_draws(
    context: StageContext, variables: Vars, last: PhaseCheckpoints
) -> Iterator[tuple[int, Outcome]]:
    """Yields (draw, outcome) of a finished run, from its checkpoints.

    Args:
      variables: have the structure of those of the run.

    Raises:
      UserError: the run has not finished.
    """
    for phase in choose_draw_phases(context, variables, last):
        like = prepare_state(context, phase, variables, None)
        with last(phase) as manager:
            number = manager.latest()
            metadata = manager.metadata(number) if number is not None else {"finished": False}
            if number is None or not metadata["finished"]:
                raise UserError(
                    f"{manager.folder} holds no finished training: run stage 2 first (--run=stage2)"
                )
            state = manager.restore(number, like)
        yield from split_draws(context, phase, state, SubstageRecord.from_json(metadata))
