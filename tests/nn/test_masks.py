"""Who may attend to whom: every pair of every pattern, and that gradients obey."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avdiff_jax.nn import masks
from avdiff_jax.nn.attention import Block

# Rows: query; columns: key; order c(lass) a(udio) v(ideo).
FULL = ["111", "111", "111"]
CROSS = ["111", "101", "110"]
SELF = ["111", "110", "101"]
TYPES = np.array([masks.CLASS, masks.AUDIO, masks.AUDIO, masks.VIDEO, masks.VIDEO, masks.VIDEO])


def bits(rows):
    return np.array([[c == "1" for c in row] for row in rows])


@pytest.mark.parametrize(
    "name, layers",
    [
        ("full", [FULL] * 4),
        ("cross", [CROSS] * 4),
        ("self", [SELF] * 4),
        ("alternate", [SELF, FULL, SELF, FULL]),
        ("hybrid", [SELF, SELF, SELF, FULL]),
    ],
)
def test_patterns(name, layers):
    tables = masks.pattern(name, 4, 3)
    assert len(tables) == 4
    for table, wanted in zip(tables, layers, strict=True):
        np.testing.assert_array_equal(table[:3, :3], bits(wanted))


@pytest.mark.parametrize("switch, within", [(0, 0), (2, 2), (4, 4)])
def test_hybrid_switches_after_z_layers(switch, within):
    tables = masks.pattern("hybrid", 4, switch)
    assert [bool(t.all()) for t in tables] == [False] * within + [True] * (4 - within)


@pytest.mark.parametrize("name, switch", [("half", 1), ("hybrid", 5), ("hybrid", -1)])
def test_nonsense_is_refused(name, switch):
    with pytest.raises(ValueError, match=r"half|outside 0\.\.4"):
        masks.pattern(name, 4, switch)


@pytest.mark.parametrize("name", ["full", "cross", "self"])
def test_every_pair_of_tokens(name):
    """Written out: class sees and is seen by all, padded keys are hidden from all."""
    valid = np.array([[1, 1, 0, 1, 1, 0], [1, 1, 1, 1, 0, 0]], bool)
    table = masks.pattern(name, 1, 1 if name == "self" else 0)[0]
    seen = np.asarray(masks.attend(table, TYPES, jnp.asarray(valid)))
    seen = np.broadcast_to(seen, (2, 6, 6))
    for clip in range(2):
        for q, key in np.ndindex(6, 6):
            kinds = {int(TYPES[q]), int(TYPES[key])}
            allowed = masks.CLASS in kinds or {
                "full": True, "cross": len(kinds) == 2, "self": len(kinds) == 1,
            }[name]
            assert seen[clip, q, key] == (allowed and valid[clip, key]), (clip, q, key)


@pytest.mark.parametrize("name", ["full", "cross", "self"])
def test_gradients_obey(name, key):
    """After one layer a query depends on itself and on the keys that it sees, on nothing else."""
    valid = jnp.asarray([[True, True, False, True, True, True]])
    table = masks.pattern(name, 1, 1 if name == "self" else 0)[0]
    seen = masks.attend(table, TYPES, valid)
    block = Block(8, 2, 4, 8, 0.0)
    x = jax.random.normal(key, (1, 6, 8))
    vars = block.init(key, x, seen, False)
    jacobian = jax.jacrev(lambda x: block.apply(vars, x, seen, False).sum(-1))(x)
    moved = np.abs(jacobian[0, :, 0]).max(-1)  # [query, key]
    allowed = np.broadcast_to(np.asarray(seen), (1, 6, 6))[0] | np.eye(6, dtype=bool)
    assert (moved[~allowed] == 0).all()
    assert (moved[allowed] > 0).all()
