"""One optimiser update, many updates as one compiled scan, and what measures."""

import functools
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from avdiff_jax.data.feed import Feed, largest_divisor
from avdiff_jax.data.windows import ROLES, Lengths
from avdiff_jax.methods.method import Info, Method, Vars
from avdiff_jax.runtime import devices
from avdiff_jax.runtime.compiling import compile_function
from avdiff_jax.train.feature_cache import Cache, Fused
from avdiff_jax.train.optimisers import TrainState, of_groups, optimiser

CACHED_TOKENS = 1024  # that are fused at a time on a CPU


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


def training_steps(
    method: Method, info: Info, substage: int, feed: Feed, lengths: Lengths,
    cached: bool = False, draws: int = 0,
) -> Callable:
    """Compiles `run(state, data, inputs, key) -> (state, metrics)` over the steps of a dispatch.

    `inputs` holds, for each role of the substage, what `feed.inputs` made of a plan
    [steps, B]; a step of substage 2 updates on a base batch, then on a novel one. Metrics
    are stacked, [steps] each, named role/player/name.

    Args:
      cached: data and inputs are those of a `Cache`.
      draws: number of draws that are trained side by side, 0 for one alone. State and key have
        a leading axis of draws then, plans are [steps, draws, B], names begin with drawI.
    """
    roles = ROLES[:substage]
    whole = devices.replicated(feed.mesh)
    batch_of = Cache.batch if cached else feed.batch

    def step(state, inputs, data, key):
        metrics = {}
        for role in roles:
            batch = batch_of(data, inputs[role], lengths)
            k = jax.random.fold_in(key, state.updates)
            state, found = update(method, info, substage, state, batch, k, role)
            metrics |= {f"{role}/{name}": value for name, value in found.items()}
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


def clips_at_once(clips: int, lengths: Lengths, mesh) -> int:
    """How many clips of an evaluation batch are fused at a time.

    On one CPU long clips take turns: attention scores that leave the caches cost more than the
    products. Several devices share a batch out, and a GPU is faster with all of it.
    """
    if mesh.size > 1 or not devices.on_cpu(mesh):
        return clips
    return largest_divisor(clips, max(1, CACHED_TOKENS // sum(lengths)))


def fusing_step(method: Method, info: Info, feed: Feed) -> Callable:
    """Compiles `fuse(vars, data, inputs, lengths)`: the features of a batch in evaluation mode,
    [B, ...]."""
    whole = devices.replicated(feed.mesh)

    def fuse(vars, data, inputs, lengths):
        batch = feed.batch(data, inputs, lengths)

        def features(batch):
            # No dropout in evaluation: the key is never read.
            return method.features(info, vars, batch, jax.random.key(0), False)[0]

        at_once = clips_at_once(len(batch.label), lengths, feed.mesh)
        if at_once == len(batch.label):
            return features(batch)
        parts = jax.tree.map(lambda x: x.reshape(-1, at_once, *x.shape[1:]), batch)
        found = jax.lax.map(features, parts)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)

    return compile_function(
        fuse, info.config.device.precision, static_argnames="lengths", out_shardings=whole
    )


def judging_step(method: Method, info: Info, feed: Feed) -> Callable:
    """Compiles `judge(vars, features) -> [B, C]`: scores of features, in evaluation mode."""
    whole = devices.replicated(feed.mesh)
    return compile_function(
        partial(method.scores, info), info.config.device.precision, out_shardings=whole
    )


class Steps(NamedTuple):
    """The compiled functions of a stage; one that is never called is never compiled.

    train: those of `training_steps`, by (substage, whether on cached features, draws side by
      side or 0), so that the three draws share one program.
    batch: (data, inputs, lengths) -> Batch.
    fuse, judge: see `fusing_step`, `judging_step`.
    embed, generate: those of the method, without `info`.
    """

    train: Callable[[int, bool, int], Callable]
    batch: Callable
    fuse: Callable
    judge: Callable
    embed: Callable
    generate: Callable

    def score(self, vars: Vars, data, inputs, lengths: Lengths) -> jax.Array:
        """Scores [B, C] of a batch, in evaluation mode."""
        return self.judge(vars, self.fuse(vars, data, inputs, lengths))


def compiled(method: Method, info: Info, feed: Feed, lengths: Lengths) -> Steps:
    """The functions of a stage whose training batches are of shape `lengths`."""

    @functools.cache
    def train(substage, cached=False, draws=0):
        return training_steps(method, info, substage, feed, lengths, cached, draws)

    precision = info.config.device.precision
    return Steps(
        train,
        compile_function(feed.batch, precision, static_argnames="lengths"),
        fusing_step(method, info, feed),
        judging_step(method, info, feed),
        # Methods without a generator have neither.
        *(
            compile_function(partial(f, info), precision) if f else None
            for f in (method.embed, method.generate)
        ),
    )
