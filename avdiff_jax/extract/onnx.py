"""Any encoder that was exported to ONNX: FILE.onnx and FILE.json beside it, by ONNX Runtime.

The JSON says what the model is given:

    {"modality": "image", "size": 224, "shorter": 256, "mean": [0.48, 0.46, 0.41],
     "std": [0.27, 0.26, 0.28], "window": 0.64, "frames": 2, "output": "embedding"}
    {"modality": "video", "size": 224, "mean": [...], "std": [...], "window": 0.64, "frames": 16,
     "axes": "TCHW", "output": "pooled"}
    {"modality": "audio", "rate": 48000, "window": 10.0, "output": "embedding"}

Pixels are RGB in 0..1, less `mean`, divided by `std`. `window` is the seconds of a token, in which
`frames` frames are spread evenly. An image model sees each of them by itself, [batch, 3, size,
size], and their outputs are averaged; a video model sees them together, [batch, T, C, H, W] or in
the order of `axes`. A model of sound sees [batch, samples] in -1..1.
"""

import hashlib
import json
import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from avdiff_jax.errors import UserError
from avdiff_jax.extract import frames, weights
from avdiff_jax.extract.tokens import FramePlan, Plan, WavePlan, count_whole, spread
from avdiff_jax.io import text_files
from avdiff_jax.io.files import FilePath

FPS = 25.0
BATCH = 16  # where the model leaves it open

# Key -> (types, default); None: the key is needed.
KEYS: dict[str, dict[str, tuple[tuple[type, ...], Any]]] = {
    "image": {
        "size": ((int,), None), "shorter": ((int,), 0), "mean": ((list,), None),
        "std": ((list,), None), "window": ((int, float), 0.64), "frames": ((int,), 2),
        "output": ((str,), ""),
    },
    "audio": {
        "rate": ((int,), None), "window": ((int, float), None), "hop": ((int, float), 0),
        "output": ((str,), ""),
    },
}
KEYS["video"] = KEYS["image"] | {"frames": ((int,), None), "axes": ((str,), "TCHW")}


@dataclass(frozen=True, eq=False)
class Model:
    """An open model and what it is given."""

    path: str
    modality: str
    plan: Plan
    batch: int
    dim: int
    identity: str
    session: Any  # onnxruntime.InferenceSession
    settings: dict[str, Any]

    def run(self, seen: np.ndarray, *rest: np.ndarray) -> np.ndarray:
        """Batched inputs of tokens -> [batch, dim] float32."""
        kind = self.settings["modality"]
        if kind == "audio":
            return self._call(seen)
        mean, std = (np.float32(self.settings[key]) for key in ("mean", "std"))
        pixels = (seen.astype(np.float32) / 255 - mean) / std  # [batch, T, H, W, C]
        if kind == "video":
            order = ["THWC".index(axis) + 1 for axis in self.settings["axes"]]
            return self._call(np.ascontiguousarray(pixels.transpose(0, *order)))
        images = np.ascontiguousarray(pixels.transpose(1, 0, 4, 2, 3))  # T calls of a batch each
        features = np.stack([self._call(batch) for batch in images])
        there = np.arange(len(images))[:, None, None] < rest[0][None, :, None]
        return np.where(there, features, 0).sum(0) / np.maximum(rest[0], 1)[:, None]

    def _call(self, batch: np.ndarray) -> np.ndarray:
        name = self.session.get_inputs()[0].name
        outputs = [self.settings["output"]] if self.settings["output"] else None
        features = self.session.run(outputs, {name: batch})[0]
        if features.ndim != 2 or len(features) != self.batch or not features.shape[1]:
            raise UserError(f"{self.path} gives an output of shape {features.shape} where (batch, "
                            f"features) = ({self.batch}, ...) is needed: name another `output` in "
                            f"the JSON beside it")
        return features.astype(np.float32)


def open_model(path: FilePath) -> Model:
    """Opens a model and reads the JSON beside it.

    Raises:
      UserError: ONNX Runtime is not installed, a file is missing or unfit, or the model does not
        give [batch, features] for what the JSON says.
    """
    try:
        import onnxruntime
    except ImportError:
        raise UserError(f"{path} needs ONNX Runtime, which is not installed: pip install "
                        f"onnxruntime") from None
    path = os.fspath(path)
    beside = os.path.splitext(path)[0] + ".json"
    identity = weights.digest(path)
    settings = read_settings(beside)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, options, providers=_providers(onnxruntime))
    except Exception as error:  # of many kinds, none of which are public
        raise UserError(f"{path} is no model that ONNX Runtime {onnxruntime.__version__} opens "
                        f"({_first_line(error)}): export it again") from None
    known = [output.name for output in session.get_outputs()]
    if settings["output"] and settings["output"] not in known:
        raise UserError(f"{beside} names the output {settings['output']!r} and {path} has "
                        f"{', '.join(map(repr, known))}: change it")
    stated = session.get_inputs()[0].shape[:1]
    batch = stated[0] if stated and isinstance(stated[0], int) else BATCH
    text = json.dumps(settings, sort_keys=True)
    digest = hashlib.sha256((identity + text).encode()).hexdigest()
    model = Model(
        path, "audio" if settings["modality"] == "audio" else "video", plan_of(settings), batch, 0,
        f"onnx-{os.path.basename(path)}-{digest[:16]}", session, settings)
    try:
        features = model.run(*_zeros(model))  # they tell how many there are
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path} does not take what {beside} says ({_first_line(error)}): mend "
                        f"the JSON") from None
    return replace(model, dim=features.shape[1])


def _zeros(model: Model) -> tuple[np.ndarray, ...]:
    plan, batch = model.plan, model.batch
    if isinstance(plan, WavePlan):
        return (np.zeros((batch, plan.window), np.float32),)
    shape = (batch, len(plan.which), plan.side, plan.side, 3)
    return np.zeros(shape, np.uint8), np.full(batch, len(plan.which), np.int32)


def _providers(onnxruntime: Any) -> list[str]:
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    return [name for name in wanted if name in onnxruntime.get_available_providers()]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def read_settings(path: FilePath) -> dict[str, Any]:
    """The JSON beside a model, with the defaults. Raises UserError naming the first wrong key."""
    try:
        given = json.loads(text_files.text_of(path, "encoder description"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is no JSON ({error}): mend it") from None
    kind = given.get("modality") if isinstance(given, dict) else None
    if kind not in KEYS:
        raise UserError(f"{path} has the modality {kind!r} where one of {', '.join(KEYS)} is "
                        f"needed: mend it")
    keys = KEYS[kind]
    if unknown := sorted({*given} - {*keys, "modality"}):
        raise UserError(f"{path} has the key {unknown[0]!r}, which is none of {', '.join(keys)}: "
                        f"mend it")
    settings = {"modality": kind}
    for key, (types, default) in keys.items():
        value = given.get(key, default)
        if value is None:
            raise UserError(f"{path} lacks the key {key!r}: add it")
        if not isinstance(value, types) or isinstance(value, bool):
            raise UserError(f"{path} has {key} = {value!r} where a "
                            f"{' or '.join(t.__name__ for t in types)} is needed: mend it")
        settings[key] = value
    _check_values(path, settings)
    return settings


def _check_values(path: FilePath, settings: dict[str, Any]) -> None:
    """Numbers that mean something together."""

    def check(good: bool, key: str, wanted: str) -> None:
        if not good:
            raise UserError(f"{path} has {key} = {settings[key]!r}, which must be {wanted}: mend "
                            f"it")

    check(0 < settings["window"] <= 600, "window", "of 0 to 600 seconds")
    if settings["modality"] == "audio":
        check(1000 <= settings["rate"] <= 192_000, "rate", "of 1000 to 192000 Hz")
        check(0 <= settings["hop"] <= settings["window"], "hop", "of 0 to the window's seconds")
        return
    check(1 <= settings["size"] <= 4096, "size", "of 1 to 4096 pixels")
    check(not settings["shorter"] or settings["size"] <= settings["shorter"] <= 4096, "shorter",
          "at least size")
    check(1 <= settings["frames"] <= settings["window"] * FPS, "frames",
          f"at least 1 and at most {FPS:g} a second of the window")
    for key in ("mean", "std"):
        numbers = all(type(value) in (int, float) for value in settings[key])
        check(len(settings[key]) == 3 and numbers, key, "three numbers")
    check(all(settings["std"]), "std", "of numbers other than 0")
    if settings["modality"] == "video":
        check(sorted(settings["axes"]) == sorted("TCHW"), "axes", "an order of TCHW")


def plan_of(settings: dict[str, Any]) -> Plan:
    """What a token is made of."""
    if settings["modality"] == "audio":
        window = round(settings["window"] * settings["rate"])
        hop = round((settings["hop"] or settings["window"]) * settings["rate"])
        return WavePlan(settings["rate"], window, hop, 0, count_whole(window, hop),
                        lambda values: values)
    size, shorter = settings["size"], settings["shorter"] or settings["size"]
    every = round(settings["window"] * FPS)
    return FramePlan(FPS, every, spread(every, settings["frames"]), size,
                     lambda image: frames.see_square(image, shorter, size))
