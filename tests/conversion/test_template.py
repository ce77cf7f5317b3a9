"""`--template=auto`: the checkpoint's own chat template, or the one that its kind is known to have, or an error."""

import json

import pytest

from vlm_mu_jax.conversion.template import Chosen, Wanted, choose_template
from vlm_mu_jax.errors import InputError

LLAVA = {"model_type": "llava", "text_config": {"model_type": "llama"}, "vision_config": {}}
BAKLLAVA = {"model_type": "llava", "text_config": {"model_type": "mistral"}, "vision_config": {}}
QWEN = {"model_type": "llava", "text_config": {"model_type": "qwen2"}, "vision_config": {}}
LLAMA = {"model_type": "llama"}
AUTO = Wanted()


@pytest.mark.parametrize(
    ("name", "content", "source"),
    [
        (
            "chat_template.jinja",
            "{{ 'SYSTEM: careful USER: ' }} ASSISTANT:",
            "{{ 'SYSTEM: careful USER: ' }} ASSISTANT:",
        ),
        ("chat_template.json", json.dumps({"chat_template": "a curious human"}), "a curious human"),
        ("processor_config.json", json.dumps({"chat_template": "{{ '<|im_start|>' }}"}), "{{ '<|im_start|>' }}"),
        ("tokenizer_config.json", json.dumps({"chat_template": "USER: "}), "USER: "),
        ("tokenizer_config.json", json.dumps({"chat_template": [{"name": "x", "template": "USER: "}]}), "USER: "),
        (
            "tokenizer_config.json",
            json.dumps({"chat_template": [{"name": "x", "template": "a"}, {"name": "default", "template": "b"}]}),
            "b",
        ),
    ],
)
@pytest.mark.parametrize(("config", "dialect"), [(LLAVA, "llava_v4"), (LLAVA, "llava_original"), (LLAMA, "text")])
def test_auto_takes_the_checkpoints_own_template_whole(name, content, source, config, dialect, tmp_path):
    (tmp_path / name).write_text(content)
    chosen = choose_template(tmp_path, AUTO, config, dialect)
    assert (chosen.name, chosen.own.source) == ("own", source)
    assert chosen.facts()["sha256"] == chosen.own.sha256
    out = tmp_path / "out"
    out.mkdir()
    chosen.write(out)
    assert (out / "chat_template.jinja").read_text() == source
    chosen.write(tmp_path)  # it is there already
    assert name == "chat_template.jinja" or not (tmp_path / "chat_template.jinja").exists()


@pytest.mark.parametrize(
    ("folder", "config", "dialect", "expected"),
    [
        ("any", LLAVA, "llava_v4", "llava_hf"),
        ("llava-v1.5-7b", LLAVA, "llava_original", "vicuna_v1"),
        ("models--lmsys--vicuna-7b-v1.5", LLAVA, "llava_original_split", "vicuna_v1"),
        ("any", BAKLLAVA, "llava_original", "mistral_instruct"),
        ("any", BAKLLAVA, "llava_v4", "llava_hf"),
        ("any", BAKLLAVA | {"model_type": "llava_next"}, "llava_v4", "mistral_instruct"),
        ("any", LLAVA | {"model_type": "llava_next"}, "llava_v4", "llava_hf"),
        ("any", LLAMA, "text", "plain"),
        ("models--lmsys--vicuna-7b-v1.5", LLAMA, "text", "vicuna_v1"),
        ("any", LLAMA | {"_name_or_path": "lmsys/Vicuna-13b"}, "text", "vicuna_v1"),
    ],
)
def test_without_a_chat_template_the_kind_decides_where_it_is_known(folder, config, dialect, expected, tmp_path):
    (tmp_path / folder).mkdir()
    assert choose_template(tmp_path / folder, AUTO, config, dialect).name == expected


@pytest.mark.parametrize("content", ["{broken", "[]", "{}", '{"chat_template": 3}', '{"chat_template": [3]}'])
def test_a_config_without_a_template_is_none(content, tmp_path):
    (tmp_path / "tokenizer_config.json").write_text(content)
    assert choose_template(tmp_path, AUTO, LLAVA, "llava_v4").name == "llava_hf"


@pytest.mark.parametrize(
    ("called", "config", "dialect"),
    [
        ("any", LLAVA, "llava_original"),  # a Llama 2, a Llama 3 or a ChatML model, as may be
        ("llava-llama-3-8b-v1.5", LLAVA, "llava_original"),
        ("llava-v1.6-34b", LLAVA, "llava_original"),
        ("any", QWEN, "llava_v4"),
    ],
)
def test_where_nothing_is_known_the_choices_are_listed(called, config, dialect, tmp_path):
    (tmp_path / called).mkdir()
    with pytest.raises(InputError, match=r"has no chat template.*--template=llava_hf\|vicuna_v1.*--chat_template"):
        choose_template(tmp_path / called, AUTO, config, dialect)


def test_what_the_checkpoint_is_called_may_say_its_kind(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"_name_or_path": "./checkpoints/vicuna-7b-v1-5"}))
    assert choose_template(tmp_path, AUTO, LLAVA, "llava_original").name == "vicuna_v1"
    (tmp_path / "config.json").write_text("{}")
    assert choose_template(tmp_path, AUTO, LLAVA, "llava_original", ["lmsys/vicuna-7b-v1.5"]).name == "vicuna_v1"


def test_a_name_or_a_file_is_taken_or_refused(tmp_path):
    assert choose_template(tmp_path, Wanted("vicuna_v1"), LLAVA, "llava_v4") == Chosen("vicuna_v1", "--template")
    (tmp_path / "mine.jinja").write_text("{{ messages }}")
    given = choose_template(
        tmp_path, Wanted(chat_template=tmp_path / "mine.jinja", system="Be kind."), LLAVA, "llava_v4"
    )
    assert (given.name, given.own.source, given.system) == ("own", "{{ messages }}", "Be kind.")
    assert given.facts()["system"] == "Be kind."
    for wanted, what in (
        (Wanted("nope"), "--template=nope"),
        (Wanted("own"), "has no chat template"),
        (Wanted("plain", tmp_path / "mine.jinja"), "give one"),
        (Wanted(chat_template=tmp_path / "absent.jinja"), "no such chat template"),
    ):
        with pytest.raises(InputError, match=what):
            choose_template(tmp_path, wanted, LLAVA, "llava_v4")


def test_a_chat_template_that_is_none_is_an_error_and_never_replaced(tmp_path):
    (tmp_path / "chat_template.jinja").write_text("{% for %}")
    with pytest.raises(InputError, match="no jinja template"):
        choose_template(tmp_path, AUTO, LLAVA, "llava_v4")
