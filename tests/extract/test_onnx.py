"""Encoders of ONNX: tiny models that are made here, by what the JSON beside them says."""

import json

import numpy as np
import pytest

pytest.importorskip("av")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx

from avdiff_jax.errors import UserError
from avdiff_jax.extract import encoders, recipes
from avdiff_jax.extract.onnx import read_settings

PLAIN = recipes.RECIPES["plain"]
IMAGE = {"modality": "image", "size": 8, "mean": [0.5, 0.25, 0.0], "std": [0.5, 1.0, 2.0],
         "window": 0.32, "frames": 2}
VIDEO = IMAGE | {"modality": "video", "frames": 4, "axes": "CTHW"}
AUDIO = {"modality": "audio", "rate": 8000, "window": 0.5, "hop": 0.25}


def write_model(path, shape, axes, batch="batch", outputs=("features",), keep=False):
    """A model that averages its input over `axes`."""
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    kept = [1 if axis in axes else size for axis, size in enumerate(shape, 1)
            if keep or axis not in axes]
    nodes = [helper.make_node("ReduceMean", ["seen", "axes"], [name], keepdims=int(keep))
             for name in outputs]
    graph = helper.make_graph(
        nodes, "mean", [helper.make_tensor_value_info("seen", float32, [batch, *shape])],
        [helper.make_tensor_value_info(name, float32, [batch, *kept]) for name in outputs],
        [helper.make_tensor("axes", onnx.TensorProto.INT64, [len(axes)], axes)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)


def make(tmp_path, settings, shape, axes, modality, **more):
    write_model(tmp_path / "model.onnx", shape, axes, **more)
    (tmp_path / "model.json").write_text(json.dumps(settings))
    return encoders.make(f"onnx:{tmp_path / 'model.onnx'}", modality, PLAIN)


def encode(encoder, tokens):
    return encoder.finish(np.asarray(encoder.start(tokens)))[: len(tokens)]


def test_images_are_averaged_over_a_token(tmp_path):
    encoder = make(tmp_path, IMAGE, [3, 8, 8], [2, 3], "video")
    assert (encoder.dim, encoder.batch, encoder.plan.seconds) == (3, 16, 0.32)
    assert encoder.plan.which == (2, 6)
    frames = np.random.default_rng(0).integers(0, 256, (2, 2, 8, 8, 3), np.uint8)
    features = encode(encoder, [(frames[0], np.int32(2)), (frames[1], np.int32(1))])
    seen = (frames / 255 - IMAGE["mean"]) / np.array(IMAGE["std"])
    means = seen.mean((2, 3))  # [token, frame, colour]
    np.testing.assert_allclose(features, [means[0].mean(0), means[1, 0]], rtol=1e-5, atol=1e-6)


def test_a_video_model_sees_its_frames_together(tmp_path):
    encoder = make(tmp_path, VIDEO, [3, 4, 8, 8], [1, 3, 4], "video", batch=5)
    assert (encoder.dim, encoder.batch) == (4, 5)
    frames = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    seen = (frames / 255 - IMAGE["mean"]) / np.array(IMAGE["std"])
    np.testing.assert_allclose(
        encode(encoder, [(frames, np.int32(4))]), [seen.mean((1, 2, 3))], rtol=1e-5, atol=1e-6)


def test_sound(tmp_path):
    encoder = make(tmp_path, AUDIO, [4000], [1], "audio", keep=True)
    plan = encoder.plan
    assert (plan.rate, plan.window, plan.hop, encoder.dim) == (8000, 4000, 2000, 1)
    wave = np.random.default_rng(0).normal(size=4000).astype(np.float32)
    tokens = [(plan.see(wave), np.int32(0), np.int32(4000))]
    np.testing.assert_allclose(encode(encoder, tokens), [[wave.mean()]], rtol=1e-4)
    assert [plan.count(samples) for samples in (3999, 4000, 5999, 6000)] == [0, 1, 1, 2]


def test_the_named_output(tmp_path):
    for name in ("first", "second"):
        encoder = make(tmp_path, IMAGE | {"output": name}, [3, 8, 8], [2, 3], "video",
                       outputs=("first", "second"))
        assert encoder.dim == 3
    with pytest.raises(UserError, match=r"names the output 'third' and .* has 'first', 'second'"):
        make(tmp_path, IMAGE | {"output": "third"}, [3, 8, 8], [2, 3], "video",
             outputs=("first", "second"))


def test_identity_changes_with_model_and_description(tmp_path):
    names = {make(tmp_path, IMAGE, [3, 8, 8], [2, 3], "video").identity,
             make(tmp_path, IMAGE, [3, 8, 8], [1, 2], "video").identity,
             make(tmp_path, IMAGE | {"frames": 4}, [3, 8, 8], [2, 3], "video").identity}
    assert len(names) == 3


def test_what_does_not_fit(tmp_path):
    with pytest.raises(UserError, match=r"does not take what .*model\.json says"):
        make(tmp_path, IMAGE | {"size": 9}, [3, 8, 8], [2, 3], "video")
    with pytest.raises(UserError, match=r"output of shape \(16, 3, 8\) where \(batch, features\)"):
        make(tmp_path, IMAGE, [3, 8, 8], [3], "video")
    with pytest.raises(UserError, match="an encoder of video and was asked for audio"):
        make(tmp_path, IMAGE, [3, 8, 8], [2, 3], "audio")
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match="is no model that ONNX Runtime"):
        encoders.make(f"onnx:{tmp_path / 'model.onnx'}", "video", PLAIN)
    (tmp_path / "model.json").unlink()
    with pytest.raises(UserError, match=r"model\.json cannot be read"):
        encoders.make(f"onnx:{tmp_path / 'model.onnx'}", "video", PLAIN)


@pytest.mark.parametrize("settings, complaint", [
    ("{", "is no JSON"),
    ("[]", "has the modality None where one of image, audio, video"),
    (IMAGE | {"modality": "smell"}, "has the modality 'smell'"),
    (IMAGE | {"sizes": 3}, "has the key 'sizes', which is none of size, shorter"),
    ({"modality": "audio", "window": 1.0}, "lacks the key 'rate'"),
    (IMAGE | {"size": "8"}, "has size = '8' where a int is needed"),
    (IMAGE | {"size": True}, "has size = True where"),
    (IMAGE | {"size": 0}, "has size = 0, which must be of 1 to 4096"),
    (IMAGE | {"shorter": 4}, "has shorter = 4, which must be at least size"),
    (IMAGE | {"window": 0}, "has window = 0"),
    (IMAGE | {"frames": 9}, "has frames = 9, which must be at least 1 and at most 25 a second"),
    (IMAGE | {"mean": [1, 2]}, "has mean = .* three numbers"),
    (IMAGE | {"std": [1, 0, 1]}, "has std = .* other than 0"),
    (VIDEO | {"axes": "TCWW"}, "has axes = 'TCWW'"),
    (AUDIO | {"rate": 10}, "has rate = 10"),
    (AUDIO | {"hop": 2}, "has hop = 2"),
])
def test_descriptions(settings, complaint, tmp_path):
    text = settings if isinstance(settings, str) else json.dumps(settings)
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(UserError, match=complaint):
        read_settings(tmp_path / "model.json")
