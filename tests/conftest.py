"""What holds for every test: two CPU devices, no silent broadcasting, checked array shapes.

Warnings are errors too; pyproject.toml says so and names the exceptions.
"""

import collections
import functools
import importlib.metadata
import os
import tempfile
from pathlib import Path


def _cache_folder() -> str:
    """A folder that outlives the run, so that a second run compiles nothing; a fresh one if none.

    Each jax version has its own: their entries differ and would only pile up in one.
    """
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = base / "avdiff_jax" / f"tests-jax-{importlib.metadata.version('jax')}"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return str(folder)
    except (OSError, RuntimeError):  # no home, or one that cannot be written
        pass
    return tempfile.mkdtemp(prefix="avdiff_jax-tests-")


# In the environment, before jax is imported: so the commands that tests start have it too. The
# numbers in the tests hold for the CPU; JAX_PLATFORMS=cuda overrides.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _cache_folder())
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# Nobody reads in compiled programs which line of Python asked for what.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
# Compilation is nearly all of the time of most tests, so programs are not optimised; those that are
# compared with published numbers ask for `optimised`.
if os.environ["JAX_PLATFORMS"] == "cpu":
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    # XLA's older code for fused loops compiles in half of the time; later versions have lost it,
    # and an unknown flag ends the process.
    if importlib.metadata.version("jaxlib").startswith("0.10."):
        os.environ["XLA_FLAGS"] = (
            f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"
        )

import hypothesis
import jax
import pytest
from jax._src.interpreters import mlir
from jaxtyping import install_import_hook

from tests import ROOT

# For each of thousands of programs jax makes an MLIR context and loads all dialects, a seventh of
# the time of the tests. One is enough for a process.
if hasattr(mlir, "make_ir_context"):
    mlir.make_ir_context = functools.cache(mlir.make_ir_context)
jax.config.update("jax_num_cpu_devices", 8)
# [3] + [4, 3] is more often a forgotten axis than a wish.
jax.config.update("jax_numpy_rank_promotion", "raise")

# An example that compiles takes long, which says nothing; and a failure should come back.
hypothesis.settings.register_profile("avdiff_jax", deadline=None, derandomize=True)
hypothesis.settings.load_profile("avdiff_jax")

# The shapes in the annotations are checked where functions of arrays live. Structs stay out: inside
# jax their fields hold shardings and None as well as arrays.
install_import_hook(
    ["avdiff_jax.nn", "avdiff_jax.diffusion", "avdiff_jax.losses", "avdiff_jax.metrics"],
    "beartype.beartype",
)


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config, log):
    """Says which tests belong to one worker: those of the files that share programs, so that each
    is made once; those of a file, which may share fixtures; in robustness/ each for itself."""
    from xdist.scheduler import LoadScopeScheduling

    class ByPrograms(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            if "small_programs" in (ROOT / path).read_text():
                return "small programs"
            return nodeid if path.startswith("tests/robustness/") else path

    return ByPrograms(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """With AVDIFF_REQUIRE_SHARED=1, a test skipped for want of the reference material fails."""
    report = yield
    if report.skipped and os.environ.get("AVDIFF_REQUIRE_SHARED") == "1":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if "shared" in reason and not hasattr(report, "wasxfail"):
            report.outcome = "failed"
            report.longrepr = f"AVDIFF_REQUIRE_SHARED=1, but {reason}"
    return report


@pytest.fixture
def key() -> jax.Array:
    """One typed PRNG key, the same in every test: split it for more."""
    return jax.random.key(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference material, beside the checkout or in it; skips where there is none."""
    for folder in (ROOT.parent / "shared", ROOT / "shared"):
        if (folder / "paper_tables.json").is_file():
            return folder
    pytest.skip(f"no reference material: neither ../shared nor shared in {ROOT.name} exists")


@pytest.fixture(scope="module", autouse=True)
def few_mappings():
    """Linux gives a process 65,530 mappings of memory, and every compiled program takes a few: jax
    crashes when they run out, so all programs are forgotten before."""
    yield
    mappings = Path("/proc/self/maps")
    if mappings.exists() and mappings.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()


@pytest.fixture(scope="module")
def optimised():
    """For tests that compute much, or whose numbers are to be those of a user's programs."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def small_programs():
    """For tests that compile much and compute little: a run takes one device, and all that do so in
    a process share their programs."""
    from tests import tiny

    with tiny.small_programs():
        yield


@pytest.fixture(scope="session")
def compilations() -> collections.Counter[str]:
    """How many programs of each name the run of `finished` took."""
    return collections.Counter()


@pytest.fixture(scope="session")
def finished(tmp_path_factory, compilations):
    """(workdir, results, final states, fields read) of a whole run, made once."""
    from avdiff_jax.train import protocol
    from tests import programs, tiny

    workdir, read = tmp_path_factory.mktemp("finished") / "run", set()
    with (
        # What others have traced would neither read the fields nor be counted.
        tiny.small_programs(), programs.share(anew=True),
        programs.count_compilations(compilations), pytest.MonkeyPatch.context() as patch,
    ):
        # These two read every field, or fields of methods other than theirs.
        patch.setattr(protocol, "check_values", lambda config: None)
        patch.setattr(protocol, "check", lambda config: None)
        results, states = tiny.finish(programs.Recorded(tiny.config(), read), workdir)
    return workdir, results, states, read
