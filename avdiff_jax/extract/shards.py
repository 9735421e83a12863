"""Stores of the shards of one extraction, joined to the store that a single run would have made."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from avdiff_jax.data.store import MODALITIES, Sequences, Store, open_store
from avdiff_jax.data.store_report import Report
from avdiff_jax.data.store_writer import Clip, write_store
from avdiff_jax.errors import UserError
from avdiff_jax.io.files import FilePath
from avdiff_jax.runtime.progress import Progress


def merge(
    paths: Sequence[FilePath], out: FilePath, name: str | None = None
) -> Report:
    """Joins stores of shards; clips come in the order of class and id.

    Args:
      paths: of stores with the same classes, text vectors, encoders and recipe.
      out: the store to make.
      name: of the data set; default: that of the shards.

    Raises:
      UserError: the stores disagree, or have a clip in common.
    """
    stores = [open_store(path) for path in paths]
    first = stores[0]
    for store in stores[1:]:
        _check_alike(first, store)
    dims = {modality: _dim([getattr(store, modality) for store in stores])
            for modality in MODALITIES}
    places = sorted(
        (first.class_names[store.labels[i]], str(store.clip_ids[i]), number, i)
        for number, store in enumerate(stores) for i in range(len(store)))
    provenance = dict(first.provenance)
    provenance["extraction"] = _extraction(first) | {"shard": "1/1"}
    with Progress(len(places), "merge") as progress:
        return write_store(
            out, name=name or first.name, clips=_clips(stores, places),
            class_names=first.class_names, class_text=first.class_text,
            audio_seconds=first.audio.seconds, video_seconds=first.video.seconds,
            audio_dim=dims["audio"], video_dim=dims["video"],
            video_dtype=first.video.values.dtype.name, provenance=provenance,
            may_lack_modality=first.may_lack_modality, notes=_lacking(stores), progress=progress)


def _extraction(store: Store) -> dict:
    """What the provenance says of the extraction. Raises UserError where it says nothing."""
    said = store.provenance.get("extraction")
    if not isinstance(said, dict) or "shard" not in said:
        raise UserError(f"store {store.path} was not made by an extraction and is no shard: leave "
                        f"it out")
    return said


def _check_alike(first: Store, other: Store) -> None:
    """Raises UserError naming the first thing in which two shards differ."""

    def check(what: str, a: object, b: object) -> None:
        if a != b:
            raise UserError(f"{first.path} and {other.path} differ in {what} ({a} and {b}): merge "
                            f"shards of one extraction")

    ours, theirs = _extraction(first), _extraction(other)
    for key in sorted({*ours, *theirs} - {"shard"}):
        check(key, ours.get(key), theirs.get(key))
    check("the number of shards", _count(ours), _count(theirs))
    check("their classes", len(first.class_names), len(other.class_names))
    for a, b in zip(first.class_names, other.class_names, strict=True):
        check("a class", a, b)
    if not np.array_equal(first.class_text, other.class_text):
        raise UserError(f"{first.path} and {other.path} differ in their text vectors: extract with "
                        f"the same ones")


def _count(extraction: dict) -> str:
    return str(extraction["shard"]).partition("/")[2]


def _dim(parts: Sequence[Sequences]) -> int | None:
    """That of a shard which has the modality at all."""
    return next((part.dim for part in parts if len(part.values)), None)


def _lacking(stores: Sequence[Store]) -> list[str]:
    """A remark on shards that are not among the stores."""
    there = {str(_extraction(store)["shard"]).partition("/")[0] for store in stores}
    count = _count(_extraction(stores[0]))
    lacking = [n for n in map(str, range(1, int(count) + 1 if count.isdigit() else 1))
               if n not in there]
    return [f"shards that are not among these: {', '.join(lacking)} of {count}"] if lacking else []


def _clips(
    stores: Sequence[Store], places: Iterable[tuple[str, str, int, int]]
) -> Iterator[Clip]:
    for class_name, clip_id, number, i in places:
        store = stores[number]
        group = None if store.groups is None else str(store.groups[i]) or None
        yield Clip(clip_id, class_name, group, *(
            part.values[part.offsets[i] : part.offsets[i + 1]]
            for part in (store.audio, store.video)))

