"""Every field of the configuration, for every method: a change makes other variables or another
program, or it is refused. Nothing is compiled: programs are compared as they are traced."""

import hashlib
import re
from collections.abc import Iterator
from functools import cache, partial

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from avdiff_jax.cli.choices import OF_FIELD, fields
from avdiff_jax.errors import UserError
from avdiff_jax.methods import METHODS, OF_METHODS, check, missing, reads
from avdiff_jax.methods.method import Info, Method
from tests.methods import toy
from tests.programs import Recorded

# With a generator and all that a head can see, so that every field has a part in something.
WHOLE = {"avdiff_plus": ("avdiff_plus,generator=diffusion", {"avdiff_plus__space": "both"})}
DEPTH = {"model__depth": 3, "model__switch": 2}  # so that all patterns of attention differ


def other_values(field: str, value) -> tuple:
    """What a field may hold instead."""
    if field in OF_FIELD:
        return tuple(other for other in OF_FIELD[field].values if other != value)
    if isinstance(value, bool):
        return (not value,)
    if isinstance(value, float):
        return (value + 0.25,)
    # No other field is a text. A switch layer lies below the depth.
    return (value - 1 if field == "model.switch" else 2 * value or 2,)


def of_methods(config: ConfigDict) -> dict:
    """The fields that belong to methods, with their values."""
    return {name: value for name, value in fields(config)
            if name.startswith(OF_METHODS) or name.split(".")[0] in METHODS}


def trace(function, *args) -> str:
    """The program of a function, with the arrays in it, as a hash."""
    program = jax.make_jaxpr(function)(*args)
    text = re.sub(r"name=\S+|0x[0-9a-f]+", "", str(program))
    constants = [str(np.asarray(x).tobytes()) for x in program.consts]
    return hashlib.sha256("".join([text, *constants]).encode()).hexdigest()


def compute_losses(method: Method, info: Info, substage: int, role: str, variables, batch, key):
    """The losses of all players; what `train.step.update` makes of them reads no configuration."""
    features, stats = method.features(info, variables, batch, key, True)
    variables = variables.replace(stats=stats)
    return [
        player.loss(info, variables, features, batch, key, role)
        for player in method.players(info, substage)
    ]


def parts(name: str, info: Info) -> Iterator:
    """All that a method makes of a configuration, what is quick to make first."""
    method = METHODS[name]
    batch, key = jax.eval_shape(lambda: (toy.empty(info), toy.key(0)))
    for substage in (1, 2):
        players = method.players(info, substage)
        yield [player._replace(loss=len) for player in players], method.frozen(info, substage)
    initialise = partial(method.init, info)
    variables = jax.eval_shape(initialise, batch, key)
    yield jax.tree.structure(variables), [x.shape for x in jax.tree.leaves(variables)]
    for substage, role in ((1, "base"), (2, "novel")):
        if method.players(info, substage):
            yield trace(partial(compute_losses, method, info, substage, role),
                        variables, batch, key)
    yield trace(initialise, batch, key)
    yield trace(
        lambda v, b, k: method.scores(info, v, method.features(info, v, b, k, False)[0]),
        variables, batch, key,
    )
    if method.generate and (info.config.generator != "none" or not reads(name, "generator")):
        labels = jax.ShapeDtypeStruct((3,), "int32")
        yield trace(partial(method.generate, info), variables, labels, key)


def changed(info: Info, field: str, value) -> Info:
    """`info` with another value of a field in its configuration."""
    config = info.config.copy_and_resolve_references()
    config.update_from_flattened_dict({field: value})
    return info._replace(config=config)


@cache
def usual(name: str) -> tuple[Info, list, frozenset[str]]:
    """A method's information, the parts that it makes of it, and the fields that it looks at."""
    words, changes = WHOLE.get(name, (name, {}))
    info, seen = toy.info(words, **DEPTH, **changes), set()
    watched = info._replace(config=Recorded(info.config, seen))
    return info, list(parts(name, watched)), frozenset(seen)


# Tracing a method once for each field takes ten seconds.
@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_field_that_is_read_changes_something(name):
    info, before, _ = usual(name)
    dead = []
    for field, value in of_methods(info.config).items():
        if not reads(name, field) or field == "train.crops":  # of the cache of fused clips
            continue
        for other in other_values(field, value):
            after = parts(name, changed(info, field, other))
            if all(a == b for a, b in zip(after, before, strict=False)):
                dead.append(f"{field}={other}")
    assert not dead


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[] if name in ("avdiff", "avdiff_plus", "ncm") else pytest.mark.slow)
    for name in METHODS
])
def test_any_other_field_is_refused_and_changes_nothing(name):
    info, before, seen = usual(name)
    for field, value in of_methods(info.config).items():
        if reads(name, field):
            continue
        for other in other_values(field, value):
            after = changed(info, field, other)
            with pytest.raises(UserError, match=f"{field}={other} means nothing to method={name}"):
                check(after.config, info.config)
            # One that was never looked at changes nothing. A method that is about two modalities
            # cannot be built with one.
            if field in seen and field != "model.modality":
                assert list(parts(name, after)) == before, field


@pytest.mark.parametrize("name", METHODS)
def test_the_rest_of_the_package_reads_the_rest(name):
    """Methods look at no field of the data, the schedule or the evaluation."""
    info, _, seen = usual(name)
    assert seen <= {*of_methods(info.config), "method"}
    check(info.config, info.config)


@pytest.mark.parametrize("name", METHODS)
def test_crops_are_of_methods_that_freeze(name):
    frozen = METHODS[name].frozen(toy.info(name), 2)
    assert reads(name, "train.crops") == reads(name, "train.frozen_mode") == bool(frozen.groups)


@pytest.mark.parametrize(
    "name, field, value, complaint",
    [
        ("mbt", "generator", "gaussian", "generator=gaussian means nothing to method=mbt"),
        ("avgan", "generator", "none", "leave it at diffusion, or choose one of avdiff"),
        ("tsl", "diffusion.condition", "prototype", "one of avdiff, avgan"),
        ("tcaf", "model.attention", "full", "model.attention=full means nothing to method=tcaf"),
        ("avca", "model.modality", "audio", "leave it at both"),
        ("mbt", "model.switch", 5, "model.switch=5 must be at most model.depth=2"),
    ],
)
def test_choices_are_refused_whatever_they_were_before(name, field, value, complaint):
    config = toy.config(name)
    check(config)
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=complaint):
        check(config)


# What leaves other fields without meaning, tried with the methods that read most.
LEFT_OUT = [
    ("avdiff", "model.attention", "full"), ("avdiff", "model.attention", "cross"),
    ("avdiff", "generator", "none"), ("avdiff", "generator", "gaussian"),
    ("avdiff", "diffusion.few_steps", 5), ("avdiff", "train.frozen_mode", "eval"),
    ("avdiff", "model.modality", "audio"), ("avdiff", "diffusion.condition", "prototype"),
    ("avdiff_plus", "generator", "none"),
]


@pytest.mark.slow
@pytest.mark.parametrize("name, choice, value", LEFT_OUT)
def test_a_field_without_meaning_beside_another_is_refused(name, choice, value):
    """With `choice` at `value`, each field that is read still changes something or is refused."""
    whole = usual(name)[0]
    config = changed(whole, choice, value).config
    if config.generator == "none" and name == "avdiff_plus":
        config.avdiff_plus.head = "gaussian"
    seen = set()
    info = whole._replace(config=config)
    before = list(parts(name, info._replace(config=Recorded(config, seen))))
    unseen = set()
    for field, old in of_methods(config).items():
        if not reads(name, field) or field in (choice, "train.crops"):
            continue
        after = changed(info, field, other_values(field, old)[0])
        if missing(field, dict(fields(config))):
            other = f"({choice}={value}|avdiff_plus.head=gaussian)"  # the second follows from none
            with pytest.raises(UserError, match=f"{field}=.* means nothing with {other}"):
                check(after.config, config)
            # The condition stays among the variables, for nobody.
            if field in seen and field != "diffusion.condition":
                assert list(parts(name, after)) == before, field
        else:
            check(after.config, config)
            unseen |= {field} - seen
    assert not unseen


def test_depth_needs_no_switch_where_none_is_read():
    check(toy.config("zorro", model__depth=1, model__switch=2))
