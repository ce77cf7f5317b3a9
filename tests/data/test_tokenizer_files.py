"""Damaged tokenizer files are found where a checkpoint is converted, and config.json's faults are not laid on them."""

import json
import shutil

import pytest

from vlm_mu_jax.data.prompts import Processor
from vlm_mu_jax.data.tokenizer_files import check_tokenizer
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.checks import check_batch


@pytest.fixture
def folder(hf_folder, tmp_path):
    shutil.copytree(hf_folder, tmp_path / "hf")
    return tmp_path / "hf"


def change(path, edit):
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


def test_a_whole_tokenizer_passes(folder, hf_config):
    assert check_tokenizer(folder, hf_config) == []
    (folder / "tokenizer.json").unlink()
    assert check_tokenizer(folder, hf_config) == []


def last(value):
    """The key of the last word of the vocabulary, which is none of the added tokens."""
    return max(value["model"]["vocab"], key=value["model"]["vocab"].get)


def beyond(value):
    value["model"]["vocab"][last(value)] = 10**6


def doubled(value):
    value["model"]["vocab"][last(value)] -= 1


def without(text):
    def edit(value):
        value["added_tokens"] = [one for one in value["added_tokens"] if one["content"] != text]
        value["model"]["vocab"].pop(text, None)

    return edit


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (dict.clear, "tokenizer.json: no usable tokenizer"),
        (lambda value: value.pop("model"), "tokenizer.json: no usable tokenizer"),
        (lambda value: value["model"]["merges"].append(["no", "such"]), "tokenizer.json: no usable tokenizer"),
        (beyond, "tokenizer.json: its token .* is number 1000000, and the model has"),
        (doubled, "tokenizer.json: .* and .* have one id"),
        (without("</s>"), "tokenizer_config.json: eos_token '</s>' is no token"),
        (without("<image>"), "tokenizer.json: has no token .*, which stands for images"),
    ],
)
def test_a_damaged_tokenizer_is_one_line(folder, hf_config, edit, says):
    change(folder / "tokenizer.json", edit)
    with pytest.raises(InputError, match=says) as error:
        check_tokenizer(folder, hf_config)
    assert "\n" not in str(error.value)


def test_an_added_token_without_an_embedding_is_told_and_refused_in_texts(folder, hf_config):
    count = len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"])
    hf_config = hf_config.with_text(V=count)
    extra = {"id": count, "content": "[WUG]", "special": True, "normalized": False}
    extra |= {"single_word": False, "lstrip": False, "rstrip": False}
    change(folder / "tokenizer.json", lambda value: value["added_tokens"].append(extra))
    (warning,) = check_tokenizer(folder, hf_config)
    assert "1 added tokens have no embedding, such as '[WUG]'" in warning
    processor = Processor.from_folder(folder, hf_config)
    check_batch(processor.pad([processor.prompt_ids("what is this ?", 0)]), hf_config)
    with pytest.raises(InputError, match=f"batch.tokens_BT holds {count}, and the model has {count} tokens"):
        check_batch(processor.pad([processor.prompt_ids("what is [WUG] ?", 0)]), hf_config)
    change(folder / "tokenizer.json", lambda value: value["added_tokens"][-1].update(id=count + 7))
    assert check_tokenizer(folder, hf_config) == [
        f"tokenizer.json: '[WUG]' is token {count}, not {count + 7} as the file says",
        warning,
    ]


@pytest.mark.parametrize("field", ["attention_dropout", "initializer_range", "pretraining_tp", "use_cache"])
def test_a_field_of_the_config_that_transformers_alone_reads_is_no_tokenizer_trouble(folder, hf_config, field):
    change(folder / "config.json", lambda value: value["text_config"].update({field: "many"}))
    with pytest.raises(InputError, match=f"config.json: .*{field}") as error:
        Processor.from_folder(folder, hf_config)
    assert "tokenizer" not in str(error.value) and "\n" not in str(error.value)
