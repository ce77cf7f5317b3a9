"""Copies of what lies in a bucket: what is fetched, in which order it is sent, who writes. The stores are in memory."""

import os
import subprocess
import sys

import fsspec
import pytest

from tests.command import run_command
from vlm_mu_jax.conversion.tensor_files import TensorFiles
from vlm_mu_jax.errors import InputError, JobError
from vlm_mu_jax.files import bucket_lock, buckets, stores
from vlm_mu_jax.files.folders import complete_folder
from vlm_mu_jax.files.json_file import write_json


class InMemory(stores.Store):
    """A store without a server. order: keys in the order in which they were sent; broken: sending fails."""

    def __init__(self, scheme):
        self.scheme, self.order, self.broken = scheme, [], False
        self.files = fsspec.filesystem("memory", skip_instance_cache=True)
        self.files.store = {}
        self.reads = []

    def find(self, key, siblings=False):
        return {one.lstrip("/"): size for one, size in super().find(f"/{key}", siblings).items()}

    def put(self, path, key):
        if self.broken:
            raise ConnectionError("no way")
        self.order.append(key)
        super().put(path, key)


@pytest.fixture
def store(monkeypatch):
    made = {scheme: InMemory(scheme) for scheme in stores.SCHEMES}
    monkeypatch.setattr(stores, "_store", made.__getitem__)
    monkeypatch.setattr(bucket_lock, "_SETTLE", 0)
    yield made
    buckets._copies = None


def test_a_folder_is_fetched_and_what_is_new_is_sent(store):
    gs = store["gs"]
    gs.files.pipe({"/b/run/a.txt": b"old", "/b/run/.hidden": b"x", "/b/run2/a.txt": b"no", "/b/run.judging/c": b"yes"})
    run = buckets.copies().local("gs://b/run", write=True)
    assert sorted(path.name for path in run.rglob("*")) == ["a.txt"]
    assert (run.parent / "run.judging" / "c").read_text() == "yes" and not (run.parent / "run2").exists()
    (run / "grows.jsonl").write_text("1\n")
    write_json(run / "where.json", {"folder": str(run)})
    buckets.send()
    assert sorted(gs.order) == ["b/run/grows.jsonl", "b/run/where.json"]
    assert b'"gs://b/run"' in gs.files.cat_file("/b/run/where.json")
    (run / "a.txt").unlink()
    buckets.finish()
    assert sorted(gs.files.find("/b/run")) == ["/b/run/.hidden", "/b/run/grows.jsonl", "/b/run/where.json"]
    assert not run.exists() and not gs.files.exists("/b/.run.lock")


def test_the_marker_of_a_folder_is_sent_last_and_removed_first(store):
    s3 = store["s3"]
    s3.files.pipe({"/b/out/mark": b"old", "/b/out/stale": b"old"})
    out = buckets.copies().local("s3://b/out", write=True)
    with complete_folder(out, "mark") as folder:
        assert not s3.files.find("/b/out"), "a reader would mix the old files with the new ones"
        assert buckets.remote(folder / "params") == "s3://b/out/params"
        for name in ("mark", "a", "z"):
            (folder / name).write_text("new")
        buckets.send()
        assert not s3.order
    assert sorted(s3.order[:2]) == ["b/out/a", "b/out/z"] and s3.order[2:] == ["b/out/mark"]
    with pytest.raises(RuntimeError), complete_folder(out, "mark") as folder:
        raise RuntimeError
    buckets.finish()
    assert not s3.files.find("/b/out")


def test_there_is_one_writer(store, monkeypatch):
    gs = store["gs"]
    held = bucket_lock.BucketLock(gs, "b/run", "gs://b/run")
    held._mine["host"] = "another"
    gs.files.pipe_file("/b/.run.lock", held._content())
    monkeypatch.setattr(bucket_lock, "RENEW", 0.3)

    def renewed(seconds):
        gs.files.pipe_file("/b/.run.lock", held._content())

    monkeypatch.setattr(bucket_lock.time, "sleep", renewed)
    with pytest.raises(InputError, match="gs://b/run: another command is writing it .* on another"):
        buckets.copies().local("gs://b/run", write=True)
    held._stop.set()


def test_the_lock_of_a_dead_process_of_this_machine_is_taken_over(store):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    held = bucket_lock.BucketLock(store["gs"], "b/run", "gs://b/run")
    held._mine["pid"] = gone.pid
    store["gs"].files.pipe_file("/b/.run.lock", held._content())
    run = buckets.copies().local("gs://b/run", write=True)
    held._stop.set()
    (run.parent / "run").mkdir()
    (run / "a").write_text("1")
    store["gs"].files.pipe_file("/b/.run.lock", b'{"token": "another"}')
    buckets.copies()._locks[0]._lost = True  # as the thread that renews it finds
    with pytest.raises(JobError, match="another command has taken it over"):
        buckets.send()


def test_a_store_out_of_reach_is_told_once_and_keeps_the_copies(store, monkeypatch, capsys):
    monkeypatch.setattr(buckets, "PATIENCE", 0.1)
    monkeypatch.setattr(buckets.time, "sleep", lambda seconds: None)
    run = buckets.copies().local("s3://b/run/file.json", write=True)
    write_json(run, {})
    store["s3"].broken = True
    with pytest.raises(JobError, match="no way.*lies in") as caught:
        buckets.send()
    assert capsys.readouterr().err.count("trying again") == 1
    assert str(buckets.copies().root) in str(caught.value) and run.exists()


def test_safetensors_on_the_hub_stay_there_and_are_read_in_part(store, tmp_path):
    import numpy as np
    from safetensors.numpy import save_file

    tensors = {"a": np.ones((50, 1000), np.float32), "b": np.arange(3, dtype=np.float32)}
    save_file(tensors, tmp_path / "model.safetensors")
    hf = store["hf"]
    hf.files.pipe(
        {"/org/name/model.safetensors": (tmp_path / "model.safetensors").read_bytes(), "/org/name/c.json": b"{}"}
    )
    folder = buckets.copies().local("hf://org/name", stream=True)
    assert (folder / "c.json").read_text() == "{}" and (folder / "model.safetensors").stat().st_size == 0
    with TensorFiles(folder, ["model.safetensors"]) as files:
        np.testing.assert_array_equal(files.read("b"), tensors["b"])
        np.testing.assert_array_equal(files.read("a"), tensors["a"])
        assert dict(files.sha256())["model.safetensors"]


def test_only_whole_checkpoints_are_fetched_and_weights_stay(store):
    files = {
        "/b/run/checkpoints/3/_CHECKPOINT_METADATA": b"1",
        "/b/run/checkpoints/3/x": b"1",
        "/b/run/checkpoints/6/x": b"1",
    }
    files |= {"/b/run/model/params/_METADATA": b"{}", "/b/run/model/params/embed/c.0": b"1"}
    for scheme, steps in (("s3", ["3"]), ("gs", [])):
        store[scheme].files.pipe(files)
        run = buckets.copies().local(f"{scheme}://b/run")
        assert [path.name for path in run.glob("checkpoints/*")] == steps
        assert [path.name for path in run.glob("model/params/*")] == ["_METADATA"]


@pytest.mark.parametrize("url", ["gs://", "gs://b/../c", "ftp://b/c"])
def test_what_names_nothing_is_one_line(url):
    with pytest.raises(InputError) as caught:
        stores.store_of(url)
    assert "\n" not in str(caught.value)


def test_the_hub_is_not_written_and_some_commands_stay_here(tmp_path):
    done = run_command("convert_hf", "--source=x", "--out=hf://org/name", cwd=tmp_path)
    assert done.returncode == 2 and "hf:// is read only" in done.stderr
    done = run_command("quickstart", "--out=gs://b/x", cwd=tmp_path)
    assert done.returncode == 2 and "gs:// is not handled; give a folder" in done.stderr
    assert not os.listdir(tmp_path)
