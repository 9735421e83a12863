"""The steps of a dispatch, by a stand-in for the update that tells what it is given."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avdiff_jax.data.windows import Lengths
from avdiff_jax.train import step
from avdiff_jax.train.optimisers import TrainState
from tests import tiny

INFO = SimpleNamespace(config=tiny.config())
SOURCE = SimpleNamespace(mesh=tiny.mesh(), batch=lambda data, inputs, lengths: data + inputs)


def tell(method, info, substage, state, batch, key, role):
    """Its metrics: the batch, how many updates came before, and the first bits of its key."""
    told = {"batch": batch, "turn": state.updates, "bits": jax.random.bits(key)}
    named = {f"{role} {name}": value for name, value in told.items()}
    return state.replace(updates=state.updates + 1), named


@pytest.fixture
def run(monkeypatch):
    """(substage, updates so far) -> (state, metrics) of a dispatch of three steps."""
    monkeypatch.setattr(step, "update", tell)

    def run(substage, updates=0, draws=0):
        program = step.compile_training(None, INFO, substage, SOURCE, Lengths(1, 1), draws)
        base = jnp.arange(3) if not draws else jnp.arange(3 * draws).reshape(3, draws)
        key = jax.random.key(7) if not draws else jax.random.split(jax.random.key(7), draws)
        updates = jnp.full((draws,) if draws else (), updates)
        return program(
            TrainState({}, {}, updates), 100, {"base": base, "novel": base + 50}, key
        )

    return run


def test_base_clips_and_then_novel_ones_each_in_their_role(run):
    state, told = run(2)
    for role, clips, turns in (("base", [100, 101, 102], [0, 2, 4]),
                               ("novel", [150, 151, 152], [1, 3, 5])):
        np.testing.assert_array_equal(told[f"{role}/{role} batch"], clips)
        np.testing.assert_array_equal(told[f"{role}/{role} turn"], turns)
    assert len(told) == 6 and state.updates == 6


def test_substage_1_sees_base_clips_alone(run):
    state, told = run(1)
    assert {*told} == {"base/base batch", "base/base turn", "base/base bits"}
    np.testing.assert_array_equal(told["base/base batch"], [100, 101, 102])
    assert state.updates == 3


def test_each_update_has_a_key_of_its_own_by_its_number(run):
    """So that a resumed run draws what an uninterrupted one does."""
    _, told = run(2)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(7), jnp.arange(6))
    bits = jax.vmap(jax.random.bits)(keys)
    assert len({*bits.tolist()}) == 6
    np.testing.assert_array_equal(told["base/base bits"], bits[::2])
    np.testing.assert_array_equal(told["novel/novel bits"], bits[1::2])
    _, later = run(2, updates=2)
    np.testing.assert_array_equal(later["base/base bits"][:2], bits[2::2])


def test_draws_side_by_side_have_batches_and_keys_of_their_own(run):
    _, told = run(1, draws=2)
    assert len(told) == 6
    np.testing.assert_array_equal(told["draw0/base/base batch"], [100, 102, 104])
    np.testing.assert_array_equal(told["draw1/base/base batch"], [101, 103, 105])
    assert not {*told["draw0/base/base bits"].tolist()} & {*told["draw1/base/base bits"].tolist()}
