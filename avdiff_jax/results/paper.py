"""The numbers of the tables of the paper."""

import importlib.resources
import json
from collections.abc import Mapping

from avdiff_jax.cli.choices import OF_WORD


def paper() -> dict:
    """Every number of the paper's tables, in percent.

    `main[dataset][shots][method]` (Table 2), `ablations_5shot[what][value][dataset]` (Tables 3-6,
    without the rows that repeat the main table) and `counts_5shot[dataset]` (Table 1).
    """
    file = importlib.resources.files("avdiff_jax").joinpath("paper.json")
    return json.loads(file.read_text(encoding="utf-8"))


def paper_row(
    dataset: str, shots: int, method: str, ablation: Mapping[str, str] | None = None
) -> dict | None:
    """The paper's B, N, HM and FSL (percent) for a run, or None where it has none.

    Args:
      ablation: words of choices and their values, such as {"attention": "cross"}; one that is
        left out has the value of the main table.
    """
    numbers = paper()
    asked = {k: v for k, v in (ablation or {}).items() if k not in OF_WORD or v != OF_WORD[k].usual}
    if not asked:
        row = numbers["main"].get(dataset, {}).get(str(shots), {}).get(method)
        if row or method != "avgan":
            return row
        asked = {"generator": "avgan"}  # Table 4 has AV-GAN as a choice of generator
    elif method != "avdiff":
        return None
    if shots != 5 or len(asked) > 1:
        return None
    ((name, value),) = asked.items()
    return numbers["ablations_5shot"].get(name, {}).get(value, {}).get(dataset)
