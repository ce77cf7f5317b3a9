"""The running best equals a stable sort over everything."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_mu_jax.attacks.margin import scoring


@settings(max_examples=40, deadline=None)
@given(data=st.data(), k=st.sampled_from([1, 4]), block=st.sampled_from([2, 5]), n=st.integers(1, 25))
def test_running_best_equals_a_stable_sort(data, k, block, n):
    """Few distinct values, so that ties are the rule: the earlier candidate wins, whatever the blocks."""
    scores = np.array(data.draw(st.lists(st.integers(-2, 2), min_size=n, max_size=n)), np.float32)
    sign = data.draw(st.sampled_from([1.0, -1.0]))
    kept = scoring.none_yet(k)
    slots = np.pad(np.arange(n, dtype=np.int32), (0, -n % block), constant_values=-1).reshape(-1, block)
    for slot_C in slots:
        margins_C = np.where(slot_C >= 0, scores[slot_C], 99.0 * sign)  # filling must never win
        kept = scoring.keep_best(kept, jnp.asarray(margins_C), slot_C - 3 * (slot_C < 0), sign)
    want = np.argsort(-sign * scores, kind="stable")[:k].tolist()
    assert kept.index[: len(want)].tolist() == want
    assert kept.index[len(want) :].tolist() == [-1] * (k - len(want))
