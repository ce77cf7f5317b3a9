"""Proposals of a gradient-free suffix search: a few neighbouring tokens, drawn anew at random.

The idea is that of Andriushchenko et al. 2024 (arXiv 2404.02151): replace a short stretch of the suffix, and keep the
change when the score is better. Here many stretches are tried at a time, and the score is the refusal margin.
"""

from collections.abc import Sequence

import numpy as np

from vlm_mu_jax.attacks.methods.suffix_prompts import Scorer, Slots, SuffixOptions

LONGEST = 4  # tokens replaced at once, at most


def propose(
    open_: Sequence[tuple[Scorer, Slots]],
    ids: tuple[int, ...],
    allowed: np.ndarray,
    use: SuffixOptions,
    rng: np.random.Generator,
) -> np.ndarray:
    """Ids [N, S]: each row a stretch of 1 to `LONGEST` tokens of the suffix replaced; see `suffix.Propose`."""
    S, N = len(ids), use.candidates - 1
    proposed_NS = np.tile(np.array(ids, np.int32), (N, 1))
    size_N = rng.integers(1, min(LONGEST, S) + 1, N)
    start_N = rng.integers(0, S - size_N + 1)
    at_S = np.arange(S)[None]
    changed_NS = (at_S >= start_N[:, None]) & (at_S < (start_N + size_N)[:, None])
    return np.where(changed_NS, rng.choice(allowed, (N, S)), proposed_NS)
