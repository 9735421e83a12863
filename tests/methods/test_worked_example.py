"""The method of docs/design.md, a file of its own, is a method like the others."""

import re
import types

import pytest

from avdiff_jax.errors import UserError
from avdiff_jax.methods import METHODS, check
from configs import synthetic
from tests import ROOT
from tests.methods import test_all as every

PAGE = (ROOT / "docs" / "design.md").read_text()


@pytest.fixture
def name(monkeypatch) -> str:
    """A row in the table of methods for the module that the page shows."""
    [code] = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    module = types.ModuleType("avdiff_jax.methods.mean")
    exec(compile(code, "docs/design.md", "exec"), module.__dict__)
    monkeypatch.setitem(METHODS, "mean", module.METHOD)
    assert '"mean": mean.METHOD' in PAGE
    return "mean"


@pytest.mark.slow
def test_it_learns_ignores_padding_and_freezes(name):
    every.test_learns_separable_classes(name)
    every.test_padding_changes_no_score(name)
    every.test_frozen_groups_stand_still(name, "train")


def test_its_configuration_is_checked(name):
    """It reads one of the fields that methods may read, and is refused the others."""
    check(synthetic.get_config(f"5shot,method={name},modality=audio"))
    with pytest.raises(UserError, match=r"model\.attention=full means nothing to method=mean"):
        check(synthetic.get_config(f"5shot,method={name},attention=full"))
