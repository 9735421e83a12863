"""Whether the memory holds a training step, said before it is compiled."""

from typing import Any

import jax
import numpy as np

from avdiff_jax.errors import UserError, note
from avdiff_jax.runtime import devices, memory
from avdiff_jax.train.optimisers import TrainState
from avdiff_jax.train.setting import Setting

# XLA fuses operations: of what is estimated, steps took two fifths to six fifths, those of long
# clips, for which it matters, two thirds or more.
OVERESTIMATE = 1.5
NOTEWORTHY = 0.7  # share of the free memory


def check_step(setting: Setting, state: TrainState, inputs: dict[str, Any], key: jax.Array) -> None:
    """Traces the program of a substage, which it keeps, and estimates what a step takes.

    Args:
      state, inputs, key: of the first dispatch.

    Raises:
      UserError: more than is free; names the longest clip and the settings. Where it is not much
        less, a note says so.
    """
    traced = setting.program.trace(state, setting.source.data, inputs, key)
    needed, free = memory.estimate_bytes(traced.jaxpr) / OVERESTIMATE, memory.free_bytes()
    if not devices.on_cpu(setting.source.mesh):
        needed /= setting.source.mesh.size  # which share a batch, and have each its own memory
    if needed < NOTEWORTHY * free:
        return
    sentence = (
        f"a step of {setting.phase.name} takes about {needed / 2**30:.3g} GiB where "
        f"{free / 2**30:.3g} GiB are free; {describe_lengths(setting)}: cut them with "
        "--config.data.train_max_audio and --config.data.train_max_video, or lower "
        f"--config.train.batch={setting.info.config.train.batch}"
    )
    if needed > free:
        raise UserError(sentence)
    note(sentence)


def describe_lengths(setting: Setting) -> str:
    """Says how long the training clips are, and which is the longest."""
    clips = np.unique(np.concatenate([
        part.clips for of_draw in setting.members for part in of_draw
    ]))
    lengths = np.stack([setting.store.audio.lengths[clips], setting.store.video.lengths[clips]], 1)
    longest = int(lengths.sum(1).argmax())
    usual = np.median(lengths, axis=0).astype(int)
    return (
        f"all clips take the room of {setting.lengths.audio} audio and {setting.lengths.video} "
        f"video tokens, and the longest, {str(setting.store.clip_ids[clips[longest]])!r}, has "
        f"{lengths[longest, 0]} and {lengths[longest, 1]} where half of them have at most "
        f"{usual[0]} and {usual[1]}"
    )
