"""These tests compile much and compute little."""

import pytest

from avdiff_jax.runtime import devices
from avdiff_jax.train import protocol
from tests import tiny


@pytest.fixture(scope="package", autouse=True)
def quick_compilation():
    with tiny.quick_compilation():
        yield


@pytest.fixture(scope="package", autouse=True)
def one_device():
    """A run takes one device, so that it shares compiled programs with the other tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "mesh", tiny.mesh)
        yield


@pytest.fixture(scope="package")
def finished(tmp_path_factory, quick_compilation, one_device):
    """(workdir, results, final states, fields read) of a whole run."""
    workdir, read = tmp_path_factory.mktemp("finished") / "run", set()
    with pytest.MonkeyPatch.context() as patch:
        # These two read every field, or fields of methods other than theirs.
        patch.setattr(protocol, "check_values", lambda config: None)
        patch.setattr(protocol, "check", lambda config: None)
        results, states = tiny.finish(tiny.Recorded(tiny.config(), read), workdir)
    return workdir, results, states, read
