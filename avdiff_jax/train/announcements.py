"""What a run says before each part of the protocol: what comes, and what it will take."""

import jax
import numpy as np
from tqdm import tqdm

from avdiff_jax.data.splits.stages import Members
from avdiff_jax.errors import tell_clips, tell_count
from avdiff_jax.methods.method import Info, Vars, scaling_buffers
from avdiff_jax.runtime.progress import announce
from avdiff_jax.train.context import StageContext
from avdiff_jax.train.records import Phase, SubstageChoice


def announce_substage(
    context: StageContext, phase: Phase, epochs: int, chosen: SubstageChoice | None = None
) -> None:
    """Says what a substage trains on and how long.

    Args:
      epochs: the most of stage 1, all of stage 2.
      chosen: what stage 1 has chosen, which stage 2 follows at the same speed.
    """
    train, clips = context.info.config.train, _describe_clips(context, phase)
    steps = f"of {tell_count(train.batches, 'step')} on {clips}"
    trains = bool(context.method.players(context.info, phase.substage))
    if not trains:
        said = f"fits {context.info.config.method} to {clips}; no steps"
    elif chosen:
        said = f"{tell_count(epochs, 'epoch')} {steps}, as Val of stage 1 chose"
    else:
        said = f"up to {tell_count(epochs, 'epoch')} {steps}; Val chooses how many"
    if chosen:
        of_stage1 = train.epochs1 if phase.substage == 1 else train.epochs2
        draws = len(context.stage.novel) if phase.draw is None else 1
        seconds = chosen.seconds * draws * (epochs / of_stage1 if trains else 1)
        said += f", about {tqdm.format_interval(seconds)}"
    announce(f"{_name(phase)}: {said}")


def announce_test(context: StageContext) -> None:
    """Says what the test measures."""
    stage = context.stage
    base, novel = len(stage.eval_base.labels), len(stage.eval_novel[0].labels)
    announce(
        f"test: {tell_count(len(stage.novel), 'draw')} on {tell_count(base, 'clip')} of base and "
        f"{novel} of novel classes; "
        "then models, tables and pictures"
    )


def _name(phase: Phase) -> str:
    """"stage 2, substage 2, draw 1"."""
    name = f"stage {phase.stage}, substage {phase.substage}"
    if (phase.stage, phase.substage) == (2, 2):
        name += ", all draws side by side" if phase.draw is None else f", draw {phase.draw}"
    return f"{name}, trial {phase.trial}" if phase.trial else name


def _describe_clips(context: StageContext, phase: Phase) -> str:
    stage = context.stage
    said = _tell_members(stage.base, "base")
    if phase.substage == 2:
        said += f" and {_tell_members(stage.novel[phase.draw or 0], 'novel')}"
    return said


def _tell_members(members: Members, kind: str) -> str:
    return tell_clips(len(members.labels), len(np.unique(members.labels)), kind)


def describe_parameters(info: Info, variables: Vars) -> str:
    """The parameters by group and in all; of a method that trains none, what it fits instead."""
    sizes = {
        group: sum(x.size for x in jax.tree.leaves(tree))
        for group, tree in variables.params.items()
    }
    if not sizes:
        given = scaling_buffers(info)
        fitted = sum(x.size for name, x in variables.buffers.items() if name not in given)
        return f"parameters: {info.config.method} trains none, it fits {fitted:,d} numbers"
    lines = [f"  {group:8s} {size:>10,d}" for group, size in sizes.items()]
    total = sum(sizes.values())
    return "\n".join(["parameters (stage 2):", *lines, f"  {'all':8s} {total:>10,d}"])
