"""Flags of a command that may run as an array of jobs which do not know of each other; see docs/launch.md."""

from typing import TYPE_CHECKING

from absl import flags

from vlm_mu_jax.cli import cluster

if TYPE_CHECKING:
    from vlm_mu_jax.evaluation.answers.share import Share

SHARD = flags.DEFINE_string(
    "shard",
    None,
    "K/N: answer (bin/attack: search) only share K, from 0, of N of the questions, in a job that needs no other, such"
    " as the task of an array; --join then puts all shares together",
)
JOIN = flags.DEFINE_bool(
    "join", False, "put together what all --shard jobs have made; nothing else is generated (bin/attack: searched)"
)


def share_from_flags(*others: str) -> "Share | None":
    """The share of --shard.

    Args:
      others: further flags that were given and say themselves what is answered.

    Raises:
      InputError: a bad share, or flags that exclude each other.
    """
    from vlm_mu_jax.errors import InputError
    from vlm_mu_jax.evaluation.answers.share import Share

    given = [*ways_from_flags(), *others]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} exclude each other; give one of them")
    return Share.parse(SHARD.value) if SHARD.value else None


def ways_from_flags() -> list[str]:
    """The flags that were given of those by which several processes or jobs work on one result."""
    ways = {"--shard": SHARD.value, "--join": JOIN.value, "--coordinator": cluster.COORDINATOR.value}
    return [name for name, value in ways.items() if value]
