"""Orbax behind three verbs: save, restore against an abstract state, latest."""

import logging
import os
import pathlib
import re
import sys
from collections.abc import Callable
from typing import Any

import jax
import orbax.checkpoint as ocp

from avdiff_jax.errors import UserError

VERSION = 1  # of states and metadata together; a checkpoint without a number is of version 1


class Checkpoints:
    """Numbered checkpoints of one folder, each a state (pytree) and metadata (JSON).

    A save is on disk when `save` returns; a half-written one is never seen again (Orbax
    renames a finished folder into place).
    """

    def __init__(self, folder: pathlib.Path, keep: int):
        """Args: folder: made if absent; keep: how many of the newest stay."""
        self.folder = pathlib.Path(folder).absolute()
        for path in self.folder.rglob("*"):
            if path.exists() and not path.is_file() and not path.is_dir():
                raise UserError(f"{path} is a pipe or a device, which never ends: remove it")
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=False, create=True
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._manager.close()

    def save(self, number: int, state: Any, metadata: dict) -> None:
        """Writes checkpoint `number`; one that exists already is replaced.

        Raises:
          UserError: the disk is full or read-only.
        """
        if number in self._manager.all_steps():
            self._manager.delete(number)
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            metadata=ocp.args.JsonSave({"version": VERSION, **metadata}),
        )
        tell = sys.unraisablehook
        sys.unraisablehook = _but_for_closed_loops(tell)
        try:
            saved = self._manager.save(number, args=items, force=True)
        except (OSError, ValueError) as error:
            # The library that writes the arrays tells what the system said in words only.
            code = re.search(r"os_error_code='(\d+)'", str(error))
            if not code and not isinstance(error, OSError):
                raise
            said = getattr(error, "strerror", None) or error
            reason = os.strerror(int(code[1])) if code else said
            # Other files of this save fail too, and each would print a traceback.
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)
            raise UserError(
                f"cannot write checkpoint {number} in {self.folder}: {reason}; make space, then go "
                "on from the one before with --resume"
            ) from error
        sys.unraisablehook = tell
        if not saved:
            raise RuntimeError(f"checkpoint {number} in {self.folder} was not written")

    def latest(self) -> int | None:
        """Number of the newest checkpoint."""
        return self._manager.latest_step()

    def metadata(self, number: int) -> dict:
        """The JSON of checkpoint `number`.

        Raises:
          UserError: it is damaged or of another version.
        """
        args = ocp.args.Composite(metadata=ocp.args.JsonRestore())
        metadata = self._restore(number, args, "is damaged").metadata
        version = metadata.pop("version", 1)
        if version != VERSION:
            raise UserError(
                f"checkpoint {number} in {self.folder} is of version {version!r} where this code "
                f"reads {VERSION}: go on with the code that wrote it, or begin in another --workdir"
            )
        return metadata

    def restore(self, number: int, like: Any) -> Any:
        """The state of checkpoint `number`.

        Args:
          like: arrays (or abstract arrays with shardings) of the expected structure.

        Raises:
          UserError: the checkpoint holds other names or shapes, or is missing or damaged.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        return self._restore(number, args, "does not fit this configuration").state

    def _restore(self, number: int, args: Any, complaint: str) -> Any:
        try:
            return self._manager.restore(number, args=args)
        except (ValueError, KeyError, TypeError, OSError) as error:
            line = str(error).strip().splitlines()[0]
            raise UserError(
                f"checkpoint {number} in {self.folder} {complaint}: {line}; use the configuration "
                "and data that it was made with, or begin in another --workdir"
            ) from error


def _but_for_closed_loops(tell: Callable[[Any], None]) -> Callable[[Any], None]:
    """A save ends with the first array that cannot be written; the others report to an event loop
    that is closed by then, even after the run has ended, each with a traceback that tells nothing
    new. So this stays in place when a save failed."""
    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            tell(unraisable)
    return hook
