"""What `import avdiff_jax` offers, and that it costs nothing."""

import subprocess
import sys

import pytest

import avdiff_jax
from avdiff_jax.inference import model

QUICK = """
import sys, avdiff_jax
assert avdiff_jax.__version__ and {"jax", "numpy"}.isdisjoint(sys.modules), sorted(sys.modules)
"""


def test_importing_imports_nothing_large():
    subprocess.run([sys.executable, "-c", QUICK], check=True)


def test_public_names():
    assert avdiff_jax.load is model.load
    assert all(hasattr(avdiff_jax, name) for name in dir(avdiff_jax))
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        avdiff_jax.lode  # noqa: B018
