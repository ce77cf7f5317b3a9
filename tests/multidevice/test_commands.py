"""bin/train as a job of two processes: it stops and goes on together, is evaluated together, writes one model, compiles
nothing twice."""

import json
import signal
import time

import jax
import numpy as np
import pytest

import vlm_mu_jax
from tests.command import ROOT, Started
from tests.multidevice.start import environment, free_address
from tests.training.test_train import root, settings  # noqa: F401 (a fixture)
from vlm_mu_jax.training.train import train

STEPS = 16


def start(data, workdir, processes, process, address, steps=STEPS):
    left_out = dict.fromkeys(("VLM_MU_CACHE", "JAX_COMPILATION_CACHE_DIR"))  # the cache is where it is by default
    flags = {
        "config": ROOT / "configs/miniature_sft.py",
        "workdir": workdir,
        "config.model.init": data / "model",
        "config.data.root": data / "data",
        "config.data.safety": "train.json",
        "config.data.general": "mix.json",
        "config.data.general_size": 6,
        "config.steps": steps,
        "config.batch_size": 4,
        "config.checkpoint_every": 4,
        "config.mesh.data": 1,
        "config.mesh.fsdp": -1,
    }
    if processes > 1:
        flags |= {"coordinator": address, "num_processes": processes, "process_id": process}
        flags |= {"config.eval.every": 4, "config.eval.data": data / "data", "config.eval.subset": "train"}
        flags |= {"config.eval.questions": 2, "config.eval.batch_size": 4, "config.eval.max_new_tokens": 3}
    return Started("train", *(f"--{name}={value}" for name, value in flags.items()), env=environment(1) | left_out)


def together(data, workdir, processes=2):
    address = free_address()
    return [start(data, workdir, processes, i, address) for i in range(processes)]


def ended(started):
    """(exit code, stdout, last line of stderr) of each, without what JAX's CPU collectives print."""
    outputs = [process.communicate() for process in started]
    ours = [[[line for line in text.splitlines() if "[Gloo]" not in line] for text in both] for both in outputs]
    return [(process.returncode, "\n".join(out), err[-1:]) for process, (out, err) in zip(started, ours, strict=True)]


@pytest.mark.slow
def test_two_processes_stop_and_go_on_together(root, tmp_path):  # noqa: F811
    work = tmp_path / "work"
    started = together(root, work)
    while not (work / "checkpoints" / "4").exists():
        assert all(process.poll() is None for process in started), ended(started)
        time.sleep(0.01)
    started[1].send_signal(signal.SIGTERM)  # one gets it, all stop after the same step
    first, second = ended(started)
    assert first[0] == second[0] == 1 and first[2] == second[2]
    assert f"of {STEPS}; the state is saved" in first[2][0]
    stopped = int(first[2][0].partition("after step ")[2].split()[0])
    assert 4 <= stopped < STEPS and not (work / "model").exists()

    (code, out, last), (other, silent, _) = ended(together(root, work))
    assert (code, other, silent) == (0, 0, ""), last
    written = json.loads((work / "provenance.json").read_text())
    assert written["processes"] == 2
    assert f"written as of step {written['weights_of_step']}" in out and "programs: 0 compiled" in out
    assert (tmp_path / ".xla_cache").is_dir()
    lines = [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert [entry["programs"]["compiled"] > 0 for entry in json.loads((work / "goodput.json").read_text())] == [
        True,
        False,
    ]
    assert_model_of_one_process(root, tmp_path, work, lines)


def assert_model_of_one_process(root, tmp_path, work, lines):  # noqa: F811
    chosen = json.loads((work / "config.json").read_text())
    chosen["mesh"] = {"data": 1, "fsdp": 1, "tensor": 1}
    alone = train(chosen, tmp_path / "alone")
    files = ["evaluations.jsonl", *(f"evaluations/{k:06d}/answers/unsafe_before.jsonl" for k in (4, 8, 12, STEPS))]
    for file in files:
        assert (work / file).read_text() == (tmp_path / "alone" / file).read_text(), file
    np.testing.assert_allclose(alone.last["loss"], lines[-1]["loss"], rtol=1e-4)
    one, two = vlm_mu_jax.load(tmp_path / "alone"), vlm_mu_jax.load(work)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5), one.params, two.params)


@pytest.mark.slow
def test_a_second_start_compiles_nothing(root, tmp_path):  # noqa: F811
    for name, compiled in (("first", True), ("second", False)):
        (code, out, last) = ended([start(root, tmp_path / name, 1, 0, None, steps=2)])[0]
        assert code == 0, last
        assert ("programs: 0 compiled" not in out) == compiled
