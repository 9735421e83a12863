"""Configurations that earlier code has saved, in model files, workdirs and results, as today's code
means them.

Version 0.1 chose the sizes of some methods by the name of the data set, whatever their fields said;
now the fields decide. The numbers below are those that it chose, and stay as they are.
"""

from collections.abc import Callable, Mapping
from typing import Any

BENCHMARK = ("activitynet", "ucf", "vggsound")
SMALL = ("synthetic", "own")
TCAF = {  # depth, dropouts of embedding nets, tokens, blocks, projection
    "activitynet": (6, 0.3, 0.2, 0.4, 0.1),
    "ucf": (6, 0.3, 0.2, 0.3, 0.1),
    "vggsound": (8, 0.2, 0.1, 0.5, 0.2),
}
AVCA = {"activitynet": (0.2, 0.2, 0.1), "ucf": (0.2, 0.3, 0.5), "vggsound": (0.0, 0.0, 0.0)}
AVGAN = {"activitynet": (32, 128), "ucf": (64, 64), "vggsound": (128, 128)}
HIP_BENCHMARK = {
    "level1": {"latents": 8, "dim": 128, "heads": 4, "head_dim": 32},
    "level2": {"latents": 16, "dim": 256, "heads": 8, "head_dim": 32},
    "latents": 32, "layers": 2, "cross_dim": 128,
}
HIP_SMALL = {
    "level1": {"latents": 4, "dim": 32, "heads": 4, "head_dim": 8},
    "level2": {"latents": 8, "dim": 48, "heads": 4, "head_dim": 12},
    "latents": 16, "layers": 2, "cross_dim": 32,
}


def upgrade(config: Mapping[str, Any]) -> dict[str, Any]:
    """Gives a saved configuration the fields that it lacks, and where its method overruled a field
    the value that it used instead; one that has its method's group of fields stays as it is.

    Args:
      config: nested, as it was read; it is not changed.
    """
    copy = {name: dict(x) if isinstance(x, Mapping) else x for name, x in config.items()}
    if isinstance(copy.get("train"), dict):
        copy["train"].setdefault("draws", "auto")  # a run goes on as it began
    method = config.get("method")
    if method in UPGRADES and method not in config:
        copy[method] = UPGRADES[method](copy)
    return copy


def _rate(config: dict[str, Any]) -> dict[str, Any]:
    benchmark = config["dataset"] in BENCHMARK
    return {"learning_rate": 1e-4 if benchmark else config["train"]["learning_rate"]}


def _avgan(config: dict[str, Any]) -> dict[str, Any]:
    noise, hidden = AVGAN.get(config["dataset"], (64, 64))
    return {**_rate(config), "noise": noise, "critic_hidden": hidden}


def _protogan(config: dict[str, Any]) -> dict[str, Any]:
    return {**_rate(config), "nonnegative": config["dataset"] in BENCHMARK}


def _tsl(config: dict[str, Any]) -> dict[str, Any]:
    config["train"]["frozen_mode"] = "eval"
    return _rate(config)


def _tcaf(config: dict[str, Any]) -> dict[str, Any]:
    if config["dataset"] in TCAF:
        names = ("depth", "dropout_enc", "dropout_tokens", "dropout_blocks", "dropout_proj")
        config["model"] |= dict(zip(names, TCAF[config["dataset"]], strict=True))
    return {"dropout_text": 0.1}


def _avca(config: dict[str, Any]) -> dict[str, Any]:
    model = config["model"]
    rates = model["dropout_enc"], model["dropout_proj"], model["dropout_proj"]
    rates = AVCA.get(config["dataset"], rates)
    model["dropout_enc"], model["dropout_proj"], rate_text = rates
    return {"dropout_text": rate_text}


def _zorro(config: dict[str, Any]) -> dict[str, Any]:
    return {"tokens": 8 if config["dataset"] in SMALL else 16}


def _perceiver(config: dict[str, Any]) -> dict[str, Any]:
    return {"latents": {"synthetic": 16, "own": 32}.get(config["dataset"], 64)}


def _hip(config: dict[str, Any]) -> dict[str, Any]:
    return HIP_SMALL if config["dataset"] in SMALL else HIP_BENCHMARK


UPGRADES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "avgan": _avgan, "protogan": _protogan, "tsl": _tsl, "tcaf": _tcaf, "avca": _avca,
    "zorro": _zorro, "perceiver": _perceiver, "hip": _hip,
}
