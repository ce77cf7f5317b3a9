"""A judge by its name: from Python as from the flags."""

import pytest

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.judges import BY_MODEL, NAMES, BatchJudge, JudgeOptions, KeywordJudge, choose, rubrics


def test_the_best_judge_of_the_data_counts_and_the_others_label_too(data_dir, tmp_path):
    found = choose(None, data_dir)
    assert found.counted.name == "oracle" and list(found.by_name) == list(NAMES)
    assert choose(None, tmp_path).counted.name == "refusal"
    assert choose("rules", data_dir).counted.name == "rules"


def test_a_judge_behind_a_server_needs_no_folder():
    pytest.importorskip("openai")
    found = choose(JudgeOptions("harm", server="http://localhost:1/v1", model="m", max_tokens=300)).counted
    assert isinstance(found, BatchJudge) and found.name == "harm:m"


def test_every_judge_that_asks_a_model_has_a_rubric():
    assert set(BY_MODEL) == set(rubrics.RUBRICS)


def test_a_judge_of_your_own_labels_beside_the_others():
    mine = KeywordJudge(["z"], "mine")
    found = choose(mine)
    assert found.counted is mine and found.by_name["mine"] is mine and "keyword" in found.by_name


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "oracl"}, "there is no such judge"),
        ({"name": "harm"}, "needs a model"),
        ({"name": "harm", "checkpoint": "c", "server": "http://s"}, "one of them"),
        ({"name": "harm", "checkpoint": "c", "model": "m"}, "names a model on --judge_server"),
        ({"name": "harm", "server": "http://s"}, "needs --judge_model"),
        ({"name": "harm", "server": "s:1", "model": "m"}, "not a web address"),
        ({"name": "harm", "server": "http://s", "model": "m", "prices": (1.0,)}, "two numbers"),
        ({"name": "harm", "server": "http://s", "model": "m", "prices": (float("nan"), 1.0)}, "two numbers"),
        ({"name": "keyword", "checkpoint": "c"}, "only a judge that asks a model"),
        ({"prompt": "p"}, "only a judge that asks a model"),
    ],
)
def test_options_that_do_not_fit_together(options, said):
    with pytest.raises(InputError, match=said):
        JudgeOptions(**options)
