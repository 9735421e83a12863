"""Compiles the training steps of stage 2 while stage 1 trains.

On a GPU the steps take half a minute to compile, as long as they train. They go into the compile
cache, where stage 2 finds them.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax

from avdiff_jax.runtime import devices
from avdiff_jax.train.context import StageContext, initialise_variables
from avdiff_jax.train.draws import choose_draw_phases
from avdiff_jax.train.feature_cache import describe_cache
from avdiff_jax.train.optimisers import copy_tree
from avdiff_jax.train.records import Phase
from avdiff_jax.train.setting import place_dropout_key, plan_epoch
from avdiff_jax.train.stage import begin_state, members_of, place_states, prepare_setting
from avdiff_jax.train.workdir import PhaseCheckpoints


def is_worthwhile(context: StageContext) -> bool:
    """Whether compiling takes nothing from training: not on a CPU, whose cores do both. Streamed
    batches would have to be read for it, and several processes would have to agree."""
    feed = context.feed
    return not (devices.on_cpu(feed.mesh) or feed.streamed or jax.process_count() > 1)


@contextlib.contextmanager
def compile_meanwhile(context: StageContext, checkpoints: PhaseCheckpoints) -> Iterator[None]:
    """Compiles the steps of stage 2 in a thread while the block runs, where that is worthwhile.

    Args:
      context: of stage 2.
      checkpoints: opens the checkpoints of a phase, see `choose_draw_phases`.
    """
    left = threading.Event()

    def compile_steps():
        # What fails here fails again where it is needed, and is told there.
        with contextlib.suppress(Exception):
            for program, arguments in describe_steps(context, checkpoints):
                if left.is_set():
                    return
                program.lower(*arguments).compile()

    thread = threading.Thread(target=compile_steps, name="compile stage 2")
    if is_worthwhile(context):
        thread.start()
    try:
        yield
    finally:
        left.set()
        if thread.ident is not None:
            thread.join()


def describe_steps(
    context: StageContext, checkpoints: PhaseCheckpoints
) -> Iterator[tuple[Callable, tuple[Any, ...]]]:
    """Yields the compiled steps of each substage of stage 2 and arguments of the types that it is
    called with; features that are not there yet are shapes."""
    variables = initialise_variables(context)
    later = choose_draw_phases(context, variables, checkpoints)[0]
    for phase in (Phase(2, 1), later):
        if not context.method.players(context.info, phase.substage):
            continue
        setting = prepare_setting(context, phase, variables, describe_cache)
        states = [
            begin_state(context, phase, copy_tree(variables), None)
            for _ in members_of(context, phase)
        ]
        inputs = setting.place_inputs(plan_epoch(setting, 0), 0, setting.count_steps())
        state = place_states(context, phase, states)
        yield setting.program, (state, setting.source.data, inputs, place_dropout_key(setting))
