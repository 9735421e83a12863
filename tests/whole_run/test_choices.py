"""Every choice of the configuration changes what is trained, and goes with the whole protocol."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avdiff_jax.data.windows import ROLES
from avdiff_jax.inference.model import abstract_vars
from avdiff_jax.train.optimisers import TrainState, fresh_optimisers
from avdiff_jax.train.step import compile_training
from tests import tiny

pytestmark = pytest.mark.usefixtures("small_programs")

CHOICES = [
    ("generator=none", {}), ("generator=gaussian", {}), ("condition=prototype", {}),
    ("modality=audio", {}), ("modality=video", {}), ("published", {}),
    # In the two layers of the tiny model "alternate" and "self" do what "hybrid" does: only the
    # class token leaves the last layer, and it sees all tokens in a self as in a full layer.
    *((f"attention={a}", {}) for a in ("full", "cross")),
    ("", {"train__frozen_mode": "eval"}), ("", {"data__train_max_video": 3}),
    ("", {"model__video_norm": "feature"}), ("", {"data__audio_scale": "standardize"}),
    ("", {"diffusion__sampler_gradient": False}), ("", {"diffusion__final_noise": False}),
    ("", {"diffusion__schedule": "cosine"}), ("", {"diffusion__dropout": 0.2}),
    ("", {"diffusion__few_steps": 2}),
]


def training_program(c) -> tuple:
    """What substage 2 trains: variables, the traced program with its constants, input scaling."""
    context = tiny.make_context(c)
    method, info, lengths = context.method, context.info, context.lengths
    variables = abstract_vars(info, lengths)
    state = jax.eval_shape(
        lambda v: TrainState(v, fresh_optimisers(method, info, 2, v), jnp.zeros((), int)),
        variables,
    )
    plan = context.feed.plan(context.stage.base, lengths, c.train.batch, 2, [0])
    inputs = context.feed.inputs(plan, lengths)
    program = compile_training(method, info, 2, context.feed, lengths)
    traced = program.trace(
        state, context.feed.data, dict.fromkeys(ROLES, inputs), jax.random.key(0)
    ).jaxpr
    constants = [np.asarray(x).tobytes() for x in traced.consts]
    return str(variables), str(traced), constants, info.audio_scale.tobytes()


@pytest.fixture(scope="module")
def usual():
    return training_program(tiny.config())


def test_the_same_choices_are_the_same_program(usual):
    assert training_program(tiny.config()) == usual


@pytest.mark.parametrize("words, changes", CHOICES)
def test_a_choice_means_something(words, changes, usual):
    chosen = training_program(tiny.config(words, **changes))
    assert ("'gen'" in chosen[0]) == (not words.startswith("generator="))
    assert chosen != usual


@pytest.mark.slow
@pytest.mark.parametrize("words, changes", [
    ("generator=none,modality=audio", {"eval__calibration": "exact"}),
    ("generator=gaussian,attention=full", {"data__residence": "host"}),
    ("condition=prototype,attention=cross",
     {"train__frozen_mode": "eval", "train__crops": 2, "diffusion__few_steps": 2}),
    ("published,modality=video", {"train__reset_optimizer": False}),
    ("", {"model__video_norm": "feature", "data__audio_scale": "standardize",
          "data__train_max_video": 3, "data__test_max_video": 4, "diffusion__schedule": "cosine",
          "diffusion__dropout": 0.2, "diffusion__sampler_gradient": False,
          "diffusion__final_noise": False}),
])
def test_choices_together_run_to_the_end(words, changes, tmp_path):
    results, _ = tiny.finish(tiny.config(words, **changes), tmp_path / "w")
    assert bool(results.get("generator")) == ("generator=none" not in words)
    assert all(np.isfinite(results["test"]["mean"][k]) for k in ("B", "N", "HM", "FSL"))
