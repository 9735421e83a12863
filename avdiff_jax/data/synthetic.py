"""A made-up audio-visual set with the benchmark's structure, for demos and tests.

Every class is a triple (sound, sight, order). Audio tells the sound, video tells the sight, and
both tell whether the clip's two events rise or fall, which only their order in time shows. Several
classes share each sound and each sight, so neither modality is enough alone; two classes that
differ in order have the same features on average over time. The text vector is built from the
codes of the same triple, so a new class can be imagined from its text, but for an offset of its
own that no text tells. Clips of one source video share a nuisance and are its group.
"""

import math
from typing import NamedTuple

import numpy as np

from avdiff_jax.data.clips import Clip
from avdiff_jax.data.store_report import Report
from avdiff_jax.data.store_writer import write_store
from avdiff_jax.errors import UserError
from avdiff_jax.io.files import FilePath
from avdiff_jax.runtime.progress import Progress

CODE = 6  # dimensions of the code of a sound or a sight
AUDIO_SECONDS, VIDEO_SECONDS = 0.96, 0.64  # as VGGish and C3D
CLIPS_PER_VIDEO = 4  # clips cut from one source video: a group

# Strengths, in units of the spread between the codes of two sounds or sights.
OFFSET = 0.35  # of a class, unknown to its text
EVENT = 0.7  # of rising or falling; cancels in the average over time
VIDEO_NUISANCE = 0.6  # of a source video
CLIP_NOISE = 0.6
TOKEN_NOISE = 0.5
FEATURE_NOISE = 0.5  # of a single feature of a single token
TEXT_NOISE = 0.3  # of a text vector, outside what the features know of


class _World(NamedTuple):
    """Everything that the classes share and are."""

    names: tuple[str, ...]
    text: np.ndarray  # [C, Dt] float32, unit length
    means: dict  # modality -> [C, CODE] mean latent of each class
    events: dict  # modality -> [CODE] direction of rising
    order: np.ndarray  # [C] +1 rises, -1 falls
    mixing: dict  # modality -> [CODE, D] latent to features
    tilt: np.ndarray  # [Dv] bias that makes part of the video features exactly zero


def synthesize(
    path: FilePath,
    *,
    seed: int,
    classes: int = 32,
    clips_per_class: int = 60,
    audio_dim: int = 128,
    video_dim: int = 4096,
    text_dim: int = 300,
    seconds: tuple[float, float] = (4.0, 10.0),
    name: str = "synthetic",
    progress: Progress | None = None,
) -> Report:
    """Writes a made-up store; the same arguments give the same file, byte for byte.

    Args:
      path: HDF5 file to make.
      seed: of everything.
      classes, clips_per_class: how many.
      audio_dim, video_dim, text_dim: feature dimensions; the benchmark's by default.
      seconds: shortest and longest clip; one audio token per 0.96 s, one of video per 0.64 s.
      name: of the store.
      progress: an `runtime.progress.Progress` that counts clips.

    Raises:
      UserError: sizes too small to hold the structure.
    """
    for flag, value, least in (
            ("classes", classes, 4), ("clips-per-class", clips_per_class, 1),
            ("audio-dim", audio_dim, CODE), ("video-dim", video_dim, CODE),
            ("text-dim", text_dim, 2 * CODE + 2), ("seed", seed, 0)):
        if value < least:
            raise UserError(f"--{flag} is {value} but a made-up set needs at least {least}: raise "
                            f"it")
    shortest, longest = seconds
    if not 0 < shortest <= longest < math.inf:
        raise UserError(f"clips of {shortest} to {longest} seconds are impossible: give the "
                        f"shorter length, above 0, first")
    world = _world(seed, classes, audio_dim, video_dim, text_dim)
    settings = dict(
        seed=seed, classes=classes, clips_per_class=clips_per_class, audio_dim=audio_dim,
        video_dim=video_dim, text_dim=text_dim, seconds=[float(shortest), float(longest)],
    )
    return write_store(
        path, name=name, clips=_clips(world, seed, clips_per_class, shortest, longest),
        class_names=world.names, class_text=world.text,
        audio_seconds=AUDIO_SECONDS, video_seconds=VIDEO_SECONDS,
        # no date: equal seeds make equal files
        provenance={"command": "synthesize", "settings": settings}, progress=progress,
    )


def _world(seed: int, classes: int, audio_dim: int, video_dim: int, text_dim: int):
    rng = np.random.default_rng([seed, 0])
    # About as many sounds as sights; two orders of each pair.
    sounds = math.ceil(math.sqrt(classes / 2))
    sights = math.ceil(classes / 2 / sounds)
    number = np.arange(classes)
    order = np.where(number % 2 == 0, 1, -1)
    sound, sight = number // 2 % sounds, number // 2 // sounds
    codes = {"audio": _codes(rng, sounds)[sound], "video": _codes(rng, sights)[sight]}

    # Text: an orthonormal frame of the text space, spent on sound, sight, order; the rest is noise.
    frame, _ = np.linalg.qr(rng.standard_normal((text_dim, 2 * CODE + 1)))
    text = np.concatenate([codes["audio"], codes["video"], order[:, None]], axis=1) @ frame.T
    noise = rng.standard_normal((classes, text_dim))
    text += TEXT_NOISE * math.sqrt(3) * _unit(noise - noise @ frame @ frame.T)

    return _World(
        names=tuple(f"sound {a + 1} sight {b + 1} {'rising' if o > 0 else 'falling'}"
                    for a, b, o in zip(sound, sight, order, strict=True)),
        text=_unit(text).astype(np.float32),
        means={modality: codes[modality] + OFFSET * _unit(rng.standard_normal((classes, CODE)))
               for modality in codes},
        events={modality: EVENT * _unit(rng.standard_normal(CODE)) for modality in codes},
        order=order,
        mixing={"audio": rng.standard_normal((CODE, audio_dim)),
                "video": rng.standard_normal((CODE, video_dim))},
        tilt=0.3 * rng.standard_normal(video_dim),
    )


def _codes(rng: np.random.Generator, count: int):
    """[count, CODE] unit vectors kept apart: the best of some random draws."""
    draws = _unit(rng.standard_normal((64, count, CODE)))
    alike = draws @ draws.swapaxes(1, 2) - 2 * np.eye(count)
    return draws[np.argmin(alike.max((1, 2)))]


def _unit(vectors: np.ndarray):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _clips(world: _World, seed: int, clips_per_class: int, shortest: float, longest: float):
    """Yields every clip, class after class. Each has random numbers of its own."""
    digits = len(str(clips_per_class - 1))
    for label, class_name in enumerate(world.names):
        for number in range(clips_per_class):
            video_number = number // CLIPS_PER_VIDEO
            nuisance = np.random.default_rng([seed, 1, label, video_number])
            rng = np.random.default_rng([seed, 2, label, number])
            duration = rng.uniform(shortest, longest)
            # when, as a share of the clip, the first event gives way to the second
            turn = rng.uniform(0.35, 0.65)
            common = {modality: VIDEO_NUISANCE * nuisance.standard_normal(CODE) / math.sqrt(CODE)
                      + CLIP_NOISE * rng.standard_normal(CODE) / math.sqrt(CODE)
                      for modality in ("audio", "video")}
            latents = {
                modality: _latents(world, modality, label, common[modality], turn, rng,
                                   max(1, int(duration / period)))
                for modality, period in (("audio", AUDIO_SECONDS), ("video", VIDEO_SECONDS))
            }
            yield Clip(
                clip_id=f"c{label:03d}_{number:0{digits}d}",
                class_name=class_name,
                group=f"c{label:03d}_v{video_number:0{digits}d}",
                audio=_as_audio(latents["audio"] @ world.mixing["audio"], rng),
                video=_as_video(latents["video"] @ world.mixing["video"] + world.tilt, rng),
            )


def _latents(
    world: _World, modality: str, label: int, common: np.ndarray, turn: float,
    rng: np.random.Generator, tokens: int,
):
    """[T, CODE]: class mean, what the clip has in common, event before or after the turn, noise."""
    moment = (np.arange(tokens) + 0.5) / tokens
    # The two halves are weighted to cancel, so that only their order tells the class.
    swing = np.where(moment < turn, -1.0, 1.0)
    swing -= swing.mean()
    return (
        world.means[modality][label] + common
        + world.order[label] * swing[:, None] * world.events[modality]
        + TOKEN_NOISE * rng.standard_normal((tokens, CODE)) / math.sqrt(CODE)
    )


def _as_audio(features: np.ndarray, rng: np.random.Generator):
    """[T, Da] uint8 as VGGish after its post-processing: centred at 128, clipped to 0..255."""
    noisy = features + FEATURE_NOISE * rng.standard_normal(features.shape)
    return np.clip(np.rint(128 + 40 * noisy), 0, 255).astype(np.uint8)


def _as_video(features: np.ndarray, rng: np.random.Generator):
    """[T, Dv] float32, non-negative as C3D after its rectifier."""
    noise = rng.standard_normal(features.shape, np.float32)
    noisy = np.maximum(features + FEATURE_NOISE * noise, 0)
    # steps of 1/256: the last bits of a matrix product differ between CPUs, these do not
    return (np.rint(256 * noisy) / 256).astype(np.float32)
