"""Batches on a mesh: which rows a process holds, and that they arrive at their places."""

import jax
import numpy as np

from vlm_mu_jax.parallel.mesh import batch_shards, process_rows, put, put_batch, replicated, single_device_mesh


def test_one_process_holds_every_row():
    mesh = single_device_mesh()
    assert batch_shards(mesh) == 1 and process_rows(mesh, 6).tolist() == [0, 1, 2, 3, 4, 5]


def test_rows_arrive_in_order_along_any_axis():
    mesh = single_device_mesh()
    batch = {"tokens": np.arange(12).reshape(2, 3, 2), "mask": np.ones((2, 3), bool)}
    there = put_batch(batch, mesh, 3, axis=1)
    jax.tree.map(np.testing.assert_array_equal, there, batch)
    assert there["tokens"].sharding.spec[1] == ("data", "fsdp")


def test_put_takes_host_and_device_arrays():
    place = replicated(single_device_mesh())
    for x in (np.arange(3.0), jax.numpy.arange(3.0)):
        there = put(x, place)
        assert there.sharding == place and there.tolist() == [0, 1, 2]
