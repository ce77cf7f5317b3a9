"""Four processes share the questions out between them; the files are those of one process, byte for byte."""

import json

import pytest

from tests.command import Started, run_command
from tests.evaluation.conftest import checkpoint, data_dir, model  # noqa: F401 (fixtures)
from tests.multidevice import work_of_processes
from tests.multidevice.start import ended, environment, free_address, run_together

PROCESSES = 4


def together(name, *flags, processes=PROCESSES):
    """Runs `bin/NAME FLAGS` as a job; its outputs by process."""
    job = [name, *flags, f"--coordinator={free_address()}", f"--num_processes={processes}"]
    return ended([Started(*job, f"--process_id={i}", env=environment(1)) for i in range(processes)])


def contents(folder):
    return {path.name: path.read_bytes() for path in (folder / "answers").glob("*.jsonl")}


@pytest.fixture
def asked(checkpoint, data_dir):  # noqa: F811
    return [f"--checkpoint={checkpoint}", f"--data={data_dir}", "--batch_size=4", "--max_new_tokens=4"]


def test_an_evaluation_of_four_processes_is_that_of_one(asked, tmp_path):
    sets = "--sets=unsafe_before,harmless_before,utility"
    assert run_command("eval", *asked, sets, f"--workdir={tmp_path / 'one'}").returncode == 0
    first, *others = together("eval", *asked, sets, f"--workdir={tmp_path / 'four'}")
    assert "Wilson intervals" in first and not any("Wilson intervals" in other for other in others)
    assert contents(tmp_path / "four") == contents(tmp_path / "one")
    assert not (tmp_path / "four" / "shards").exists()


@pytest.fixture(scope="module")
def found(root, checkpoint, data_dir, tmp_path_factory):  # noqa: F811
    """The folder of what work_of_processes.py finds: as one process, which is this one, 1.json and 1/; as four, 4..."""
    folder = tmp_path_factory.mktemp("found")
    words = [str(checkpoint), str(data_dir)]
    work_of_processes.main(str(folder / "1.json"), *words)
    script = root / "tests" / "multidevice" / "work_of_processes.py"
    run_together(script, folder / f"{PROCESSES}.json", *words, processes=PROCESSES, devices=1)
    return folder


def test_shards_of_a_data_file_and_four_processes_write_the_file_of_one(asked, found, data_dir, tmp_path):  # noqa: F811
    asked[1] = f"--data={data_dir / 'test.json'}"
    one, shards, four = tmp_path / "one.jsonl", tmp_path / "shards.jsonl", found / "4" / "generated.jsonl"
    assert run_command("generate", *asked, f"--out={one}").returncode == 0
    for share in ("1/2", "0/2"):
        assert run_command("generate", *asked, f"--out={shards}", f"--shard={share}").returncode == 0
        if share == "1/2":
            early = run_command("generate", *asked, f"--out={shards}", "--join")
            assert early.returncode == 2 and "run again --shard=0/2 (5 answers)" in early.stderr
    assert run_command("generate", *asked, f"--out={shards}", "--join").returncode == 0
    assert one.read_bytes() == shards.read_bytes() == four.read_bytes()
    assert sorted(path.name for path in four.parent.glob("generated*")) == [
        "generated.jsonl",
        "generated.jsonl.provenance.json",
    ]


def test_guards_attacks_and_relearning_of_four_processes_are_those_of_one(found):
    one, four = (json.loads((found / name).read_text()) for name in ("1.json", "4.json"))
    assert four["directions"] == one["directions"] and len(one["directions"]) == 64
    assert four["selection"] == one["selection"] and four["options"] == one["options"]
    assert one["batches"] == [5] and four["batches"] == [2, 1, 1, 1]  # each runs its own
    for name in ("attack", "pgd", "typographic"):
        files = [found / n / f"{name}.json" for n in ("1", "4")]
        whole, dealt = (path.read_text().replace(str(path.parent), "") for path in files)  # it names pictures
        assert dealt == whole
        answers = [path.with_suffix(".answers.jsonl").read_text() for path in files]
        assert sorted(answers[0].splitlines()) == sorted(answers[1].splitlines())
    assert not list((found / "4").glob("*.part-*"))
    assert four["relearned"]["devices"] == 4 and one["relearned"]["devices"] == 1
    assert four["relearned"]["curve"] == one["relearned"]["curve"] and len(one["relearned"]["curve"]) == 2
