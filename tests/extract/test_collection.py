"""Which clips there are: folders, CSVs, shards, and what is wrong with them."""

import math

import pytest

from avdiff_jax.errors import UserError
from avdiff_jax.extract.collection import UNLABELLED, ClipFile, collect_files, open_collection


def folder_of(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_a_folder_of_classes(tmp_path):
    folder_of(tmp_path, "dog/b.mp4", "dog/a.webm", "cat/a.mp4", "cat/.hidden", "notes.txt",
              ".git/x")
    (tmp_path / "empty").mkdir()
    there = open_collection(tmp_path)
    assert there.class_names == ("cat", "dog") and there.is_labelled
    assert [clip.clip_id for clip in there.clips] == ["cat/a", "dog/a", "dog/b"]
    assert there.clips[0] == ClipFile(str(tmp_path / "cat/a.mp4"), "cat/a", "cat")
    notes = " ".join(there.notes)
    assert "'notes.txt'" in notes and "'empty'" in notes


def test_extensions_tell_equal_names_apart(tmp_path):
    folder_of(tmp_path, "dog/a.mp4", "dog/a.avi", "dog/b.mp4")
    ids = [clip.clip_id for clip in open_collection(tmp_path).clips]
    assert ids == ["dog/a.avi", "dog/a.mp4", "dog/b"]


def test_clips_without_classes(tmp_path):
    there = open_collection(folder_of(tmp_path, "b.mp4", "a.mp4"))
    assert not there.is_labelled and there.class_names == (UNLABELLED,)
    assert [clip.clip_id for clip in there.clips] == ["a", "b"]


def test_no_clips(tmp_path):
    with pytest.raises(UserError, match=r"holds no clips: lay them as .*/class/clip\.mp4"):
        open_collection(tmp_path)


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match=r"no clips at .*none, which does not exist: name a folder"):
        open_collection(tmp_path / "none")


def test_a_csv(tmp_path):
    (tmp_path / "clips.csv").write_text(
        "path,class,clip_id,group,start,end\n"
        "x/1.mp4,dog,one,rex,,\n"
        "x/2.mp4,cat,,,1.5,3\n"
        "x/2.mp4,cat,,tom,3,\n")
    there = open_collection(tmp_path / "clips.csv")
    second = str(tmp_path / "x/2.mp4")
    assert there.clips == (
        ClipFile(second, "x/2@1.5-3", "cat", None, 1.5, 3.0),
        ClipFile(second, "x/2@3-inf", "cat", "tom", 3.0, math.inf),
        ClipFile(str(tmp_path / "x/1.mp4"), "one", "dog", "rex"),
    )
    (tmp_path / "bare.csv").write_text("path\nx/1.mp4\n")
    bare = open_collection(tmp_path / "bare.csv")
    assert not bare.is_labelled and bare.clips[0].clip_id == "x/1"


@pytest.mark.parametrize("content, complaint", [
    ("file,class\na.mp4,dog\n", "header 'file,class' where path"),
    ("path,klass\na.mp4,dog\n", "header 'path,klass' where path"),
    ("path,class\n", "lists 0 clips"),
    ("path,class\na.mp4\n", "line 2, has 1 cells where the header has 2"),
    ("path,class\na.mp4,\n", "line 2, has no class"),
    ("path,class\n,dog\n", "line 2, has no path"),
    ("path,start\na.mp4,soon\n", "line 2, has start = 'soon'"),
    ("path,start\na.mp4,-1\n", "line 2, has start = '-1'"),
    ("path,end\na.mp4,nan\n", "line 2, has end = 'nan'"),
    ("path,start,end\na.mp4,2,2\n", "goes from 2 to 2 seconds"),
    ("path,clip_id\na.mp4,x\nb.mp4,x\n", "has the clip id 'x' for .*a.mp4 and for .*b.mp4"),
    ("path,class\na.mp4,Dog\nb.mp4,dog\n", "classes 'Dog' and 'dog', which differ only in case"),
])
def test_what_is_wrong_with_a_csv(content, complaint, tmp_path):
    (tmp_path / "clips.csv").write_text(content)
    with pytest.raises(UserError, match=complaint):
        open_collection(tmp_path / "clips.csv")


def test_other_columns_are_left_unread(tmp_path):
    (tmp_path / "clips.csv").write_text("path,seconds,class,remark\na.mp4,3,dog,\n")
    there = open_collection(tmp_path / "clips.csv")
    assert there.clips[0].class_name == "dog"
    assert there.notes == ("columns left unread: remark, seconds",)


def test_a_list_of_files(tmp_path):
    folder_of(tmp_path, "a/1.mp4", "b/1.mp4", "b/2.mp4")
    files = [tmp_path / name for name in ("b/1.mp4", "b/2.mp4", "a/1.mp4")]
    there = collect_files(files, ["y", "y", "x"], ["g", "h", "g"])
    assert [(c.class_name, c.clip_id, c.group) for c in there.clips] == [
        ("x", "a/1", "g"), ("y", "b/1", "g"), ("y", "b/2", "h")]
    assert there.is_labelled and there.name == tmp_path.name
    assert there == collect_files(files, ["y", "y", "x"], ["g", "h", "g"])
    with pytest.raises(UserError, match=r"has the clip id '1(\.mp4)?' for"):
        collect_files([files[0]] * 2, ["y", "y"])


def test_shards_are_all_clips_once(tmp_path):
    folder_of(tmp_path, *(f"{name}/{i}.mp4" for name in "abc" for i in range(4)))
    there = open_collection(tmp_path)
    shards = [there.shard(number, 5) for number in range(1, 6)]
    assert sorted(clip for shard in shards for clip in shard.clips) == sorted(there.clips)
    assert {shard.class_names for shard in shards} == {("a", "b", "c")}
    assert max(len(s.clips) for s in shards) - min(len(s.clips) for s in shards) <= 1
    for number, count in ((0, 5), (6, 5)):
        with pytest.raises(UserError, match=f"shard {number} of 5 does not exist"):
            there.shard(number, count)
    with pytest.raises(UserError, match="12 clips cannot be parted into 13 shards"):
        there.shard(1, 13)
