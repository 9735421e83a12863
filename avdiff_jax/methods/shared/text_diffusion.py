"""The generator of AV-Diff+: diffusion of standardised c_o, told the class in every layer.

It has an optimiser of its own and does not shape what it generates. Projnet moves while it is
trained, so where the classes lie is tracked, among the statistics of the main player.
"""

import jax
import jax.numpy as jnp
import numpy as np

from avdiff_jax import diffusion
from avdiff_jax.losses import squared_error
from avdiff_jax.methods.method import Info, Player, Vars
from avdiff_jax.methods.shared.gaussian_head import average_rows
from avdiff_jax.nn.film import FilmPredictor
from avdiff_jax.nn.layers import apply_params

GROUP = "gen"
ROWS = 128  # noised features at least in a step: with fewer, synthetic features spread too far
BETAS = (0.9, 0.999)
TRACKED = 0.1  # weight of a batch in what is tracked
TRACKING = ("diffusion", "gaussian")  # the generators that need it


def build_predictor(info: Info) -> FilmPredictor:
    """The noise predictor as the configuration sizes it."""
    return FilmPredictor(info.config.diffusion.hidden, info.config.model.width)


def make_schedule(info: Info) -> diffusion.Schedule:
    """The schedule of the configuration; it ends in pure noise unless noise is what is
    predicted."""
    d = info.config.diffusion
    s = diffusion.schedule(d.steps, d.schedule)
    return s if info.config.avdiff_plus.predict == "noise" else diffusion.zero_terminal(s)


def describe_classes(info: Info) -> np.ndarray:
    """The conditions [C, Dt]: class text less its mean over base classes, whose deviation is 1
    then, so that the zero vector stands for no class in particular. With `shuffle_text`, a control,
    each class has the text of the one before it."""
    text = np.roll(info.text, info.config.avdiff_plus.shuffle_text, axis=0)
    centered = text - text[info.is_base].mean(0, keepdims=True)
    return centered / (centered[info.is_base].std() or 1.0)


def init_generator(info: Info, variables: Vars, key: jax.Array) -> Vars:
    """Adds what a generator needs to `variables`: the tracked statistics and, for the diffusion,
    the conditions, the predictor (its group is `GROUP`) and the moving average of its weights."""
    width = info.config.model.width
    tracked = {"mean": jnp.zeros((len(info.classes), width)), "variance": jnp.ones(width)}
    variables = variables.replace(stats={**variables.stats, "tracked": tracked})
    if info.config.generator != "diffusion":
        return variables
    variables = describe_new_classes(info, variables)
    w = variables.buffers["condition"][:1]
    predictor = build_predictor(info).init(key, jnp.zeros((1, width)), jnp.zeros(1), w)["params"]
    average = {"params": predictor, "updates": jnp.zeros(())}
    return variables.replace(
        params={**variables.params, GROUP: predictor},
        stats={**variables.stats, "average": jax.tree.map(jnp.copy, average)},
    )


def describe_new_classes(info: Info, variables: Vars) -> Vars:
    """Makes the conditions those of the classes of `info`."""
    if info.config.generator != "diffusion":
        return variables
    condition = jnp.asarray(describe_classes(info), jnp.float32)
    return variables.replace(buffers={**variables.buffers, "condition": condition})


def start_tracking(info: Info, variables: Vars, c_o: np.ndarray, labels: np.ndarray) -> Vars:
    """Sets what is tracked to the class means of c_o [n, width] and the variance within classes."""
    mean = average_rows(np.asarray(c_o, np.float64), labels, len(info.classes))
    freedom = max(len(labels) - len(np.unique(labels)), 1)
    variance = np.square(c_o - mean[labels]).sum(0) / freedom
    tracked = {
        "mean": jnp.asarray(mean, jnp.float32), "variance": jnp.asarray(variance, jnp.float32)
    }
    return variables.replace(stats={**variables.stats, "tracked": tracked})


def track(info: Info, variables: Vars, c_o: jax.Array, labels: jax.Array) -> dict:
    """Follows a batch of c_o [B, width]; returns the statistics brought up to date, with the
    moving average of the predictor's weights."""
    tracked = variables.stats["tracked"]
    one_hot = jax.nn.one_hot(labels, len(tracked["mean"])).T
    count = one_hot.sum(1)[:, None]
    change = jnp.where(count > 0, one_hot @ c_o / jnp.maximum(count, 1) - tracked["mean"], 0)
    mean = tracked["mean"] + TRACKED * change
    spread = jnp.square(c_o - mean[labels]).mean(0)
    variance = tracked["variance"] + TRACKED * (spread - tracked["variance"])
    stats = {"tracked": {"mean": mean, "variance": variance}}
    if info.config.generator == "diffusion":
        average, updates = (variables.stats["average"][name] for name in ("params", "updates"))
        # The first weights are forgotten sooner than at a fixed rate.
        rate = jnp.minimum(info.config.avdiff_plus.ema, updates / (10 + updates))
        moved = jax.tree.map(
            lambda a, p: rate * a + (1 - rate) * p, average, variables.params[GROUP]
        )
        stats["average"] = {"params": moved, "updates": updates + 1}
    return stats


def standardize(
    info: Info, variables: Vars, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Offset [n, width] and spread [1, width] that standardise c_o of the labels [n]: those of all
    classes alike, or with `residual` the mean of the class and the spread within it."""
    mean, variance = (variables.stats["tracked"][name] for name in ("mean", "variance"))
    offset = mean[labels]
    if not info.config.avdiff_plus.residual:
        known = variables.buffers["known"][:, None]
        count = jnp.maximum(known.sum(), 1)
        center = (known * mean).sum(0, keepdims=True) / count
        variance = variance + (known * jnp.square(mean - center)).sum(0) / count
        offset = jnp.broadcast_to(center, offset.shape)
    spread = jnp.sqrt(variance)[None]
    return offset, jnp.where(spread > 1e-6, spread, 1)


def generator_loss(
    info: Info, variables: Vars, c_o: jax.Array, labels: jax.Array, key: jax.Array
) -> tuple[jax.Array, dict]:
    """How well the predictor says what it is asked for: `diffusion.noise_loss` for noise, v or x_0.

    Args:
      info: of the stage.
      variables: the predictor's among them.
      c_o: [B, width]; they are repeated until there are at least `ROWS`.
      labels: [B].
      key: of t, of the noise, and of whose condition is dropped.

    Returns:
      mean squared error of the prediction, and as the metric `noise_loss` that of the noise which
      follows from it; 1.0 is what predicting zero gives.
    """
    plus, s = info.config.avdiff_plus, make_schedule(info)
    offset, spread = standardize(info, variables, labels)
    copies = -(-ROWS // len(c_o))
    x0 = jnp.tile((c_o - offset) / spread, (copies, 1))
    w = jnp.tile(variables.buffers["condition"][labels], (copies, 1))
    k_t, k_noise, k_drop = jax.random.split(key, 3)
    t = jax.random.randint(k_t, (len(x0),), 0, s.steps)
    noise = jax.random.normal(k_noise, x0.shape)
    kept = jax.random.bernoulli(k_drop, 1 - plus.drop_condition, (len(x0), 1))
    alpha_bar = jnp.asarray(s.alpha_bar)[t][:, None]
    x = diffusion.noised(x0, t, noise, s)
    params = variables.params[GROUP]
    said = apply_params(build_predictor(info), params, x, (t + 1) / s.steps, kept * w)
    _, eps = diffusion.clean_and_noise(plus.predict, x, said, alpha_bar)
    wanted = diffusion.target(plus.predict, x0, noise, alpha_bar)
    return squared_error(said, wanted).mean(), {"noise_loss": squared_error(eps, noise).mean()}


def generate(info: Info, variables: Vars, labels: jax.Array, key: jax.Array) -> jax.Array:
    """Draws a synthetic c_o for each label [n]; [n, width]. No gradient passes.

    By DDIM from the averaged predictor, in `diffusion.few_steps` steps or, where that is 0, all T;
    with `generator=gaussian`, the control, around the class mean with the variance within classes.
    """
    shape = len(labels), info.config.model.width
    if info.config.generator == "gaussian":
        mean, variance = (variables.stats["tracked"][name] for name in ("mean", "variance"))
        return mean[labels] + jnp.sqrt(variance)[None] * jax.random.normal(key, shape)
    few, predict = info.config.diffusion.few_steps, info.config.avdiff_plus.predict
    s, model = make_schedule(info), build_predictor(info)
    params = {"params": variables.stats["average"]["params"]}
    w = variables.buffers["condition"][labels]

    def step(x, t, _):
        return model.apply(params, x, jnp.full(len(x), (t + 1) / s.steps), w)

    k_start, k_step = jax.random.split(key)
    keys = jax.random.split(k_step, few or s.steps)
    start = jax.random.normal(k_start, shape)
    x = diffusion.sample_few(step, start, keys, s, predict=predict)
    offset, spread = standardize(info, variables, labels)
    return jax.lax.stop_gradient(offset + spread * x)


def make_player(info: Info, loss) -> Player:
    """The generator's part in an update."""
    plus = info.config.avdiff_plus
    return Player(GROUP, (GROUP,), loss, plus.repeats, plus.learning_rate, BETAS, 0.0)
