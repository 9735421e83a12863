"""The scoring function of a trained model as StableHLO, for programs without this code."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
from jax import export

from avdiff_jax.data.feed import Batch
from avdiff_jax.errors import UserError
from avdiff_jax.inference.model import Trained
from avdiff_jax.io.files import draft
from avdiff_jax.runtime import memory
from avdiff_jax.runtime.compiling import compile_function

PLATFORMS = ("cpu", "cuda")


def scoring_function(model: Trained, audio_tokens: int, video_tokens: int) -> export.Exported:
    """Lowers the scoring of padded clips, weights included.

    Args:
      audio_tokens, video_tokens: the fixed number of tokens, to which shorter clips are padded.

    Returns:
      a function of audio [b, Ta, Da] and video [b, Tv, Dv], float32, as the training features were
      before any scaling and with anything as padding, and of how many tokens of each are real, [b]
      int32 each; b is free. It gives the scores [b, C] before gamma is subtracted, and an empty
      clip, of 0 and 0 tokens, scores that mean nothing.

    Raises:
      UserError: the memory does not hold a clip of so many tokens.
    """
    pairs, free = (audio_tokens + video_tokens) ** 2, memory.free_bytes()
    if pairs > free:  # a mask of them is a constant of the function
        raise UserError(
            f"a clip of {audio_tokens} audio and {video_tokens} video tokens takes more than "
            f"{pairs / 2**30:.3g} GiB where {free / 2**30:.3g} GiB are free: ask for fewer tokens"
        )

    def score(audio, video, audio_length, video_length):
        parts = {}
        given = (("audio", audio, audio_length), ("video", video, video_length))
        for (name, values, length), seconds in zip(given, model.seconds, strict=True):
            mask = jnp.arange(values.shape[1])[None] < length[:, None]
            time = jnp.arange(values.shape[1], dtype=jnp.float32)[None] * seconds
            parts |= {
                name: jnp.where(mask[..., None], values, 0), f"{name}_mask": mask,
                f"{name}_time": jnp.broadcast_to(time, mask.shape),
            }
        like = jnp.zeros_like(audio_length)
        batch = Batch(**parts, label=like, weight=jnp.ones_like(like, jnp.float32))
        return model.scores_of(model.vars, batch)

    (b,) = export.symbolic_shape("b")
    audio = jax.ShapeDtypeStruct((b, audio_tokens, len(model.info.audio_shift)), jnp.float32)
    video = jax.ShapeDtypeStruct((b, video_tokens, model.info.video_dim), jnp.float32)
    count = jax.ShapeDtypeStruct((b,), jnp.int32)
    compiled = compile_function(score, model.info.config.device.precision)
    return export.export(compiled, platforms=PLATFORMS)(audio, video, count, count)


def write(function: export.Exported, path: pathlib.Path) -> None:
    """Serialises it; `jax.export.deserialize(bytearray(content)).call(...)` runs it.

    Raises:
      UserError: jax's serialisation wants a package that is not installed, or the file cannot be
        written.
    """
    if importlib.util.find_spec("flatbuffers") is None:
        raise UserError(
            f"writing {path} needs flatbuffers, which is not installed: pip install flatbuffers"
        )
    with draft(path) as made:
        pathlib.Path(made).write_bytes(function.serialize())
