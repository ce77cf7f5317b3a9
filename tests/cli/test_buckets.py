"""The commands on buckets: convert, train, be killed, go on, evaluate, export; and a line that is cut on the way."""

import json
import signal
import threading
import time

import pytest

import vlm_mu_jax
from tests.command import ROOT, Started, run_command
from tests.object_stores import ObjectStore
from tests.training.test_train import root  # noqa: F401 (a fixture)
from vlm_mu_jax.conversion.exporter import ExportOptions, export

STEPS = 60


@pytest.fixture(scope="module", params=["gs", "s3"])
def store(request, tmp_path_factory, root):  # noqa: F811
    made = ObjectStore(request.param, tmp_path_factory.mktemp("store"))
    try:
        with made.reached():
            export(root / "model", root / f"{made.scheme}_hf", ExportOptions(dialect="llava_v5"))
            for name, folder in (("hf", root / f"{made.scheme}_hf"), ("data", root / "data")):
                made.files.put(f"{folder}/", f"bucket/{name}/", recursive=True)
            yield made
    finally:
        made.stop()


def training(url):
    return [
        f"--config={ROOT}/configs/miniature_sft.py",
        f"--workdir={url}/runs/sft",
        f"--config.model.init={url}/base",
        f"--config.data.root={url}/data",
        "--config.data.safety=train.json",
        "--config.data.general=mix.json",
        "--config.data.general_size=6",
        f"--config.steps={STEPS}",
        "--config.batch_size=4",
        "--config.checkpoint_every=20",
    ]


def done(store, name, *flags):
    found = run_command(name, *flags, env={**store.env, "VLM_MU_BUCKET_SECONDS": "0.5"}, cwd=store.cwd)
    assert found.returncode == 0, found.stderr
    assert "vlm_mu_buckets" not in found.stdout
    return found


def metrics(store):
    return [json.loads(line) for line in store.files.cat_file("bucket/runs/sft/metrics.jsonl").splitlines()]


def names(store, folder):
    return {name.removeprefix(f"bucket/{folder}/") for name in store.files.find(f"bucket/{folder}")}


@pytest.mark.slow
def test_a_run_lives_in_a_bucket(store, root, tmp_path):  # noqa: F811
    store.cwd, url = tmp_path, store.url
    assert f"{url}/base: " in done(store, "convert_hf", f"--source={url}/hf", f"--out={url}/base").stdout
    assert {"vlm_mu_jax.json", "params/_METADATA"} <= names(store, "base")
    killed_after_a_checkpoint(store)
    before = metrics(store)
    assert len(before) >= 20, "the metrics are behind the checkpoint"
    over, running = threading.Event(), []
    cut = threading.Thread(target=cut_when_it_goes_on, args=(store, before, over, running))
    cut.start()
    try:
        out = done(store, "train", *training(url))
    finally:
        over.set()
        cut.join()
    assert running == [True], "it ended before the line was cut"
    assert f"{url}/runs/sft/model written" in out.stdout
    lines = metrics(store)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert lines[:20] == before[:20], "it did not go on from the checkpoint"  # they hold the seconds of each step
    assert json.loads(store.files.cat_file("bucket/runs/sft/config.json"))["model"]["init"] == f"{url}/base"

    asked = [f"--checkpoint={url}/runs/sft", "--batch_size=4", "--max_new_tokens=3"]
    evaluated = [
        "eval",
        *asked,
        f"--data={url}/data",
        f"--workdir={url}/runs/eval",
        "--subset=train",
        "--max_questions=2",
    ]
    for share in ("--shard=0/2", "--shard=1/2", "--join"):
        done(store, *evaluated, share)
    done(store, "generate", *asked, f"--data={url}/data/train.json", f"--out={url}/runs/answers.jsonl")
    assert len(store.files.cat_file("bucket/runs/answers.jsonl").splitlines()) == 12
    assert {"results.json", "answers/unsafe_before.jsonl"} <= names(store, "runs/eval")
    done(store, "convert_hf", "--export", f"--source={url}/runs/sft", f"--out={url}/out")
    store.files.get("bucket/out/", f"{tmp_path}/out/", recursive=True)
    vlm_mu_jax.convert(tmp_path / "out", tmp_path / "again")
    assert not any(".lock" in name for name in store.files.find("bucket")), "a lock was left behind"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "out"], "a command made something here"


def cut_when_it_goes_on(store, before, over, running):
    """Cuts the line for three seconds once the run that goes on has written, unless it is over."""
    while metrics(store) == before and not over.wait(0.02):
        pass
    running.append(not over.is_set())
    store.line.cut()
    time.sleep(3)
    store.line.mend()


def killed_after_a_checkpoint(store):
    running = Started("train", *training(store.url), env={**store.env, "VLM_MU_BUCKET_SECONDS": "0.1"})
    last = {"gs": "commit_success.txt", "s3": "_CHECKPOINT_METADATA"}[store.scheme]  # what makes it complete
    while not store.files.exists(f"bucket/runs/sft/checkpoints/20/{last}"):
        assert running.poll() is None, running.communicate()
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert running.returncode == -signal.SIGKILL, "it ended before it was killed"
