from collections.abc import Sequence
from typing import Any

def DEFINE_config_file(
    name: str,
    default: str | None = ...,
    help_string: str = ...,
    flag_values: Any = ...,
    lock_config: bool = ...,
    sys_argv: Sequence[str] | None = ...,
) -> Any: ...
def get_config_filename(config_flag: Any) -> str: ...
