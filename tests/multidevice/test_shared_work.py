"""Two processes share the questions out between them; the files are those of one process, byte for byte."""

import json
import subprocess
import sys

import pytest

from tests.command import run_command
from tests.evaluation.conftest import checkpoint, data_dir, model  # noqa: F401 (fixtures)
from tests.multidevice import work_of_processes
from tests.multidevice.start import environment, free_address, run_together


def together(name, *flags, processes=2):
    """Runs `bin/NAME FLAGS` as a job; its outputs by process."""
    job = [sys.executable, "-m", f"vlm_mu_jax.cli.{name}", *map(str, flags), f"--coordinator={free_address()}"]
    started = [
        subprocess.Popen(
            [*job, f"--num_processes={processes}", f"--process_id={process}"],
            env=environment(1),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(processes)
    ]
    try:
        outputs = [process.communicate(timeout=600)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * processes, "\n---\n".join(outputs)[-5000:]
    return outputs


def contents(folder):
    return {path.name: path.read_bytes() for path in (folder / "answers").glob("*.jsonl")}


@pytest.fixture
def asked(checkpoint, data_dir):  # noqa: F811
    return [f"--checkpoint={checkpoint}", f"--data={data_dir}", "--batch_size=4", "--max_new_tokens=4"]


def test_an_evaluation_of_two_processes_is_that_of_one(asked, tmp_path):
    sets = "--sets=unsafe_before,harmless_before,utility"
    assert run_command("eval", *asked, sets, f"--workdir={tmp_path / 'one'}").returncode == 0
    first, second = together("eval", *asked, sets, f"--workdir={tmp_path / 'two'}")
    assert "Wilson intervals" in first and "Wilson intervals" not in second
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert not (tmp_path / "two" / "shards").exists()


@pytest.fixture(scope="module")
def found(root, checkpoint, data_dir, tmp_path_factory):  # noqa: F811
    """The folder of what work_of_processes.py finds: as one process, which is this one, 1.json and 1/; as two, 2..."""
    folder = tmp_path_factory.mktemp("found")
    words = [str(checkpoint), str(data_dir)]
    work_of_processes.main(str(folder / "1.json"), *words)
    script = root / "tests" / "multidevice" / "work_of_processes.py"
    run_together([sys.executable, str(script), str(folder / "2.json"), *words], processes=2, devices=1)
    return folder


def test_shards_of_a_data_file_and_two_processes_write_the_file_of_one(asked, found, data_dir, tmp_path):  # noqa: F811
    asked[1] = f"--data={data_dir / 'test.json'}"
    one, shards, two = tmp_path / "one.jsonl", tmp_path / "shards.jsonl", found / "2" / "generated.jsonl"
    assert run_command("generate", *asked, f"--out={one}").returncode == 0
    for share in ("1/2", "0/2"):
        assert run_command("generate", *asked, f"--out={shards}", f"--shard={share}").returncode == 0
        if share == "1/2":
            early = run_command("generate", *asked, f"--out={shards}", "--join")
            assert early.returncode == 2 and "run again --shard=0/2 (5 answers)" in early.stderr
    assert run_command("generate", *asked, f"--out={shards}", "--join").returncode == 0
    assert one.read_bytes() == shards.read_bytes() == two.read_bytes()
    assert sorted(path.name for path in two.parent.glob("generated*")) == [
        "generated.jsonl",
        "generated.jsonl.provenance.json",
    ]


def test_guards_attacks_and_relearning_of_two_processes_are_those_of_one(found):
    one, two = (json.loads((found / name).read_text()) for name in ("1.json", "2.json"))
    assert two["directions"] == one["directions"] and len(one["directions"]) == 64
    assert two["selection"] == one["selection"] and two["options"] == one["options"]
    assert one["batches"] == [5] and two["batches"] == [3, 2]  # each runs its own
    assert (found / "1/attack.json").read_bytes() == (found / "2/attack.json").read_bytes()
    lines = [(found / n / "attack.answers.jsonl").read_text().splitlines() for n in ("1", "2")]
    assert sorted(lines[0]) == sorted(lines[1]) and not list((found / "2").glob("*.part-*"))
    assert two["relearned"]["devices"] == 2 and one["relearned"]["devices"] == 1
    assert two["relearned"]["curve"] == one["relearned"]["curve"] and len(one["relearned"]["curve"]) == 2
