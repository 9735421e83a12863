"""The clips that the flags of a command name (`cli.flags.Parser.add_clips`): one way in for all
commands that use a model."""

import dataclasses
from argparse import Namespace

from avdiff_jax.data import clip_source
from avdiff_jax.data.clip_source import ClipSource
from avdiff_jax.data.importers.npy_folder import find_layout
from avdiff_jax.data.importers.npz_manifest import NpzKeys
from avdiff_jax.data.rates import Seconds
from avdiff_jax.data.store import open_store
from avdiff_jax.errors import UserError
from avdiff_jax.inference.extracted import Files, extract_clips
from avdiff_jax.inference.model import Trained

OF_CLIPS = ("audio_weights", "audio_pca", "video_weights")
OF_NPZ = ("audio_key", "video_key", "id_key", "label_key", "class_key", "group_key")


def open_source(args: Namespace, model: Trained) -> ClipSource:
    """The clips, with how the flags say that the model is to take them; video files become features
    as those were that it was trained on.

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
    if not args.clips and any(getattr(args, name) for name in OF_CLIPS):
        flags = ", ".join("--" + name.replace("_", "-") for name in OF_CLIPS)
        raise UserError(f"{flags} mean nothing without --clips: leave them out")
    if args.clips:
        source = open_clips(args, model, seconds)
    elif args.store:
        source = clip_source.of_store(open_store(args.store))
    elif args.npz:
        source = clip_source.of_npz(args.npz, NpzKeys(*keys), seconds)
    else:
        source = clip_source.of_manifest(args.manifest, seconds)
    return dataclasses.replace(
        source, match_rate=args.match_rate, accept_values=args.accept_values
    )


def open_clips(args: Namespace, model: Trained, seconds: Seconds) -> ClipSource:
    """The clips of --clips: .npy files as a fit takes them, or video files."""
    layout = find_layout(args.clips)
    if layout == "folder":
        return clip_source.of_folder(args.clips, seconds)
    if layout == "manifest":
        return clip_source.of_manifest(args.clips, seconds)
    if any(part is not None for part in seconds):
        raise UserError("--audio-seconds and --video-seconds mean nothing with video files: leave "
                        "them out")
    files = Files(args.audio_weights, args.audio_pca, args.video_weights)
    return extract_clips(args.clips, model.origin, files)
