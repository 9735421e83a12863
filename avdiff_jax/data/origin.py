"""Where features and class text come from: what a model must know to take clips as files."""

from typing import NamedTuple

from avdiff_jax.data.store import Store


class Origin(NamedTuple):
    """What made the features and the text of a store, as far as it tells.

    text: the source of the class text, see `class_text.ClassText`.
    recipe: of the extraction; "" where the features came from elsewhere.
    audio, video: what identifies the encoder, see `extract.encoders.Encoder`; "none" without one.
    """

    text: str
    recipe: str = ""
    audio: str = "none"
    video: str = "none"


def trace(store: Store) -> Origin:
    """The origin of a store."""
    said = store.provenance.get("extraction")
    if not isinstance(said, dict):
        return Origin(store.text.source)
    named = {name: str(said[name]) for name in Origin._fields[1:] if name in said}
    return Origin(store.text.source, **named)
