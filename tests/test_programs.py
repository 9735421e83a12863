"""What tests of one process share: programs of equal functions, and no others."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avdiff_jax.methods import METHODS
from avdiff_jax.runtime import compiling
from avdiff_jax.train.optimisers import TrainState, fresh_optimisers
from avdiff_jax.train.step import update
from tests import programs, tiny
from tests.methods import toy


def test_equal_functions_are_one_program():
    def scaling(array=(1.0, 2.0), **changes):
        config, array = tiny.config(**changes), np.array(array)
        return lambda x: x * array * config.model.dim

    with programs.share({}):
        one = compiling.compile_function(scaling(), "float32")
        again = compiling.compile_function(scaling(seed=7, train__epochs1=9), "float32")
        others = [
            compiling.compile_function(scaling((1.0, 3.0)), "float32"),
            compiling.compile_function(scaling(model__dim=8), "float32"),
            compiling.compile_function(scaling(), "bfloat16"),
            compiling.compile_function(partial(lambda x, y: x, y=1), "float32"),
            compiling.compile_function(partial(lambda x, y: x, y=2), "float32"),
        ]
    assert again is one
    assert len({one, *others}) == 6
    with programs.share(None):
        assert compiling.compile_function(scaling(), "float32") is not one


@pytest.mark.parametrize("name", ["avdiff", "attention_fusion", "tsl"])
def test_no_program_reads_what_a_fingerprint_leaves_out(name):
    """Of the methods that tests share; the rate alone is read, to be an argument."""
    method, info, read = METHODS[name], toy.info(name), set()
    batch = toy.empty(info)
    variables = jax.eval_shape(partial(method.init, info, batch), toy.key(0))
    state = TrainState(
        variables, jax.eval_shape(partial(fresh_optimisers, method, info, 2), variables),
        jax.ShapeDtypeStruct((), jnp.int32),
    )
    info = info._replace(config=programs.Recorded(info.config, read))
    for role in ("base", "novel"):
        jax.eval_shape(
            lambda state, key, role=role: update(method, info, 2, state, batch, key, role),
            state, toy.key(0),
        )
    jax.eval_shape(lambda v: method.features(info, v, batch, toy.key(0), False), variables)
    left_out = {field for field in read if field.startswith(programs.UNREAD)}
    assert len(read) > 5 and left_out <= {"train.learning_rate"}
