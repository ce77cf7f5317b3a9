"""The control of every search: words that pay the same price without being chosen."""

import random
from collections.abc import Sequence

import numpy as np

from vlm_mu_jax.attacks.words.search import FoundWords


def null_words(found: Sequence[FoundWords], winners: set[str], k: int, seed: int, band: float = 0.2) -> list[str]:
    """K words drawn by seed from the middle of the score distribution of every search, none of them a winner.

    The middle is the `band` of quantiles around the median (0.4 to 0.6), widened where it holds fewer than 2 K words.
    """
    words = found[0].words
    ranks = [np.argsort(np.argsort(f.margins_W, kind="stable")) for f in found]
    off_centre_W = np.max([np.abs((rank + 0.5) / len(words) - 0.5) for rank in ranks], axis=0)
    order = [int(i) for i in np.argsort(off_centre_W, kind="stable") if words[i] not in winners]
    middle = max(sum(off_centre_W[i] <= band / 2 for i in order), min(2 * k, len(order)))
    return [words[i] for i in random.Random(f"{seed}/null").sample(order[:middle], min(k, middle))]
