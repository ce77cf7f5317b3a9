"""Batches ahead: in order, equal to the stream's own, built while the caller does something else."""

import threading

import chex
import jax
import numpy as np
import pytest

from tests.training import tiny
from vlm_mu_jax.parallel.mesh import single_device_mesh
from vlm_mu_jax.training.feed import AHEAD, Feed, put_rows

STREAMS = {"forget": tiny.stream(10, 4, 0, "forget"), "retain": tiny.stream(7, 4, 1, "retain")}


def test_every_step_gets_its_own_batch_in_micro_batches():
    with Feed(STREAMS, single_device_mesh(), 2, 3, 9) as feed:
        for k in range(3, 9):
            assert feed.peek().rows is feed.peek().rows
            batch = feed.next()
            for name, stream in STREAMS.items():
                want = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), stream[k])
                chex.assert_trees_all_equal(batch.rows[name], want)
            lengths = sum(np.asarray(rows.batch.lengths_B).sum() for rows in batch.rows.values())
            assert batch.tokens == lengths


def test_the_next_batches_are_built_meanwhile():
    asked = threading.Semaphore(0)

    class Watched:
        def __getattr__(self, name):
            return getattr(STREAMS["forget"], name)

        def indices(self, k):
            asked.release()
            return STREAMS["forget"].indices(k)

    with Feed({"forget": Watched()}, single_device_mesh(), 1, 0, 100) as feed:
        feed.next()
        for _ in range(AHEAD + 1):  # the one that was taken, and those ahead
            assert asked.acquire(timeout=30)
        assert not asked.acquire(timeout=0.2)  # and no more than those


def test_an_error_reaches_the_loop_and_the_threads_end():
    class Broken:
        rows = STREAMS["forget"].rows

        def indices(self, k):
            raise OSError("the disk is gone")

    before = threading.active_count()
    with pytest.raises(OSError, match="the disk is gone"), Feed({"x": Broken()}, single_device_mesh(), 1, 0, 9) as feed:
        feed.next()
    assert threading.active_count() == before


def test_put_rows_keeps_the_order():
    rows = put_rows(STREAMS["forget"], np.array([3, 1, 2, 0]), single_device_mesh(), 2, 16)
    want = STREAMS["forget"].take([3, 1, 2, 0]).batch.lengths_B
    assert np.asarray(rows.batch.lengths_B).tolist() == want.reshape(2, 2).tolist()
