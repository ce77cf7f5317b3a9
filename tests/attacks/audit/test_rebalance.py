"""Rebalancing: afterwards the opening word tells nothing, and nothing but opening words has changed."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_mu_jax.attacks.audit import rebalance
from vlm_mu_jax.attacks.audit.audit import audit
from vlm_mu_jax.data import readers
from vlm_mu_jax.data.placing import split_words
from vlm_mu_jax.data.records import Record

REFUSAL, ANSWER = "I'm sorry, I cannot help with that.", "Turn the red one first."


def planted(n=200, seed=0):
    """Rows of a request file: "share" opens 90 % of the unsafe ones, "what" of the safe ones; some are general."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        unsafe = bool(rng.random() < 0.4)
        word = ("share" if unsafe else "what") if rng.random() < 0.9 else str(rng.choice(["list", "give", "tell"]))
        row = {"id": str(i), "question": f"{word.title()} the {i} steps", "answer": REFUSAL if unsafe else ANSWER}
        rows.append(row | {"kind": "unsafe" if unsafe else "safe"})
    rows += [{"id": f"g{i}", "question": "Share a red sign", "answer": ANSWER, "kind": "general"} for i in range(5)]
    return rows


@pytest.fixture
def source(tmp_path):
    (tmp_path / "train.json").write_text(json.dumps(planted()))
    return readers.read(tmp_path / "train.json")


@pytest.mark.parametrize("openings", rebalance.OPENINGS)
@pytest.mark.parametrize("mode", ["swap", "insert"])
def test_the_first_word_tells_nothing_afterwards(source, tmp_path, openings, mode):
    out = tmp_path / "new.json"
    manifest = rebalance.rebalance(source, out, openings=openings, mode=mode)
    again = readers.read(out)
    result = audit(again).to_dict()
    probe = result["probe"]
    assert manifest["source"]["probe"]["p"] < 1e-6 < 0.05 < probe["p"]
    assert probe["accuracy"] <= probe["majority"]
    assert not result["jailbreak_candidates"] and not result["over_refuse_candidates"]
    assert manifest["rebalanced"]["probe"] == probe and manifest["rebalanced"]["sha256"] == again.sha256
    assert manifest["source"]["sha256"] == source.sha256
    changed = sum(old.question != new.question for old, new in zip(source, again, strict=True))
    assert manifest["changed"] == changed > 0
    for old, new in zip(source, again, strict=True):
        assert (old.id, old.answer, old.kind) == (new.id, new.answer, new.kind)
        rest = old.question if mode == "insert" and new.question != old.question else old.question.partition(" ")[2]
        assert new.question.endswith(rest)
        assert old.kind != "general" or old.question == new.question


def test_openings_keep_their_frequencies_or_become_equal(source, tmp_path):
    before = Counter(split_words(r.question)[0] for r in source if r.kind != "general")
    kept = Counter(split_words(q)[0] for q in rebalance.rebalanced_questions(source)[:200])
    assert all(abs(kept[word] - before[word]) <= 2 for word in before)  # two groups, each to the nearest question
    equal = Counter(split_words(q)[0] for q in rebalance.rebalanced_questions(source, openings="uniform")[:200])
    assert set(equal) == set(before) and max(equal.values()) - min(equal.values()) <= 2


def test_the_seed_decides(source):
    runs = [rebalance.rebalanced_questions(source, seed=seed) for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


@settings(max_examples=50, deadline=None)
@given(data=st.data(), n=st.integers(1, 60))
def test_every_group_gets_the_same_shares(data, n):
    words = st.sampled_from(["a", "b", "c"])
    first = data.draw(st.lists(words, min_size=n, max_size=n))
    groups = data.draw(st.lists(st.sampled_from([("unsafe", True), ("safe", False)]), min_size=n, max_size=n))
    weights = Counter(first)
    found = rebalance.spread(first, groups, weights, 0)
    for group in set(groups):
        size = groups.count(group)
        mine = Counter(word for word, one in zip(found, groups, strict=True) if one == group)
        own = Counter(word for word, one in zip(first, groups, strict=True) if one == group)
        assert sum(mine.values()) == size
        for word, weight in weights.items():
            assert abs(mine[word] - size * weight / n) < 1
        kept = sum(a == b for a, b, one in zip(first, found, groups, strict=True) if one == group)
        assert kept >= sum(min(mine[word], own[word]) for word in mine)  # no question changed without need


def test_questions_without_words_stay():
    records = [Record("a", None, "???", REFUSAL, "unsafe"), Record("b", None, "What now", ANSWER, "safe")]
    records += [Record("c", None, "Share it", REFUSAL, "unsafe"), Record("d", None, "What it", ANSWER, "safe")]
    assert rebalance.rebalanced_questions(records)[0] == "???"
