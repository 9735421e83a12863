"""What training draws its batches from: a feed of clips, or features that were computed once."""

from typing import Any, Protocol

from jax.sharding import Mesh

from avdiff_jax.data.splits.stages import Members
from avdiff_jax.data.windows import Lengths


class Source(Protocol):
    """Makes training batches in three moves: a plan on the host, inputs on the device, and the
    batch inside the compiled step.

    `data.feed.Feed` and `train.feature_cache.FeatureCache` are sources.

    mesh: the devices that share a batch.
    data: what stays on the device, an argument of every compiled step; None where all of it is
      streamed.
    """

    @property
    def mesh(self) -> Mesh: ...

    @property
    def data(self) -> Any: ...

    def describe_data(self) -> Any:
        """Returns the shapes of `data`, which need not be there yet."""
        ...

    def steps(self, lengths: Lengths, batch: int, wanted: int, total: int) -> int:
        """Returns how many of the `total` steps of an epoch one dispatch makes: a divisor of
        `total`, so that all dispatches have one shape."""
        ...

    def plan(
        self, members: Members, lengths: Lengths, batch: int, steps: int, seed: list[int]
    ) -> Any:
        """Draws batches of `members`, [steps, batch], as a function of `seed` alone."""
        ...

    def inputs(self, plan: Any, lengths: Lengths) -> Any:
        """Places a plan [..., B] on the devices, with what else a batch of it needs."""
        ...

    def batch(self, data: Any, inputs: Any, lengths: Lengths) -> Any:
        """Returns the batch [B] of `inputs` [B]: a `Batch` or a `Fused`. It runs inside jit."""
        ...
