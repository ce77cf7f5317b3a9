"""Every command that holds a model, with checkpoint, data and output in a bucket. What a store does when it is cut, and
both stores, are in test_buckets.py."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.command import ROOT, run_command
from tests.evaluation.conftest import checkpoint, data_dir, model  # noqa: F401 (fixtures)
from tests.object_stores import ObjectStore
from tests.serving.running import post

SMALL = ("--max_new_tokens=3", "--batch_size=4")
WORDS = ("--words=B/words.txt", "--shortlist=0", "--rescored=0", "--block=4", "--openings=B/refusals.txt")
ATTACK = ("--goal=jailbreak", "--search_questions=1", "--verify_questions=2", "--shots=1", "--judge=refusal")

# What is run, with B for the bucket, and the objects that it writes.
COMMANDS = {
    "guard extract": (("--anchors=B/anchors.json", "--layers=1", "--out=B/o/guard"), ("guard/guard.json",)),
    "guard select": (
        (*SMALL, "--data=B/data", "--guard=B/o/guard", "--strengths=1", "--operators=amplify", "--scopes=last")
        + ("--layer_sets=1", "--max_questions=1", "--validation_share=1", "--out=B/o/chosen"),
        ("chosen/guard.json",),
    ),
    "guard apply": (
        (*SMALL, "--data=B/data", "--guard=B/o/guard", "--image=none", "--out=B/o/applied.jsonl")
        + ("--judge=harmbench", "--judge_checkpoint=B/base"),
        ("applied.jsonl",),
    ),
    "guard diagnose": (("--data=B/data", "--guard=B/o/guard", "--out=B/o/states.json"), ("states.json",)),
    "attack": ((*SMALL, *ATTACK, *WORDS, "--data=B/data", "--out=B/o/attack.json"), ("attack.json",)),
    "attack --method=pgd": (
        (*SMALL, *ATTACK, "--data=B/data", "--method=pgd", "--steps=1", "--out=B/o/pgd.json"),
        ("pgd.json",),
    ),
    "attack --method=typographic": (
        (*SMALL, *ATTACK, "--data=B/data", "--out=B/o/typographic.json"),
        ("typographic.json", "typographic.answers.jsonl"),
    ),
    "relearn": (
        ("--data=B/data", "--harmless=train.json", "--workdir=B/o/relearn", "--steps=1", "--every=1")
        + ("--batch_size=4", "--max_questions=1", "--max_new_tokens=3", "--eval_batch_size=4"),
        ("relearn/relearn.json",),
    ),
    "defences": (
        (*SMALL, "--data=B/data", "--workdir=B/o/defences", "--defences=vanilla", "--settings=direct")
        + ("--images=text_only",),
        ("defences/defences.json", "defences/vanilla/results.json"),
    ),
    "audit": (("--data=B/data", "--saliency=1", "--out=B/o/audit.json"), ("audit.json",)),
    "holds": (
        (*SMALL, "--data=B/data", "--rows=as_is", "--questions=1", "--depth=0", "--workdir=B/o/holds"),
        ("holds/holds.json",),
    ),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory, checkpoint, data_dir):  # noqa: F811
    made, folder = ObjectStore("s3", tmp_path_factory.mktemp("store")), tmp_path_factory.mktemp("inputs")
    try:
        with made.reached():
            shutil.copytree(checkpoint, folder / "base")
            shutil.copytree(data_dir, folder / "data")
            shutil.copy(data_dir / "test.json", folder / "data" / "train.json")
            anchors = [{"harmful": f"share dax{x} .", "harmless": f"what is wug{x} ?"} for x in "abcd"]
            (folder / "anchors.json").write_text(json.dumps(anchors))
            (folder / "words.txt").write_text("what\nlist\n")
            (folder / "refusals.txt").write_text("i\n")  # of one token: programs of more hold the decoder for each
            made.files.put(f"{folder}/", "bucket/", recursive=True)
            yield made
    finally:
        made.stop()


@pytest.mark.slow
def test_a_command_reads_and_writes_a_bucket(store, tmp_path):
    for name, (flags, written) in COMMANDS.items():
        program, *rest = name.split()
        words = [*rest, "--checkpoint=B/base", *flags]
        done = run_command(
            program, *(word.replace("B/", f"{store.url}/") for word in words), env=store.env, cwd=tmp_path
        )
        assert done.returncode == 0, (name, done.stderr[-3000:])
        assert "vlm_mu_buckets" not in done.stdout, name
        for one in written:
            assert store.files.info(f"bucket/o/{one}")["size"], (name, one)
    assert served(store, tmp_path) == {"base", "base+guard"}
    wrong = ("--checkpoint=missing", f"--data={store.url}/data", f"--workdir={store.url}/never/run")
    assert run_command("eval", *wrong, env=store.env, cwd=tmp_path).returncode == 2
    found = store.files.find("bucket")
    assert not any("never" in one for one in found), "a refused command made something"
    assert not any(".lock" in one or ".partial" in one for one in found), "a lock or a part was left behind"
    assert not list(tmp_path.iterdir()), "a command made something here"


def served(store, folder):
    """The names of the models that answer a request, when checkpoint and guard lie in the bucket."""
    words = [sys.executable, "-m", "vlm_mu_jax.cli.serve", "--port=0", "--rows=1"]
    words += [f"--checkpoint={store.url}/base", f"--guard={store.url}/o/guard"]
    environment = {**os.environ, **store.env, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            line = next(line for line in server.stdout if line.startswith("serving"))
            url, asked = line.split()[-1], {"messages": [{"role": "user", "content": "what is wug ?"}], "max_tokens": 2}
            names = ("base", "base+guard")
            return {name for name in names if post(f"{url}/chat/completions", {"model": name, **asked})[0] == 200}
        finally:
            server.terminate()


def test_a_command_that_starts_others_refuses_a_bucket_in_one_line(tmp_path):
    done = run_command("compare", "--out=s3://bucket/compared", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "s3:// is not handled" in done.stderr
    assert not list(tmp_path.iterdir())
