"""What an extraction has done so far: a small file a clip, so that a killed one goes on.

A part is known by the clip's path, size, time of change and span, and by recipe and weights. The
parts go away when the store is whole.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from avdiff_jax.errors import UserError
from avdiff_jax.extract.collection import ClipFile
from avdiff_jax.io import text_files
from avdiff_jax.io.files import FilePath, draft, write_text
from avdiff_jax.io.npy_npz import NpzFiles

SETTINGS = "settings.json"
SUFFIX = ".npz"


class Outcome(NamedTuple):
    """What became of a clip."""

    status: str  # "ok", "incomplete" (kept what there is), "skipped" or "failed"
    reason: str = ""
    seconds: float = 0.0
    audio_tokens: int = 0
    video_tokens: int = 0
    damaged_packets: int = 0

    @property
    def is_kept(self) -> bool:
        """Whether the clip gets into the store."""
        return self.status in ("ok", "incomplete")


class Part(NamedTuple):
    """A clip that is done; a modality that it lacks is None."""

    outcome: Outcome
    audio: np.ndarray | None = None  # [Ta, Da]
    video: np.ndarray | None = None  # [Tv, Dv]


class Parts:
    """The folder of parts beside a store to be."""

    def __init__(self, store_path: FilePath, settings: dict[str, str]):
        """Args: settings: all that the features of a clip depend on besides its file.

        Raises:
          UserError: parts of other settings lie there, or the folder cannot be made.
        """
        self.folder = Path(f"{os.fspath(store_path)}.parts")
        self._settings = settings
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.folder} cannot be made ({error.strerror}): name another place"
                            ) from None
        described = self.folder / SETTINGS
        if described.exists():
            self._check(described)
        else:
            write_text(described, json.dumps(settings, indent=1, sort_keys=True) + "\n")

    def _check(self, described: Path) -> None:
        try:
            there = json.loads(text_files.text_of(described))
        except ValueError:
            there = None
        if there != self._settings:
            there = there if isinstance(there, dict) else {}
            keys = sorted(key for key in {*there, *self._settings}
                          if there.get(key) != self._settings.get(key))
            raise UserError(
                f"{self.folder} holds parts made with {keys[0]} = {there.get(keys[0])} where this "
                f"extraction has {self._settings.get(keys[0])}: go on with that, name another "
                f"place, or remove the folder")

    def _path(self, clip: ClipFile) -> Path:
        status = os.stat(clip.path)
        known_by = (clip.clip_id, clip.path, status.st_size, status.st_mtime_ns, clip.start,
                    clip.end, sorted(self._settings.items()))
        return self.folder / (hashlib.sha256(repr(known_by).encode()).hexdigest()[:32] + SUFFIX)

    def outcome(self, clip: ClipFile) -> Outcome | None:
        """What became of a clip, as its file is now; None where its part is to be made."""
        try:
            path = self._path(clip)
            return self._outcome(NpzFiles([path])) if path.exists() else None
        except (OSError, UserError, ValueError, TypeError):
            return None  # the clip is gone, or the disk spoiled the part: it is made again

    def read(self, clip: ClipFile) -> Part:
        """The part of a clip. Raises UserError where it is gone."""
        file = NpzFiles([self._path(clip)])
        arrays = [file.array(key, "part") if key in file else None for key in ("audio", "video")]
        return Part(self._outcome(file), *arrays)

    @staticmethod
    def _outcome(file: NpzFiles) -> Outcome:
        return Outcome(*json.loads(str(file.array("outcome", "part"))))

    def write(self, clip: ClipFile, part: Part) -> None:
        """Keeps a part, whole or not at all. Raises UserError where there is no room for it."""
        arrays = {key: values for key in ("audio", "video")
                  if (values := getattr(part, key)) is not None}
        with draft(self._path(clip)) as made, open(made, "wb") as file:
            np.savez(file, outcome=np.array(json.dumps(part.outcome)), **arrays)

    def remove(self) -> None:
        """The store is whole: nothing of this is needed any more."""
        for path in [*self.folder.glob(f"*{SUFFIX}"), self.folder / SETTINGS]:
            path.unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()
