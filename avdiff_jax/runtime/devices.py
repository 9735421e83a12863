"""Which device, the mesh, shardings, the compilation cache."""

import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from avdiff_jax.errors import UserError


def describe() -> str:
    """One line that names platform, kind and number of the devices."""
    devices = jax.devices()
    return f"{len(devices)} x {devices[0].platform}: {devices[0].device_kind}"


def flags() -> dict:
    """Settings outside the configuration that change what is computed."""
    names = ("jax_enable_x64", "jax_default_prng_impl")
    settings = {name: getattr(jax.config, name) for name in names}
    return {"XLA_FLAGS": os.environ.get("XLA_FLAGS", ""), **settings}


def mesh() -> Mesh:
    """All devices on one axis, "data", those of a process side by side."""
    return jax.make_mesh(
        (jax.device_count(),), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()
    )


def on_cpu(mesh: Mesh) -> bool:
    """Whether its devices are CPUs."""
    return mesh.devices.flat[0].platform == "cpu"


def host() -> Any:
    """A CPU of this process; its first device where jax was told to leave CPUs out."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]


def on_gpu() -> bool:
    """Whether this process computes on GPUs, whose programs differ in form and not in result."""
    return jax.default_backend() == "gpu"


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on each device: the state, features on the device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, axis: int) -> NamedSharding:
    """Axis number `axis` split over the devices: the batch."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))


def put(tree: Any, sharding: NamedSharding):
    """Arrays, the same in every process, on the devices; each process places its share."""
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def placed(x: Any):
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            return x  # computed by all together, and so placed already
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(placed(jax.random.key_data(x)))
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(placed, tree)


def describe_placed(tree: Any, sharding: NamedSharding) -> Any:
    """Shapes of what `put` would place: of arrays, or of what `jax.eval_shape` gives."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=sharding, weak_type=x.weak_type
        ),
        jax.eval_shape(lambda x: x, tree),
    )


def check_divides(batch: int, mesh: Mesh, field: str) -> None:
    """A batch must split evenly.

    Raises:
      UserError: it does not; names both numbers and the field.
    """
    if batch % mesh.size:
        raise UserError(
            f"{field}={batch} does not divide by the {mesh.size} devices; make it a multiple"
        )


def configure(deterministic: bool = False) -> None:
    """Process-wide settings, before the first computation: run-to-run equality on a GPU, and a
    persistent compilation cache in the user's cache folder."""
    if deterministic:
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = pathlib.Path(os.environ.get("JAX_COMPILATION_CACHE_DIR", f"{home}/avdiff_jax/xla"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # a read-only home costs compile time, nothing else
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
