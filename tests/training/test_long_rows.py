"""Rows that are tokenised when a step reads them are the rows that were tokenised before the first step."""

import random

import numpy as np
import pytest

from tests.training import test_sources
from tests.training.test_sources import WORDS, talk
from vlm_mu_jax.data.mixed import Mixed
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.training import sources
from vlm_mu_jax.training.reference import rows_of_steps
from vlm_mu_jax.training.sources import rows_of, streams_of

processor = test_sources.processor


def stream(processor, records, longest=512):
    rows, counts = rows_of(records, {}, processor, longest)
    return streams_of({"train": rows}, processor, batch_size=3, seed=1)["train"], counts


def test_a_stream_gives_the_same_rows_and_reads_no_others(processor, monkeypatch):
    records = [talk(*WORDS[: 2 + 2 * (i % 3)], id=str(i)) for i in range(30)]
    before, _ = stream(processor, records)
    monkeypatch.setattr(sources, "AT_ONCE", 5)
    monkeypatch.setattr("vlm_mu_jax.data.long_rows.SAMPLE", 4)
    long, counts = stream(processor, records)
    assert long.is_long and counts["rows"] == 30 and counts["tokenised"] == "when a step reads them"
    for k in (0, 7, 23):
        assert long.indices(k).tolist() == before.indices(k).tolist()
        one, other = long[k], before[k]
        for row, width in enumerate(other.batch.lengths_B):
            assert one.batch.tokens_BT[row, :width].tolist() == other.batch.tokens_BT[row, :width].tolist()
            assert one.mask_BT[row, :width].tolist() == other.mask_BT[row, :width].tolist()
    assert long.rows.counts["rows"] <= 4 + 3 * 3 + 1  # the sample and three batches
    again, _ = stream(processor, records)
    assert again.fingerprint() == long.fingerprint() and again.lengths == long.lengths
    other, _ = stream(processor, records[1:])
    assert other.fingerprint() != long.fingerprint()
    assert rows_of_steps(long, 2) == sorted({*long.indices(0).tolist(), *long.indices(1).tolist()})


def test_what_cannot_be_used_is_replaced_by_the_next_and_counted(processor, monkeypatch):
    monkeypatch.setattr(sources, "AT_ONCE", 0)
    long = talk("what is this " * 90, "a ring .", id="long")
    records = [talk(*WORDS[:2], id="a"), long, talk(*WORDS[2:4], id="b"), talk("what is this", id="silent")]
    rows, counts = rows_of(records, {}, processor, 200)
    assert len(rows) == 3 and counts["without_answer"] == 1
    assert rows[1].id == rows[2].id == "b" and rows.counts["prompts_too_long"] == 1
    with pytest.raises(InputError, match="no conversation of the data has an answer"):
        rows_of([talk("what is this", id="silent")], {}, processor, 200)


def test_mixing_draws_and_orders_as_lists_do():
    some, others = [talk("q", "a", id=f"s{i}") for i in range(4)], [talk("q", "a", id=f"o{i}") for i in range(9)]
    drawn = Mixed.of(others).drawn(random.Random(3), 5)
    assert list(drawn) == random.Random(3).sample(others, 5)
    both = [*some, *drawn]
    random.Random(5).shuffle(both)
    mixed = Mixed.of(some, drawn).shuffled(random.Random(5))
    assert list(mixed) == both and mixed[2:4][1] == both[3]
    assert np.array_equal(mixed.usable(), np.arange(9))
