"""Configurations that version 0.1 saved, before the sizes of methods stood in them, mean what they
meant. `saved_configurations.json` is what its files made for `5shot`, by data set."""

import json

import pytest

from avdiff_jax.cli import configuration
from avdiff_jax.cli.upgrade import upgrade
from avdiff_jax.methods import METHODS
from avdiff_jax.results.metrics_log import flatten
from configs import activitynet, own, synthetic, ucf, vggsound
from tests import ROOT

FILES = {"ucf": ucf, "vggsound": vggsound, "activitynet": activitynet, "synthetic": synthetic,
         "own": own}
SAVED = json.loads((ROOT / "tests" / "cli" / "saved_configurations.json").read_text())


@pytest.mark.parametrize("name", sorted({*METHODS} - {"avdiff_plus"}))  # which came later
@pytest.mark.parametrize("file", FILES)
def test_an_unchanged_one_is_that_of_today(file, name):
    today = FILES[file].get_config(f"5shot,method={name}").to_dict()
    before = SAVED[file] | {"method": name}
    text = json.dumps(before)
    assert upgrade(before) == today == upgrade(today)
    assert json.dumps(before) == text


def saved(file: str, name: str, **changes) -> dict:
    """What version 0.1 saved after flags such as `model__depth=1`."""
    config = json.loads(json.dumps(SAVED[file])) | {"method": name}
    for field, value in changes.items():
        group, leaf = field.split("__")
        config[group][leaf] = value
    return config


@pytest.mark.parametrize(
    "file, name, changes, meant",
    [
        # On the benchmark the method overruled these flags ...
        ("ucf", "tcaf", {"model__depth": 12, "model__dropout_enc": 0.7},
         {"model.depth": 6, "model.dropout_enc": 0.3}),
        ("vggsound", "avca", {"model__dropout_proj": 0.7},
         {"model.dropout_proj": 0.0, "avca.dropout_text": 0.0}),
        ("ucf", "tsl", {"train__frozen_mode": "train", "train__learning_rate": 1.0},
         {"train.frozen_mode": "eval", "tsl.learning_rate": 1e-4}),
        # ... elsewhere it followed them.
        ("own", "tcaf", {"model__depth": 12}, {"model.depth": 12}),
        ("own", "avca", {"model__dropout_proj": 0.7}, {"avca.dropout_text": 0.7}),
        ("own", "protogan", {"train__learning_rate": 0.5},
         {"protogan.learning_rate": 0.5, "protogan.nonnegative": False}),
    ],
)
def test_a_changed_one_has_what_it_used(file, name, changes, meant):
    after = flatten(upgrade(saved(file, name, **changes)))
    assert {field: after[field] for field in meant} == meant


def test_one_of_today_keeps_its_fields():
    config = ucf.get_config("5shot,method=tcaf")
    config.model.depth = 1
    assert upgrade(config.to_dict()) == config.to_dict()


def test_a_run_is_read(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(saved("ucf", "hip")))
    today = ucf.get_config("5shot,method=hip").to_dict()
    assert configuration.read_recorded(path) == today
