"""Null words, the control of the one-word attack: as many tries with words that were not chosen."""

import random
from collections.abc import Sequence

import numpy as np

from vlm_mu_jax.attacks.words.search import FoundWords


def null_words(found: Sequence[FoundWords], winners: set[str], k: int, seed: int, band: float = 0.2) -> list[str]:
    """Draws K words from the middle of the score distribution.

    The middle is the `band` of quantiles around the median (0.4 to 0.6) in all of the searches. It is widened where it
    holds fewer than 2 K words.

    Args:
      found: the searches, over the same words.
      winners: words that are not drawn.
      seed: draws them.
    """
    words = found[0].words
    ranks = [np.argsort(np.argsort(f.margins_W, kind="stable")) for f in found]
    off_centre_W = np.max([np.abs((rank + 0.5) / len(words) - 0.5) for rank in ranks], axis=0)
    order = [int(i) for i in np.argsort(off_centre_W, kind="stable") if words[i] not in winners]
    middle = max(sum(off_centre_W[i] <= band / 2 for i in order), min(2 * k, len(order)))
    return [words[i] for i in random.Random(f"{seed}/null").sample(order[:middle], min(k, middle))]
