"""Forget coresets: the part of the forget set that is unlearned instead of all of it.

random: a seeded sample. loss, gradient_norm: the records with the highest scores of the model to be unlearned (GraNd,
arXiv 2107.07075, for gradients); `training.forget_scores` computes them.
"""

import random
from collections.abc import Mapping, Sequence

from vlm_mu_jax.data.records import Record
from vlm_mu_jax.errors import InputError

WAYS = ("random", "loss", "gradient_norm")


def choose(
    forget: Sequence[Record], size: int, seed: int = 0, scores: Mapping[str, float] | None = None
) -> tuple[Record, ...]:
    """`size` of the records, in the order they had; equal scores are decided by the seed.

    scores: record id -> score, highest first; None = a random sample.

    Raises InputError when there are fewer than `size` records, or one without a finite score.
    """
    if not 0 < size <= len(forget):
        raise InputError(f"--coreset_size={size}: the forget set has {len(forget)} records; give 1 to {len(forget)}")
    order = list(range(len(forget)))
    random.Random(seed).shuffle(order)
    if scores is not None:
        bad = [r.id for r in forget if not abs(scores.get(r.id, float("nan"))) < float("inf")]
        if bad:
            raise InputError(f"{len(bad)} forget records have no finite score, such as {bad[0]!r}; leave them out")
        order.sort(key=lambda i: -scores[forget[i].id])
    return tuple(forget[i] for i in sorted(order[:size]))
