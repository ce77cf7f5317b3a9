"""`bin/eval` with public sets as a user runs it: --list on a half-filled disk, and asking sets without --data."""

import json
import re

import pytest

from tests.command import run_command
from tests.data import upstream


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    upstream.utility(folder)
    lines = [f"dax {number}?" for number in range(100)]
    upstream.write(folder / "malicious_instruct/MaliciousInstruct.txt", "\n".join(lines))
    (folder / "mmvet/images/v1_0.png").unlink()
    return folder


def eval_(*flags):
    return run_command("eval", *flags)


def test_list_tells_what_is_ready_and_what_lacks(root):
    done = eval_("--list", f"--data_root={root}")
    assert done.returncode == 0, done.stderr[-2000:]
    rows = dict(words[:2] for words in map(str.split, done.stdout.splitlines()) if len(words) > 1)
    assert rows["malicious_instruct"] == "ready" and rows["vlguard_unsafes"] == "absent"
    assert rows["pope_random"] == "incomplete" and "pope_random: 2 questions, published are 3000" in done.stdout
    assert "mmvet: 1 images are missing: images/v1_0.png" in done.stdout
    assert "ThuCCSLab/FigStep" in done.stdout and "Hugging Face sqrti/SPA-VL *" in done.stdout
    assert re.fullmatch(rf"1 of \d+ sets are ready under {re.escape(str(root))}", done.stdout.splitlines()[-1])


def test_list_of_named_sets_says_how_to_get_them(root):
    done = eval_("--list", f"--data_root={root}", "--safety=xstest")
    assert "xstest: clone the repository there (xstest/, from paul-rottger/exaggerated-safety)" in done.stdout
    assert "0 of 1 sets are ready" in done.stdout


def test_sets_are_asked_without_a_data_folder_and_scored_by_their_own_rules(root, checkpoint, tmp_path):
    done = eval_(
        f"--checkpoint={checkpoint}",
        f"--workdir={tmp_path}",
        f"--data_root={root}",
        "--max_new_tokens=3",
        "--utility=pope_random",
        "--safety=malicious_instruct",
        "--max_questions=2",
        "--batch_size=2",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "results.json").read_text())
    sets = found["runs"][0]["metrics"]["sets"]
    assert sets["malicious_instruct"]["asr"]["n"] == 2
    assert sets["pope_random"]["accuracy"]["n"] == 2 and 0 <= sets["pope_random"]["yes_ratio"]["value"] <= 1
    assert set(found["provenance"]["data"]["sha256"]) == {
        "pope/coco_pope_random.json",
        "malicious_instruct/MaliciousInstruct.txt",
    }
    assert "public sets, by their own rules" in done.stdout and "yes ratio" in done.stdout


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (["--list"], "--list needs --data_root"),
        (["--utility=pope_random", "--checkpoint=c", "--workdir=w"], "need --data_root"),
        (["--utility=xstest", "--checkpoint=c", "--workdir=w", "--data_root=d"], "no utility set 'xstest'"),
    ],
)
def test_wrong_use_is_one_line(flags, what):
    done = eval_(*flags)
    assert done.returncode == 2 and what in done.stderr and done.stderr.count("\n") == 1
