"""The public zero-shot class-split lists, and the few-shot split of Table 1 from them."""

import re
from collections import Counter
from pathlib import Path

from avdiff_jax.data.class_text import fold
from avdiff_jax.data.splits.sampling import check_request, with_shots
from avdiff_jax.data.splits.sets import Clips, examples, repeated
from avdiff_jax.data.splits.split_file import Split, finish
from avdiff_jax.errors import UserError
from avdiff_jax.io import text_files

# Those read here: base1, val_base, novel1, test_base and novel2.
LISTS = (
    "stage_1_train",
    "stage_1_val_seen",
    "stage_1_val_unseen",
    "stage_2_test_seen",
    "stage_2_test_unseen",
)


def make_split(directory: str | Path, shots: int, seed: int, name: str | None = None) -> Split:
    """The few-shot split of Table 1 from the public zero-shot class-split lists.

    Args:
      directory: holds stage_1_train, stage_1_val_seen, stage_1_val_unseen, stage_2_test_seen and
        stage_2_test_unseen, each a .csv of clips (columns `filename` and `label`, in any order)
        and a .txt of classes. A class name may differ in letter case between files; its spelling
        is that of all_class.txt, else that of the first list that has it.
      shots: k, clips of each novel class to learn from.
      seed: of the draws of shots; nothing else here is random.
      name: of the split; default the name of the directory.

    Raises:
      UserError: a file is missing or malformed, or `audit` refuses the result.
    """
    directory = Path(directory)
    check_request(shots, seed)
    for file in [directory / (stem + ending) for stem in LISTS for ending in (".csv", ".txt")]:
        if not file.exists():
            raise UserError(
                f"{file} is missing; a directory of class-split lists holds a .csv and a .txt for "
                f"each of {', '.join(LISTS)}"
            )
    spelling: dict[str, str] = {}
    if (directory / "all_class.txt").exists():
        _class_list(directory / "all_class.txt", spelling)
    notes: list[str] = []
    lists = [_clip_list(directory / stem, spelling, notes) for stem in LISTS]
    base1, val_base, novel1, test_base, novel2 = lists
    classes = {"base1": base1, "novel1": novel1, "novel2": novel2}
    sets = with_shots(base1, val_base, test_base, novel1, novel2, shots, seed)
    groups = {clip: source_video(clip) for part in lists for ids in part.values() for clip in ids}
    name = name or directory.resolve().name
    return finish(
        sets, classes, name=name, shots=shots, seed=seed, by="lists", groups=groups, notes=notes
    )


def source_video(clip: str) -> str:
    """The video that a clip of the public lists was cut from, as far as its id tells.

    UCF101 `v_Class_gNN_cMM` -> `v_Class_gNN`; ActivityNet and VGGSound start with a YouTube id
    of 11 characters; anything else is its own group.
    """
    if ucf := re.fullmatch(r"(v_.+_g\d+)_c\d+", clip):
        return ucf[1]
    if youtube := re.match(r"([\w-]{11})_", clip):
        return youtube[1]
    return clip


def _class_list(path: Path, spelling: dict[str, str]) -> list[str]:
    """Class names of a .txt, in the spelling first met; `spelling` learns the new ones."""
    lines = text_files.lines(path, "class list")
    names = [spelling.setdefault(fold(line), line) for line in lines]
    if not names:
        raise UserError(f"{path} holds 0 classes but one class a line is needed")
    if twice := repeated(names):
        ours = [line for line in lines if fold(line) == fold(twice)]
        raise UserError(
            f"{path} lists class {ours[0]!r} and {ours[1]!r}, which these lists spell in any case; "
            "remove one of the two lines"
        )
    return names


def _clip_list(stem: Path, spelling: dict[str, str], notes: list[str]) -> Clips:
    """Clips by class of `stem`.csv, of the classes in `stem`.txt only.

    The published stage_2_test_unseen.csv has clips of more classes than its .txt; Table 1 counts
    only those in the .txt. What is left out is said in `notes`.
    """
    text, table = stem.with_name(stem.name + ".txt"), stem.with_name(stem.name + ".csv")
    clips: Clips = {name: [] for name in _class_list(text, spelling)}
    rows = text_files.rows(table, "clip list")
    header = [column.casefold() for column in (rows[0] if rows else [])]
    for column in ("filename", "label"):
        if header.count(column) != 1:
            raise UserError(
                f"{table} has the columns {', '.join(header) or 'none'} but needs one column "
                f"{column!r} in its first line"
            )
    clip_at, class_at = header.index("filename"), header.index("label")
    others: Counter[str] = Counter()
    for row in rows[1:]:
        if len(row) != len(header) or not row[clip_at]:
            raise UserError(
                f"{table}, line {row.line}, has the row {[*row]} but needs {len(header)} fields "
                "and a clip id in each; mend the row, with quotes around a class name that holds "
                "a comma"
            )
        label = spelling.get(fold(row[class_at]), row[class_at])
        if label in clips:
            clips[label].append(row[clip_at])
        else:
            others[label] += 1
    if others:
        notes.append(
            f"{table.name} holds {others.total()} clips of {len(others)} classes that "
            f"{text.name} does not list ({examples(others)}); they were left out"
        )
    return clips
