"""generation_config.json: answers end where transformers ends them."""

import json

import pytest

from tests.storage.test_model_folder import HF
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.families import from_hf
from vlm_mu_jax.storage.generation import other_settings, with_ends

CFG = from_hf(HF | {"eos_token_id": 2})


@pytest.mark.parametrize(
    ("content", "ends"),
    [
        ({}, (2,)),
        ({"eos_token_id": None}, (2,)),
        ({"eos_token_id": 7}, (7,)),
        ({"eos_token_id": [7, 2]}, (2, 7)),
        ({"eos_token_id": [7, 9, 7]}, (7, 9)),
    ],
    ids=str,
)
def test_ends_are_those_of_the_file(content, ends, tmp_path):
    (tmp_path / "generation_config.json").write_text(json.dumps(content))
    assert with_ends(CFG, tmp_path).eos_ids == ends


def test_without_the_file_the_config_decides(tmp_path):
    assert with_ends(CFG, tmp_path) == CFG and other_settings(tmp_path) == {}


@pytest.mark.parametrize("ends", ["</s>", [2, 50], -1, [True], 1e9])
def test_ends_that_do_not_exist_are_one_line(ends, tmp_path):
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    with pytest.raises(InputError, match="is none of the model's 50 tokens"):
        with_ends(CFG, tmp_path)


def test_what_else_changes_greedy_answers_is_listed(tmp_path):
    content = {
        "repetition_penalty": 1.1,
        "no_repeat_ngram_size": 0,
        "temperature": 0.2,
        "num_beams": 1,
        "bad_words_ids": [[3]],
    }
    (tmp_path / "generation_config.json").write_text(json.dumps(content))
    assert other_settings(tmp_path) == {"repetition_penalty": 1.1, "bad_words_ids": [[3]]}
