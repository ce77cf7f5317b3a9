"""Coresets: seeded, highest scores first, in the forget set's order."""

import pytest

from vlm_mu_jax.data.coreset import choose
from vlm_mu_jax.data.records import Record
from vlm_mu_jax.errors import InputError

FORGET = [Record(f"u{i}", None, "what", "steps", "unsafe") for i in range(10)]


def ids(records):
    return [r.id for r in records]


def test_a_random_coreset_is_seeded_and_keeps_the_order():
    first, again, other = (choose(FORGET, 4, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert ids(first) == sorted(ids(first)) and len(set(first)) == 4
    assert ids(choose(FORGET, 10)) == ids(FORGET)


def test_the_highest_scores_win_and_the_seed_decides_between_equal_ones():
    scores = {f"u{i}": float(i % 5) for i in range(10)}  # u4 and u9 share the top
    assert ids(choose(FORGET, 2, 0, scores)) == ["u4", "u9"]
    singles = {choose(FORGET, 1, seed, scores)[0].id for seed in range(20)}
    assert singles == {"u4", "u9"}


def test_mistakes_are_named():
    for size in (0, 11):
        with pytest.raises(InputError, match="has 10 records"):
            choose(FORGET, size)
    with pytest.raises(InputError, match="9 forget records have no finite score, such as 'u1'"):
        choose(FORGET, 2, 0, {"u0": 1.0, "u1": float("nan")})
