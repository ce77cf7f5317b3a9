"""`--template=auto`: the conversation template is read off the checkpoint."""

import json

import pytest

from vlm_mu_jax.conversion.template import choose_template
from vlm_mu_jax.errors import InputError

LLAVA = {"model_type": "llava", "text_config": {"model_type": "llama"}, "vision_config": {}}
BAKLLAVA = {"model_type": "llava", "text_config": {"model_type": "mistral"}, "vision_config": {}}
LLAMA = {"model_type": "llama"}


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("chat_template.jinja", "{{ 'USER: ' }} ASSISTANT:", "llava_hf"),
        ("chat_template.jinja", "{{ message['role'].upper() + ': ' }} {{ 'ASSISTANT:' }}", "llava_hf"),
        ("chat_template.json", json.dumps({"chat_template": "a curious human"}), "llava_v1"),
        ("tokenizer_config.json", json.dumps({"chat_template": "a curious user ... USER: "}), "vicuna_v1"),
        ("tokenizer_config.json", json.dumps({"chat_template": [{"template": "USER: "}]}), "llava_hf"),
        ("tokenizer_config.json", "{broken", "llava_hf"),
        ("tokenizer_config.json", "[]", "llava_hf"),
        ("chat_template.jinja", "{{ '[INST] ' + content + ' [/INST]' }}", "mistral_instruct"),
        ("tokenizer_config.json", json.dumps({"chat_template": "<|start_header_id|>user"}), "llama_3"),
    ],
)
def test_auto_reads_the_chat_template(name, content, expected, tmp_path):
    (tmp_path / name).write_text(content)
    assert choose_template(tmp_path, "auto", LLAVA, "llava_v4") == expected


@pytest.mark.parametrize(
    ("folder", "config", "dialect", "expected"),
    [
        ("any", LLAVA, "llava_v4", "llava_hf"),
        ("any", LLAVA, "llava_original", "vicuna_v1"),
        ("any", LLAVA, "llava_original_split", "vicuna_v1"),
        ("any", BAKLLAVA, "llava_original", "mistral_instruct"),
        ("any", BAKLLAVA, "llava_v4", "llava_hf"),
        ("any", BAKLLAVA | {"model_type": "llava_next"}, "llava_v4", "mistral_instruct"),
        ("any", LLAVA | {"model_type": "llava_next"}, "llava_v4", "llava_hf"),
        ("any", LLAMA, "text", "plain"),
        ("models--lmsys--vicuna-7b-v1.5", LLAMA, "text", "vicuna_v1"),
        ("any", LLAMA | {"_name_or_path": "lmsys/Vicuna-13b"}, "text", "vicuna_v1"),
    ],
)
def test_without_a_chat_template_the_kind_decides(folder, config, dialect, expected, tmp_path):
    (tmp_path / folder).mkdir()
    assert choose_template(tmp_path / folder, "auto", config, dialect) == expected


def test_a_template_that_we_do_not_have_is_named_and_never_replaced_by_another(tmp_path):
    (tmp_path / "chat_template.jinja").write_text("{{ '<|im_start|>' }}")
    with pytest.raises(InputError, match="chatml prompts.*--template="):
        choose_template(tmp_path, "auto", LLAVA, "llava_original")


def test_a_name_is_taken_or_refused(tmp_path):
    assert choose_template(tmp_path, "vicuna_v1", LLAVA, "llava_v4") == "vicuna_v1"
    with pytest.raises(InputError, match="--template=nope"):
        choose_template(tmp_path, "nope", LLAVA, "llava_v4")
