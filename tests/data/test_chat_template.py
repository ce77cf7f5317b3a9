"""The checkpoint's own template: the ids that transformers gives, the loss on exactly the answers, and no harm done."""

import dataclasses
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoProcessor, PreTrainedTokenizerFast

from tests.data.templates import CHATML, LLAMA_2, LLAVA_HF, OWN, SPECIAL, THINKING, VICUNA
from vlm_mu_jax.data import answer_spans, chat_template, template_limits
from vlm_mu_jax.data.chat_template import JinjaTemplate
from vlm_mu_jax.data.prompts import TEMPLATES, Processor
from vlm_mu_jax.data.records import ImagePart, Turn
from vlm_mu_jax.errors import InputError

QUIET = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
DRAWN = settings(QUIET, max_examples=200)
WORD = st.text(st.sampled_from("abe é?.:\n<|/"), min_size=1, max_size=12)
TEXT = WORD.filter(lambda text: text.strip() and "<" not in text)
TALK = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def tokenizer():
    """Bytes, so that every text comes back, with the special tokens of all templates. It adds <s> by itself."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("a", "b"), ("Ġ", "a"), ("Ġ", "b"), (":", "Ġ"), ("Ċ", "Ċ"), ("Ġa", "b"), ("e", "Ċ")]
    vocab = {text: i for i, text in enumerate([*alphabet, *("".join(pair) for pair in merges)])}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", add_bos_token=True)
    made.add_special_tokens({"additional_special_tokens": ["<image>", *SPECIAL]})
    return made


@pytest.fixture(scope="module")
def make(tokenizer, processor, hf_config):
    """A processor with the tokenizer above: of a text model, or of a LLaVA."""
    ids = {"bos_id": tokenizer.bos_token_id, "eos_ids": (tokenizer.eos_token_id,)}
    image = tokenizer.convert_tokens_to_ids("<image>")
    llava = dataclasses.replace(hf_config, image_token_id=image, **ids)

    def _make(template, vision=False, **options):
        cfg = llava if vision else dataclasses.replace(llava, vision=None, image_token_id=None)
        return Processor(tokenizer, processor.settings, template, cfg, **options)

    return _make


def turns_of(talk):
    return [Turn(role, (text,)) for pair in talk for role, text in zip(("user", "assistant"), pair, strict=True)]


def messages_of(turns, system, parts):
    found = [{"role": "system", "content": system}] if system else []
    found += [{"role": turn.role, "content": turn.text} for turn in turns]
    return [{**one, "content": [{"type": "text", "text": one["content"]}]} for one in found] if parts else found


def theirs(tokenizer, name, turns, system, ready):
    messages = messages_of(turns, system, parts=name in ("llava_hf",))
    return tokenizer.apply_chat_template(
        messages, chat_template=OWN[name], add_generation_prompt=ready, tokenize=True, return_dict=False
    )


@DRAWN
@given(talk=TALK, question=TEXT, system=st.one_of(st.none(), TEXT))
@pytest.mark.parametrize("name", OWN)
def test_ids_equal_those_of_transformers(make, tokenizer, name, talk, question, system):
    one = make(JinjaTemplate(OWN[name]))
    asked = [*turns_of(talk), Turn("user", (question,))]
    assert one.conversation_ids(asked, system=system) == theirs(tokenizer, name, asked, system, True)
    turns = turns_of(talk)
    ids, want = one.conversation(turns, system=system).ids, theirs(tokenizer, name, turns, system, False)
    closed = ids[-1] != tokenizer.eos_token_id or want[len(ids) - 1 : len(ids)] == [tokenizer.eos_token_id]
    ours = ids if closed else ids[:-1]  # the model's end token where the template has none
    behind = tokenizer.decode(want[len(ours) :])
    assert list(ours) == want[: len(ours)] and not behind.strip()


@DRAWN
@given(talk=TALK, system=st.one_of(st.none(), TEXT), loss=st.sampled_from(["all", "last"]))
@pytest.mark.parametrize("name", [*OWN, *TEMPLATES])
def test_the_loss_covers_exactly_the_answers_and_their_ends(make, tokenizer, name, talk, system, loss):
    one = make(JinjaTemplate(OWN[name]) if name in OWN else name)
    turns = turns_of(talk)
    made = one.conversation(turns, system=system, loss=loss)
    assert len(made.spans) == (len(talk) if loss == "all" else 1) and made.spans[-1][1] == len(made.ids)
    said = [tokenizer.decode(list(made.ids[start:end])) for start, end in made.spans]
    ends = ("</s>", "<|im_end|>", "<|eot_id|>", "###")
    for text, (_, answer) in zip(said, talk[-len(said) :], strict=True):
        text = next((text.removesuffix(end) for end in ends if text.endswith(end)), text)
        assert text.strip() == answer.strip()
    assert any(said[-1].endswith(end) for end in ends)  # the last answer always has one
    assert name == "llava_hf" or all(any(text.endswith(end) for end in ends) for text in said)
    assert sum(made.mask) == sum(end - start for start, end in made.spans)
    # What stands before the last answer is the prompt that asks for it.
    prompt = one.conversation_ids(turns[:-1], system=system)
    assert list(made.ids[: made.spans[-1][0]]) == prompt[: made.spans[-1][0]]


@QUIET
@given(talk=TALK, images=st.lists(st.integers(0, 2), min_size=4, max_size=4))
def test_a_llava_template_with_images_in_any_turn_equals_its_processor(processor, hf_folder, talk, images):
    own = processor.with_template(JinjaTemplate((hf_folder / "chat_template.jinja").read_text()))
    peer = AutoProcessor.from_pretrained(str(hf_folder), local_files_only=True)
    turns, messages = [], []
    for (question, answer), count in zip(talk, images, strict=False):
        turns += [Turn("user", (*[ImagePart("x")] * count, question)), Turn("assistant", (answer,))]
        pictures = [{"type": "image"}] * count
        messages.append({"role": "user", "content": [*pictures, {"type": "text", "text": question}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    total = sum(images[: len(talk)])
    text = peer.apply_chat_template(messages[:-1], add_generation_prompt=True)
    files = {"images": [Image.new("RGB", (40, 30))] * total} if total else {}
    assert own.conversation_ids(turns[:-1], total) == list(peer(text=text, **files)["input_ids"][0])
    made = own.conversation(turns, total)
    assert made.ids.count(own.cfg.image_token_id) == total * own.cfg.vision.P
    kept = [token for token, on in zip(made.ids, made.mask, strict=True) if on]
    assert own.cfg.image_token_id not in kept and kept[-1] == own.cfg.eos_ids[0]


def test_a_template_of_texts_alone_gets_llavas_image_lines(make):
    one = make(JinjaTemplate(CHATML), vision=True)
    turns = [
        Turn(
            "user",
            (ImagePart("a"), ImagePart("b"), "what is "),
        ),
        Turn("assistant", ("a",)),
    ]
    text = one._renderer.render(chat_template.to_messages(turns), ready=False)
    assert "user\n<image>\n<image>\nwhat is <|im_end|>" in text
    inner = [Turn("user", ("see ", ImagePart("a"), " and"))]
    assert "user\nsee <image> and<|im_end|>" in one._renderer.render(chat_template.to_messages(inner), ready=True)


def test_the_templates_own_system_text_stays_and_another_replaces_it(make, tokenizer):
    """One phrase of it used to choose a named template without the system text: 27 ids instead of 47."""
    own = JinjaTemplate(VICUNA)
    text = tokenizer.decode(make(own, vision=True).prompt_ids("what", 0))
    assert text.removeprefix("<s>") == "A chat with a careful assistant. USER: what ASSISTANT:"
    other = make(own, vision=True, system="Be brief.")
    assert tokenizer.decode(other.prompt_ids("what", 0)).removeprefix("<s>") == "Be brief. USER: what ASSISTANT:"
    record = [Turn("user", ("what",))]
    assert "Be kind. USER" in tokenizer.decode(other.conversation_ids(record, system="Be kind."))
    assert other.template != make(own).template == own.identity == f"own:{own.sha256[:12]}"
    named = make("vicuna_v1", system="Be brief.")
    assert named.prompt_text("what", 0) == "Be brief. USER: what ASSISTANT:"


def test_special_tokens_are_added_as_transformers_adds_them(make, tokenizer):
    """By the tokenizer for a processor's prompt without one, never for a text model's own template."""
    bos = tokenizer.bos_token_id
    with_it, without = JinjaTemplate(OWN["llama_3"]), JinjaTemplate(VICUNA)
    assert make(with_it, vision=True).prompt_ids("what", 0).count(bos) == 1
    assert make(without, vision=True).prompt_ids("what", 0)[0] == bos
    assert bos not in make(without).prompt_ids("what", 0)
    assert make("vicuna_v1").prompt_ids("what", 0)[0] == bos


def test_a_begun_answer_and_the_place_of_a_question(make):
    for template in (JinjaTemplate(LLAMA_2), JinjaTemplate(LLAVA_HF), "vicuna_v1", "llama_3"):
        one = make(template)
        prompt, begun = one.prompt_text("what is ", 0), one.prompt_text("what is ", 0, "it is")
        assert begun.startswith(prompt) and begun.endswith("it is")
        assert prompt[one.question_at("what is ", 0) :].startswith("what is")
    one = make(JinjaTemplate(LLAVA_HF), vision=True)
    assert one.prompt_text("what", 2)[one.question_at("what", 2) :].startswith("what ")


def test_reasoning_that_a_template_drops_is_not_trained_on(make, tokenizer):
    one = make(JinjaTemplate(THINKING))
    turns = turns_of([("ab", "<think>e</think>\nba"), ("a", "<think>b</think>\ne")])
    made = one.conversation(turns)
    said = [tokenizer.decode(list(made.ids[start:end])) for start, end in made.spans]
    assert said == ["ba<|im_end|>", "<think>b</think>\ne<|im_end|>"]


HOSTILE = {
    "a text too long for the memory": ("{{ 'x' * 10000000000 }}", "it makes more than"),
    "a number too long": ("{{ 10 ** 10 ** 8 }}", "it makes more than"),
    "no template": ("{% for %}", "no jinja template"),
    "a loop without end": ("{% for i in range(99999) %}{{ 'x' * 999 }}{% endfor %}", "prints more than"),
    "python": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "refuses the conversation"),
    "an attribute of a message": ("{{ messages.__init__.__globals__ }}", "refuses the conversation"),
    "a huge range": ("{% for i in range(10 ** 9) %}x{% endfor %}", "fails on the conversation"),
    "its own refusal": ("{{ raise_exception('no system') }}", "refuses the conversation: no system"),
    "a wrong type": ("{{ messages + 1 }}", "fails on the conversation"),
    "nothing of the conversation": ("hello", "changes the question|show every answer"),
    "answers twice": ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "show every answer"),
    "too long": ("x" * (chat_template.LONGEST_SOURCE + 1), "more than"),
    "too deep": ("{{ " + "(" * 5000 + ")" * 5000 + " }}", "too deeply|no jinja template"),
}


_GROWS = "{% set n = namespace(x='ab') %}{% for i in range(60) %}"
HOSTILE |= {
    f"growth by {name}": (source, "it makes more than")
    for name, source in {
        "sums": _GROWS + "{% set n.x = n.x + n.x %}{% endfor %}",
        "joining": _GROWS + "{% set n.x = n.x ~ n.x %}{% endfor %}",
        "blocks": _GROWS + "{% set y %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = y %}{% endfor %}",
        "constants in blocks": "{% set y %}{% for i in range(99999) %}" + "x" * 9999 + "{% endfor %}{% endset %}",
        "lists of lists": "{{ [['x' * 99999] * 99999] * 9 }}",
        "a formatted width": "{{ '%1000000000s' % 1 }}",
        "a width for format": "{{ '{:1000000000}'.format(1) }}",
        "a width that is given": "{{ '%*d' % (10 ** 9, 1) }}",
        "padding": "{{ 'x'.ljust(10 ** 9) }}",
        "a filter's padding": "{{ 'x' | center(1000000000) }}",
        "replacing": "{{ ('x' * 99999).replace('x', 'y' * 99999) }}",
        "a filter's joining": "{{ range(99999) | list | join('x' * 99999) }}",
        "digits": "{% set n = namespace(x=3) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}",
    }.items()
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_strangers_template_is_refused_in_one_line(make, name):
    source, what = HOSTILE[name]
    with pytest.raises(InputError, match=what) as caught:
        one = make(JinjaTemplate(source))
        one.example("what", "this", 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% set x = j %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    ],
)
def test_a_template_that_does_not_end_is_refused(make, monkeypatch, source):
    monkeypatch.setattr(template_limits, "SECONDS", 0.1)
    with pytest.raises(InputError, match="it takes more than"):
        make(JinjaTemplate(source)).example("what", "this", 0)


def test_a_template_that_loses_an_image_is_refused(make):
    one = make(JinjaTemplate("{% for m in messages %}{{ m.content[0].text }}{% endfor %}"), vision=True)
    with pytest.raises(InputError, match="0 places '<image>' for 1 images"):
        one.prompt_ids("what", 1)


def test_a_system_text_that_a_template_refuses_is_said(make):
    source = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
    )
    with pytest.raises(InputError, match="System role not supported"):
        make(JinjaTemplate(source), system="x").prompt_ids("what", 0)


def test_a_folders_own_template_is_read(hf_folder, hf_config, tmp_path):
    one = Processor.from_folder(hf_folder, hf_config, "own")
    assert one.chat.source == (hf_folder / "chat_template.jinja").read_text()
    with pytest.raises(InputError, match="no such chat template"):
        chat_template.read(tmp_path / "chat_template.jinja")


def test_answers_are_found_where_a_question_repeats_them():
    render = lambda ms: "|".join(f"{m['role'][0]}{''.join(p['text'] for p in m['content'])}" for m in ms)  # noqa: E731
    turns = turns_of([("ua|", "ab"), ("ab|u", "b|u"), ("b", "b")])
    found = answer_spans.find(chat_template.to_messages(turns), render)
    assert [found.text[a:b] for a, b in found.spans] == ["ab", "b|u", "b"]


def test_named_templates_end_every_answer(make, tokenizer):
    text = tokenizer.decode(list(make("vicuna_v1", system="S").conversation(turns_of([("a", "b"), ("e", "ab")])).ids))
    assert text == "<s>S USER: a ASSISTANT: b</s>USER: e ASSISTANT: ab</s>"
    mistral = make("mistral_instruct", system="S").conversation(turns_of([("a", "b"), ("e", "ab")])).ids
    assert tokenizer.decode(list(mistral)) == "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\na [/INST] b</s>[INST] e [/INST] ab</s>"


def test_templates_are_plain_json_values():
    turns = turns_of([("a", "b")])
    assert json.loads(json.dumps(chat_template.to_messages(turns, "s")))[0]["role"] == "system"
