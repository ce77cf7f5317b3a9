"""Guards inside the attacked program.

The state of a guard's gates decides how the prompt's earlier tokens are steered, so candidates may share a prefix cache
only with candidates of the same gates. Two kinds of guard decide about the prompt as a whole:

- from a first pass without steering, once per example (`FirstPass`): the gates are computed for every candidate, and
  each group of equal gates gets a cache of its own;
- layer by layer while the prompt runs: candidates run on the cache of presumed gates, and count only where the gates
  they decide are the presumed ones. The others run again on the cache of the gates they decided. A layer's gate depends
  on earlier layers only, so every round settles at least one more layer: it ends, and is exact.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from vlm_mu_jax.model.decoder import Steer


@dataclasses.dataclass(frozen=True)
class FirstPass:
    """A guard that decides once per example, from the unsteered states of a first pass.

    steer_of: states at each prompt's last token after every block, float32 [L, B, D] -> `Steer` with gate_LB.
    text_only: the first pass reads the question without its image. It never reads what the answer starts with.
    """

    steer_of: Callable[[np.ndarray], Steer]
    text_only: bool


def by_gates(gate_LN: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Groups of equal gates: (gates bool [L], candidate numbers), the largest group first."""
    patterns, group_N = np.unique(gate_LN.astype(bool).T, axis=0, return_inverse=True)
    groups = [(pattern, np.flatnonzero(group_N.reshape(-1) == g)) for g, pattern in enumerate(patterns)]
    return sorted(groups, key=lambda item: -len(item[1]))
