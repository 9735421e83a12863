"""Compiles the training steps in a thread, in the order in which a run comes to them.

On a GPU the steps take half a minute to compile, as long as they train. One is compiled at a time:
XLA measures kernels on the card meanwhile, and two that do so disturb each other (58 s each on an
H200 in the place of 8). While the first one is compiled the features travel to the card and the
initial variables are drawn; the others are compiled while those before train, and beside them the
training clips are fingerprinted, which a finished model asks for.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from avdiff_jax.cli.alternatives import list_alternatives
from avdiff_jax.methods.method import Vars
from avdiff_jax.runtime import devices
from avdiff_jax.train.context import StageContext, compile_initialising, describe_variables
from avdiff_jax.train.draws import choose_draw_phases
from avdiff_jax.train.feature_cache import describe_cache
from avdiff_jax.train.optimisers import TrainState
from avdiff_jax.train.records import Phase
from avdiff_jax.train.setting import place_dropout_key, plan_epoch
from avdiff_jax.train.stage import beginning_program, members_of, prepare_setting
from avdiff_jax.train.workdir import PhaseCheckpoints

Wait = Callable[[Phase], None]


def is_worthwhile(context: StageContext) -> bool:
    """Whether compiling takes nothing from training: not on a CPU, whose cores do both. Streamed
    batches would have to be read for it, and several processes would have to agree."""
    feed = context.feed
    return not (devices.on_cpu(feed.mesh) or feed.streamed or jax.process_count() > 1)


@contextlib.contextmanager
def compile_ahead(
    contexts: Sequence[StageContext], checkpoints: PhaseCheckpoints
) -> Iterator[Wait]:
    """Compiles the steps of stages in a thread while the block runs, where that is worthwhile.

    Args:
      contexts: of the stages that are left.
      checkpoints: opens the checkpoints of a phase.

    Yields:
      a function that waits until the steps of a phase are compiled.
    """
    left = threading.Event()
    compiled = {(c.number, substage): threading.Event() for c in contexts for substage in (1, 2)}

    def compile_steps():
        # What fails here fails again where it is needed, and is told there.
        with contextlib.suppress(Exception):
            for context, phase in list_phases(contexts, checkpoints):
                if not left.is_set():
                    compile_phase(context, phase)
                compiled[phase[:2]].set()
                if not left.is_set() and fingerprints.ident is None:
                    fingerprints.start()
        for event in compiled.values():
            event.set()

    def wait(phase: Phase):
        if thread.ident is not None:
            compiled[phase[:2]].wait()

    def read_prints():
        with contextlib.suppress(Exception):
            _ = contexts[-1].base_prints

    thread = threading.Thread(target=compile_steps, name="compile ahead")
    # A run that is stopped does not wait for these, which take half a minute on a large store.
    fingerprints = threading.Thread(target=read_prints, daemon=True)
    if contexts and is_worthwhile(contexts[0]):
        thread.start()
    try:
        yield wait
    finally:
        left.set()
        if thread.ident is not None:
            thread.join()


def compile_phase(context: StageContext, phase: Phase) -> None:
    """Compiles the steps of a phase, and before them what draws the variables of stage 2; those of
    stage 1 are being drawn meanwhile."""
    if phase == Phase(2, 1):
        compile_initialising(context)
    if described := describe_step(context, phase):
        program, arguments = described
        program.lower(*arguments).compile()


def list_phases(
    contexts: Sequence[StageContext], checkpoints: PhaseCheckpoints
) -> Iterator[tuple[StageContext, Phase]]:
    """Yields the phases of stages, but for a first substage whose second one has begun."""
    for context in contexts:
        later = Phase(1, 2)
        if context.number == 2:
            later = choose_draw_phases(context, describe_variables(context), checkpoints)[0]
        if not checkpoints.exist(later):
            yield context, Phase(context.number, 1)
        yield context, later


def describe_step(
    context: StageContext, phase: Phase
) -> tuple[Callable, tuple[Any, ...]] | None:
    """Returns the compiled steps of a phase and arguments of the types that they are called with.
    None where nothing is trained, or where Val has yet to fill open fields, on which steps may
    depend. Most of them are shapes, since a card takes seconds until anything can be placed."""
    is_open = phase.substage == 2 and list_alternatives(context.info.config) != [{}]
    if is_open or not context.method.players(context.info, phase.substage):
        return None
    variables = describe_variables(context)
    setting = prepare_setting(context, phase, variables, describe_cache)
    mesh, steps = setting.source.mesh, setting.count_steps()
    inputs = {
        role: devices.describe_placed(
            jax.tree.map(lambda x: x[:steps], plan),
            devices.batch_sharding(mesh, plan.label.ndim - 1),
        )
        for role, plan in plan_epoch(setting, 0).items()
    }
    state, data = describe_state(context, phase, variables), setting.source.describe_data()
    return setting.program, (state, data, inputs, place_dropout_key(setting))


def describe_state(context: StageContext, phase: Phase, variables: Vars) -> TrainState:
    """Describes the state that a phase begins with, see `stage.prepare_state`; `variables` may be
    shapes."""
    begin, draws = beginning_program(context, phase), len(members_of(context, phase))
    shapes = jax.eval_shape(begin, [variables] * draws, None)
    return devices.describe_placed(shapes, devices.replicated(context.feed.mesh))
