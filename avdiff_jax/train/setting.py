"""What a substage trains by: its clips, plans and random numbers, and its schedule."""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from avdiff_jax.data.splits.stages import Members
from avdiff_jax.data.store import Store
from avdiff_jax.data.windows import ROLES, Lengths
from avdiff_jax.methods.method import Info, Method, Vars
from avdiff_jax.runtime import devices
from avdiff_jax.train.records import Phase
from avdiff_jax.train.source import Source


@dataclasses.dataclass(frozen=True, eq=False)
class Setting:
    """What does not change over a substage.

    store: of its clips.
    members: base clips, and in substage 2 novel ones; for each draw.
    lengths: fixed shape of its training batches.
    program: its compiled training steps, the same for every draw; see `compile_training`.
    preparation: seconds that the first state took, which for some methods is all there is.
    """

    phase: Phase
    method: Method
    info: Info
    source: Source
    store: Store
    members: tuple[tuple[Members, ...], ...]
    lengths: Lengths
    program: Callable
    preparation: float = 0.0

    @property
    def parts(self) -> tuple[Phase, ...]:
        """The phase, or that of each draw where they are trained side by side."""
        if self.phase.draw is not None:
            return (self.phase,)
        return tuple(self.phase._replace(draw=draw) for draw in range(len(self.members)))

    @property
    def trains(self) -> bool:
        """Whether the method trains anything; else everything happens in `Method.refresh`."""
        return bool(self.method.players(self.info, self.phase.substage))

    def count_steps(self) -> int:
        """Returns how many steps one dispatch makes."""
        train = self.info.config.train
        return self.source.steps(
            self.lengths, train.batch * len(self.members), train.steps_per_dispatch, train.batches
        )

    def place_inputs(self, plans: dict[str, Any], first: int, steps: int) -> dict[str, Any]:
        """Places so many steps of an epoch's plans on the devices, by role, from step `first`."""
        return {
            role: self.source.inputs(
                jax.tree.map(lambda x: x[first : first + steps], plan), self.lengths
            )
            for role, plan in plans.items()
        }


Select = Callable[[Vars], dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long a substage trains, and when its rate is cut.

    select: measures variables on Val after each epoch (stage 1). Of its numbers `score` chooses
      the best epoch and feeds the plateau rule. None in stage 2.
    replay: epochs (1-based) after which the rate is cut, from stage 1's record.
    """

    epochs: int
    select: Select | None = None
    replay: tuple[int, ...] = ()


def plan_epoch(setting: Setting, epoch: int) -> dict[str, Any]:
    """Plans an epoch, by role: a function of seed, stage, substage, draw and epoch alone.
    Each [steps, B], or [steps, draws, B]."""
    config = setting.info.config

    def plan(phase, members, i):
        place = [config.seed, phase.stage, phase.substage, phase.draw, epoch, i]
        return setting.source.plan(
            members[i], setting.lengths, config.train.batch, config.train.batches, place
        )

    plans = {}
    for i, role in enumerate(ROLES[: setting.phase.substage]):
        of_draws = [
            plan(phase, members, i)
            for phase, members in zip(setting.parts, setting.members, strict=True)
        ]
        side_by_side = setting.phase.draw is None
        plans[role] = jax.tree.map(
            lambda *x, stack=side_by_side: np.stack(x, axis=1) if stack else x[0], *of_draws
        )
    return plans


def make_dropout_key(config: ConfigDict, phase: Phase) -> jax.Array:
    """Makes the root of all random draws on the device in a substage."""
    key, place = jax.random.key(config.seed), cast(tuple[int, int, int], phase[:3])
    for number in place:  # trials share their draws, so that what they differ in decides
        key = jax.random.fold_in(key, number)
    return key


def place_dropout_key(setting: Setting) -> jax.Array:
    """Places the key of the phase on the devices, or the keys [draws] of draws side by side."""
    keys = [make_dropout_key(setting.info.config, part) for part in setting.parts]
    key = keys[0] if setting.phase.draw is not None else jnp.stack(keys)
    return devices.put(key, devices.replicated(setting.source.mesh))
