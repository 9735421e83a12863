"""Small files and stores that several tests share."""

import pickle
from itertools import product
from types import SimpleNamespace

import numpy as np

from avdiff_jax.data.splits.from_store import make_split
from avdiff_jax.data.store import Sequences

# --- files of features and text


class Calls:
    """Pickles to a call of `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


VECTORS = {"dog": np.array([1.0, 2.0], np.float32), "Cat": np.array([3.0, 4.0], np.float32)}


def text_file(folder, kind):
    path = folder / f"text{kind}"
    if kind == ".npy":
        np.save(path, VECTORS)
    elif kind == ".npz":
        np.savez(path, names=list(VECTORS), emb=np.stack(list(VECTORS.values())))
    elif kind == ".csv":
        path.write_text("name,a,b\ndog,1,2\nCat,3,4\n")
    return path


def arrays(n=5, classes=2):
    rng = np.random.default_rng(0)
    made = {"label": np.arange(n) % classes, "sample_id": [f"s{i}" for i in range(n)],
            "who": np.arange(n) // 2, "class_names": ["dog", "cat"]}
    for key, dim in (("m1", 3), ("m2", 4)):
        lengths = rng.integers(1, 6, n)
        made[f"{key}_offsets"] = np.concatenate([[0], np.cumsum(lengths)])
        made[f"{key}_flat"] = rng.standard_normal((lengths.sum(), dim)).astype(np.float32)
    return made


# --- the published archive in small

BASE, NOVEL1, NOVEL2 = ["Archery", "HandStandPushups"], ["Bowling"], ["YoYo"]
SHOTS = 2


def features(clip_id):
    rng = np.random.default_rng(list(clip_id.encode()))
    return rng.integers(0, 256, (3, 4)).astype(np.float64), rng.random((5, 6), np.float32)


def write_class(base, folder, stem, ids, names=None):
    for place, modality in enumerate(("audio", "video")):
        path = base / modality / folder / f"{stem}.pkl"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"features": [features(i)[place] for i in ids], "fps": [25.0] * len(ids),
                   "video_names": ids if names is None else names}
        path.write_bytes(pickle.dumps(content))


def ids_of(class_name, *numbers):
    return [f"v_{class_name}_g{number // 2:02d}_c{number:02d}" for number in numbers]


def make_archive(root):
    """The published layout in small, with its oddities: spelling that differs in case, bytes for
    names, class lists beside it, draws that share clips, a class too many in the test directory."""
    base = root / "features" / f"{SHOTS}-shot"
    draws = [(0, 1), (2, 3), (1, 4)]
    content = {
        "stage_1_train_base": dict.fromkeys(BASE, (0, 1, 2)),
        "stage_1_val_seen": dict.fromkeys(BASE, (3,)),
        "stage_1_train_novel": dict.fromkeys(NOVEL1, (0, 1)),
        "stage_1_val_novel": dict.fromkeys(NOVEL1, (2, 3)),
        "stage_2_test_seen": dict.fromkeys(BASE + NOVEL1, (7, 8)),
    }
    for suffix, shots in zip(("", "_1", "_2"), draws, strict=True):
        content[f"stage_2_train_novel{suffix}"] = dict.fromkeys(NOVEL2, shots)
        rest = tuple(number for number in range(6) if number not in shots)
        content[f"stage_2_test_novel{suffix}"] = dict.fromkeys(NOVEL2, rest)
    for folder, classes in content.items():
        for stem, numbers in classes.items():
            ids = ids_of(stem, *numbers)
            write_class(base, folder, stem, ids, [i.encode() for i in ids] if numbers == (7, 8)
                        else np.array(ids) if stem == "Bowling" else ids)
    write_class(base, "stage_2_test_novel", "Typing", ids_of("Typing", 0))
    lists = root / "class-split" / f"{SHOTS}-shot"
    lists.mkdir(parents=True)
    (root / "class-split" / "all_class.txt").write_text(
        "Archery\nBowling\nHandstandPushups\nTyping\nYoYo\nZumba\n")
    for name, classes in (("stage_1_base_train", BASE), ("stage_1_novel_train", NOVEL1),
                          ("stage_2_novel_train", NOVEL2), ("stage_2_base_train", BASE + NOVEL1)):
        (lists / f"{name}.txt").write_text("\n".join(classes) + "\n")
    (root / "class-split" / "ucf_w2v_class_names.csv").write_text(
        "original,manual\nArchery,Archery\nHandStandPushups,Handstand Pushups\nYoYo,Yo Yo\n"
        "Bowling,Bowling\n")
    (base / "text").mkdir()
    words = ["Yo Yo", "Handstand Pushups", "Bowling", "Archery", "Zumba"]
    np.save(base / "text" / "word_embeddings_ucf_normed.npy",
            {word: np.eye(5, dtype=np.float32)[i] for i, word in enumerate(words)})
    return root


# --- stores, as far as splits look at one


def make_store(clips, name="made_up", order=None, class_order=None):
    """A store of (clip id, class, group) triples, as far as splits look at one.

    Args:
      order, class_order: seeds that shuffle clips and classes; None keeps them as they come.
    """
    names = list(dict.fromkeys(cls for _, cls, _ in clips))
    if class_order is not None:
        names = np.random.default_rng(class_order).permutation(names).tolist()
    if order is not None:
        clips = [clips[at] for at in np.random.default_rng(order).permutation(len(clips))]
    groups = [group for _, _, group in clips]
    return SimpleNamespace(
        name=name,
        clip_ids=np.array([clip for clip, _, _ in clips]),
        labels=np.array([names.index(cls) for _, cls, _ in clips], np.int32),
        groups=None if None in groups else np.array(groups),
        class_names=tuple(names),
    )


def by_subject(n_classes=8, n_subjects=8, repeats=4):
    """Every subject does everything a few times: UTD-MHAD in small."""
    return [
        (f"c{c}_s{s}_r{r}", f"class {c}", f"subject {s}")
        for c, s, r in product(range(n_classes), range(n_subjects), range(repeats))
    ]


def by_video(n_classes=8, n_videos=9, cuts=3):
    """Every video shows one class: UCF101 in small."""
    return [
        (f"v{c}_{v}_{cut}", f"class {c}", f"video {c}_{v}")
        for c, v, cut in product(range(n_classes), range(n_videos), range(cuts))
    ]


def ungrouped(**sizes):
    return [(f"c{c}_s{s}_r{r}", name, None) for (c, s, r), name in _names(**sizes)]


def _names(n_classes=8, n_subjects=8, repeats=4):
    cells = product(range(n_classes), range(n_subjects), range(repeats))
    return [(cell, f"class {cell[0]}") for cell in cells]


QUARTERS = {"base": 0.5, "novel1": 0.25, "novel2": 0.25}


def good_split(by="clip"):
    return make_split(make_store(by_subject()), 5, 0, by=by, **QUARTERS)


def ids(content):
    return {clip for clips in content.values() for clip in clips}


# --- sequences without a file


def sequences(n_audio, n_video, audio_type=np.uint8, video_type=np.float32):
    """Sequences of clips of these lengths; every value tells its clip and token."""
    parts = []
    for lengths, seconds, kind in ((n_audio, 0.96, audio_type), (n_video, 0.64, video_type)):
        values = [
            [[(7 * i + t) % 250 + 1, (i + t) % 5] for t in range(n)]
            for i, n in enumerate(lengths)
        ]
        flat = np.array([row for clip in values for row in clip], kind).reshape(-1, 2)
        parts.append(Sequences(flat, np.cumsum([0, *lengths]), seconds))
    return SimpleNamespace(audio=parts[0], video=parts[1])
