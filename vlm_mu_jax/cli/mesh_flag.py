"""The flag of every command that holds a model: how it lies on the devices; see docs/scaling.md."""

import contextlib
import sys
from collections.abc import Iterator

from absl import flags

_MESH = flags.DEFINE_list(
    "mesh",
    None,
    "data,fsdp,tensor: copies of the weights that share the rows, shards of rows and weights, and split layers; -1: all"
    " devices that are left (default: all devices, with the weights split only as far as they must be to fit)",
)


def sizes_from_flags() -> tuple[int, int, int] | None:
    """data, fsdp and tensor as they are given. Raises InputError for anything but three whole numbers."""
    from vlm_mu_jax.parallel import placement

    return placement.parse(_MESH.value) if _MESH.value else None


@contextlib.contextmanager
def placed(sizes: tuple[int, int, int] | None, rows: int, new_tokens: int, training: float = 0.0) -> Iterator[None]:
    """Every model that is loaded inside lies on a mesh of these sizes, or on as many devices as it must.

    Args:
      sizes: data, fsdp and tensor, as `sizes_from_flags` gives them.
      rows: prompts that run at a time.
      new_tokens: most tokens that are generated.
      training: how many times the bytes of the weights training holds, beside the weights.
    """
    from vlm_mu_jax.parallel import placement

    with placement.placed(placement.Placement(sizes, rows, new_tokens, training, _tell)):
        yield


def _tell(line: str) -> None:
    """Of several processes the first one speaks."""
    from vlm_mu_jax.parallel import distributed

    if distributed.first():
        print(line, file=sys.stderr, flush=True)
