"""Control: class-balanced multinomial logistic regression on z-scored features pooled over eight
time segments."""

import functools
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from avdiff_jax.data.feed import Batch
from avdiff_jax.losses import cross_entropy
from avdiff_jax.methods import ncm
from avdiff_jax.methods.method import Clips, Info, Method, Vars
from avdiff_jax.nn.attention import HIDDEN
from avdiff_jax.nn.layers import product
from avdiff_jax.runtime.compiling import compile_function

STRENGTH = 1.0  # of the L2 term against the sum of losses: the usual default
STEPS, TOLERANCE = 500, 1e-5  # of L-BFGS: most steps; gradient norm against that at zero
NEVER = -1e3  # score of a class that has no clips yet: far below any probability


def init(info: Info, batch: Batch, key: jax.Array) -> Vars:
    """Makes room for z-scores, weights and bias, which are buffers: nothing is trained in the
    loop."""
    buffers = dict(ncm.init(info, batch, key).buffers)
    buffers["weights"] = jnp.zeros_like(buffers.pop("means")).T
    buffers["bias"] = jnp.zeros(len(info.classes))
    return Vars({}, {}, buffers)


def objective(solution, rows, labels, weights):
    """(sum_i w_i CE_i + |W|^2 / 2) / n; the bias is free.

    Args:
      solution: (W [d, C], bias [C]).
      rows [n, d], labels [n], weights [n].
    """
    w, bias = solution
    ce = cross_entropy(product("nd,dc->nc", rows, w) + bias[None], labels)
    return (product("n,n->", weights, ce) + STRENGTH / 2 * jnp.square(w).sum()) / len(rows)


def fit(rows, labels, weights, classes: int):
    """The minimum of `objective` by full-batch L-BFGS from zero: (W [d, C], bias [C])."""
    loss = partial(objective, rows=rows, labels=labels, weights=weights)
    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)
    start = jnp.zeros((rows.shape[1], classes)), jnp.zeros(classes)
    first = optax.tree.norm(jax.grad(loss)(start))

    def step(carry):
        solution, state, _, count = carry
        value, grad = value_and_grad(solution, state=state)
        change, state = solver.update(
            grad, state, solution, value=value, grad=grad, value_fn=loss
        )
        return optax.apply_updates(solution, change), state, optax.tree.norm(grad), count + 1

    def unfinished(carry):
        return (carry[2] > TOLERANCE * first) & (carry[3] < STEPS)

    return jax.lax.while_loop(unfinished, step, (start, solver.init(start), first, 0))[0]


@functools.cache
def compiled_fit(precision: str) -> Callable:
    """`fit`, compiled once for all stages and draws of a process."""
    return compile_function(fit, precision, static_argnames="classes")


def fit_regression(
    rows: np.ndarray, labels: np.ndarray, precision: str = "float32"
) -> tuple[jax.Array, jax.Array]:
    """Fits weights [d, K] and bias [K] for labels 0..K-1, each class weighing the same in all.

    W lies in the span of the rows, so where there are more dimensions than rows it is sought
    in an orthonormal basis of them: the objective is the same there.
    """
    n, classes = len(rows), labels.max() + 1
    weights = (n / (classes * np.bincount(labels)))[labels]
    points, basis = jnp.asarray(rows, jnp.float32), None
    if points.shape[1] > n:
        basis, r = jnp.linalg.qr(points.T)
        points = r.T
    w, bias = compiled_fit(precision)(
        points, jnp.asarray(labels), jnp.asarray(weights, jnp.float32), int(classes)
    )
    return (w if basis is None else product("dn,nc->dc", basis, w)), bias


def refresh(info: Info, variables: Vars, clips: Clips) -> Vars:
    """Fits to the substage's training clips."""
    rows, labels = ncm.pool_clips(info, variables, clips)
    center, spread = ncm.measure_spread(rows)
    known, positions = np.unique(labels, return_inverse=True)
    w, bias = fit_regression(
        (rows - center) / spread, positions, info.config.device.precision
    )
    old = variables.buffers
    new = {
        "center": jnp.asarray(center, jnp.float32),
        "spread": jnp.asarray(spread, jnp.float32),
        "known": jnp.zeros_like(old["known"]).at[known].set(1),
        "weights": jnp.zeros_like(old["weights"]).at[:, known].set(w),
        "bias": jnp.zeros_like(old["bias"]).at[known].set(bias),
    }
    return variables.replace(buffers={**old, **new})


def scores(info: Info, variables: Vars, z: jax.Array) -> jax.Array:
    """softmax over the classes that have clips, [B, C]; `NEVER` for the others."""
    buffers = variables.buffers
    known = buffers["known"][None] > 0
    logits = product("bd,dc->bc", z, buffers["weights"]) + buffers["bias"][None]
    return jnp.where(known, jax.nn.softmax(jnp.where(known, logits, HIDDEN)), NEVER)


METHOD = Method(
    init=init, features=ncm.features, players=lambda info, substage: (), scores=scores,
    refresh=refresh, reads=ncm.READS,
)
