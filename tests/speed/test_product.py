"""The large product that efficiency is measured against, and what data sheets say."""

import jax
import numpy as np
import pytest

from avdiff_jax.speed import product


@pytest.mark.parametrize(
    "device, precision, tflops",
    [
        ("1 x gpu: NVIDIA H100 80GB HBM3", "float32", 67),
        ("1 x gpu: NVIDIA H100 PCIe", "float32", 51),
        ("8 x gpu: NVIDIA H200", "bfloat16", 989),
        ("1 x gpu: NVIDIA A100-SXM4-40GB", "tensorfloat32", 156),
        ("1 x gpu: NVIDIA L40S", "float32", 91.6),
        ("1 x gpu: NVIDIA L4", "float32", 30.3),
        ("2 x gpu: Tesla T4", "float32", 8.1),
        ("2 x gpu: Tesla T4", "bfloat16", None),
        ("1 x gpu: NVIDIA GeForce RTX 4090", "float32", 82.6),
        ("1 x gpu: NVIDIA A1000", "float32", None),
        ("8 x cpu: cpu", "float32", None),
    ],
)
def test_data_sheets(device, precision, tflops):
    assert product.card_gflops(device, precision) == (tflops and tflops * 1e3)


def test_products_grow_until_the_rate_stops_rising(monkeypatch):
    rates = {64: 10.0, 128: 20.0, 256: 30.0, 512: 30.5, 1024: 99.0}
    monkeypatch.setattr(product, "product_of", lambda size, precision: product.Product(size, None))
    monkeypatch.setattr(product, "rate", lambda made: rates[made.size])
    assert product.large_product("float32", 64, 1024).size == 256
    assert product.large_product("float32", 64, 128).size == 128
    monkeypatch.setattr(product.memory, "free_bytes", lambda: 2 * 12 * 128**2)
    assert product.large_product("float32", 64, 1024).size == 64


def test_the_rate_is_the_work_over_the_time(monkeypatch):
    made = product.product_of(32, "float32")
    a = np.asarray(jax.random.normal(jax.random.key(0), (32, 32)))
    np.testing.assert_allclose(made.run(), a @ a, rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(product, "timed", lambda run: 2.0)
    assert product.rate(made) == pytest.approx(32**3 / 1e9)
