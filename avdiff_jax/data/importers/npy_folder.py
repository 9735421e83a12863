"""A folder of features, FOLDER/class/clip.audio.npy and clip.video.npy, to a stream of clips."""

import os
from collections.abc import Iterator
from pathlib import Path

from avdiff_jax.data.class_text import unify
from avdiff_jax.data.clips import Clip
from avdiff_jax.data.importers.npz_manifest import Source
from avdiff_jax.data.importers.text_vectors import class_text
from avdiff_jax.data.store import MODALITIES
from avdiff_jax.errors import UserError
from avdiff_jax.io import text_files
from avdiff_jax.io.files import FilePath
from avdiff_jax.io.npy_npz import read_npy

SUFFIXES = {modality: f".{modality}.npy" for modality in MODALITIES}


def read_folder(
    root: FilePath, *, text: FilePath | None = None, text_key: str | None = None,
    text_names: str | None = None, text_map: FilePath | None = None,
) -> tuple[Iterator[Clip], Source]:
    """Reads FOLDER/class/clip.audio.npy and FOLDER/class/clip.video.npy, [T, D] each; one of the
    two may be absent.

    Returns (clips, Source). Raises UserError.
    """
    files = list_folder(root)
    if ("", next(iter(files))[1]) in files:
        raise UserError(f"the features of {root} have no classes: lay them in a folder a class")
    class_names = sorted({class_name for class_name, _ in files})

    def clips() -> Iterator[Clip]:
        for (class_name, clip), by_modality in files.items():
            arrays = {modality: read_npy(path) for modality, path in by_modality.items()}
            yield Clip(f"{class_name}/{clip}", class_name, None, arrays.get("audio"),
                       arrays.get("video"))

    return clips(), Source(
        name=os.path.basename(os.path.abspath(root)),
        total=len(files),
        class_names=class_names,
        text=class_text(class_names, text, text_key, text_names, text_map),
        files=[os.path.basename(path) for path in (os.path.abspath(root), *filter(None, [text]))],
        notes=[],
    )


def find_layout(path: FilePath) -> str | None:
    """How features lie at a path: "folder", as `read_folder` takes it; "manifest", a CSV as
    `npz_manifest.read_manifest` takes it; None where it is neither.

    Raises:
      UserError: the path is a file that is no CSV.
    """
    if os.path.isdir(path):
        there = any(next(Path(path).glob(pattern), None) for pattern in ("*/*.npy", "*.npy"))
        return "folder" if there else None
    header = (text_files.rows(path, "clip list") or [[]])[0]
    return "manifest" if {*MODALITIES} & {*header} else None


def list_folder(root: FilePath) -> dict[tuple[str, str], dict[str, Path]]:
    """(class, clip) -> modality -> file, sorted; the class is "" where there are no folders.

    Raises:
      UserError: there is none, or a .npy that says no modality.
    """
    files: dict[tuple[str, str], dict[str, Path]] = {}
    root = Path(root)
    for path in sorted(root.glob("*/*.npy")) or sorted(root.glob("*.npy")):
        modality = next((m for m, suffix in SUFFIXES.items() if path.name.endswith(suffix)), None)
        if modality is None:
            raise UserError(f"{path} does not say whether it is audio or video: name it "
                            f"{path.stem}.audio.npy or {path.stem}.video.npy")
        clip = path.name.removesuffix(SUFFIXES[modality])
        class_name = "" if path.parent == root else unify(path.parent.name)
        files.setdefault((class_name, clip), {})[modality] = path
    if not files:
        raise UserError(f"{root} holds no features: lay them as {root.name}/class/clip.audio.npy "
                        f"and clip.video.npy")
    return dict(sorted(files.items()))
