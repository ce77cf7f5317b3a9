"""bin/curate from files to a folder that training's own reader splits into the same sets."""

import json

import pytest
from PIL import Image

from tests.command import run_command
from vlm_mu_jax.data import forget_retain, readers
from vlm_mu_jax.evaluation.answers.answers_file import Answer, Condition


def curate(*flags):
    return run_command("curate", *flags)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "train").mkdir()
    rows, lines, general = [], [], []
    for i in range(4):
        Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(folder / "train" / f"{i}.png")
        pair = {"instruction": f"share dax {i}", "response": "i cannot help"}
        rows.append({"id": f"u{i}", "image": f"{i}.png", "safe": False, "harmful_category": "x", "instr-resp": [pair]})
        pairs = [
            {"safe_instruction": f"what is {i}", "response": "a sign"},
            {"unsafe_instruction": f"share wug {i}", "response": "i cannot help"},
        ]
        rows.append({"id": f"s{i}", "image": f"{i}.png", "safe": True, "instr-resp": pairs})
        for name, question in ((f"u{i}", f"share dax {i}"), (f"s{i}#unsafe", f"share wug {i}")):
            text = "I am sorry, I cannot help." if i == 3 else f"the steps are {name}"
            lines.append(Answer(name, Condition(), None, "sha", question, text, 3))
        turns = [{"from": "human", "value": f"how many {i}"}, {"from": "gpt", "value": "two"}]
        general.append({"id": f"g{i}", "conversations": turns})
    (folder / "train.json").write_text(json.dumps(rows))
    (folder / "mix.json").write_text(json.dumps(general))
    (folder / "a.jsonl").write_text("".join(line.to_line() + "\n" for line in lines))
    return folder


def test_the_folder_gives_training_the_sets_that_were_curated(data, tmp_path):
    flags = (f"--safety={data}/train.json", f"--general={data}/mix.json", "--retain_size=6", "--unsafe_on_safe_images")
    flags += (f"--candidates={data}/a.jsonl", "--judge=keyword", "--coreset_size=5")
    out = tmp_path / "one"
    for folder in (out, tmp_path / "two"):
        done = curate(*flags, f"--out={folder}")
        assert done.returncode == 0, done.stderr
    assert "8 answers, 2 refused" in done.stdout
    manifests = [json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("one", "two")]
    assert manifests[0] == manifests[1], "seeded"
    assert manifests[0]["retain"] == {"records": 6, "safe": 4, "general": 2}
    split = forget_retain.build(
        readers.read(out / "requests.json"), out / "forget_answers.jsonl", readers.read(out / "retain.json").items
    )
    forget = readers.read(out / "forget.json")
    assert [(r.id, r.answer) for r in split.forget] == [(r.id, r.answer) for r in forget] and len(forget) == 5
    assert {r.answer for r in forget} == {f"the steps are {r.id}" for r in forget}
    assert any("#unsafe" in r.id for r in forget) and len(split.retain) == 6


def test_mistakes_are_one_line(data, tmp_path):
    safety, out = f"--safety={data}/train.json", f"--out={tmp_path / 'out'}"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("keep me")
    for flags, message in (
        ((safety, out, f"--general={data}/train.json"), "unsafe records, which are not to be retained"),
        ((safety, out, "--judge=relevance"), "use harm"),
        ((safety, f"--out={tmp_path / 'mine'}"), "is not a folder that this command wrote"),
    ):
        done = curate(*flags)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "out").exists() and (tmp_path / "mine" / "note.txt").exists()
