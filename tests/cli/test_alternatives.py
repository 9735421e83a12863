"""Fields that are left open, and what they are filled with."""

import pytest

from avdiff_jax.cli.alternatives import count_alternatives, fill_fields, list_alternatives
from configs import own


def plus(**fields):
    c = own.get_config("5shot,method=avdiff_plus")
    c.avdiff_plus.update(fields)
    return c


def test_nothing_is_open_usually():
    c = own.get_config("5shot")
    assert list_alternatives(c) == [{}] and fill_fields(c, {}) is c
    assert c.data.residence == "auto"  # which is not decided on Val


def test_open_fields_are_tried_together():
    found = list_alternatives(plus(head="auto"))
    assert len(found) == 6
    assert len(list_alternatives(plus(head="auto", jitter="auto"))) == 18 == count_alternatives()
    assert {(x["avdiff_plus.head"], x["avdiff_plus.space"]) for x in found} == {
        (head, space) for head in ("linear", "gaussian") for space in ("token", "raw", "both")
    }
    assert list_alternatives(plus()) == [
        {"avdiff_plus.space": space} for space in ("token", "raw", "both")
    ]


def test_filling_makes_a_locked_copy():
    c = plus()
    filled = fill_fields(c, {"avdiff_plus.space": "raw"})
    assert (c.avdiff_plus.space, filled.avdiff_plus.space) == ("auto", "raw")
    assert list_alternatives(filled) == [{}]
    with pytest.raises(AttributeError):
        filled.avdiff_plus.spice = "raw"
