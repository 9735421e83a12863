"""Class names, from whatever file has them."""

from avdiff_jax.data.splits import sets, split_file
from avdiff_jax.data.store import open_store
from avdiff_jax.errors import UserError
from avdiff_jax.io import text_files


def class_names(path: str) -> list[str]:
    """The classes of a split (.json), a store (HDF5) or a text file, one a line.

    Raises:
      UserError: no such file, a damaged one, or one with no names or a name twice.
    """
    if path.endswith(".json"):
        split = split_file.load(path)
        return sorted(name for names in split["classes"].values() for name in names)
    with text_files.opened(path, "class list") as file:
        is_store = file.read(4) == b"\x89HDF"
    if is_store:
        return list(open_store(path).class_names)
    names = text_files.lines(path, "class list")
    if not names:
        raise UserError(f"{path} holds 0 classes but one class a line is needed")
    if twice := sets.repeated(names):
        raise UserError(f"{path} lists class {twice!r} twice: remove one of the two lines")
    return names
