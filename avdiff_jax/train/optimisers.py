"""The state of training, one optimiser a player, and the learning rate."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from avdiff_jax.methods.method import Info, Method, Player, Vars
from avdiff_jax.runtime.compiling import compile_function

CUT = 0.1  # what a rate is multiplied by where it is cut


class TrainState(struct.PyTreeNode):
    """Variables, one optimiser state per player, and updates made in this substage."""

    vars: Vars
    opt: dict[str, Any]
    updates: jax.Array


def optimiser(player: Player) -> optax.GradientTransformation:
    """Adam with L2 in the gradient; the rate is part of the state, so that the host can cut
    it without a new trace."""

    def build(learning_rate):
        return optax.chain(
            optax.add_decayed_weights(player.decay),
            optax.adam(learning_rate, *player.betas, eps=1e-8),
        )

    return optax.inject_hyperparams(build)(learning_rate=player.rate)


def _copy(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)


# Nothing is multiplied here, so any precision is right.
_compiled_copy = compile_function(_copy, "float32")


def copy_tree(tree: Any) -> Any:
    """Copies all arrays of a tree on the devices, in one dispatch."""
    return _compiled_copy(tree)


def _take(tree: Any, draw: int) -> Any:
    return jax.tree.map(lambda x: x[draw], tree)


_compiled_take = compile_function(_take, "float32")


def take_draw(tree: Any, draw: int) -> Any:
    """Takes a draw from arrays [draws, ...] of a tree on the devices, in one dispatch."""
    return _compiled_take(tree, draw)


def of_groups(tree: dict, groups: Iterable[str]) -> dict:
    """The top-level entries `groups` of `tree`."""
    return {g: tree[g] for g in groups}


def fresh_optimisers(method: Method, info: Info, substage: int, vars: Vars) -> dict:
    """An optimiser state for each player of the substage."""
    return {
        p.name: optimiser(p).init(of_groups(vars.params, p.groups))
        for p in method.players(info, substage)
    }


def carried_optimisers(method: Method, info: Info, substage: int, vars: Vars, old: dict) -> dict:
    """As `fresh_optimisers`, but moments of groups that go on moving are kept from `old`; a player
    that was not there before is fresh.

    The rate is fresh: stage 2 replays only the cuts before the best epoch, so a cut that was
    carried over would be there in one stage and not in the other.
    """
    fresh = fresh_optimisers(method, info, substage, vars)

    def keep(new: Any, before: Any) -> Any:
        if isinstance(new, dict):
            return {k: keep(v, before[k]) for k, v in new.items()}
        if isinstance(new, tuple):
            parts = [keep(a, b) for a, b in zip(new, before, strict=True)]
            return type(new)(*parts) if hasattr(new, "_fields") else tuple(parts)
        return before

    return fresh | {
        name: keep(state, old[name])._replace(hyperparams=state.hyperparams)
        for name, state in fresh.items() if name in old
    }


def learning_rate(state: TrainState) -> float:
    """The main player's current rate, the same for draws side by side."""
    return float(np.ravel(state.opt["main"].hyperparams["learning_rate"])[0])


def cut_rate(state: TrainState, factor: float) -> TrainState:
    """The main player's rate times `factor`."""
    main = state.opt["main"]
    rate = main.hyperparams["learning_rate"] * factor
    main = main._replace(hyperparams={**main.hyperparams, "learning_rate": rate})
    return state.replace(opt={**state.opt, "main": main})
