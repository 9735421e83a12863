"""One optimiser update, and many updates as one compiled scan."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from avdiff_jax.data.feed import Batch
from avdiff_jax.data.windows import ROLES, Lengths
from avdiff_jax.methods.method import (
    Features,
    Info,
    Labelled,
    Method,
    Player,
    Vars,
    with_params,
)
from avdiff_jax.runtime import devices
from avdiff_jax.runtime.compiling import compile_function
from avdiff_jax.train.feature_cache import Fused
from avdiff_jax.train.optimisers import TrainState, of_groups, optimiser
from avdiff_jax.train.source import Source


def update(
    method: Method,
    info: Info,
    substage: int,
    state: TrainState,
    batch: Batch | Fused,
    key: jax.Array,
    role: str,
) -> tuple[TrainState, dict]:
    """One update of every player on one batch (Section 4.3).

    The shared features are computed once; the main player's gradient flows back through
    them into the groups that it moves and no further. Critics see them detached. A `Fused`
    batch brings them along: where what makes them stands still in evaluation mode, every batch is
    one.

    Args:
      method: whose players move.
      info: of the stage.
      substage: 1 or 2.
      state: what the players have come to.
      batch: the clips, or their features.
      key: of everything random in this update.
      role: of the batch, "base" or "novel".

    Returns:
      the new state and the players' metrics.
    """
    players = method.players(info, substage)
    main = next(player for player in players if player.name == "main")
    k_features, k_players = jax.random.split(key)
    variables, opt, metrics = state.vars, dict(state.opt), {}
    if isinstance(batch, Fused):
        features, pull_back = batch.features, None
    else:

        def compute_features(moving):
            moved = with_params(variables, moving)
            return method.features(info, moved, batch, k_features, True)

        features, pull_back, stats = jax.vjp(
            compute_features, of_groups(variables.params, main.groups), has_aux=True
        )
        variables = variables.replace(stats=stats)
    for i, player in enumerate(players):
        # A scan compiles a player once, however often it moves.
        def move(carry, repeat, i=i, player=player):
            variables, opt = carry
            moving = of_groups(variables.params, player.groups)
            k = jax.random.fold_in(jax.random.fold_in(k_players, i), repeat)
            rest = (player, info, variables, batch, k, role)
            if player is main:
                differentiate = jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True)
                (_, (stats, shown)), (grads, back) = differentiate(moving, features, *rest)
                if pull_back:
                    grads = jax.tree.map(jnp.add, grads, pull_back(back)[0])
                variables = variables.replace(stats=stats)
            else:
                differentiate = jax.value_and_grad(loss_of, has_aux=True)
                detached = jax.lax.stop_gradient(features)
                (_, (_, shown)), grads = differentiate(moving, detached, *rest)
            changes, opt = optimiser(player).update(grads, opt, moving)
            return (with_params(variables, optax.apply_updates(moving, changes)), opt), shown

        carry = variables, opt[player.name]
        if player.repeats == 1:
            carry, shown = move(carry, 0)
        else:
            carry, shown = jax.lax.scan(move, carry, jnp.arange(player.repeats))
            shown = jax.tree.map(lambda values: values[-1], shown)
        variables, opt[player.name] = carry
        metrics |= {f"{player.name}/{name}": value for name, value in shown.items()}
    return state.replace(vars=variables, opt=opt, updates=state.updates + 1), metrics


def loss_of(
    moving: dict,
    features: Features,
    player: Player,
    info: Info,
    variables: Vars,
    batch: Labelled,
    key: jax.Array,
    role: str,
):
    """A player's loss as a function of what its gradient is taken with respect to: the parameters
    `moving` of its groups, in the place of those in `variables`, and the shared features."""
    return player.loss(info, with_params(variables, moving), features, batch, key, role)


def compile_training(
    method: Method, info: Info, substage: int, source: Source, lengths: Lengths, draws: int = 0
) -> Callable:
    """Compiles `run(state, data, inputs, key) -> (state, metrics)` over the steps of a dispatch.

    `inputs` holds, for each role of the substage, what `source.inputs` made of a plan
    [steps, B]; a step of substage 2 updates on a base batch, then on a novel one. Metrics
    are stacked, [steps] each, named role/player/name. The state is donated.

    Args:
      draws: number of draws that are trained side by side, 0 for one alone. State and key have
        a leading axis of draws then, plans are [steps, draws, B], names begin with drawI.
    """
    roles = ROLES[:substage]
    whole = devices.replicated(source.mesh)
    make_batch = source.batch  # and no more of the source, which may be large

    def step(state, inputs, data, key):
        metrics = {}
        for role in roles:
            batch = make_batch(data, inputs[role], lengths)
            k = jax.random.fold_in(key, state.updates)
            state, of_players = update(method, info, substage, state, batch, k, role)
            metrics |= {f"{role}/{name}": value for name, value in of_players.items()}
        return state, metrics

    def run(state, data, inputs, key):
        one = jax.vmap(step, in_axes=(0, 0, None, 0)) if draws else step
        state, metrics = jax.lax.scan(lambda s, x: one(s, x, data, key), state, inputs)
        if draws:
            metrics = {
                f"draw{i}/{name}": value[:, i]
                for name, value in metrics.items() for i in range(draws)
            }
        return state, metrics

    return compile_function(
        run, info.config.device.precision, donate_argnums=0, out_shardings=(whole, whole)
    )
