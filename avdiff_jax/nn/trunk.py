"""From a batch to the fused class token: the part that AV-Diff, AV-GAN and others share."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from avdiff_jax.nn import masks
from avdiff_jax.nn.attention import Block
from avdiff_jax.nn.layers import EmbeddingNet, TokenCode, mean_over_time

TYPES = {"audio": masks.AUDIO, "video": masks.VIDEO}


def modalities(config) -> tuple[str, ...]:
    """The modalities that `config.model.modality` (audio, video or both) names."""
    both = ("audio", "video")
    return both if config.model.modality == "both" else (config.model.modality,)


def scaled(batch, buffers, video_norm: str):
    """Input scaling: (audio - shift) * scale; video over its L2 norm. Padding stays zero.

    Args:
      batch: a Batch.
      buffers: holds `audio_shift` and `audio_scale`, [Da] each.
      video_norm: "time" divides each feature by its norm over the clip's tokens (as
        published), "feature" each token by its own norm, "none" leaves the video alone.

    Returns:
      dict of audio [b, ta, Da] and video [b, tv, Dv], float32.
    """
    audio = batch.audio.astype(jnp.float32) - buffers["audio_shift"][None, None]
    audio = audio * buffers["audio_scale"][None, None] * batch.audio_mask[..., None]
    video = batch.video.astype(jnp.float32)
    if video_norm != "none":
        axis = {"time": 1, "feature": 2}[video_norm]
        norm = jnp.sqrt(jnp.square(video).sum(axis, keepdims=True))
        video = video / jnp.maximum(norm, 1e-12)
    return {"audio": audio, "video": video}


def counted(valid, padding: str):
    """The tokens that BatchNorm counts: valid ones, or (padding="batch", as published) all
    up to the longest clip of the batch."""
    if padding == "masked":
        return valid
    longest = valid.sum(1).max()
    return jnp.broadcast_to(jnp.arange(valid.shape[1])[None] < longest, valid.shape)


class Encoders(nn.Module):
    """The embedding nets A_enc and V_enc, per token."""

    widths: tuple[int, ...]
    rate: float
    modalities: tuple[str, ...]

    @nn.compact
    def __call__(self, features, counts, train: bool):
        """Dicts by modality: features [b, t, D], counts [b, t] -> [b, t, widths[-1]]."""
        return {
            name: EmbeddingNet(self.widths, self.rate, name=name)(
                features[name], counts[name], train
            )
            for name in self.modalities
        }


class Fusion(nn.Module):
    """Class token and L masked blocks; returns the fused class token.

    attention: one of `masks.PATTERNS`; the configuration's unless given.
    """

    config: Any
    attention: str | None = None

    @nn.compact
    def __call__(self, tokens, valid, train: bool):
        """Dicts by modality: tokens [b, t, dim], valid [b, t] -> [b, dim]."""
        model = self.config.model
        names = tuple(tokens)
        first = tokens[names[0]]
        token = self.param("token", nn.initializers.normal(1.0), (1, 1, model.dim))
        token = jnp.broadcast_to(token, (first.shape[0], 1, model.dim))
        x = jnp.concatenate([token, *tokens.values()], axis=1)
        types = np.concatenate(
            [[masks.CLASS]] + [np.full(tokens[n].shape[1], TYPES[n]) for n in names]
        )
        seen = jnp.concatenate([jnp.ones((first.shape[0], 1), bool), *valid.values()], axis=1)
        attention = (self.attention or model.attention) if len(names) == 2 else "full"
        tables = masks.pattern(attention, model.depth, model.switch)
        for i, table in enumerate(tables):
            block = Block(
                model.dim, model.heads, model.head_dim, model.mlp, model.dropout_blocks,
                name=f"block{i}",
            )
            last = i == model.depth - 1
            x = block(x, masks.attend(table, types, seen), train, 1 if last else None)
            self.sow("intermediates", f"layer{i}", x)
        return x[:, 0]


class Trunk(nn.Module):
    """Scaled features -> embedding nets (`enc`) -> tokens (`pos`) -> fused token (`fusion`).

    `fused_by` makes the fusion from the configuration; AV-Diff's unless given.
    """

    config: Any
    fused_by: Callable = Fusion

    def setup(self):
        """Groups of parameters carry the names that players and freezing refer to."""
        model = self.config.model
        names = modalities(self.config)
        self.enc = Encoders((model.enc_hidden, model.dim), model.dropout_enc, names)
        self.pos = TokenCode(model.dim, model.code, model.dropout_tokens, names)
        self.fusion = self.fused_by(self.config)

    def tokens(self, batch, buffers, train: bool):
        """Batch -> tokens and validity, dicts by modality."""
        model, names = self.config.model, modalities(self.config)
        features = scaled(batch, buffers, model.video_norm)
        valid = {"audio": batch.audio_mask, "video": batch.video_mask}
        valid = {n: valid[n] for n in names}
        seconds = {"audio": batch.audio_time, "video": batch.video_time}
        counts = {n: counted(valid[n], model.bn_padding) for n in names}
        embedded = self.enc(features, counts, train)
        return self.pos(embedded, seconds, valid, buffers["fourier"], train), valid

    def averaged(self, batch, buffers, train: bool):
        """Batch -> embedded mean over time, a dict by modality of [b, dim]; reads `enc` only."""
        features = scaled(batch, buffers, self.config.model.video_norm)
        valid = {"audio": batch.audio_mask, "video": batch.video_mask}
        means = {n: mean_over_time(features[n], valid[n]) for n in modalities(self.config)}
        every = jnp.ones(len(batch.label), bool)
        return self.enc(means, dict.fromkeys(means, every), train)

    def __call__(self, batch, buffers, train: bool):
        """Batch -> fused token [b, dim]."""
        return self.fusion(*self.tokens(batch, buffers, train), train)
