"""The relearning attack on a tiny LLaVA, and what it trains on."""

import json

import chex
import jax
import numpy as np
import pytest

import vlm_mu_jax
from tests.command import run_command
from tests.evaluation.conftest import checkpoint, data_dir, model  # noqa: F401
from tests.training.evaluated import config  # noqa: F401
from vlm_mu_jax.data import readers
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.answers import answers_file
from vlm_mu_jax.evaluation.results import frontier
from vlm_mu_jax.training import relearning
from vlm_mu_jax.training import settings as settings_lib
from vlm_mu_jax.training.evaluation_questions import QuestionOptions, questions_of


def test_relearning_is_measured_from_the_start_and_leaves_the_model_alone(config, checkpoint, data_dir, tmp_path):  # noqa: F811
    attacked = vlm_mu_jax.load(checkpoint)
    before = jax.tree.map(np.asarray, attacked.params)
    questions = questions_of(settings_lib.checked(config))
    records = relearning.harmless_records(data_dir / "test.json")
    assert {record.kind for record in records} == {"safe"}
    options = relearning.RelearnOptions(
        QuestionOptions.of(config.eval), steps=3, every=2, batch_size=16, learning_rate=0.05
    )
    seen = {}
    found = relearning.relearn(
        attacked, records, options, tmp_path, questions=questions, on_evaluation=seen.__setitem__
    )
    assert [point.step for point in found.curve] == [0, 2, 3] == list(seen)
    for point in found.curve:
        assert point.metrics["asr"] == frontier.with_interval(seen[point.step], "asr")
    chex.assert_trees_all_equal(before, attacked.params)
    answers = [
        [a.answer for a in answers_file.read(tmp_path / "evaluations" / step / "answers" / "harmless_before.jsonl")]
        for step in ("000000", "000003")
    ]
    assert answers[0] != answers[1]  # the weights that were asked are those that were trained
    losses = [json.loads(line)["loss"] for line in (tmp_path / "training" / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    assert relearning.relearn(attacked, records, options, tmp_path) == found  # nothing is trained again
    left = relearning.relearned(attacked, records, options, tmp_path)  # the same training, read from its checkpoint
    assert left.changed == "relearned on 5 records, 3 steps" and left.stored_sha256 == found.weights_sha256
    assert found.to_dict()["curve"][0]["metrics"]["asr"] == found.curve[0].metrics["asr"].to_dict()


def test_forget_examples_carry_the_harmful_answers(data_dir, tmp_path):  # noqa: F811
    safety, lines = readers.read(data_dir / "test.json"), []
    for i in range(5):
        label = "refused" if i == 4 else "answered"
        lines.append(
            {
                "id": f"u{i}",
                "condition": {"attack": "none"},
                "answer": f"way {i}",
                "labels": {"refusal": {"label": label}},
            }
        )
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    drawn = relearning.forget_records(safety, tmp_path / "answers.jsonl", 3, seed=1)
    assert len({r.id for r in drawn}) == 3 and all(r.answer == f"way {r.id[1:]}" for r in drawn)
    with pytest.raises(InputError, match="only 4 usable"):
        relearning.forget_records(safety, tmp_path / "answers.jsonl", 5, seed=1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give either --forget=K or --harmless=FILE"),
        (["--forget=2", "--harmless=x.json"], "give either"),
        (["--forget=2"], "needs --forget_answers"),
    ],
)
def test_bin_relearn_answers_mistakes_with_one_line(flags, message, tmp_path):
    needed = ["--checkpoint=none", "--data=none", f"--workdir={tmp_path / 'w'}"]
    done = run_command("relearn", *needed, *flags)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and message in done.stderr
    assert not (tmp_path / "w").exists()
