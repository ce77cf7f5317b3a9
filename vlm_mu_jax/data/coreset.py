"""Coresets of the forget set: a part of it that is unlearned in place of the whole.

    random         a seeded sample
    loss           the records with the highest loss under the model to be unlearned
    gradient_norm  the records with the largest gradients there (GraNd, arXiv 2107.07075)

`training.forget_scores` computes the scores of the last two.
"""

import random
from collections.abc import Mapping, Sequence

from vlm_mu_jax.data.records import Record
from vlm_mu_jax.errors import InputError


def choose(
    forget: Sequence[Record], size: int, seed: int = 0, scores: Mapping[str, float] | None = None
) -> tuple[Record, ...]:
    """A coreset of `size` records, in the order that they had.

    Args:
      forget: the whole forget set.
      size: how many records to take.
      seed: draws the sample, and decides between equal scores.
      scores: record id -> score. The highest are taken. None = a random sample.

    Raises:
      InputError: fewer than `size` records, or a record without a finite score.
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
