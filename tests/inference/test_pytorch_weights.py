"""Published checkpoints as model files; what they compute is in test_golden.py too."""

import dataclasses
import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

from avdiff_jax.data.clips import Clip
from avdiff_jax.data.splits import from_store, split_file
from avdiff_jax.data.store import open_store
from avdiff_jax.data.store_writer import write_store
from avdiff_jax.data.windows import Lengths
from avdiff_jax.errors import Note, UserError
from avdiff_jax.inference import contents, pytorch_weights
from avdiff_jax.inference import model as models
from avdiff_jax.methods.method import Info
from configs import common
from tests import ROOT
from tests.io.torch_files import Parameter, Sparse, Tensor, write

# Of the library that reads configuration files.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

FOLDER = ROOT / "tests" / "golden"
SECONDS = (0.96, 0.64)
# The sizes of the recorded model as flags of launch/convert.py.
SIZES = {
    "model.depth": 3, "model.switch": 2, "model.dim": 24, "model.heads": 2, "model.head_dim": 8,
    "model.mlp": 16, "model.enc_hidden": 16, "model.code": 6, "model.proj_hidden": 16,
    "model.width": 8, "diffusion.steps": 10, "diffusion.hidden": 16,
}


@pytest.fixture(scope="module")
def golden():
    with np.load(FOLDER / "state_and_inputs.npz") as file:
        arrays = dict(file)
    state = {k[3:]: v for k, v in arrays.items() if k.startswith("sd/")}
    return state, {k[3:]: v for k, v in arrays.items() if k.startswith("in/")}


def lists(inputs):
    """The recorded batch as one array a clip, without padding."""
    out = []
    for name, seconds in zip(("audio", "video"), SECONDS, strict=True):
        counts = inputs[f"{name}_mask"].sum(1).astype(int)
        time = inputs[f"timestep_{name}"]
        for row, count in zip(time, counts, strict=True):
            np.testing.assert_allclose(row[:count], np.arange(count) * seconds, atol=1e-6)
        rows = zip(inputs[name], counts, strict=True)
        out.append([row[:count] for row, count in rows])
    return out


@pytest.fixture
def info(golden):
    c = common.base()
    for name, value in SIZES.items():
        group, field = name.split(".")
        c[group][field] = value
    base = np.array([True, True, True, False, False])
    text = golden[1]["class_embeddings"]
    return Info(c, tuple("abcde"), base, text, np.zeros(12), np.full(12, 1 / 255), 20)


def unchecked(path):
    """The model, on values that the store of `files` has nothing like."""
    return dataclasses.replace(models.load(path), trained_on=None)


def want():
    with np.load(FOLDER / "eval_hybrid_Z2_L3.npz") as file:
        return file["softmax"]


def converted(state, info):
    return pytorch_weights.trained("best.pt", state, info, SECONDS, Lengths(5, 7), 0.0)


def test_converted_written_read_and_scored(golden, info, tmp_path):
    state, inputs = golden
    converted(state, info).save(tmp_path / "model.npz")
    with pytest.warns(Note, match="does not describe its training clips"):
        model = models.load(tmp_path / "model.npz")
    scores = model.scores(*lists(inputs))
    error = np.abs(scores - want()).max()
    print(f"softmax of the converted golden state: largest error {error:.1e}")
    assert error < 1e-5
    np.testing.assert_allclose(model.probabilities(scores), scores, atol=1e-6)  # nothing fitted


def test_weights_that_are_no_numbers_are_refused(golden, info):
    state = dict(golden[0])
    state["classifier.bias"] = np.full_like(state["classifier.bias"], np.nan)
    with pytest.raises(UserError, match=r"best.pt holds NaN or infinity in params/cls/bias"):
        converted(state, info)


def test_every_weight_counts(golden):
    """Each used array changes ours when it changes; the others are named as unused."""
    state, _ = golden
    used = sorted(set(state) - set(pytorch_weights.unused(state)))
    assert pytorch_weights.unused(state) == sorted(
        n for n in state if n.startswith("discriminator") or n.endswith("num_batches_tracked")
    )
    ours = contents.flat(pytorch_weights.variables(state, {}))
    for name in used:
        changed = contents.flat(pytorch_weights.variables({**state, name: state[name] + 1}, {}))
        assert sum((changed[k] != ours[k]).any() for k in ours) == 1, name


@pytest.mark.parametrize(
    "change, complaint",
    [
        (lambda s: s.pop("O_proj.fc.0.bias"), r"lacks \['O_proj.fc.0.bias'\] \(1 in all\)"),
        (lambda s: s.update(extra=np.zeros(3)), r"holds \['extra'\] \(1 in all\)"),
        (lambda s: s.update({"classifier.bias": np.zeros(7, np.float32)}),
         r"params/cls/bias of shape \(7,\) where the configuration and 5 classes ask for \(5,\)"),
    ],
)
def test_weights_that_do_not_fit(change, complaint, golden, info):
    state = dict(golden[0])
    change(state)
    with pytest.raises(UserError, match=complaint):
        converted(state, info)


@pytest.fixture(scope="module")
def command():
    spec = importlib.util.spec_from_file_location("convert", ROOT / "launch" / "convert.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture
def files(golden, tmp_path, monkeypatch):
    """A store and split of five classes with the golden text vectors, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    clips = (
        Clip(f"{name}{i}", name, None, rng.integers(0, 256, (5, 12)), rng.random((7, 20)))
        for name in "abcde" for i in range(8)
    )
    write_store(
        "s.h5", name="s", clips=clips, class_names="abcde",
        class_text=golden[1]["class_embeddings"], audio_seconds=0.96, video_seconds=0.64,
        provenance={},
    )
    made = from_store.make_split(
        open_store("s.h5"), 2, 0, base=list("ab"), novel1=["c"], novel2=list("de"), by="clip"
    )
    split_file.write(made, "s.json")
    return tmp_path


WORDS = [
    "--checkpoint", "best.pt", "--config", "configs/ucf.py:5shot,published", "--store", "s.h5",
    "--split", "s.json", "--out", "model.npz", *(f"--config.{k}={v}" for k, v in SIZES.items()),
]


def refused(command, words, capsys):
    with pytest.raises(SystemExit) as stop:
        command(words)
    assert stop.value.code == 2 and not Path("model.npz").exists()
    return capsys.readouterr().err


def checkpoint(state, kind=None, prefix="", wrap=lambda tensor: tensor):
    """best.pt with a state, as the published code writes it."""
    tensors = {
        prefix + name: wrap(Tensor(array, STORAGE.get(array.dtype.kind) or kind, key=str(i)))
        for i, (name, array) in enumerate(state.items())
    }
    write("best.pt", {"model": tensors, "epoch": 3, "optimizer": {"lr": 0.1}})


STORAGE = {"i": "LongStorage"}


def test_command(command, files, golden, capsys):
    checkpoint(golden[0], "FloatStorage")
    command(WORDS)
    out = capsys.readouterr().out
    assert "85 arrays of best.pt used, 10 unused: A_enc.fc.1.num_batches_tracked" in out
    model = unchecked("model.npz")
    assert model.kinds == ("base",) * 3 + ("novel",) * 2 and model.seconds == SECONDS
    assert np.abs(model.scores(*lists(golden[1])) - want()).max() < 1e-5
    Path("names.txt").write_text("e\nd\nc\nb\na\n")
    command([*WORDS[:-len(SIZES)], "--overwrite", "--classes", "names.txt",
             *WORDS[-len(SIZES):]])
    turned = unchecked("model.npz")
    assert turned.info.classes == tuple("edcba") and turned.kinds[:2] == ("novel",) * 2
    jax.tree.map(np.testing.assert_array_equal, turned.vars.params, model.vars.params)
    np.testing.assert_array_equal(turned.info.text, model.info.text[::-1])


@pytest.mark.parametrize("kind, more, most", [
    ("BFloat16Storage", {}, 0.02),
    ("FloatStorage", {"wrap": Parameter}, 1e-5),
    ("FloatStorage", {"prefix": "module."}, 1e-5),
])
def test_other_forms_of_the_same_weights(kind, more, most, command, files, golden, capsys):
    checkpoint(golden[0], kind, **more)
    command(WORDS)
    scores = unchecked("model.npz").scores(*lists(golden[1]))
    assert np.abs(scores - want()).max() < most
    said = "begin with 'module.', which a wrapper of PyTorch" in capsys.readouterr().err
    assert said == ("prefix" in more)


def test_files_that_are_no_checkpoint(command, files, golden, capsys):
    assert "best.pt cannot be read" in refused(command, WORDS, capsys)
    write("best.pt", {"model": [1, 2]})
    assert "a dict without named tensors" in refused(command, WORDS, capsys)
    write("best.pt", {"model": {"w": Sparse()}})
    assert "asks for torch._utils._rebuild_sparse_tensor" in refused(command, WORDS, capsys)
    write("best.pt", {"model": Path("x")})  # an object that only code could bring to life
    assert "asks for pathlib.PosixPath" in refused(command, WORDS, capsys)
    Path("best.pt").write_text("text")
    assert "is not a readable pickle" in refused(command, WORDS, capsys)


def test_command_refuses(command, files, golden, capsys):
    checkpoint(golden[0], "FloatStorage")
    assert "data.audio_scale=255, not standardize" in refused(
        command, [*WORDS, "--config.data.audio_scale=standardize"], capsys)
    assert "unrecognized arguments: more" in refused(command, [*WORDS, "more"], capsys)
    assert "holds params/fusion/block0/" in refused(
        command, [*WORDS, "--config.model.mlp=32"], capsys)
    Path("names.txt").write_text("e\nd\nc\nb\nf\n")
    assert "('a' is in one of them)" in refused(
        command, [*WORDS, "--classes", "names.txt"], capsys)


def test_with_pytorch(command, files, golden, capsys):
    """The file as the published code writes it."""
    torch = pytest.importorskip("torch")
    state = {name: torch.tensor(array) for name, array in golden[0].items()}
    torch.save({"model": state, "epoch": 3, "optimizer": {"lr": 0.1}}, "best.pt")
    command(WORDS)
    assert np.abs(unchecked("model.npz").scores(*lists(golden[1])) - want()).max() < 1e-5
