"""How fast the device multiplies large matrices: what the efficiency of a step is measured
against, and what its maker says of the card."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from avdiff_jax.runtime import memory
from avdiff_jax.runtime.compiling import compile_function
from avdiff_jax.speed.clock import timed
from avdiff_jax.speed.flops import GIGA

SMALLEST, LARGEST = 2048, 16384  # rows and columns
RISE = 1.05  # of the rate from one size to the next that makes the larger one worth its time
# Dense TFLOP/s in float32, TensorFloat-32 and bfloat16, from the makers' data sheets; None where
# a card has no such units. The first name that the device's holds counts.
CARDS = {
    "H200": (67, 495, 989),
    "H100 PCIe": (51, 378, 756),
    "H100 NVL": (60, 418, 835),
    "H100": (67, 495, 989),
    "A100": (19.5, 156, 312),
    "A40": (37.4, 74.8, 150),
    "A30": (10.3, 82, 165),
    "L40S": (91.6, 183, 362),
    "L4": (30.3, 60, 121),
    "T4": (8.1, None, None),
    "V100": (15.7, None, None),
    "RTX A6000": (38.7, 77.4, 155),
    "RTX 3070": (20.3, 20.3, 40.6),
    "RTX 3080": (29.8, 29.8, 59.5),
    "RTX 3090": (35.6, 35.6, 71),
    "RTX 4080": (48.7, 48.7, 97.5),
    "RTX 4090": (82.6, 82.6, 165),
}
KINDS = ("float32", "tensorfloat32", "bfloat16")


def card_gflops(device: str, precision: str) -> float | None:
    """GFLOP/s that the data sheet of a card gives; None for a device that is not in `CARDS`."""
    words = device.replace("-", " ").split()
    for name, rates in CARDS.items():
        if all(part in words for part in name.split()):
            rate = rates[KINDS.index(precision)]
            return rate and rate * 1e3
    return None


class Product(NamedTuple):
    """A large matrix product that has been compiled: `run` computes it, `gflop` is its work."""

    size: int
    run: Callable

    @property
    def gflop(self) -> float:
        """A multiply-add counts 2."""
        return 2 * self.size**3 / GIGA


def product_of(size: int, precision: str) -> Product:
    """A product of two [size, size] float32 matrices in that precision, ready to run."""
    multiply = compile_function(jnp.matmul, precision)
    a = jax.random.normal(jax.random.key(0), (size, size))
    timed(lambda: multiply(a, a))
    return Product(size, lambda: multiply(a, a))


def rate(product: Product, samples: int = 3) -> float:
    """GFLOP/s of the best of some calls: other work on the machine only takes from it."""
    return product.gflop / min(timed(product.run) for _ in range(samples))


def large_product(precision: str, smallest: int = SMALLEST, largest: int = LARGEST) -> Product:
    """The smallest product, of sizes that double, beyond which the rate hardly rises."""
    product = product_of(smallest, precision)
    reached = rate(product)
    while product.size < largest and 12 * (2 * product.size) ** 2 < memory.free_bytes() // 2:
        larger = product_of(2 * product.size, precision)
        before, reached = reached, rate(larger)
        if reached < RISE * before:
            break
        product = larger
    return product
