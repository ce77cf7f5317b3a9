"""Blind proposals: one stretch of the suffix each, drawn by seed from the allowed tokens."""

import numpy as np

from vlm_mu_jax.attacks.methods.random_search import LONGEST, propose
from vlm_mu_jax.attacks.methods.suffix_prompts import SuffixOptions


def test_each_proposal_changes_one_stretch():
    now, allowed = tuple(range(100, 110)), np.arange(200, 400, dtype=np.int32)
    proposed, again = (propose([], now, allowed, SuffixOptions(candidates=50), np.random.default_rng(3)) for _ in "ab")
    np.testing.assert_array_equal(proposed, again)
    changed = proposed != np.array(now)
    assert proposed.shape == (49, 10) and np.isin(proposed[changed], allowed).all()
    sizes = changed.sum(axis=1)
    assert set(sizes.tolist()) == set(range(1, LONGEST + 1))
    for row, size in zip(changed, sizes, strict=True):
        first = int(row.argmax())
        assert row[first : first + size].all()


def test_a_suffix_of_one_token():
    proposed = propose([], (7,), np.array([8], np.int32), SuffixOptions(candidates=4), np.random.default_rng(0))
    assert proposed.tolist() == [[8]] * 3
