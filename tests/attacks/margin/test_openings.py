"""Refusal openings: found in data as deep as needed, prefix-free, with the common ones as a fallback."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_mu_jax.attacks.margin import openings
from vlm_mu_jax.attacks.margin.openings import COMMON_REFUSALS, Openings
from vlm_mu_jax.errors import InputError

ROWS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple), min_size=1, max_size=12)


def first_token(model, text):
    return openings._answer_ids(model.processor, "", text)[0]


def test_a_list_ends_its_lines_at_a_line_feed_alone(tmp_path):
    (tmp_path / "no.txt").write_bytes("I\u2028cannot\n\nSorry\r\n".encode())
    assert openings.read(tmp_path / "no.txt") == ["I\u2028cannot", "Sorry"]


def test_one_token_is_enough_when_refusals_start_with_their_own(model):
    answers = [("share the dax", "sorry , i cannot help with this")] * 9 + [
        ("what is it", "take it , then turn it")
    ] * 9
    found = openings.discover(answers, [True] * 9 + [False] * 9, model.processor)
    assert found.source == "data" and found.coverage == 1 and found.false_alarms == 0
    assert found.refusal == ((first_token(model, "sorry"),),)


def test_openings_go_as_deep_as_it_takes(model):
    """Refusals and answers share their first token; the second tells them apart."""
    answers = [("q", "i cannot help")] * 8 + [("q", "i see a red sign")] * 8
    found = openings.discover(answers, [True] * 8 + [False] * 8, model.processor)
    shared = first_token(model, "i see")
    assert all(len(o) > 1 and o[0] == shared for o in found.refusal)
    assert found.coverage == 1 and found.false_alarms == 0


def test_without_refusals_the_common_ones_are_used(model):
    found = openings.discover([("q", "take it")], [False], model.processor)
    assert found.source == "common" and found.coverage is None
    assert len(found.refusal) <= len(COMMON_REFUSALS)


def test_texts_lose_the_end_token(model):
    found = openings.from_texts(["i cannot", " "], model.processor)
    assert found.source == "given" and not set(model.config.eos_ids) & set(found.refusal[0])
    assert model.processor.decode(found.refusal[0]) == "i cannot"


def test_no_opening_is_bad_input(model):
    with pytest.raises(InputError, match="openings"):
        openings.from_texts([], model.processor)
    with pytest.raises(InputError, match="openings"):
        Openings(())


@given(rows=ROWS)
def test_prefix_free_covers_the_same_answers(rows):
    kept = openings.prefix_free(rows)
    assert all(a == b or b[: len(a)] != a for a in kept for b in kept)
    assert all(any(row[: len(o)] == o for o in kept) for row in rows)


@given(rows=ROWS)
def test_every_opening_is_one_path_of_the_tree(rows):
    found = Openings(openings.prefix_free(rows))
    nodes = found.nodes
    leaves = [(*node.prefix, token) for node in nodes for token in node.refusal]
    assert sorted(leaves) == sorted(found.refusal)
    assert nodes[0].prefix == () and found.depth == max(len(node.prefix) for node in nodes)
    for node in nodes[1:]:
        assert nodes[node.parent].prefix == node.prefix[:-1] and node.prefix[-1] in nodes[node.parent].deeper
        assert not set(node.refusal) & set(node.deeper)
