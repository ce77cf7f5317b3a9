"""`--template=auto`: the conversation template is read off the checkpoint."""

import json

import pytest

from vlm_mu_jax.convert.template import choose_template
from vlm_mu_jax.errors import InputError


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("chat_template.jinja", "{{ 'USER: ' }} ASSISTANT:", "llava_hf"),
        ("chat_template.json", json.dumps({"chat_template": "a curious human"}), "llava_v1"),
        ("tokenizer_config.json", json.dumps({"chat_template": "a curious user ... USER: "}), "vicuna_v1"),
        ("tokenizer_config.json", json.dumps({"chat_template": [{"template": "USER: "}]}), "llava_hf"),
        ("tokenizer_config.json", "{broken", "llava_hf"),
    ],
)
def test_auto_reads_the_chat_template(name, content, expected, tmp_path):
    (tmp_path / name).write_text(content)
    assert choose_template(tmp_path, "auto", has_vision=True) == expected


def test_without_a_chat_template_the_kind_decides(tmp_path):
    assert choose_template(tmp_path, "auto", has_vision=True) == "llava_hf"
    assert choose_template(tmp_path, "auto", has_vision=False) == "plain"


def test_a_name_is_taken_or_refused(tmp_path):
    assert choose_template(tmp_path, "vicuna_v1", has_vision=True) == "vicuna_v1"
    with pytest.raises(InputError, match="--template=nope"):
        choose_template(tmp_path, "nope", has_vision=True)
