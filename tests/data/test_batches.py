"""Streams: batch k is a function of (rows, seed, k); every row comes once per epoch."""

from collections import Counter

import numpy as np
import pytest

from vlm_mu_jax.data.batches import Row, Stream, row
from vlm_mu_jax.data.prompts import Example
from vlm_mu_jax.errors import InputError


def rows(count, images=0):
    made = []
    for i in range(count):
        ids = (1, 2, *range(3, 4 + i % 4))
        pixels = tuple(np.full((2, 2, 3), i, np.float32) for _ in range(images if i % 2 else 0))
        made.append(Row(f"r{i}", ids, (False, False) + (True,) * (len(ids) - 2), pixels))
    return made


def test_any_batch_can_be_asked_for_in_any_order():
    one, other = Stream(rows(10), 4, 3), Stream(rows(10), 4, 3)
    forward = [one.indices(k).tolist() for k in range(8)]
    assert [other.indices(k).tolist() for k in reversed(range(8))] == forward[::-1]


def test_every_row_comes_once_per_epoch_whatever_the_batch_size():
    stream = Stream(rows(10), 4, 0)
    order = [int(i) for k in range(5) for i in stream.indices(k)]  # two epochs of ten rows in five batches
    assert Counter(order[:10]) == Counter(order[10:]) == Counter(range(10))
    assert order[:10] != order[10:]


def test_seed_and_name_decide_the_order():
    orders = [
        Stream(rows(30), 30, seed, name=name).indices(0).tolist() for seed, name in ((0, "a"), (1, "a"), (0, "b"))
    ]
    assert orders[0] != orders[1] and orders[0] != orders[2]


def test_batches_are_padded_to_one_shape_with_masks_and_images():
    stream = Stream(rows(10, images=2), 4, 0)
    for k in range(3):
        batch, indices = stream[k], stream.indices(k)
        assert batch.batch.tokens_BT.shape == batch.mask_BT.shape == (4, 8)
        assert batch.batch.pixels_BMHWC.shape == (4, 2, 2, 2, 3)
        for i, index in enumerate(indices):
            one = stream.rows[index]
            length = batch.batch.lengths_B[i]
            assert length == len(one.ids) and batch.batch.tokens_BT[i, :length].tolist() == list(one.ids)
            assert batch.mask_BT[i].sum() == sum(one.mask) and not batch.mask_BT[i, length:].any()
            assert (batch.batch.pixels_BMHWC[i] == (index if index % 2 else 0)).all()


def test_references_follow_their_rows():
    stream = Stream(rows(10), 4, 0)
    with_reference = stream.with_reference(np.arange(10.0))
    assert with_reference[2].reference_nll_B.tolist() == stream.indices(2).tolist()
    assert stream[2].reference_nll_B is None


def test_image_keys_are_loaded_once():
    seen = []

    def load(key):
        seen.append(key)
        return np.zeros((2, 2, 3), np.float32)

    stream = Stream(
        [Row("a", (1, 2), (False, True), ("a.png",)), Row("b", (1, 2), (False, True), ("b.png",))],
        2,
        0,
        load_image=load,
    )
    for k in range(3):
        stream[k]
    assert Counter(seen)["b.png"] == 1 and Counter(seen)["a.png"] <= 2


def test_hashes_tell_rows_and_streams_apart():
    stream = Stream(rows(6), 2, 0)
    assert len({stream.row_key(i) for i in range(6)}) == 4  # rows 4 and 5 repeat rows 0 and 1
    prints = {s.fingerprint() for s in (stream, Stream(rows(6), 3, 0), Stream(rows(6), 2, 1), Stream(rows(5), 2, 0))}
    assert len(prints) == 4 and Stream(rows(6), 2, 0).fingerprint() in prints


def test_the_loss_is_on_the_answer():
    made = row(Example((1, 5, 6, 7, 2), 3), id="x")
    assert made.mask == (False, False, False, True, True)


@pytest.mark.parametrize(
    ("made", "options", "message"),
    [
        ([], {}, "is empty"),
        ([Row("bad", (1, 2), (True, False))], {}, "'bad' has no answer tokens"),
        ([Row("bad", (1, 2), (True,))], {}, "'bad': 2 tokens but 1 mask"),
        (rows(4), {"length": 4}, "more than length 4"),
        (rows(4), {"batch_size": 0}, "at least 1"),
    ],
)
def test_bad_rows_are_named(made, options, message):
    with pytest.raises(InputError, match=message):
        Stream(made, **{"batch_size": 2, "seed": 0, **options})
