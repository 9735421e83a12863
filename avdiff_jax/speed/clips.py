"""Random clips of the benchmark's sizes, and a stage that trains on them."""

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator

import numpy as np
from jax.sharding import Mesh

from avdiff_jax.data.clips import Clip
from avdiff_jax.data.feed import Feed
from avdiff_jax.data.splits.stages import Members, Stage
from avdiff_jax.data.store import Store, open_store
from avdiff_jax.data.store_writer import write_store
from avdiff_jax.data.windows import Lengths
from avdiff_jax.methods import method
from avdiff_jax.speed import flops
from avdiff_jax.train.context import StageContext, prepare_stage

AUDIO_SECONDS, VIDEO_SECONDS = 0.96, 0.64
TRAINING = {"ucf": Lengths(11, 17), "vggsound": Lengths(10, 16), "activitynet": Lengths(37, 60)}
TEST = {**TRAINING, "activitynet": Lengths(184, 300)}
RAGGED = (3.0, 11.5)  # seconds, the clips of UCF
CLASSES, BASE = 48, 42


@contextlib.contextmanager
def random_store(lengths: np.ndarray, sizes: flops.Sizes) -> Iterator[Store]:
    """An open store of clips with `lengths` [n, 2] audio and video tokens, clip i of class
    i modulo their number."""
    rng = np.random.default_rng(0)
    names = [f"class {i:03d}" for i in range(sizes.classes)]

    def clips():
        for i, (audio, video) in enumerate(lengths):
            yield Clip(
                f"clip {i:06d}", names[i % len(names)], None,
                rng.integers(0, 256, (audio, sizes.audio)).astype(np.uint8),
                rng.random((video, sizes.video), np.float32),
            )

    with tempfile.TemporaryDirectory(prefix="avdiff_jax-speed-") as folder:
        path = pathlib.Path(folder) / "random.h5"
        write_store(
            path, name="random", clips=clips(), class_names=names,
            class_text=rng.standard_normal((sizes.classes, sizes.text)).astype(np.float32),
            audio_seconds=AUDIO_SECONDS, video_seconds=VIDEO_SECONDS, provenance={},
        )
        yield open_store(path)


def training_lengths(config) -> Lengths:
    """Tokens of a training clip of the config's dataset."""
    return TRAINING.get(config.dataset, TRAINING["vggsound"])


def lengths_of(count: int, fixed: Lengths, ragged: bool) -> np.ndarray:
    """[count, 2] tokens of each clip."""
    if not ragged:
        return np.tile(np.asarray(fixed), (count, 1))
    seconds = np.random.default_rng(1).uniform(*RAGGED, count)
    tokens = np.stack([seconds / AUDIO_SECONDS, seconds / VIDEO_SECONDS], -1).astype(int)
    tokens[0] = fixed  # the longest clip decides the shape
    return np.minimum(tokens, fixed)


def prepare(
    config, store: Store, mesh: Mesh, sizes: flops.Sizes, residence: str = "device"
) -> StageContext:
    """A stage on the random clips: the first classes are base, the rest novel."""
    is_base = np.arange(sizes.classes) < sizes.classes * BASE // CLASSES
    every = Members(np.arange(len(store)), store.labels)
    base = Members(*(x[is_base[every.labels]] for x in every))
    novel = Members(*(x[~is_base[every.labels]] for x in every))
    stage = Stage(store.class_names, is_base, base, (novel,), base, (novel,))
    return prepare_stage(config, method(config.method), Feed(store, mesh, residence), stage, 1)
