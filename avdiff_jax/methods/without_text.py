"""What becomes of a configuration where the store has no class text."""

import copy

from ml_collections import ConfigDict

from avdiff_jax.data.of_config import find_store
from avdiff_jax.data.store import open_store
from avdiff_jax.errors import UserError
from avdiff_jax.methods import METHODS, method, reads

CONDITION = "diffusion.condition"


def settle_text(config: ConfigDict) -> tuple[ConfigDict, str]:
    """Returns the configuration that a run on its store has, and a remark where it is another one:
    without class text, prototypes condition the generator.

    A store that does not exist yet is no matter of this function.

    Raises:
      UserError: the store has no text, and the method cannot do without it.
    """
    path = find_store(config)
    made_up = config.data.synthetic.classes and not config.data.store
    if made_up or not path.exists() or not method(config.method).needs_text(config):
        return config, ""
    if open_store(path).class_text.shape[1]:
        return config, ""
    if not reads(config.method, CONDITION):
        others = [name for name in METHODS
                  if reads(name, CONDITION) or not method(name).needs_text(config)]
        raise UserError(
            f"method={config.method} reads the class text, of which {path} has none: make the "
            f"store with text, or choose one of {', '.join(others)}"
        )
    if config.diffusion.condition == "shuffled":
        raise UserError(f"condition=shuffled shuffles the class text, of which {path} has none: "
                        "leave it out")
    config = copy.deepcopy(config)
    with config.unlocked():
        config.diffusion.condition = "prototype"
    return config, f"{path} has no class text, so prototypes condition the generator"
