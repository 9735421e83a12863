"""Who may attend to whom, as tables of token types (Section 3.1 of the paper).

A table is a 4 x 4 array of booleans: row = type of the query token, column = type of
the key token. Read literally the paper's equations add score matrices that are zero
outside their block, which leaves a score of 0 (not minus infinity) for a forbidden pair
and counts class-class twice; here, as in the published code, forbidden pairs are hidden
from the softmax altogether.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

CLASS, AUDIO, VIDEO, FUSION = range(4)


def _table(*pairs):
    table = np.zeros((4, 4), bool)
    for query, key in pairs:
        table[query, key] = True
    return table


def all_pairs() -> np.ndarray:
    """Full attention A: every token sees every token. Eq. (2)."""
    return np.ones((4, 4), bool)


def class_pairs() -> np.ndarray:
    """A_c: the class token sees all tokens and all tokens see it. Eq. (3)."""
    return _table(*[(CLASS, t) for t in range(4)], *[(t, CLASS) for t in range(4)])


def cross_pairs() -> np.ndarray:
    """A_cross + A_c: audio sees video and video sees audio. Eq. (4)."""
    return class_pairs() | _table((AUDIO, VIDEO), (VIDEO, AUDIO))


def self_pairs() -> np.ndarray:
    """A_self + A_c: audio sees audio and video sees video. Eq. (5)."""
    return class_pairs() | _table((AUDIO, AUDIO), (VIDEO, VIDEO))


def pure_pairs() -> np.ndarray:
    """Zorro's mask (Recasens et al. 2023): audio sees audio, video sees video, fusion tokens
    see all three, and nobody else sees them."""
    return _table(
        (AUDIO, AUDIO), (VIDEO, VIDEO), *[(FUSION, t) for t in (AUDIO, VIDEO, FUSION)]
    )


PATTERNS = ("full", "cross", "self", "alternate", "hybrid")


def pattern(name: str, depth: int, switch: int) -> list[np.ndarray]:
    """The tables of all layers for one row of the paper's Table 3.

    Args:
      name: one of `PATTERNS`; "hybrid" is AV-Diff: self in the first `switch` layers,
        full in the rest; "alternate" is self, full, self, ...
      depth: number of layers L.
      switch: number of within-modality layers Z, read by "hybrid" only.

    Raises:
      ValueError: unknown name, or `switch` outside 0..depth.
    """
    if name == "hybrid" and not 0 <= switch <= depth:
        raise ValueError(f"the switch layer Z={switch} lies outside 0..{depth} (L={depth})")
    layers = {
        "full": [all_pairs() for _ in range(depth)],
        "cross": [cross_pairs() for _ in range(depth)],
        "self": [self_pairs() for _ in range(depth)],
        "alternate": [(self_pairs, all_pairs)[i % 2]() for i in range(depth)],
        "hybrid": [(self_pairs if i < switch else all_pairs)() for i in range(depth)],
    }
    if name not in layers:
        raise ValueError(f"unknown attention {name!r}; one of {', '.join(PATTERNS)}")
    return layers[name]


def attend(table, types: np.ndarray, valid: Bool[Array, "b n"]) -> Bool[Array, "b q n"]:
    """Expands a table to token positions and hides padded keys from every query.

    Args:
      table: [4, 4] of booleans.
      types: [n] token types, the same in every clip of the batch.
      valid: True at real tokens.

    Returns:
      [b, n, n], or [b, 1, n] where the table lets every type see every type.
    """
    if table.all():
        return valid[:, None, :]
    return jnp.asarray(table[np.ix_(types, types)])[None] & valid[:, None, :]
