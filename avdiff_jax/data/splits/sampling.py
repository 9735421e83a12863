"""Random choices of clips: the k shots, shares of a class, and the streams they come from."""

import zlib
from collections.abc import Iterable, Mapping

import numpy as np

from avdiff_jax.data.splits.sets import DRAWS, Clips
from avdiff_jax.errors import UserError


def check_request(shots: int, seed: int) -> None:
    """Raises UserError for numbers that no split can have."""
    if shots < 1:
        raise UserError(f"shots is {shots} but a novel class needs at least 1")
    if seed < 0:
        raise UserError(f"seed is {seed} but must be 0 or more")


def rng(seed: int, purpose: str) -> np.random.Generator:
    """A stream of its own for each purpose, so that no choice moves another."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])


def draw(clips: Clips, shots: int, seed: int, number: int) -> Clips:
    """k clips of each class; all there are where there are fewer, which `audit` then refuses.

    Each class has its own stream, and fewer shots are the first of more: the 1-shot and 5-shot
    draws of one seed differ by what was added.
    """
    return {
        name: shuffle(ids, seed, f"shots {number} {name}")[:shots] for name, ids in clips.items()
    }


def with_shots(
    train1_base: Clips,
    val_base: Clips,
    test_base: Clips,
    novel1: Clips,
    novel2: Clips,
    shots: int,
    seed: int,
) -> dict:
    """The seven sets where what a draw of shots leaves over is what it is evaluated on."""
    train1_novel = draw(novel1, shots, seed, 0)
    draws = [draw(novel2, shots, seed, d) for d in range(DRAWS)]
    return {
        "train1_base": train1_base,
        "train1_novel": train1_novel,
        "val_base": val_base,
        "val_novel": without(novel1, train1_novel),
        "train2_novel": draws,
        "test_base": test_base,
        "test_novel": [without(novel2, shots_of) for shots_of in draws],
    }


def cut(clips: Clips, share: float, seed: int, purpose: str) -> tuple[Clips, Clips]:
    """A share of the clips of each class, at least one, and the rest."""
    taken = {
        name: shuffle(ids, seed, f"{purpose} {name}")[: max(1, round(share * len(ids)))]
        for name, ids in clips.items()
    }
    return taken, without(clips, taken)


def shuffle(ids: list[str], seed: int, purpose: str) -> list[str]:
    """The clips in a random order that does not depend on the one they come in."""
    ids = sorted(ids)
    return [ids[at] for at in rng(seed, purpose).permutation(len(ids))]


def without(clips: Clips, taken: Clips) -> Clips:
    """The clips that were not taken."""
    gone = {name: set(ids) for name, ids in taken.items()}
    return {name: [c for c in ids if c not in gone[name]] for name, ids in clips.items()}


def pick(clips: Clips, classes: Mapping[str, Iterable[str]], *kinds: str) -> Clips:
    """The clips of the classes of these kinds."""
    return {name: clips[name] for kind in kinds for name in classes[kind]}
