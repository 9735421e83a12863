"""The draws of the few shots in stage 2: side by side in one program, or one after the other.

Three draws cost a GPU hardly more than one, whose kernels are small. Each has its own batches,
random numbers and BatchNorm statistics, so both ways compute the same, but for rounding.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

from avdiff_jax.runtime import devices, memory
from avdiff_jax.train.context import StageContext
from avdiff_jax.train.optimisers import TrainState, take_draw
from avdiff_jax.train.records import Phase, SubstageRecord
from avdiff_jax.train.substage import Outcome
from avdiff_jax.train.workdir import PhaseCheckpoints

# Bytes of a step for each byte of its batches in float32, without the state; see `fits_together`.
ACTIVATIONS = 16
STATES = 6  # variables, two moments, gradient, and the copy that is saved meanwhile, with room


def choose_draw_phases(
    context: StageContext, variables: Any, last: PhaseCheckpoints
) -> list[Phase]:
    """Chooses the phases of stage 2's second substage: one for each draw, or one for all.

    A run that has begun goes on as it began; `train.draws` and the device decide about others.

    Args:
      variables: those of the stage, or their shapes.
      last: opens the checkpoints of a phase.
    """
    together = [Phase(2, 2, None)]
    apart = [Phase(2, 2, draw) for draw in range(len(context.stage.novel))]
    for phases in (together, apart):
        if last.exist(phases[0]):
            return phases
    return together if train_together(context, variables) else apart


def train_together(context: StageContext, variables: Any) -> bool:
    """Whether a fresh run trains the draws side by side: as `train.draws` says, or automatically
    where they share a cache, and on a GPU whose memory holds them."""
    wish = context.info.config.train.draws
    if wish != "auto":
        return wish == "together"
    if context.uses_cache(2):
        return True
    trains = bool(context.method.players(context.info, 2))
    on_cpu = devices.on_cpu(context.feed.mesh)
    return trains and not on_cpu and fits_together(context, variables)


def fits_together(context: StageContext, variables: Any) -> bool:
    """Whether half of the free memory of a device holds the training of all draws."""
    store, lengths = context.feed.store, context.lengths
    clip = 4 * (lengths.audio * store.audio.dim + lengths.video * store.video.dim)
    batches = 2 * context.info.config.train.batch * clip // context.feed.mesh.size
    state = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(variables))
    needed = len(context.stage.novel) * (STATES * state + ACTIVATIONS * batches)
    return needed <= memory.free_bytes() // 2


def split_draws(
    context: StageContext, phase: Phase, state: TrainState, record: SubstageRecord
) -> Iterator[tuple[int, Outcome]]:
    """Yields (draw, outcome) of each draw of a finished phase of `choose_draw_phases`."""
    if phase.draw is not None:
        yield phase.draw, Outcome(state, state.vars, record)
        return
    draws = len(context.stage.novel)
    for draw in range(draws):
        of_draw = take_draw(state, draw)
        prefix, last = f"draw{draw}/", record.last or {}
        means = {k.removeprefix(prefix): v for k, v in last.items() if k.startswith(prefix)}
        seconds = record.seconds / draws
        yield draw, Outcome(
            of_draw, of_draw.vars, dataclasses.replace(record, last=means, seconds=seconds),
            together=True,
        )
