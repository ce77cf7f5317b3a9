"""The flag of every command that holds a model: how it lies on the devices; see docs/scaling.md."""

import contextlib
import sys
from collections.abc import Iterator

from absl import flags

from vlm_mu_jax.cli import cluster

_MESH = flags.DEFINE_list(
    "mesh",
    None,
    "data,fsdp,tensor: copies of the weights that share the rows, shards of rows and weights, and split layers; -1: all"
    " devices that are left (default: all devices, with the weights split only as far as they must be to fit)",
)


def sizes() -> tuple[int, int, int] | None:
    """data, fsdp and tensor as they are given. Raises InputError for anything but three whole numbers."""
    from vlm_mu_jax.parallel import placement

    return placement.parse(_MESH.value) if _MESH.value else None


@contextlib.contextmanager
def placed(rows: int, new_tokens: int, training: float = 0.0) -> Iterator[None]:
    """Every model that is loaded inside lies on the devices that --mesh names, or on those that fit.

    Args:
      rows: prompts that run at a time.
      new_tokens: most tokens that are generated.
      training: how many times the bytes of the weights training holds, beside the weights.
    """
    from vlm_mu_jax.parallel import placement

    with placement.placed(placement.Placement(sizes(), rows, new_tokens, training, _tell if cluster.bar() else None)):
        yield


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
