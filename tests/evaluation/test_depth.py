"""What layers still know of an answer: planted knowledge is found where it is, and only there."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vlm_mu_jax
from vlm_mu_jax.data import readers
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation import depth as d
from vlm_mu_jax.model.vlm import forward


@pytest.fixture(scope="module")
def records(data_dir):
    """Requests with answers of different lengths, three of each kind, all with images."""
    found = readers.read(data_dir / "test.json")
    kept = [r for r in found if r.kind == "unsafe"][:3] + [r for r in found if r.kind == "safe"][:3]
    items = tuple(record.answered("tick the box"[: 6 + i]) for i, record in enumerate(kept))
    return dataclasses.replace(found, items=items)


def test_every_layer_is_read_with_and_without_the_image(model, records):
    found = vlm_mu_jax.depth(model, records, batch_size=4)  # two batches, the second filled up
    assert found.n == {"harmful": 3, "harmless": 3} and set(found.conditions) == {"text", "own"}
    examples = [model.processor.example(r.question, r.answer, [], ended=False) for r in records]
    tokens = sum(min(len(one.ids) - one.answer_start, d.TOKENS) for one in examples)
    for one in found.conditions.values():
        assert [len(one["kind"])] + [len(rows) for rows in one["probe"].values()] == [2, 2, 2]
        for layer in range(2):
            sides = [one["lens"][side][layer] for side in ("harmful", "harmless")]
            assert sum(side["n"] for side in sides) == tokens
    again = d.depth(model, dataclasses.replace(records, items=records.items[::-1]), batch_size=6)
    assert again.to_dict() == found.to_dict()  # neither batches nor the order of records matter


def test_the_lens_of_the_last_layer_is_the_model_itself(model, records):
    found = d.depth(model, records).conditions["text"]["lens"]
    right = {"unsafe": [], "safe": []}
    for record in records:
        example = model.processor.example(record.question, record.answer, [], ended=False)
        params = jax.tree.map(jnp.asarray, model.params)
        logits_TV = forward(params, model.processor.pad([example.ids]), model.config).logits_BTV[0]
        guessed = np.asarray(logits_TV).argmax(-1)[example.answer_start - 1 : len(example.ids) - 1]
        right[record.kind] += (guessed == example.ids[example.answer_start :]).tolist()
    for side, kind in (("harmful", "unsafe"), ("harmless", "safe")):
        assert found[side][-1]["value"] == np.mean(right[kind])


def test_planted_knowledge_is_read_by_the_probe_and_chance_by_its_floor():
    rng = np.random.default_rng(0)
    token_N, fold_N = rng.integers(0, 5, 400), np.arange(400) * 5 // 400
    codes_ND = rng.normal(size=(5, 12))[token_N] + 0.1 * rng.normal(size=(400, 12))
    assert d._probe(codes_ND, token_N, fold_N).mean() > 0.95
    assert d._probe(rng.normal(size=(400, 12)), token_N, fold_N).mean() < 0.4
    by_place = d._probe(d._one_hot(np.arange(400) % 4), token_N, fold_N)
    assert 0.1 < by_place.mean() < 0.4


def test_one_kind_is_not_enough(model, records):
    with pytest.raises(InputError, match="two or more of each kind"):
        d.depth(model, records.of_kind("safe"))
