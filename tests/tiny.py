"""A made-up world and a configuration so small that the whole protocol runs in seconds."""

import contextlib
import json
import pathlib
import sys
from functools import cache
from tempfile import mkdtemp

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from avdiff_jax.cli import choices
from avdiff_jax.data import synthetic
from avdiff_jax.data.clips import Clip
from avdiff_jax.data.feed import Feed
from avdiff_jax.data.splits import from_store, split_file, stages
from avdiff_jax.data.store import open_store
from avdiff_jax.data.store_writer import write_store
from avdiff_jax.methods import method, reads
from avdiff_jax.results import overview, plots
from avdiff_jax.results.metrics_log import Writer
from avdiff_jax.runtime import devices as runtime_devices
from avdiff_jax.runtime.stop import Stop
from avdiff_jax.train import protocol
from avdiff_jax.train import workdir as workdirs
from avdiff_jax.train.context import initialise_variables, prepare_stage
from avdiff_jax.train.records import Phase
from avdiff_jax.train.saves import Saves
from avdiff_jax.train.setting import Schedule
from avdiff_jax.train.stage import prepare_substage
from avdiff_jax.train.substage import Services, run_substage
from configs import synthetic as synthetic_config
from tests import ROOT, programs

SHOTS, CLASSES, CLIPS = 2, 12, 14


def blank(figure, path) -> np.ndarray:
    """In place of `render`: a black picture in the file."""
    picture = np.zeros((8, 8, 3), np.uint8)
    plots.save_png(pathlib.Path(path), picture)
    return picture


@contextlib.contextmanager
def small_programs():
    """Programs for one device, which are shared in this process; pictures are blank, since to
    render them would take most of the time of a run whose programs are there."""
    with programs.share(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime_devices, "mesh", mesh)
        for module in (plots, overview):
            patch.setattr(module, "render", blank)
        yield


@cache
def world() -> tuple[pathlib.Path, pathlib.Path]:
    """Paths of a store of 12 classes x 14 clips and of its split, made once a process."""
    folder = pathlib.Path(mkdtemp(prefix="avdiff_jax-tiny-"))
    store, split = folder / "tiny.h5", folder / "tiny.json"
    synthetic.synthesize(
        store, seed=0, classes=CLASSES, clips_per_class=CLIPS, audio_dim=8, video_dim=12,
        text_dim=14, seconds=(1.0, 6.0),
    )
    made = from_store.make_split(open_store(store), SHOTS, 0, base=6, novel1=3, novel2=3, by="clip")
    split_file.write(made, split)
    return store, split


def config(words: str = "", **changes):
    """Two layers of width 16, T = 5; `changes` name fields as in `train__batch=8`."""
    c = synthetic_config.get_config(",".join(filter(None, [f"{SHOTS}shot", words])))
    store, split = world()
    with c.unlocked():
        c.data.store, c.data.split = str(store), str(split)
        m, d, t = c.model, c.diffusion, c.train
        m.dim, m.heads, m.head_dim, m.mlp, m.enc_hidden, m.code = 16, 2, 8, 16, 16, 8
        m.depth, m.switch, m.proj_hidden, m.width = 2, 1, 16, 8
        d.steps, d.hidden = 5, 16
        t.batch, t.batches, t.epochs1, t.epochs2, t.steps_per_dispatch = 8, 4, 2, 2, 2
        t.learning_rate = 5e-3
        if "learning_rate" in c.get(c.method, {}):
            c[c.method].learning_rate = t.learning_rate
        c.eval.batch, c.eval.generated = 16, 4
        for field, value in changes.items():
            *groups, leaf = field.split("__")
            part = c
            for group in groups:
                part = part[group]
            part[leaf] = value
    return c


def command(words, workdir, *more) -> list[str]:
    """The command line that runs `config(words)`."""
    usual = synthetic_config.get_config(f"{SHOTS}shot,{words}")
    common, name = dict(choices.fields(usual)), usual.method
    changed = {
        k: v for k, v in choices.fields(config(words)) if v != common[k] and reads(name, k)
    }
    return [
        sys.executable, str(ROOT / "launch" / "main.py"),
        f"--config=configs/synthetic.py:{','.join(filter(None, [f'{SHOTS}shot', words]))}",
        f"--workdir={workdir}",
        *(f"--config.{name}={value}" for name, value in changed.items()), *more,
    ]


def mesh(count: int = 1):
    """A mesh of so many of the CPU devices."""
    return jax.make_mesh(
        (count,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count]
    )


def make_context(c, number: int = 1, store=None, devices: int = 1, stage=None):
    """Stage `number` of a configuration, made ready."""
    store = store or open_store(c.data.store)
    stage = stage or stages.stage(split_file.load(c.data.split), store, number)
    feed = Feed(store, mesh(devices), c.data.residence)
    return prepare_stage(c, method(c.method), feed, stage, number)


def services(workdir, stop=None):
    """What a substage needs, writing below `workdir`."""
    last, best = workdirs.open_checkpoints(pathlib.Path(workdir))
    return Services(Writer(workdir), last, best, Saves(), stop or Stop())


def rewritten(store, path, order=None, class_order=None, change=None, rate=1, **more):
    """A copy of a store with clips and classes in another order; `change` edits each Clip, of
    which a second then has `rate` times as many tokens."""
    order = np.arange(len(store)) if order is None else order
    classes = np.arange(len(store.class_names)) if class_order is None else class_order

    def part(sequences, i):
        found = np.asarray(sequences.values[sequences.offsets[i] : sequences.offsets[i + 1]])
        return found if len(found) else None

    clips = [
        Clip(
            str(store.clip_ids[i]), str(store.class_names[store.labels[i]]),
            None if store.groups is None else str(store.groups[i]),
            part(store.audio, i), part(store.video, i),
        )
        for i in order
    ]
    write_store(
        path, name=store.name, clips=map(change, clips) if change else clips,
        class_names=[store.class_names[i] for i in classes], class_text=store.class_text[classes],
        audio_seconds=store.audio.seconds / rate, video_seconds=store.video.seconds / rate,
        provenance=store.provenance, **more,
    )
    return open_store(path)


def same(a, b) -> None:
    """Two trees are equal, array by array, bit for bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def differ(a, b) -> bool:
    """Whether any array of two trees differs."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return any(not np.array_equal(x, y) for x, y in pairs)


def nearly(a, b, stats: float = 2e-3) -> None:
    """Two states (Vars) that other programs computed from the same draws agree.

    Adam's first steps are the rate whatever the gradient's size, so where a gradient is rounding
    noise (biases in front of a BatchNorm) its sign decides a step: a few entries may differ, and
    the statistics behind them by `stats`.
    """
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=stats), a.stats, b.stats)
    pairs = zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True)
    errors = np.concatenate([np.abs(x - y).ravel() for x, y in pairs])
    assert np.mean(errors > 1e-4) < 0.02, np.sort(errors)[-50:]


def lines(workdir) -> list[dict]:
    """metrics.jsonl without what the clock decides."""
    text = (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items()
         if k != "time" and not k.endswith("steps_per_second")}
        for line in text
    ]


def outcome(workdir) -> dict:
    """results.json without the timing."""
    found = json.loads((pathlib.Path(workdir) / "results.json").read_text())
    found.pop("timing")
    return found


def substage2(c, workdir, devices: int = 1):
    """(state, curves) of an epoch of substage 2 from fresh variables."""
    b = make_context(c, devices=devices)
    setting, state = prepare_substage(b, Phase(1, 2), initialise_variables(b), None)
    assert all(x.sharding.mesh.size == devices for x in jax.tree.leaves(state))
    given = services(workdir)
    with given.writer, given.saves:
        outcome = run_substage(setting, state, Schedule(1), given, 0)
    (line,) = lines(workdir)
    return jax.device_get(outcome.state), line


def finish(c, workdir, *args, **more):
    """Runs the protocol; returns (results, the final training states of the draws)."""
    kept, report = [], protocol.report

    def keeping(context, services, folder, record, outcomes, started):
        outcomes = list(outcomes)
        kept.extend(jax.device_get(outcome.state) for _, outcome in outcomes)
        return report(context, services, folder, record, outcomes, started)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "report", keeping)
        return protocol.run(c, workdir, *args, **more), kept
