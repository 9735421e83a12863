"""The clips that the flags of a command name (`cli.flags.Parser.add_clips`): one way in for all
commands that use a model."""

import dataclasses
from argparse import Namespace

from avdiff_jax.data import clip_source
from avdiff_jax.data.clip_source import ClipSource
from avdiff_jax.data.importers.npz_manifest import NpzKeys
from avdiff_jax.data.store import open_store
from avdiff_jax.errors import UserError

OF_NPZ = ("audio_key", "video_key", "id_key", "label_key", "class_key", "group_key")


def open_source(args: Namespace) -> ClipSource:
    """The clips, with how the flags say that a model is to take them.

    Raises:
      UserError: flags that do not go together, or a file that is missing or damaged.
    """
    keys = [getattr(args, name) for name in OF_NPZ]
    if not args.npz and any(keys):
        flags = ", ".join("--" + name.replace("_", "-") for name in OF_NPZ)
        raise UserError(f"{flags} mean nothing without --npz: leave them out")
    seconds = args.audio_seconds, args.video_seconds
    if args.store and any(part is not None for part in seconds):
        raise UserError("--audio-seconds and --video-seconds mean nothing with --store, which has "
                        "its own: leave them out")
    if args.store:
        source = clip_source.of_store(open_store(args.store))
    elif args.npz:
        source = clip_source.of_npz(args.npz, NpzKeys(*keys), seconds)
    else:
        source = clip_source.of_manifest(args.manifest, seconds)
    return dataclasses.replace(
        source, match_rate=args.match_rate, accept_values=args.accept_values
    )
