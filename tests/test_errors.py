"""What a user sees when something goes wrong: one line, on every terminal."""

import errno
import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from avdiff_jax.errors import UserError, one_sentence, tell_clips, tell_count
from avdiff_jax.runtime.compiling import compile_function
from tests import ROOT


def say(error, capsys):
    with pytest.raises(SystemExit) as stop, one_sentence():
        raise error
    assert stop.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1
    return line


@pytest.mark.parametrize("error, size", [
    (MemoryError(), ""),
    (MemoryError("Unable to allocate 18.6 GiB for an array with shape (5000,)"), "18.6 GiB"),
    (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 22347250176 bytes."), "20.8 GiB"),
    (RuntimeError("INTERNAL: Failed to load CUBIN: CUDA_ERROR_OUT_OF_MEMORY"), ""),
    (RuntimeError("INTERNAL: CUBLAS_STATUS_ALLOC_FAILED"), ""),
    (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), ""),
])
def test_full_memory_is_a_sentence(error, size, capsys):
    line = say(error, capsys)
    assert "out of memory" in line and "--config.train.batch" in line
    assert ("more were asked for" in line) == bool(size) and size in line


def test_full_memory_as_jax_says_it(capsys):
    """A product of a petabyte, which no machine holds."""
    def ask():
        product = compile_function(lambda x: x[:, None] * x[None], "float32")
        product(jnp.ones(1 << 24)).block_until_ready()

    with pytest.raises(SystemExit), one_sentence():
        ask()
    assert "out of memory" in capsys.readouterr().err


def test_full_memory_as_numpy_says_it(capsys):
    with pytest.raises(SystemExit), one_sentence():
        np.ones(1 << 50)
    assert "(8.00 PiB more were asked for)" in capsys.readouterr().err


@pytest.mark.parametrize("error", [RuntimeError("other"), OSError(errno.EIO, "other")])
def test_defects_keep_their_traceback(error):
    with pytest.raises(type(error), match="other"), one_sentence():
        raise error


def test_a_terminal_of_ascii():
    """Signs of ours become plain ones, names their escapes; neither ends the command."""
    code = (
        "from avdiff_jax.errors import UserError, one_sentence\n"
        "with one_sentence():\n"
        r"    print('50.1 \u00b1 0.2', 'caf\u00e9', 'f\udcff')" "\n"
        r"    raise UserError('no \u00e9')"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment,
                          capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "error: no \\xe9\n")
    assert done.stdout == "50.1 +- 0.2 caf\\xe9 f\\udcff\n"


def test_a_user_error_is_printable():
    assert str(UserError("a\nb")) == "a\\nb"


def test_counts_are_told_in_words():
    told = [tell_count(1, "clip"), tell_count(2, "clip"), tell_count(1, "base class"),
            tell_count(2, "base class"), tell_count(0, "draw")]
    assert told == ["1 clip", "2 clips", "1 base class", "2 base classes", "0 draws"]
    assert tell_clips(5, 1, "novel") == "5 clips of 1 novel class"
