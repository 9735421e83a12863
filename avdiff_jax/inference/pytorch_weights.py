"""The weights of the published PyTorch release under our names."""

from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from avdiff_jax.cli.choices import fields
from avdiff_jax.data.training_set import TrainingSet
from avdiff_jax.data.windows import Lengths
from avdiff_jax.errors import UserError, note
from avdiff_jax.inference.contents import BASE, NOVEL, fit_variables, flat
from avdiff_jax.inference.model import Trained
from avdiff_jax.io.files import FilePath
from avdiff_jax.io.torch_file import read_state
from avdiff_jax.methods.method import Info, Vars, scaling_buffers

# Made by the published code but never used by it.
UNUSED = ("discriminator_seen_novel.", "num_batches_tracked")

# What DataParallel and torch.compile put in front of every name.
WRAPPERS = ("module.", "_orig_mod.")

# What the published checkpoints have in common, of the fields that a configuration can change.
PUBLISHED = {
    "method": "avdiff", "generator": "diffusion", "diffusion.condition": "text",
    "data.audio_scale": "255",
}


def check_published(config: ConfigDict) -> None:
    """Raises UserError where no published checkpoint can have this configuration."""
    values = dict(fields(config))
    for field, usual in PUBLISHED.items():
        if values[field] != usual:
            raise UserError(
                f"published checkpoints have {field}={usual}, not {values[field]}: change it"
            )


def reorder_classes(info: Info, names: Sequence[str], place: str) -> Info:
    """`info` with its classes in the order of `names`, which stand in the file `place`.

    Raises:
      UserError: the names are not those of the classes.
    """
    if sorted(names) != sorted(info.classes):
        odd = sorted({*names} ^ {*info.classes})
        raise UserError(f"{place} lists {len(names)} classes and the split has "
                        f"{len(info.classes)} ({(odd or names)[0]!r} is in one of them): make "
                        "them agree")
    rows = np.array([info.classes.index(name) for name in names])
    return info._replace(classes=tuple(names), text=info.text[rows], is_base=info.is_base[rows])


def _linear(ours, theirs):
    return {(*ours, "kernel"): f"{theirs}.weight", (*ours, "bias"): f"{theirs}.bias"}


def _norm(ours, theirs):
    return {(*ours, "scale"): f"{theirs}.weight", (*ours, "bias"): f"{theirs}.bias"}


def parameter_names(depth: int) -> dict[tuple[str, ...], str]:
    """Path in our params -> name in the published state, for `depth` blocks."""
    names: dict[tuple[str, ...], str] = {("fusion", "token"): "cls_token"}
    for ours, theirs in ((("enc", "audio"), "A_enc"), (("enc", "video"), "V_enc"),
                         (("proj",), "O_proj")):
        for i, (linear, norm) in enumerate(((0, 1), (4, 5))):
            names |= _linear((*ours, f"linear{i}"), f"{theirs}.fc.{linear}")
            names |= _norm((*ours, f"norm{i}"), f"{theirs}.fc.{norm}")
    code = "position_encoder_block"
    names["pos", "modality"] = f"{code}.modal_embedding.weight"
    names["pos", "padding"] = f"{code}.pad_embedding.weight"
    names |= _linear(("pos", "time"), f"{code}.fourier_embeddings")
    for modality in ("audio", "video"):
        names |= _linear(("pos", modality), f"{code}.out_proj_{modality}")
    for i in range(depth):
        ours, theirs = ("fusion", f"block{i}"), f"Audio_visual_transformer.layers.{i}"
        for a, b in (("query", "to_q"), ("key", "to_k"), ("value", "to_v")):
            names[*ours, "attention", a, "kernel"] = f"{theirs}.attn.{b}.weight"
        names |= _linear((*ours, "attention", "out"), f"{theirs}.attn.to_out.0")
        names |= _linear((*ours, "forward", "hidden"), f"{theirs}.ff.net.0")
        names |= _linear((*ours, "forward", "out"), f"{theirs}.ff.net.3")
        names |= _norm((*ours, "norm"), f"{theirs}.norm")
    names |= _linear(("cls",), "classifier")
    names |= _linear(("gen", "first"), "generator.fc.1")
    return names | _linear(("gen", "second"), "generator.fc.3")


def statistic_names() -> dict[tuple[str, ...], str]:
    """Path in our stats -> name in the published state."""
    names: dict[tuple[str, ...], str] = {}
    for ours, theirs in ((("enc", "audio"), "A_enc"), (("enc", "video"), "V_enc"),
                         (("proj",), "O_proj")):
        for i, norm in enumerate((1, 5)):
            names[*ours, f"norm{i}", "mean"] = f"{theirs}.fc.{norm}.running_mean"
            names[*ours, f"norm{i}", "var"] = f"{theirs}.fc.{norm}.running_var"
    return names


def convert_array(path: tuple[str, ...], array: np.ndarray) -> np.ndarray:
    """A published array in our layout: kernels are [in, out], without convolution axes."""
    if path[-1] != "kernel":
        return array
    return (array[..., 0] if array.ndim == 3 else array).T


def tree(names: dict[tuple[str, ...], str], state: dict[str, np.ndarray]) -> dict:
    """Nested dict of the arrays of `state` that `names` lists, in our layout."""
    out = {}
    for path, name in names.items():
        node = out
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = convert_array(path, np.asarray(state[name]))
    return out


def unused(state) -> list[str]:
    """The names in a published state that belong to what the published code never uses."""
    return sorted(name for name in state if any(part in name for part in UNUSED))


def variables(state: dict[str, np.ndarray], buffers: dict) -> Vars:
    """Published state -> our variables; every weight is used or known to be unused.

    Args:
      state: published name -> array.
      buffers: all our buffers but `fourier`, which comes from the state.

    Raises:
      UserError: names that are missing or that nothing here reads.
    """
    depth = len({n.split(".")[2] for n in state if n.startswith("Audio_visual_transformer.")})
    parameters, statistics = parameter_names(depth), statistic_names()
    fourier = "position_encoder_block.fourier_randn"
    wanted = {*parameters.values(), *statistics.values(), fourier}
    missing = sorted(wanted - set(state))
    left = sorted(set(state) - wanted - set(unused(state)))
    if missing or left:
        raise UserError(
            f"the published state lacks {missing[:3]} ({len(missing)} in all) and holds "
            f"{left[:3]} ({len(left)} in all), which AV-Diff does not have; is it an AV-Diff model?"
        )
    return Vars(
        tree(parameters, state),
        tree(statistics, state),
        {**buffers, "fourier": np.asarray(state[fourier])},
    )


def read_checkpoint(path: FilePath) -> dict[str, np.ndarray]:
    """The state of a published file, {"model": state, ...}, read without PyTorch; names without
    what PyTorch's wrappers put in front of all of them.

    Raises:
      UserError: the file is none of torch.save, or holds more than plain tensors.
    """
    state = read_state(path)
    for prefix in WRAPPERS:
        if all(name.startswith(prefix) for name in state):
            note(f"all names in {path} begin with {prefix!r}, which a wrapper of PyTorch puts "
                 "there: it was left out")
            state = {name.removeprefix(prefix): array for name, array in state.items()}
    return state


def trained(
    path, state, info: Info, seconds, lengths: Lengths, gamma: float,
    trained_on: TrainingSet | None = None,
) -> Trained:
    """A published state as a model for the classes of `info`, in the order of its outputs.

    Args:
      path: for messages.
      seconds: per token of audio and of video; lengths: tokens of a training clip.

    Raises:
      UserError: weights that are missing, left over, or of other sizes than the configuration's.
    """
    buffers = {**scaling_buffers(info), "condition": np.asarray(info.text)}
    vars = fit_variables(path, info, lengths, flat(variables(state, buffers)))
    return Trained(
        info=info, kinds=tuple(BASE if base else NOVEL for base in info.is_base), vars=vars,
        gamma=gamma, temperature=None, seconds=seconds, lengths=lengths, epochs=0, cuts=(),
        trained_on=trained_on,
    )
