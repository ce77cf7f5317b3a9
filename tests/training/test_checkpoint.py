"""Checkpoints: written while training goes on, only the newest and the best stay, half-written ones do not count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.files.small_disk import small_disk
from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.files import buckets
from vlm_mu_jax.training.checkpoint import Checkpoints
from vlm_mu_jax.training.train import train

RUN = {"seed": "0"}


def steps(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def test_saving_goes_on_while_the_arrays_are_overwritten(tmp_path):
    size = 25_000_000  # 100 MB: written long after `save` has returned
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 1.0, tree), donate_argnums=0)
    tree = {"w": jnp.arange(size, dtype=jnp.float32)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, tree, {"m": jnp.zeros(3)}, RUN)
        assert steps(tmp_path) == []
        rounds = 0
        while not steps(tmp_path):
            tree, rounds = step(tree), rounds + 1
            jax.block_until_ready(tree)
        got = checkpoints.trainable(1, tree)["w"]
    np.testing.assert_array_equal(got, np.arange(size, dtype=np.float32))
    assert rounds > 0 and (np.asarray(tree["w"][:5]) == -1).all()


def test_the_newest_and_the_best_stay(tmp_path):
    tree = {"w": jnp.arange(4.0)}
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step, best in ((1, None), (2, 2), (3, 2), (4, 2), (5, 5), (6, 5), (7, 5), (8, 5)):
            checkpoints.save(step, {"w": tree["w"] + step}, {"m": tree["w"]}, RUN, best)
            checkpoints.wait()
            if step == 4:
                assert steps(tmp_path) == [2, 3, 4]
        assert steps(tmp_path) == [5, 7, 8]
        assert checkpoints.trainable(5, tree)["w"].tolist() == [5, 6, 7, 8]
        assert checkpoints.run(8) == RUN


def test_a_full_disk_names_the_folder(tmp_path):
    """TensorStore's error is a ValueError with the number of the system's."""
    with pytest.raises(OSError, match="File too large") as error, Checkpoints(tmp_path) as checkpoints:
        with small_disk(3000):
            checkpoints.save(1, {"w": jnp.arange(4000.0)}, {"m": jnp.zeros(3)}, RUN)
            checkpoints.wait()
    assert error.value.filename == str(tmp_path) and steps(tmp_path) == []


def test_a_half_written_step_does_not_count_and_a_damaged_one_is_named(tmp_path):
    tree = {"w": jnp.arange(4.0)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, tree, {"m": jnp.zeros(3)}, RUN)
    (tmp_path / "2.orbax-checkpoint-tmp-7").mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 1
        checkpoints.save(2, tree, {"m": jnp.zeros(3)}, RUN)
    for file in (tmp_path / "2" / "trainable").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(InputError, match="/2: cannot be restored"):
        checkpoints.trainable(2, tree)


def test_at_least_one_is_kept(tmp_path):
    with pytest.raises(InputError, match="keep must be at least 1"):
        Checkpoints(tmp_path, keep=0)


def test_a_bucket_out_of_reach_and_processes_without_a_common_folder_are_one_line(tmp_path, monkeypatch):
    def lost(*_, **__):
        raise ConnectionError("no way\nto it")

    saved = Checkpoints(tmp_path)
    monkeypatch.setattr(buckets, "remote", lambda path: "s3://b/run")
    monkeypatch.setattr(saved._manager, "save", lost)
    with pytest.raises(JobError, match=r"s3://b/run: a checkpoint cannot be written \(ConnectionError: no way to it\)"):
        saved.save(1, {"w": jnp.zeros(3)}, {}, RUN)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for begin in (Checkpoints, lambda workdir: train("miniature_sft", workdir)):  # before a model is looked for
        with pytest.raises(InputError, match="s3://b/run: several processes write checkpoints together"):
            begin(tmp_path)
