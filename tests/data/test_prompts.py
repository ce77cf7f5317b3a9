"""Token rows equal those of transformers' LlavaProcessor and chat template; the loss starts exactly at the answer."""

import dataclasses
import json

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from PIL import Image
from transformers import AutoProcessor

from vlm_mu_jax.data.batches import row
from vlm_mu_jax.data.prompts import TEMPLATES, Processor
from vlm_mu_jax.errors import InputError

WORDS = st.lists(st.sampled_from(["what", "shape", "is", "zorp", "?", "\n", "  ", "é", "ASSISTANT:"]), min_size=1)
TEXTS = WORDS.map(" ".join)


@pytest.fixture(scope="module")
def theirs(hf_folder):
    return AutoProcessor.from_pretrained(str(hf_folder), local_files_only=True)


def chat(question, n_images):
    content = [{"type": "image"}] * n_images + [{"type": "text", "text": question}]
    return [{"role": "user", "content": content}]


@hypothesis.given(question=TEXTS, n_images=st.integers(0, 3))
@hypothesis.settings(max_examples=30, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_a_prompt_equals_the_one_of_transformers(theirs, processor, question, n_images):
    text = theirs.apply_chat_template(chat(question, n_images), add_generation_prompt=True)
    images = {"images": [Image.new("RGB", (40, 30))] * n_images} if n_images else {}
    want = theirs(text=text, **images)["input_ids"][0]
    assert processor.prompt_ids(question, n_images) == list(want)


def test_every_image_stands_as_its_tokens_before_the_question(processor, hf_config):
    for n_images in (0, 1, 3):
        ids = processor.prompt_ids("what is it ?", n_images)
        assert ids.count(hf_config.image_token_id) == n_images * hf_config.vision.P
    ids = np.array(processor.prompt_ids("what is it ?", 2))
    runs = np.diff(np.flatnonzero(ids == hf_config.image_token_id))
    assert (runs == 1).sum() == 2 * (hf_config.vision.P - 1)  # two unbroken runs


def test_pixels_equal_those_of_transformers(processor, theirs, tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 71, 3), np.uint8))
    image.save(tmp_path / "image.png")
    want = theirs.image_processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    np.testing.assert_array_equal(processor.pixels(image), want)
    np.testing.assert_array_equal(processor.pixels(tmp_path / "image.png"), want)


@hypothesis.given(question=TEXTS, answer=TEXTS, n_images=st.integers(0, 2), template=st.sampled_from(sorted(TEMPLATES)))
@hypothesis.settings(max_examples=40, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_the_loss_starts_exactly_at_the_answer(processor, hf_config, question, answer, n_images, template):
    one = Processor(processor.tokenizer, processor.settings, template, hf_config)
    prompt, example = one.prompt_ids(question, n_images), one.example(question, answer, n_images)
    made = row(example)
    assert example.ids[: example.answer_start] == tuple(prompt)[: example.answer_start]
    assert example.ids[-1] == hf_config.eos_ids[0]
    assert made.mask == tuple(i >= example.answer_start for i in range(len(example.ids)))
    if template == "llava_hf":  # its prompt ends in a whole word here, so no token spans prompt and answer
        assert example.answer_start == len(prompt)
        assert one.decode(example.ids[example.answer_start :]).split() == one.decode(one._ids(answer)).split()


def test_an_empty_answer_trains_the_end_token_only(processor):
    made = row(processor.example("what is it ?", "", 1))
    assert sum(made.mask) == 1 and made.mask[-1]


def test_every_token_but_the_first_of_plain_text_carries_the_loss(processor):
    made = row(processor.text_example("a red ring"))
    assert made.mask == (False,) + (True,) * (len(made.ids) - 1)


def test_templates_hold_the_text_their_source_prints(processor, hf_config):
    """haotian-liu/LLaVA: conv_vicuna_v1.get_prompt() with one question."""
    one = Processor(processor.tokenizer, processor.settings, "vicuna_v1", hf_config)
    assert one.prompt_text("Why?", 0) == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed,"
        " and polite answers to the user's questions. USER: Why? ASSISTANT:"
    )
    one = Processor(processor.tokenizer, processor.settings, "plain", hf_config)
    assert one.prompt_text("Why?", 0) == "Why?\n"


def test_generated_ids_decode_without_special_tokens(processor, hf_config):
    ids = processor.example("what is it ?", "it is a ring .", 0).ids
    pads = [hf_config.pad_id] * 3
    assert processor.decode([*ids, *pads]) == "USER: what is it ? ASSISTANT: it is a ring ."


def test_a_placeholder_in_the_text_is_refused(processor):
    """It would take the place of an image's token and shift every later one."""
    for call in (
        lambda: processor.prompt_ids("what is <image> ?"),
        lambda: processor.prompt_ids("<image>", n_images=0),
        lambda: processor.example("what is <image> ?", "a ring ."),
        lambda: processor.example("what is it ?", "it is <image> ."),
        lambda: processor.text_example("the <image> of a ring"),
    ):
        with pytest.raises(InputError, match="placeholder '<image>'; remove it"):
            call()


def test_unusable_images_templates_and_folders_are_input_errors(processor, hf_config, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="not a readable image"):
        processor.pixels(tmp_path / "bad.png")
    with pytest.raises(InputError, match="no such image"):
        processor.pixels(tmp_path / "absent.png")
    with pytest.raises(InputError, match="template 'chatml' is unknown"):
        Processor(processor.tokenizer, processor.settings, "chatml", hf_config)
    with pytest.raises(InputError, match="no usable tokenizer") as error:
        Processor.from_folder(tmp_path, hf_config)
    assert "\n" not in str(error.value)


def test_a_broken_tokenizer_file_is_an_input_error(hf_folder, hf_config, tmp_path):
    for name, text in (("tokenizer_config.json", "{"), ("tokenizer.json", "{"), ("tokenizer.json", json.dumps({}))):
        for file in hf_folder.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match="no usable tokenizer"):
            Processor.from_folder(tmp_path, hf_config)


def test_a_text_only_model_takes_no_image(processor, hf_config):
    text_only = dataclasses.replace(hf_config, vision=None, image_token_id=None)
    one = Processor(processor.tokenizer, None, "llava_hf", text_only)
    assert one.prompt_ids("what ?", 0) == processor.prompt_ids("what ?", 0)
    for call in (lambda: one.prompt_ids("what ?"), lambda: one.pixels(Image.new("RGB", (8, 8))), one.blank_pixels):
        with pytest.raises(InputError, match="text-only"):
            call()


@pytest.mark.parametrize(("lengths", "T"), [((3, 5), 8), ((8, 1), 8), ((9,), 16)])
def test_rows_are_padded_to_few_lengths(processor, hf_config, lengths, T):
    rows = [list(range(5, 5 + n)) for n in lengths]
    batch = processor.pad(rows)
    assert batch.tokens_BT.shape == (len(lengths), T) and batch.pixels_BMHWC is None
    assert batch.lengths_B.tolist() == list(lengths)
    for ids, padded in zip(rows, batch.tokens_BT, strict=True):
        assert padded.tolist() == ids + [hf_config.pad_id] * (T - len(ids))


def test_images_of_a_batch_stand_in_order_and_zeros_fill_up(processor):
    a, b, c = (np.full((32, 32, 3), value, np.float32) for value in (1, 2, 3))
    batch = processor.pad([[5], [5, 6], [5]], [[a], [b, c], []])
    assert batch.pixels_BMHWC.shape == (3, 2, 32, 32, 3)
    assert batch.pixels_BMHWC[:, :, 0, 0, 0].tolist() == [[1, 0], [2, 3], [0, 0]]
    assert processor.pad([[5]], [[]]).pixels_BMHWC is None
    with pytest.raises(InputError, match="does not fit"):
        processor.pad([[5, 6, 7]], length=2)
    assert processor.pad([[5]], length=4).tokens_BT.shape == (1, 4)
