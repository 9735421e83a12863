"""Every compiled function of the package comes from here: one set of XLA options, and the
precision of matrix products that the configuration names."""

import functools
from collections.abc import Callable

import jax

# What jax calls the precision of matrix products that a configuration names. tensorfloat32 means
# something on a GPU only.
PRECISIONS = {"float32": "highest", "tensorfloat32": "tensorfloat32", "bfloat16": "bfloat16"}

# The search over Triton kernels for products takes minutes on a GPU and finds none that is faster
# for the sizes here. Other platforms take no notice.
OPTIONS = {"xla_gpu_enable_triton_gemm": False}


def compile_function(
    function: Callable, precision: str, options: dict | None = None, **jit_options
) -> jax.stages.Wrapped:
    """`jax.jit` with the package's XLA options; products have the precision of the configuration
    whatever jax's default is, in commands and in Python alike.

    A function with options of its own cannot be called inside another compiled one: share the
    plain functions instead.

    Args:
      precision: one of `PRECISIONS`, `config.device.precision` as a rule.
      options: of XLA, besides `OPTIONS`.
      jit_options: `static_argnames`, `out_shardings`, `donate_argnums`.
    """

    @functools.wraps(function)
    def with_precision(*args, **kwargs):
        with jax.default_matmul_precision(PRECISIONS[precision]):
            return function(*args, **kwargs)

    # A partial has no name of its own; the name is what profiles and compile logs show.
    inner = function.func if isinstance(function, functools.partial) else function
    with_precision.__name__ = inner.__name__
    return jax.jit(with_precision, compiler_options={**OPTIONS, **(options or {})}, **jit_options)


def product_precision() -> str:
    """jax's name of the precision that products have where this is called: that of
    `compile_function` inside it; outside, jax's default, or float32 where there is none."""
    default = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    return default or PRECISIONS["float32"]
