"""The k best candidates so far, kept on the device while blocks of scores come in."""

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array


@flax.struct.dataclass
class Best:
    """Along the last axis, best first: goal scores (higher is better) and candidate numbers, -1 where there is none."""

    score: Array
    index: Array


def empty(k: int) -> Best:
    return Best(jnp.full((k,), -jnp.inf), jnp.full((k,), -1, jnp.int32))


@jax.jit
def keep(best: Best, margins_C: Array, number_C: Array, sign: float) -> Best:
    """Merges a block; earlier candidates win ties. Numbers below 0 are rows that only fill the block."""
    score_C = jnp.where(number_C >= 0, sign * margins_C, -jnp.inf)
    scores = jnp.concatenate([best.score, score_C])
    numbers = jnp.concatenate([best.index, jnp.where(number_C >= 0, number_C, -1)])
    top, at = jax.lax.top_k(scores, best.score.shape[0])
    return Best(top, numbers[at])
