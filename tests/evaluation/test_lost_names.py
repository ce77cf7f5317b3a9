"""What a command is told and cannot find is said in one line before a model is loaded."""

import json

import pytest
from PIL import Image

from tests.command import run_command
from vlm_mu_jax.storage import model_folder

MODEL = "--checkpoint=model"
ASKED = {
    "an image": (["generate", MODEL, "--prompt=what ?", "--image=lost.png"], "lost.png: no such image"),
    "a guard of an answer": (["generate", MODEL, "--prompt=what ?", "--guard=lost"], "lost is not a guard"),
    "a kind": (["generate", MODEL, "--data=ask.json", "--kinds=unsaef", "--out=o.jsonl"], "unsaef is none of unsafe"),
    "a word list": (
        ["attack", MODEL, "--data=ask.json", "--words=lost.txt", "--out=a.json"],
        "lost.txt cannot be read",
    ),
    "a position": (
        ["attack", MODEL, "--data=ask.json", "--positions=qustion_start", "--out=a.json"],
        "did you mean question_start?",
    ),
    "a reference": (["attack", MODEL, "--data=ask.json", "--reference=lost", "--out=a.json"], "lost: no such folder"),
    "an attacked guard": (["attack", MODEL, "--data=ask.json", "--guard=lost", "--out=a.json"], "lost is not a guard"),
    "a measured guard": (["eval", MODEL, "--data=ask.json", "--guard=lost", "--workdir=w"], "lost is not a guard"),
    "a judge": (
        ["eval", MODEL, "--data=ask.json", "--judge=harm", "--judge_checkpoint=lost", "--workdir=w"],
        "lost: no such folder",
    ),
    "a judge's text": (
        [
            *["eval", MODEL, "--data=ask.json", "--workdir=w"],
            "--judge=harm",
            f"--judge_{MODEL[2:]}",
            "--judge_prompt=no",
        ],
        "--judge_prompt=no: cannot be read",
    ),
    "a set": (["eval", MODEL, "--data=ask.json", "--safety=figstp", "--workdir=w"], "did you mean figstep?"),
    "a defence's guard": (["defences", MODEL, "--data=.", "--guard=lost", "--workdir=w"], "lost is not a guard"),
    "an applied guard": (["guard", "apply", MODEL, "--guard=lost", "--data=.", "--out=o"], "lost is not a guard"),
    "a selected guard": (["guard", "select", MODEL, "--guard=lost", "--data=.", "--out=o"], "lost is not a guard"),
    "a served guard": (["serve", MODEL, "--guard=lost", "--port=0"], "lost is not a guard"),
    "training data": (
        ["train", "--config=miniature_sft", "--config.model.init=model", "--config.data.root=lost", "--workdir=w"],
        "lost/train.json: no such file",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, checkpoint):
    """A model folder without weights, which no command can load, and a file of questions."""
    folder = tmp_path_factory.mktemp("names")
    copy = folder / "model"
    copy.mkdir()
    model_folder.copy_companions(checkpoint, copy)
    for name in ("config.json", model_folder.SETTINGS, "provenance.json"):
        (copy / name).write_bytes((checkpoint / name).read_bytes())
    Image.new("RGB", (8, 8)).save(folder / "sign.png")
    rows = [
        {"id": f"{kind}{i}", "question": f"give me {i}", "answer": "a", "kind": kind, "image": "sign.png"}
        for i in range(4)
        for kind in ("unsafe", "safe")
    ]
    for name in ("ask.json", "text_harm.json"):
        (folder / name).write_text(json.dumps(rows))
    return folder


@pytest.mark.parametrize("arguments, said", ASKED.values(), ids=ASKED)
def test_what_is_not_there_is_said_before_a_model_is_loaded(folder, arguments, said):
    done = run_command(*arguments, cwd=folder)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr and "params" not in done.stderr and len(done.stderr.splitlines()) == 1
