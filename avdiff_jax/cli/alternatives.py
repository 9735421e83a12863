"""Fields that a configuration may leave open: a run tries all that `auto` may stand for on Val."""

import itertools
from collections.abc import Mapping

from ml_collections import ConfigDict

from avdiff_jax.cli.choices import AUTO, CHOICES, fields

MARGIN = 0.02  # of the best AUSUC: Val has few novel classes, and a smaller lead says little


def list_alternatives(config: ConfigDict) -> list[dict[str, str]]:
    """Lists all that the open fields of `config` may hold together, by dotted name; a single empty
    dict where none is open."""
    values = dict(fields(config))
    still_open = [c for c in CHOICES if c.on_val and values.get(c.field) == AUTO]
    return [
        {choice.field: value for choice, value in zip(still_open, together, strict=True)}
        for together in itertools.product(
            *([value for value in choice.values if value != AUTO] for choice in still_open)
        )
    ]


def is_usual(filled: Mapping[str, str]) -> bool:
    """Tells whether all open fields hold what they do where Val says little."""
    return all(filled[c.field] == c.on_val for c in CHOICES if c.field in filled)


def count_alternatives() -> int:
    """Counts the most alternatives that a configuration can have."""
    count = 1
    for choice in CHOICES:
        count *= len(choice.values) - 1 if choice.on_val else 1
    return count


def fill_fields(config: ConfigDict, values: Mapping[str, str]) -> ConfigDict:
    """Returns a locked copy of `config` with `values` by dotted name, `config` itself where there
    are none."""
    if not values:
        return config
    filled = ConfigDict(config.to_dict())
    filled.update_from_flattened_dict(dict(values))
    return filled.lock()
