"""The configurations hold the numbers of the paper's supplement; words and values are checked.

That each field is read is a test of tests/whole_run/test_protocol.py.
"""

import re

import jax
import pytest

from avdiff_jax.cli import configuration
from avdiff_jax.cli.choices import check_values
from avdiff_jax.errors import UserError
from avdiff_jax.methods import METHODS, check
from avdiff_jax.results.metrics_log import flatten
from configs import activitynet, common, own, synthetic, ucf, vggsound

FILES = {"ucf": ucf, "vggsound": vggsound, "activitynet": activitynet, "synthetic": synthetic,
         "own": own}

# By shots 1, 5, 10, 20; a single value holds for all.
TABLE = {
    "activitynet": {
        "model.depth": 5, "model.switch": 3, "train.batch": 32, "train.learning_rate": 7e-5,
        "train.plateau": True, "train.reset_optimizer": True,
        "diffusion.steps": (100, 200, 200, 200), "diffusion.hidden": (64, 128, 128, 128),
        "diffusion.dropout": (0.4, 0, 0, 0), "model.dropout_enc": (0.3, 0.3, 0.3, 0.2),
        "model.dropout_tokens": (0.1, 0.2, 0.2, 0.2), "model.dropout_blocks": 0.1,
        "model.dropout_proj": 0.1, "data.train_max_video": 60, "data.train_max_audio": 40,
        "data.val_max_video": 300, "data.val_max_audio": 200, "data.test_max_video": 300,
        "data.test_max_audio": 200,
    },
    "ucf": {
        "model.depth": 4, "model.switch": 2, "train.batch": 64, "train.learning_rate": 7e-5,
        "train.plateau": True, "train.reset_optimizer": True,
        "diffusion.steps": (300, 200, 300, 200), "diffusion.hidden": (64, 128, 128, 256),
        "diffusion.dropout": (0, 0, 0, 0.1), "model.dropout_enc": (0.2, 0.2, 0.2, 0.1),
        "model.dropout_tokens": 0.1, "model.dropout_blocks": (0.1, 0.1, 0.1, 0.2),
        "model.dropout_proj": (0.1, 0.1, 0.2, 0.2), "data.train_max_video": 0,
    },
    "vggsound": {
        "model.depth": 8, "model.switch": 5, "train.batch": 64, "train.learning_rate": 6e-5,
        "train.plateau": False, "train.reset_optimizer": False,
        "diffusion.steps": (200, 100, 100, 100), "diffusion.hidden": 128, "diffusion.dropout": 0,
        "model.dropout_enc": (0.3, 0.2, 0.1, 0.1), "model.dropout_tokens": (0.3, 0.2, 0.2, 0.2),
        "model.dropout_blocks": (0.3, 0.2, 0.2, 0.2),
        "model.dropout_proj": (0.3, 0.2, 0.2, 0.2), "data.train_max_video": 0,
    },
}
BENCHMARK = {
    "model.dim": 300, "model.heads": 8, "model.head_dim": 64, "model.mlp": 128,
    "model.enc_hidden": 512, "model.code": 64, "model.fourier_scale": 10.0,
    "model.proj_hidden": 512, "model.width": 64, "model.video_norm": "time",
    "model.bn_padding": "masked", "model.attention": "hybrid", "model.modality": "both",
    "data.audio_scale": "255", "diffusion.schedule": "linear", "diffusion.condition": "text",
    "diffusion.final_noise": True, "diffusion.sampler_gradient": True, "train.epochs1": 30,
    "train.epochs2": 20, "train.batches": 300, "train.weight_decay": 1e-5, "train.patience": 3,
    "train.frozen_mode": "train", "eval.calibration": "grid", "method": "avdiff",
    "generator": "diffusion",
}


def values(file, words):
    return flatten(FILES[file].get_config(words).to_dict())


@pytest.mark.parametrize("file", TABLE)
@pytest.mark.parametrize("i, shots", list(enumerate(common.SHOTS)))
def test_published_numbers(file, i, shots):
    found = values(file, f"{shots}shot")
    for name, value in (BENCHMARK | TABLE[file]).items():
        assert found[name] == (value[i] if isinstance(value, tuple) else value), name
    assert found["shots"] == shots and found["dataset"] == file


PUBLISHED = {"model.bn_padding": "batch"}
CHANGED = {
    "ucf": {}, "vggsound": {}, "synthetic": {},
    "activitynet": {
        "data.train_max_audio": 37, "data.test_max_audio": 184, "data.val_max_video": 30,
        "data.val_max_audio": 18,
    },
    "own": {"model.video_norm": "time", "data.audio_scale": "255", "eval.calibration": "grid"},
}
# What `published` sets, whether or not it differs from the default.
SETS = {
    "model.video_norm": "time", "data.audio_scale": "255", "model.bn_padding": "batch",
    "diffusion.final_noise": True, "diffusion.sampler_gradient": True,
    "train.frozen_mode": "train", "eval.calibration": "grid",
}


@pytest.mark.parametrize("file", FILES)
def test_published_word(file):
    """It sets every field of the recipe's table and changes nothing else."""
    before, after = values(file, "5shot"), values(file, "5shot,published")
    changed = {k: v for k, v in after.items() if v != before[k]}
    assert changed == PUBLISHED | CHANGED[file]
    assert {k: after[k] for k in SETS} == SETS


def test_published_word_sets_what_it_names():
    """Even where the fields held something else before."""
    c = common.base()
    c.model.video_norm, c.data.audio_scale, c.train.frozen_mode = "none", "standardize", "eval"
    c.diffusion.final_noise = c.diffusion.sampler_gradient = False
    c.eval.calibration = "exact"
    found = flatten(common.apply(c, {"published": True}).to_dict())
    assert {k: found[k] for k in SETS} == SETS


SAMPLER = {"diffusion.few_steps": 20, "diffusion.sampler_gradient": False}


@pytest.mark.parametrize("words, sampler", [
    ("5shot", SAMPLER), ("5shot,method=avgan", {}), ("5shot,generator=gaussian", {}),
])
@pytest.mark.parametrize("file", FILES)
def test_fast_word(file, words, sampler):
    """The sampler is AV-Diff's alone; cached tokens and the precision are everyone's."""
    before, after = values(file, words), values(file, f"{words},fast")
    assert {k: v for k, v in after.items() if v != before[k]} == sampler | {
        "train.frozen_mode": "eval", "device.precision": "tensorfloat32"}
    check_values(FILES[file].get_config(f"{words},fast"))


@pytest.mark.parametrize(
    "word, field, value",
    [("method=ncm", "method", "ncm"), ("generator=gaussian", "generator", "gaussian"),
     ("generator=none", "generator", "none"), ("condition=prototype", "diffusion.condition",
      "prototype"), ("modality=audio", "model.modality", "audio"),
     ("modality=video", "model.modality", "video"),
     *((f"attention={a}", "model.attention", a) for a in
       ("full", "cross", "self", "alternate"))],
)
@pytest.mark.parametrize("file", FILES)
def test_each_ablation_is_one_word(file, word, field, value):
    before, after = values(file, "5shot"), values(file, f"5shot,{word}")
    assert {k: v for k, v in after.items() if v != before[k]} == {field: value}


@pytest.mark.parametrize("words, generator, head", [
    ("", "none", "gaussian"), (",generator=diffusion", "diffusion", "linear"),
    (",generator=gaussian,fast", "gaussian", "linear"),
])
@pytest.mark.parametrize("file", FILES)
def test_avdiff_plus_generates_nothing_unless_it_is_asked_to(file, words, generator, head):
    found = values(file, f"5shot,method=avdiff_plus{words}")
    assert (found["generator"], found["avdiff_plus.head"]) == (generator, head)
    assert (found["avdiff_plus.space"], found["train.frozen_mode"]) == ("auto", "eval")
    steps = 2 * found["train.batches"] * found["avdiff_plus.repeats"]
    assert 600 <= steps < 600 + 2 * found["train.batches"]
    c = FILES[file].get_config(f"5shot,method=avdiff_plus{words}")
    check_values(c)
    check(c)


@pytest.mark.parametrize(
    "words, complaint",
    [("5shots", "unknown config word '5shots'"), ("0shot", "unknown"), ("5shot,10shot", "twice"),
     ("attention=half", "attention is one of full, cross"), ("method=", "unknown"),
     ("published=1", "unknown"), ("fast,published", "fast and published contradict"),
     ("method=ncm,method=ncm", "twice"), ("-5shot", "unknown")],
)
def test_wrong_words(words, complaint):
    with pytest.raises(ValueError, match=re.escape(complaint)):
        ucf.get_config(words)


def test_shots_between_the_published_ones():
    assert values("ucf", "7shot")["diffusion.steps"] == values("ucf", "5shot")["diffusion.steps"]
    assert values("ucf", None) == values("ucf", "5shot") == values("ucf", "")


@pytest.mark.parametrize("file", FILES)
def test_configurations_are_locked_and_allowed(file):
    c = FILES[file].get_config("5shot")
    check_values(c)
    with pytest.raises(AttributeError):
        c.train.bach = 3
    with pytest.raises(TypeError):
        c.train.batch = "many"


@pytest.mark.parametrize(
    "field, value, complaint",
    [("train.batch", 0, "above 0"), ("train.batches", -3, "at least 0"),
     ("model.dropout_enc", 1.0, "below 1"), ("diffusion.dropout", -0.1, "below 1"),
     ("train.learning_rate", float("nan"), "finite"), ("model.attention", "half", "one of full"),
     ("diffusion.schedule", "x", "linear"), ("data.residence", "cloud", "auto, device, host"),
     ("model.code", 7, "even"), ("seed", -1, "at least 0"), ("seed", 10**20, "at most 4294967295"),
     ("eval.calibration", "best", "grid, exact"), ("data.audio_scale", "256", "standardize"),
     ("model.video_norm", "l1", "feature"), ("train.frozen_mode", "half", "train, eval"),
     ("data.train_max_audio", -1, "at least 0"), ("train.epochs2", 0, "above 0")],
)
def test_values_that_mean_nothing(field, value, complaint):
    c = ucf.get_config("5shot")
    *groups, leaf = field.split(".")
    part = c
    for group in groups:
        part = part[group]
    part[leaf] = value
    with pytest.raises(UserError) as caught:
        check_values(c)
    assert f"--config.{field}={value}" in str(caught.value) and complaint in str(caught.value)


def test_zero_is_allowed_where_it_means_something():
    c = ucf.get_config("5shot")
    c.seed = c.model.switch = c.train.patience = 0
    c.train.weight_decay = c.model.dropout_enc = 0.0
    check_values(c)


def test_loading_a_configuration_touches_no_device():
    assert not isinstance(jax.tree.leaves(ucf.get_config("5shot").to_dict())[0], jax.Array)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_configuration(file, name):
    """Its sizes stand in it before flags, which may change each of them."""
    config = FILES[file].get_config(f"5shot,method={name}")
    check_values(config)
    check(config, config)
    assert {group for group in config if group in METHODS} <= {name}


def test_sizes_come_before_flags():
    found = configuration.resolve("configs/ucf.py:5shot,method=tcaf", ["--config.model.depth=4"])
    assert (found.model.depth, found.model.dropout_blocks) == (4, 0.3)
    with pytest.raises(UserError, match="comes too late for the sizes of a method: write method=t"):
        configuration.resolve("configs/ucf.py:5shot", ["--config.method=tcaf"])


def test_the_field_of_another_method_is_unknown():
    with pytest.raises(UserError, match=r"unknown field --config\.hip\.latents=3"):
        configuration.resolve("configs/ucf.py:5shot", ["--config.hip.latents=3"])
