"""A made-up set that any method can tell apart, and configurations small enough to compile fast."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from avdiff_jax.data.feed import Batch
from avdiff_jax.methods.method import Info
from configs import activitynet, synthetic, ucf, vggsound

AUDIO, VIDEO, TEXT = 12, 20, 8  # feature dimensions
BASE, NOVEL = 4, 2
LENGTHS = 7, 9  # most tokens of a clip
DATASETS = {"ucf": (ucf, 48), "vggsound": (vggsound, 271), "activitynet": (activitynet, 198)}


def key(seed: int) -> jax.Array:
    """A key whose draws compile several times faster than the default's."""
    return jax.random.key(seed, impl="unsafe_rbg")


def config(name, **changes):
    """Two layers of width 16; `changes` name fields as in `model__depth=3`."""
    c = synthetic.get_config(f"5shot,method={name}")
    with c.unlocked():
        m, d = c.model, c.diffusion
        m.dim, m.heads, m.head_dim, m.mlp, m.enc_hidden, m.code = 16, 2, 8, 16, 16, 8
        m.depth, m.switch, m.proj_hidden, m.width = 2, 1, 16, 8
        m.dropout_enc = m.dropout_tokens = m.dropout_blocks = m.dropout_proj = 0.0
        d.steps, d.hidden = 4, 16
        # Above it BatchNorm's running statistics lag behind what moves (HiP first of all).
        c.train.learning_rate = 2e-3
        own = c.get(name, {})
        for field in own:
            if field == "learning_rate":
                own[field] = c.train.learning_rate
            elif field.startswith("dropout"):
                own[field] = 0.0
        for field, value in changes.items():
            group, _, leaf = field.partition("__")
            c[group][leaf] = value
    return c


def describe(config, classes, base, text, audio, video) -> Info:
    """Info of a stage with made-up names; audio is left as it is."""
    return Info(
        config, tuple(f"class {i:03}" for i in range(classes)), np.arange(classes) < base, text,
        np.zeros(audio, np.float32), np.ones(audio, np.float32), video,
    )


def info(name, **changes) -> Info:
    """The toy set's stage; every class has a text of its own."""
    text = np.random.default_rng(1).normal(size=(BASE + NOVEL, TEXT)).astype(np.float32)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    return describe(config(name, **changes), BASE + NOVEL, BASE, text, AUDIO, VIDEO)


def benchmark(name, dataset) -> Info:
    """Stage 2 of a benchmark data set at five shots, in its full size."""
    module, classes = DATASETS[dataset]
    c = module.get_config(f"5shot,method={name}")
    return describe(c, classes, classes, np.zeros((classes, 300), np.float32), 128, 4096)


def empty(info: Info, clips=2) -> Batch:
    """A batch of the right shape without content."""
    audio, video = np.ones((clips, 3), bool), np.ones((clips, 4), bool)
    return jax.tree.map(jnp.asarray, Batch(
        np.zeros((*audio.shape, len(info.audio_shift)), np.float32),
        np.zeros((*video.shape, info.video_dim), np.float32),
        audio, video, np.zeros(audio.shape, np.float32), np.zeros(video.shape, np.float32),
        np.zeros(clips, np.int32), np.ones(clips, np.float32),
    ))


@partial(jax.jit, static_argnames=("role", "clips"))
def draw(key, role="base", clips=32) -> Batch:
    """Clips of random lengths around class means; novel clips come second in the numbering."""
    k_label, k_length, k_audio, k_video = jax.random.split(key, 4)
    first, last = (0, BASE) if role == "base" else (BASE, BASE + NOVEL)
    label = jax.random.randint(k_label, (clips,), first, last)
    means = np.random.default_rng(0).random((BASE + NOVEL, AUDIO + VIDEO)).astype(np.float32)
    parts = []
    for i, (k, most, seconds, mean) in enumerate((
        (k_audio, LENGTHS[0], 0.96, means[:, :AUDIO]),
        (k_video, LENGTHS[1], 0.64, means[:, AUDIO:]),
    )):
        length = jax.random.randint(jax.random.fold_in(k_length, i), (clips, 1), 2, most + 1)
        mask = jnp.arange(most)[None] < length
        noise = 0.1 * jax.random.normal(k, (clips, most, mean.shape[1]))
        x = jnp.maximum(jnp.asarray(mean)[label][:, None] + noise, 0) * mask[..., None]
        time = jnp.broadcast_to(seconds * jnp.arange(most, dtype=jnp.float32)[None], mask.shape)
        parts.append((x, mask, time))
    (audio, audio_mask, audio_time), (video, video_mask, video_time) = parts
    return Batch(
        audio, video, audio_mask, video_mask, audio_time, video_time, label, jnp.ones(clips)
    )


def longer(batch: Batch, steps: int) -> Batch:
    """The same clips with `steps` more padded tokens in each modality."""

    def pad(x):
        return jnp.pad(x, ((0, 0), (0, steps)) + ((0, 0),) * (x.ndim - 2))

    def count(time):
        return jnp.broadcast_to(time[:1, 1:2] * jnp.arange(time.shape[1] + steps)[None],
                                (len(time), time.shape[1] + steps))

    return batch.replace(
        audio=pad(batch.audio), video=pad(batch.video), audio_mask=pad(batch.audio_mask),
        video_mask=pad(batch.video_mask), audio_time=count(batch.audio_time),
        video_time=count(batch.video_time),
    )
