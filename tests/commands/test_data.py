"""launch/data.py as a user meets it: what it prints, what it leaves, how it fails."""

import importlib.util
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from avdiff_jax.data.splits import split_file
from avdiff_jax.data.store import open_store
from tests import ROOT
from tests.data.samples import Calls, arrays, make_archive, text_file

SCRIPT = ROOT / "launch" / "data.py"


@pytest.fixture(scope="module")
def command():
    """The script's main function: as good as a process, without the start of one."""
    spec = importlib.util.spec_from_file_location("launch_data", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture
def run(command, tmp_path, monkeypatch, capsys):
    """run(words) -> (exit code, stdout, stderr), in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        code = 0
        try:
            command([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code, out, err

    return call


NPZ = [
    "import", "--layout", "npz", "--npz", "f.npz", "--audio-key", "m1", "--video-key", "m2",
    "--label-key", "label", "--class-key", "class_names", "--id-key", "sample_id",
    "--group-key", "who", "--text", "text.csv", "--audio-seconds", "0.5",
    "--video-seconds", "0.25", "--out", "out.h5",
]


@pytest.fixture
def npz(tmp_path):
    text_file(tmp_path, ".csv")
    made = arrays(20)
    np.savez(tmp_path / "f.npz", **made)
    return made


def test_import_npz_reports(run, npz):
    code, out, _ = run(*NPZ, "--pool", "audio=4", "--pool=video=2")
    assert code == 0
    for words in ("clips      20", "classes    2, with 10 clips each", "groups     10",
                  "a token every 2 s", "a token every 0.5 s", "median", "no clips without", "KiB"):
        assert words in out
    store = open_store("out.h5")
    assert (store.audio.seconds, store.video.seconds) == (2.0, 0.5)
    np.testing.assert_array_equal(store.audio.lengths, np.ceil(np.diff(npz["m1_offsets"]) / 4))
    assert store.provenance["pool"] == {"audio": 4, "video": 2} and store.name == "out"


def test_provenance_holds_no_machine_path(run, npz, tmp_path):
    words = [str(tmp_path / word) if word.endswith((".npz", ".csv", ".h5")) else word
             for word in NPZ]
    assert run(*words, f"--text-map={tmp_path / 'map.csv'}")[0] == 2  # no such file
    (tmp_path / "map.csv").write_text("original,manual\ndog,dog\n")
    assert run(*words, f"--text-map={tmp_path / 'map.csv'}")[0] == 0
    provenance = json.dumps(open_store("out.h5").provenance)
    assert str(tmp_path) not in provenance and "/" not in provenance
    assert "--npz f.npz" in provenance and "--text-map=map.csv" in provenance


def test_import_manifest(run, tmp_path):
    text_file(tmp_path, ".csv")
    for name in "abc":
        np.save(f"{tmp_path}/{name}.npy", np.full((3, 2), ord(name)))
    (tmp_path / "list.csv").write_text(
        "clip_id,class,group,audio,video\n1,dog,x,a.npy,b.npy\n2,Cat,x,b.npy,\n")
    words = ["import", "--layout=manifest", "--manifest=list.csv", "--text=text.csv",
             "--audio-seconds=1", "--video-seconds=1", "--out=made/s.h5"]
    code, _, err = run(*words)
    assert code == 2 and "clip '2' has an empty video sequence" in err
    assert not os.path.exists("made")
    assert run(*words, "--may-lack-modality", "--video-dtype=float16")[0] == 0
    store = open_store("made/s.h5")
    assert store.video.lengths.tolist() == [3, 0] and store.video.values.dtype == np.float16
    assert store.groups.tolist() == ["x", "x"]


def test_import_official_with_its_split(run, tmp_path):
    make_archive(tmp_path / "UCF")
    code, out, _ = run("import", "--layout=official", "--root=UCF", "--shots=2", "--out=ucf.h5")
    assert code == 0 and "train1_base" in out and "left out class 'Typing'" in out
    split = split_file.load("ucf-2shot.json")
    assert split["by"] == "official" and split["seed"] is None and split["shots"] == 2
    store = open_store("ucf.h5")
    assert (store.audio.seconds, store.video.seconds) == (0.96, 0.64)
    assert store.audio.values.dtype == np.uint8
    named = {clip for content in split["sets"].values()
             for draw in (content if isinstance(content, list) else [content])
             for ids in draw.values() for clip in ids}
    assert named == set(store.clip_ids)
    code, out, _ = run("inspect", "UCF", "--plot", "UCF.png")
    assert code == 0 and "features for 2 shots" in out and "clips      24" in out
    assert os.path.getsize("UCF.png") > 5000


def test_a_bad_official_split_leaves_nothing(run, tmp_path):
    """One clip short of the shots: found only after the last clip was read."""
    make_archive(tmp_path / "UCF")
    for modality in ("audio", "video"):
        path = tmp_path / f"UCF/features/2-shot/{modality}/stage_1_train_novel/Bowling.pkl"
        content = pickle.loads(path.read_bytes())
        path.write_bytes(pickle.dumps({key: value[:1] for key, value in content.items()}))
    code, _, err = run("import", "--layout=official", "--root=UCF", "--shots=2", "--out=ucf.h5")
    assert code == 2 and "Bowling" in err
    assert sorted(os.listdir()) == ["UCF"]


def test_inspect_a_store_and_a_split(run, npz):
    run(*NPZ)
    code, out, _ = run("inspect", "out.h5", "--plot", "plots/out.png")
    assert code == 0 and "clips      20" in out and "made from  f.npz, text.csv\n" in out
    assert Path("plots/out.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    run("synthesize", "--out=s.h5", "--classes=8", "--clips-per-class=16", "--audio-dim=8",
        "--video-dim=8", "--text-dim=16")
    code, out, _ = run("split", "--store=s.h5", "--base=0.5", "--novel1=2", "--novel2=2",
                       "--shots=2", "--by=clip", "--out=s.json")
    assert code == 0 and "8/4/2/2" in out
    code, out, _ = run("inspect", "s.json", "--plot", "split.png")
    assert code == 0 and "2 shots, by clip, seed 0" in out and os.path.exists("split.png")


def test_what_is_there_is_kept_unless_told(run, npz, tmp_path):
    make_archive(tmp_path / "UCF")
    Path("names.txt").write_text("dog\n")
    small = ["--classes=8", "--clips-per-class=16", "--audio-dim=8", "--video-dim=8",
             "--text-dim=16"]
    run("synthesize", "--out=s.h5", *small)
    split = ["split", "--store=s.h5", "--base=4", "--novel1=2", "--novel2=2", "--shots=2",
             "--by=clip"]
    for command in (NPZ[:-2], ["synthesize", *small], split,
                    ["text", "--classes=names.txt", "--vectors=text.csv"]):
        out = Path("made.npz")
        out.write_text("dear")
        code, _, err = run(*command, f"--out={out}")
        assert code == 2 and "error: made.npz exists already" in err and "--overwrite" in err
        assert out.read_text() == "dear"
        assert run(*command, f"--out={out}", "--overwrite")[0] == 0
        assert out.read_bytes() != b"dear"
    # an archive's own split counts too
    official = ["import", "--layout=official", "--root=UCF", "--shots=2", "--out=ucf.h5"]
    Path("ucf-2shot.json").write_text("dear")
    fails(run, official, "ucf-2shot.json exists already")
    assert not os.path.exists("ucf.h5")


def test_split_by_lists_of_names(run):
    run("synthesize", "--out=s.h5", "--classes=8", "--clips-per-class=16", "--audio-dim=8",
        "--video-dim=8", "--text-dim=16")
    names = open_store("s.h5").class_names
    for flag, part in (("base", names[:4]), ("novel1", names[4:6]), ("novel2", names[6:])):
        Path(f"{flag}.txt").write_text("\n".join(part) + "\n")
    words = ["split", "--store=s.h5", "--shots=2", "--out=s.json", "--base=base.txt",
             "--novel1=novel1.txt"]
    code, _, err = run(*words)
    assert code == 2 and "--store needs --novel2" in err
    code, _, err = run(*words[:-2])
    assert code == 2 and "--store needs --base, --novel1, --novel2: give a count" in err
    assert run(*words, "--novel2=novel2.txt")[0] == 0
    words.append("--overwrite")
    assert split_file.load("s.json")["classes"]["base1"] == sorted(names[:4])
    code, _, err = run(*words, "--novel2=elsewhere.txt")
    assert code == 2 and "--novel2 elsewhere.txt is no count" in err


@pytest.mark.parametrize("name, wanted", [("UCF", "ucf"), ("ActivityNet", "activitynet")])
def test_table_1(run, shared, name, wanted):
    code, out, _ = run("split", "--lists", shared / "lists" / name, "--shots", "5", "--seed", "0",
                       "--out", "split.json")
    table = json.loads((shared / "paper_tables.json").read_text())["table1_5shot"][wanted]
    assert code == 0 and json.loads(Path("split.json").read_text())["counts"] == table
    assert str(table["train2_base"]) in out


def glove(path, *words, dim=4):
    rows = (" ".join([word, *(f"{at + 1 + d}" for d in range(dim))])
            for at, word in enumerate(words))
    Path(path).write_text("\n".join(rows) + "\n")


def test_text_from_word_vectors_is_imported(run, npz):
    glove("glove.txt", "dog", "wild", "cat")
    Path("names.txt").write_text("Cat\n\nWildDog\n dog\n")
    code, out, _ = run("text", "--classes=names.txt", "--words=glove.txt", "--out=made/t.npz")
    assert code == 0 and out == (
        "text       made/t.npz: 3 classes, vectors of 4, unit length, from glove.txt\n")
    with np.load("made/t.npz") as made:
        assert made["names"].tolist() == ["Cat", "WildDog", "dog"]
        np.testing.assert_allclose(np.linalg.norm(made["emb"], axis=1), 1, rtol=1e-6)
    at = NPZ.index("text.csv")
    assert run(*NPZ[:at], "made/t.npz", *NPZ[at + 1:])[0] == 0
    store = open_store("out.h5")
    np.testing.assert_allclose(store.class_text[1], np.array([3, 4, 5, 6]) / 86**0.5, rtol=1e-6)

    # the store's own class list; vectors as they are
    words = ["text", "--classes=out.h5", "--words=glove.txt", "--out=s.npz", "--no-unit"]
    code, out, _ = run(*words)
    assert code == 0 and "2 classes, vectors of 4, from" in out
    with np.load("s.npz") as made:
        np.testing.assert_array_equal(made["emb"], [[1, 2, 3, 4], [3, 4, 5, 6]])


def test_text_says_what_disagrees(run, npz):
    glove("glove.txt", "sit", "stand", "to", "up")
    Path("names.txt").write_text("sit to stand\nstand to sit\nstanding upp\nsit down\n")
    words = ["text", "--classes=names.txt", "--out=t.npz", "--overwrite"]
    fails(run, [*words, "--words=glove.txt"],
          "has no word of 1 of 4 classes: 'standing upp' (close to 'stand', 'up'): respell them")
    Path("map.csv").write_text("original,manual\nStanding upp,stand up\n")
    code, out, _ = run(*words, "--words=glove.txt", "--text-map=map.csv")
    assert code == 0 and "class 'sit down' is averaged without 'down', for which" in out
    assert "'sit to stand' and 'stand to sit' have the same text vector" in out
    fails(run, [*words, "--words=glove.txt", "--text-key=emb"], "--text-key and --text-names mean")

    Path("names.txt").write_text("dgo\ncat\n")
    fails(run, [*words, "--vectors=text.csv"], "no text vector for 1 of 2 classes: 'dgo' (close to")
    Path("names.txt").write_text("cat\n")
    code, out, _ = run(*words, "--vectors=text.csv")
    assert code == 0 and "1 vectors of text.csv are of no class and were left" in out
    Path("text.csv").write_text("cat,0,0\n")
    fails(run, [*words, "--vectors=text.csv"], "no usable text vector (all zeros")


def test_text_of_a_split(run):
    run("synthesize", "--out=s.h5", "--classes=8", "--clips-per-class=16", "--audio-dim=8",
        "--video-dim=8", "--text-dim=16")
    run("split", "--store=s.h5", "--base=0.5", "--novel1=2", "--novel2=2", "--shots=2", "--by=clip",
        "--out=s.json")
    glove("glove.txt", "sound", "sight", "rising", "falling", "1", "2")
    code, out, _ = run("text", "--classes=s.json", "--words=glove.txt", "--out=t.npz")
    assert code == 0 and "8 classes" in out


def hurt_features(made, clip, value):
    made["m1_flat"][made["m1_offsets"][clip], 1] = value


def empty(made):
    made["m2_offsets"][3] = made["m2_offsets"][2]


BAD_ARRAYS = {
    "NaN": (lambda made: hurt_features(made, 3, np.nan), (), "clip 's3' has NaN"),
    "infinite": (lambda made: hurt_features(made, 0, -np.inf), ("--pool", "audio=3"), "clip 's0'"),
    "empty": (empty, (), "clip 's2' has an empty video sequence"),
    "label": (lambda made: made["label"].__setitem__(4, 7), (), "clip 's4' the label 7"),
    "duplicate": (lambda made: made.update(sample_id=["s"] * 20), (), "clip id 's' occurs twice"),
    "class text": (lambda made: made.update(class_names=["dog", "cow"]), (), "classes: 'cow'"),
    "offsets": (lambda made: made.update(m2_offsets=made["m2_offsets"][:-1]), (), "shape (20,)"),
    "pickle": (lambda made: made.update(label=np.array([Calls(os.system, "touch sentinel")])), (),
               "Python objects"),
    "pool": (lambda made: None, ("--pool", "audio=0"), "--pool audio=0"),
    "rate": (lambda made: None, ("--audio-seconds", "-1"), "audio seconds per token is -1.0"),
    "foreign flag": (lambda made: None, ("--root", "x"), "--root means nothing with --layout npz"),
}


@pytest.mark.parametrize("spoil, flags, sentence", BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_bad_arrays(run, npz, spoil, flags, sentence):
    spoil(npz)
    np.savez("f.npz", **npz)
    fails(run, [*NPZ, *flags], sentence)
    assert sorted(os.listdir()) == ["f.npz", "text.csv"]


def fails(run, words, sentence):
    """One sentence on stderr, exit code 2, nothing on stdout."""
    code, out, err = run(*words)
    assert code == 2 and out == ""
    message = err.splitlines()[-1]
    assert sentence in message and "Traceback" not in err
    assert "error: " in message


@pytest.mark.parametrize("words, sentence", [
    (["inspect", "none.h5"], "none.h5 does not exist"),
    (["split", "--store=none.h5", "--base=2", "--novel1=1", "--novel2=1", "--shots=1",
      "--out=s.json"], "store none.h5 does not exist"),
    (["split", "--lists=none", "--shots=1", "--out=s.json"], "none"),
    (["split", "--lists=none", "--base=3", "--shots=1", "--out=s.json"], "--base means nothing"),
    (["split", "--shots=1", "--out=s.json"], "--lists --store is required"),
    (["split"], "required: --shots, --out, --lists or --store (--help"),
    (["split", "--store=s.h5"], "required: --shots, --out (--help"),
    (["import", "--layout=npz", "--out=s.h5", "--npz=f.npz"],
     "--layout npz needs --audio-seconds, --video-seconds: add"),
    (["import", "--layout=manifest", "--out=s.h5", "--root=x", "--shots=1"],
     "--root, --shots means nothing with --layout manifest"),
    (["import", "--layout=official", "--root=none", "--shots=5", "--out=s.h5"], "no folder 'feat"),
    (["import", "--layout=tar", "--out=s.h5"], "invalid choice: 'tar'"),
    (["synthesize", "--out=s.h5", "stray"], "unrecognized arguments: stray"),
    (["synthesize", "--out=s.h5", "--clip=3"], "unrecognized arguments: --clip=3"),
    (["synthesize", "--out=s.h5", "--classes=many"], "invalid int value: 'many'"),
    (["synthesize", "--out=s.h5", "--classes=2"], "--classes is 2"),
    (["inspect", ".", "--plot=p.png"], "no folder 'features'"),
    (["text", "--classes=none", "--words=none", "--out=t.csv"], "--out t.csv does not end in .npz"),
    (["text", "--classes=none", "--words=none", "--out=t.npz"], "class list none cannot be read"),
    (["text", "--classes=none", "--out=t.npz"], "--encoder --words --vectors is required"),
    ([], "required: COMMAND"),
])
def test_bad_commands(run, words, sentence):
    fails(run, words, sentence)
    assert os.listdir() == []


def test_inspect_arrays(run, npz):
    code, out, _ = run("inspect", "f.npz")
    assert code == 0 and "m1_flat" in out and "x 3, float32" in out and "to import" not in out
    np.savez("g.npz", audio_flat=npz["m1_flat"], audio_offsets=npz["m1_offsets"])
    assert "import --layout=npz --npz g.npz --audio-seconds S" in run("inspect", "g.npz")[1]
    Path("f.csv").write_text("a,b\n")
    fails(run, ["inspect", "f.csv"], "f.csv is none of a store (.h5), a split (.json), arrays")


def test_damaged_stores(run, npz):
    run(*NPZ)
    whole = Path("out.h5").read_bytes()
    Path("out.h5").write_bytes(whole[:-64])
    fails(run, ["inspect", "out.h5"], "out.h5 is truncated")
    Path("out.h5").write_bytes(b"text")
    fails(run, ["inspect", "out.h5"], "out.h5 is not HDF5")
    Path("out.h5").write_bytes(whole)
    with h5py.File("out.h5", "r+") as file:
        file["video/values"][0, 0] = np.nan
    fails(run, ["inspect", "out.h5"], "NaN or infinite video features in clip 's0', token 0")
    with h5py.File("out.h5", "r+") as file:
        file.attrs["version"] = 9
    fails(run, ["inspect", "out.h5"], "schema version 9 but this code reads version 1")


def test_hostile_archive(run, tmp_path):
    make_archive(tmp_path / "UCF")
    path = tmp_path / "UCF/features/2-shot/audio/stage_2_test_seen/Archery.pkl"
    path.write_bytes(pickle.dumps(Calls(os.system, f"touch {tmp_path / 'sentinel'}")))
    words = ["import", "--layout=official", "--root=UCF", "--shots=2", "--out=ucf.h5"]
    fails(run, words, "Archery.pkl is refused because its pickle asks for posix.system")
    assert sorted(os.listdir()) == ["UCF"]


def test_unwritable_plot(run):
    run("synthesize", "--out=s.h5", "--classes=4", "--clips-per-class=1", "--audio-dim=8",
        "--video-dim=8", "--text-dim=16")
    code, _, err = run("inspect", "s.h5", "--plot", "p.nonsense")
    assert code == 2 and "cannot draw p.nonsense" in err and os.listdir() == ["s.h5"]


@pytest.mark.slow
def test_as_a_program_from_any_folder(tmp_path):
    """No install, no working directory, no Python path."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    words = ["synthesize", "--out", "s.h5", "--classes=4", "--clips-per-class=2", "--audio-dim=8",
             "--video-dim=8", "--text-dim=16"]
    done = subprocess.run([sys.executable, SCRIPT, *words], cwd=tmp_path, env=environment,
                          capture_output=True, text=True)
    assert done.returncode == 0 and "clips      8" in done.stdout, done.stderr
    done = subprocess.run([sys.executable, SCRIPT, "inspect", "none"], cwd=tmp_path,
                          env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stdout == ""
