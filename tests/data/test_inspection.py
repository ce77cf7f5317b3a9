"""A look at a data file: what it is, what is wrong with it, and which tokens of its first rows carry the loss."""

import json

import jax
import pytest
from PIL import Image

from tests.command import run_command
from vlm_mu_jax.data import inspection
from vlm_mu_jax.data.inspection import inspect
from vlm_mu_jax.miniature import checkpoint, language
from vlm_mu_jax.miniature.world import make_world
from vlm_mu_jax.model.families import from_hf
from vlm_mu_jax.model.params import init_params
from vlm_mu_jax.model.vlm import param_specs
from vlm_mu_jax.storage.model_folder import read_processor, write_model_folder

TALK = [
    {"role": "system", "content": "share it ."},
    {"role": "user", "content": "<image>what is this"},
    {"role": "assistant", "content": "a red sign"},
    {"role": "user", "content": "what is it"},
    {"role": "assistant", "content": "a ring ."},
]
ROWS = [
    {"messages": TALK, "images": ["a.png"]},
    {"messages": TALK[1:3], "images": ["a.png"], "id": "two"},
    {"messages": [{"role": "tool", "content": "x"}]},
    {"messages": TALK[3:4]},
    {"strange": 1},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("check")
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "good.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[:2]))
    tokenizer = language.train_tokenizer(language.all_text(make_world(0)))
    config = checkpoint.hf_config(tokenizer)
    (folder / "files").mkdir()
    checkpoint.write_companions(folder / "files", tokenizer)
    params = init_params(param_specs(from_hf(config)), jax.random.key(0))
    write_model_folder(folder / "model", params, config, folder / "files", "vicuna_v1", "llava_v4", {})
    return folder


def test_a_file_is_described_with_all_that_is_wrong(folder):
    found = inspect(folder / "rows.jsonl")
    assert found.shapes == {"messages": 4, None: 1} and found.rows == 5 and len(found.records) == 3
    assert [number for number, _ in found.problems] == [3, 5] and not found.lengths
    assert found.examples[0][0] == ("system: share it .\n", False) and found.examples[0][2] == (
        "assistant: a red sign\n",
        True,
    )


def test_lengths_and_examples_are_the_training_rows(folder):
    processor = read_processor(folder / "model")
    found = inspect(folder / "rows.jsonl", processor)
    records = found.records
    example = processor.conversation(records[0].turns, [folder / "a.png"], records[0].system)
    assert found.lengths[0] == len(example.ids) and len(found.lengths) == 3
    said = [text.strip() for text, carries in found.examples[0] if carries]
    assert [text.replace(" ", "") for text in said] == ["aredsign</s>", "aring.</s>"]
    assert (f"<{processor.cfg.vision.P} image tokens>", False) in found.examples[0]
    assert not any(carries for _, carries in found.examples[2])  # a question alone
    refusing = inspect(folder / "rows.jsonl", processor.with_template("plain", system="<image>"))
    assert sum(refusing.refused.values()) == 2 and "refused" in refusing.examples[1][0][0]


def test_the_text_says_it_all(folder):
    found = inspect(folder / "rows.jsonl", read_processor(folder / "model"))
    shown = found.text()
    assert not found.good
    for part in (
        "rows.jsonl: 5 rows (messages 4, of no known shape 1), 3 records read",
        "turns    1 (1), 2 (1), 4 (1)",
        "images   0 (1), 1 (2)",
        "1 with a system text",
        "1 ending with a question",
        "2 bad rows:",
        "row 3: message 1 is by 'tool'",
        "row 5: is of no shape known here; it has strange",
        "tokens:",
        "what carries the loss is between [[ and ]]",
        "a ring .</s>]]",
        "--- two",
    ):
        assert part in shown, part
    good = inspect(folder / "good.jsonl")
    assert good.good and "give --checkpoint" in good.text()


def test_colour_marks_the_loss_on_a_terminal():
    assert inspection._marked([("a", False), ("b", True)], colour=True) == "a\033[32;1mb\033[0m"


def test_the_command(folder):
    done = run_command("curate", f"--check={folder}/rows.jsonl", f"--checkpoint={folder}/model")
    assert done.returncode == 2 and "2 bad rows" in done.stdout and not done.stderr
    done = run_command("curate", f"--out={folder}/x")
    assert done.returncode == 2 and "--safety must be given, or --check=FILE" in done.stderr
