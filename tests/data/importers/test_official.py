"""The published archive layout, with its oddities and with files that disagree."""

import os
import pickle
import shutil

import numpy as np
import pytest

from avdiff_jax.data.importers.official import read_official
from avdiff_jax.data.splits import split_file
from avdiff_jax.errors import UserError
from tests.data.samples import SHOTS, Calls, features, ids_of, make_archive


@pytest.fixture
def archive(tmp_path):
    return make_archive(tmp_path / "UCF")


def test_official(archive, tmp_path):
    clips, source = read_official(archive, SHOTS)
    clips = list(clips)
    assert source.class_names == ["Archery", "Bowling", "HandstandPushups", "YoYo"]
    # rows of class text follow the names, through original,manual
    np.testing.assert_array_equal(source.text.vectors.argmax(1), [3, 2, 1, 0])
    by_id = {clip.clip_id: clip for clip in clips}
    assert len(by_id) == len(clips) == 2 * 4 + 4 + 3 * 2 + 6  # no copy is stored twice
    for clip_id, clip in by_id.items():
        for got, wanted in zip((clip.audio, clip.video), features(clip_id), strict=True):
            np.testing.assert_array_equal(got, wanted)
    assert by_id["v_HandStandPushups_g00_c01"].class_name == "HandstandPushups"
    assert by_id["v_YoYo_g01_c03"].group == "v_YoYo_g01"
    assert source.notes == ["left out class 'Typing' of stage_2_test_novel, which the class lists "
                            "do not have there"]
    split = split_file.finish(source.sets, source.classes, name="UCF", shots=SHOTS, seed=None,
                          by="official")
    assert split["classes"] == {"base1": ["Archery", "HandstandPushups"], "novel1": ["Bowling"],
                                "novel2": ["YoYo"]}
    assert split["counts"] == {
        "classes": {"all": 4, "base1": 2, "novel1": 1, "novel2": 1}, "train1_base": 6,
        "train1_novel": 2, "val_base": 2, "val_novel": 2, "train2_base": 12, "train2_novel": 2,
        "test_base": 6, "test_novel": 4}
    assert split["sets"]["train2_novel"][1] == {"YoYo": ids_of("YoYo", 2, 3)}
    assert split["sets"]["test_novel"][2] == {"YoYo": ids_of("YoYo", 0, 2, 3, 5)}


def test_official_joins_by_name_not_by_position(archive):
    """The video file lists the clips in another order."""
    path = archive / "features" / "2-shot" / "video" / "stage_1_train_base" / "Archery.pkl"
    content = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps({key: value[::-1] for key, value in content.items()}))
    for clip in read_official(archive, SHOTS)[0]:
        np.testing.assert_array_equal(clip.video, features(clip.clip_id)[1])


def test_official_without_class_lists(archive):
    shutil.rmtree(archive / "class-split" / "2-shot")
    os.remove(archive / "features/2-shot/audio/stage_2_test_novel/Typing.pkl")
    os.remove(archive / "features/2-shot/video/stage_2_test_novel/Typing.pkl")
    clips, source = read_official(archive, SHOTS)
    assert len(list(clips)) == 24 and not source.notes


def repickle(archive, place, change):
    path = archive / "features" / "2-shot" / place
    content = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(change(content) or content))


def other_copy(content):
    content["features"][0] = content["features"][0] + 1


def without_last(content):
    for values in content.values():
        values.pop()


def shorter_names(content):
    content["video_names"] = content["video_names"][:-1]


def same_names(content):
    content["video_names"][1] = content["video_names"][0]


TRAIN = "stage_1_train_base/Archery.pkl"
DISAGREE = {
    "clips": (f"video/{TRAIN}", without_last,
              "has 3 clips and .* has 2, 'v_Archery_g01_c02' is in one of them only"),
    "names": (f"audio/{TRAIN}", shorter_names, "3 feature arrays and 2 video names"),
    "twice": (f"audio/{TRAIN}", same_names, "names the clip 'v_Archery_g00_c00' twice"),
    "copies": ("video/stage_2_train_novel_1/YoYo.pkl", other_copy, "differs from its copy"),
    "key": (f"audio/{TRAIN}", lambda c: {"features": []}, "no 'video_names' \\(it has features"),
    "list": (f"audio/{TRAIN}", lambda c: [1], "holds a list where a dict"),
    "no array": (f"audio/{TRAIN}", lambda c: c | {"features": [1, 2, 3]}, "a int for clip"),
    "code": (f"video/{TRAIN}", lambda c: c | {"fps": Calls(os.system, "exit 1")}, "posix.system"),
}


@pytest.mark.parametrize("place, change, sentence", DISAGREE.values(), ids=DISAGREE)
def test_official_files_that_disagree(archive, place, change, sentence):
    repickle(archive, place, change)
    with pytest.raises(UserError, match=sentence) as error:
        list(read_official(archive, SHOTS)[0])
    assert "\n" not in str(error.value) and ".pkl" in str(error.value)


def test_official_folders_that_disagree(archive):
    base = archive / "features" / "2-shot"
    with pytest.raises(UserError, match="no features for 5 shots but for 2: change --shots"):
        read_official(archive, 5)
    with pytest.raises(UserError, match="no folder 'features'"):
        read_official(base, SHOTS)
    (base / "audio/stage_1_val_seen/Archery.pkl").rename(base / "kept")
    with pytest.raises(UserError, match=r"has 1 classes and .* has 2, 'Archery'"):
        read_official(archive, SHOTS)
    (base / "audio/stage_1_val_seen/Cooking.pkl").write_bytes(b"")
    with pytest.raises(UserError, match=r"class 'Cooking', which .*all_class.txt does not list"):
        read_official(archive, SHOTS)
    os.remove(base / "audio/stage_1_val_seen/Cooking.pkl")
    (base / "kept").rename(base / "audio/stage_1_val_seen/Archery.pkl")
    (base / "video/stage_2_test_novel_2").rename(base / "away")
    with pytest.raises(UserError, match="stage_2_test_novel_2 does not exist"):
        read_official(archive, SHOTS)
    (base / "away").rename(base / "video/stage_2_test_novel_2")
    os.remove(base / "text/word_embeddings_ucf_normed.npy")
    with pytest.raises(UserError, match=r"has 0 files that end in '.npy' where 1 is needed"):
        read_official(archive, SHOTS)
