"""Streams: batch k is a function of (rows, seed, k); every row comes once per epoch."""

from collections import Counter

import numpy as np
import pytest

from vlm_mu_jax.data.batches import Stream, TrainRow, bucket_lengths, row
from vlm_mu_jax.data.prompts import Example
from vlm_mu_jax.errors import InputError


def rows(count, images=0):
    made = []
    for i in range(count):
        ids = (1, 2, *range(3, 4 + i % 4))
        pixels = tuple(np.full((2, 2, 3), i, np.float32) for _ in range(images if i % 2 else 0))
        made.append(TrainRow(f"r{i}", ids, (False, False) + (True,) * (len(ids) - 2), pixels))
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


def test_pairs_stay_together_and_know_when_they_cannot():
    lead = Stream(rows(10), 4, 3, name="forget")
    other = Stream(rows(10)[::-1], 4, 3, name="preferred", order_of=lead)
    alone = Stream(rows(10)[::-1], 4, 3, name="preferred")
    assert any((alone.indices(k) != lead.indices(k)).any() for k in range(4))
    other = other.with_reference(np.arange(10, dtype=np.float32))
    for k in range(8):
        np.testing.assert_array_equal(other.indices(k), lead.indices(k))
        np.testing.assert_array_equal(other[k].reference_nll_B, lead.indices(k))
    assert other.fingerprint() != alone.fingerprint()
    for count, batch in ((9, 4), (10, 2)):
        with pytest.raises(InputError, match="preferred and forget are pairs"):
            Stream(rows(count), batch, 3, name="preferred", order_of=lead)


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
        [TrainRow("a", (1, 2), (False, True), ("a.png",)), TrainRow("b", (1, 2), (False, True), ("b.png",))],
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
        ([TrainRow("bad", (1, 2), (True, False))], {}, "'bad' has no answer tokens"),
        ([TrainRow("bad", (1, 2), (True,))], {}, "'bad': 2 tokens but 1 mask"),
        (rows(4), {"lengths": (4,)}, "more than length 4"),
        (rows(4), {"batch_size": 0}, "at least 1"),
    ],
)
def test_bad_rows_are_named(made, options, message):
    with pytest.raises(InputError, match=message):
        Stream(made, **{"batch_size": 2, "seed": 0, **options})


def ragged(count=45, seed=0):
    """Rows of 3 to 40 tokens, the last third of them (at least one) with the loss."""
    made = []
    for i, n in enumerate(np.random.default_rng(seed).integers(3, 41, count)):
        answer = max(int(n) // 3, 1)
        made.append(TrainRow(f"r{i}", (i,) * int(n), (False,) * (int(n) - answer) + (True,) * answer))
    return made


def test_bucket_lengths_hold_every_row_and_are_no_more_than_asked_for():
    made = ragged()
    longest = max(len(one.ids) for one in made)
    for count in (1, 3, 50):
        lengths = bucket_lengths(made, count)
        assert len(lengths) <= count and list(lengths) == sorted(set(lengths))
        assert longest <= lengths[-1] < longest + 8 and all(length % 8 == 0 for length in lengths)
    assert len(bucket_lengths(made, 3)) == 3
    with pytest.raises(InputError, match="data.buckets must be at least 1"):
        bucket_lengths(made, 0)


def test_buckets_keep_every_epoch_whole_and_save_padding():
    made = ragged()
    plain, bucketed = Stream(made, 4, 0), Stream(made, 4, 0, lengths=bucket_lengths(made, 3))
    size = 45 // 4  # batches in a chunk, since an epoch has no more
    for c in range(9):  # four and a half epochs hold the ends of epochs in every place of a chunk
        chunk = range(c * size, c * size + size)
        rows, wanted = (Counter(int(i) for k in chunk for i in stream.indices(k)) for stream in (bucketed, plain))
        assert rows == wanted
    epoch = 45 * size  # a multiple of both the rows and the rows of a chunk
    seen = Counter(int(i) for k in range(epoch) for i in bucketed.indices(k))
    assert seen == dict.fromkeys(range(45), 4 * size)
    shapes = [bucketed[k].batch.tokens_BT.shape[1] for k in range(epoch)]
    assert set(shapes) == set(bucketed.lengths) and sum(shapes) < 0.8 * epoch * plain.lengths[0]


def test_no_batch_of_a_bucket_meets_a_row_twice_within_an_epoch():
    made = ragged()
    stream = Stream(made, 4, 0, lengths=bucket_lengths(made, 3))
    twice = sum(len(set(stream.indices(k).tolist())) < 4 for k in range(11 * 20))
    plain = Stream(made, 4, 0)
    assert twice <= sum(len(set(plain.indices(k).tolist())) < 4 for k in range(11 * 20)) + 2  # at ends of epochs only


def test_bucketed_batches_are_a_function_of_the_step_alone():
    made = ragged()
    one, other = (Stream(made, 4, 3, lengths=(16, 40)) for _ in range(2))
    forward = [one.indices(k).tolist() for k in range(40)]
    assert [other.indices(k).tolist() for k in reversed(range(40))] == forward[::-1]
    assert one.fingerprint() != Stream(made, 4, 3, lengths=(24, 40)).fingerprint()


def test_the_window_holds_all_loss_tokens_and_the_one_before_the_first():
    stream = Stream(ragged(), 4, 0, lengths=(16, 24, 40))
    widths = {}
    for k in range(60):
        batch = stream[k]
        T, window = batch.mask_BT.shape[1], batch.window_BW
        widths.setdefault(T, set()).add(window.shape[1])
        for mask, places in zip(batch.mask_BT, window, strict=True):
            assert (np.diff(places) == 1).all() and 0 <= places[0] and places[-1] < T
            assert mask[places].sum() == mask.sum() and np.flatnonzero(mask)[0] - 1 in places
    assert all(len(found) == 1 and max(found) < T for T, found in widths.items())


def test_where_everything_carries_the_loss_there_is_no_window():
    rows = [TrainRow("a", (1, 2, 3, 4, 5), (False, True, True, True, True))]
    assert Stream(rows, 1, 0)[0].window_BW is None
