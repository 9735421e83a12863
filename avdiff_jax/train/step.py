"""One optimiser update, and many updates as one compiled scan."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from avdiff_jax.data.windows import ROLES, Lengths
from avdiff_jax.methods.method import Info, Method
from avdiff_jax.runtime import devices
from avdiff_jax.runtime.compiling import compile_function
from avdiff_jax.train.feature_cache import Fused
from avdiff_jax.train.optimisers import TrainState, of_groups, optimiser
from avdiff_jax.train.source import Source


def update(
    method: Method, info: Info, substage: int, state: TrainState, batch, key: jax.Array, role: str
) -> tuple[TrainState, dict]:
    """One update of every player on one batch (Section 4.3).

    The shared features are computed once; the main player's gradient flows back through
    them into the groups that it moves and no further. Critics see them detached. A `Fused`
    batch brings them along.

    Returns:
      the new state and the players' metrics.
    """
    players = method.players(info, substage)
    frozen = method.frozen(info, substage)
    main = next(p for p in players if p.name == "main")
    k_features, k_players = jax.random.split(key)
    train = not (frozen.groups and frozen.mode == "eval")
    vars, opt, metrics = state.vars, dict(state.opt), {}

    def forward(moving):
        with_moving = vars.replace(params={**vars.params, **moving})
        return method.features(info, with_moving, batch, k_features, train)

    if isinstance(batch, Fused):
        features, pull_back = batch.features, None
    else:
        features, pull_back, stats = jax.vjp(
            forward, of_groups(vars.params, main.groups), has_aux=True
        )
        vars = vars.replace(stats=stats)
    for i, player in enumerate(players):
        for repeat in range(player.repeats):
            own = of_groups(vars.params, player.groups)
            k = jax.random.fold_in(jax.random.fold_in(k_players, i), repeat)
            if player is main:
                value = jax.value_and_grad(player.loss, argnums=(0, 2), has_aux=True)
                (_, (stats, found)), (grads, back) = value(own, vars, features, batch, k, role)
                if pull_back:
                    grads = jax.tree.map(jnp.add, grads, pull_back(back)[0])
                vars = vars.replace(stats=stats)
            else:
                value = jax.value_and_grad(player.loss, has_aux=True)
                detached = jax.lax.stop_gradient(features)
                (_, (_, found)), grads = value(own, vars, detached, batch, k, role)
            changes, opt[player.name] = optimiser(player).update(grads, opt[player.name], own)
            own = optax.apply_updates(own, changes)
            vars = vars.replace(params={**vars.params, **own})
            metrics |= {f"{player.name}/{k}": v for k, v in found.items()}
    return state.replace(vars=vars, opt=opt, updates=state.updates + 1), metrics


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
