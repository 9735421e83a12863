"""What a function takes is estimated before it is compiled, and what is free is known."""

import resource

import jax
import jax.numpy as jnp
import pytest

from avdiff_jax.runtime import memory
from avdiff_jax.runtime.compiling import compile_function


def attend(x, w):
    scores = jax.nn.softmax(jnp.einsum("bid,bjd->bij", x @ w, x), axis=-1)
    return jnp.einsum("bij,bjd->bid", scores, x).sum()


def repeat(x, w):
    return jax.lax.scan(lambda total, _: (total + attend(x, w), None), 0.0, length=3)[0]


@pytest.mark.parametrize("function", [attend, jax.grad(attend, argnums=1), repeat])
def test_an_estimate_is_near_what_xla_takes(function):
    arguments = jnp.ones((4, 512, 16)), jnp.ones((16, 16))
    traced = compile_function(function, "float32").trace(*arguments)
    taken = traced.lower().compile().memory_analysis().temp_size_in_bytes
    estimate = memory.estimate_bytes(traced.jaxpr)
    print(f"estimated {estimate / 1e6:.1f} MB, taken {taken / 1e6:.1f} MB")
    assert 0.9 * taken < estimate < 3 * taken


def test_free_memory_is_what_the_least_of_all_limits_leaves(tmp_path, monkeypatch):
    assert 1 << 27 < memory.free_bytes() < 1 << 50
    (tmp_path / "memory.current").write_text("60000000\n")
    (tmp_path / "memory.stat").write_text("anon 7\ninactive_file 10000000\n")
    monkeypatch.setattr(memory, "GROUPS", tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_bytes() > 1 << 27
    (tmp_path / "memory.max").write_text("100000000\n")
    assert memory.free_bytes() == 50_000_000
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "none")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="utf-8") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    try:
        resource.setrlimit(resource.RLIMIT_AS, (taken + (64 << 20), hard))
        assert memory.free_bytes() <= 64 << 20
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
