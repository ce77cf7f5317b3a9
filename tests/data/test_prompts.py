"""Token rows equal those of transformers' LlavaProcessor and chat template; the loss starts exactly at the answer."""

import dataclasses
import json
import os
import shutil

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from PIL import ExifTags, Image
from transformers import AutoProcessor, AutoTokenizer, LlavaNextProcessor
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from tests.model.tiny import clip_vision
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
    if end := TEMPLATES[template].end:  # a text of its own instead of the end token
        assert example.ids[-1] == one._ids(end)[-1] != hf_config.eos_ids[0]
    else:
        assert example.ids == (*one.example(question, answer, n_images, ended=False).ids, hf_config.eos_ids[0])
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


ASSISTANT_OF = (
    "A chat between a curious {0} and an artificial intelligence assistant. The assistant gives helpful, detailed, and"
    " polite answers to the {0}'s questions."
)
# haotian-liu/LLaVA: get_prompt() of the conversation of this name with one question, and what an answer adds to it.
CONVERSATIONS = {
    "vicuna_v1": (ASSISTANT_OF.format("user") + " USER: Why? ASSISTANT:", " So."),
    "llava_v1": (ASSISTANT_OF.format("human") + " USER: Why? ASSISTANT:", " So."),
    "llava_v0": (ASSISTANT_OF.format("human") + "###Human: Why?###Assistant:", " So.###"),
    "mistral_instruct": ("[INST] Why? [/INST]", " So."),
    "plain": ("Why?\n", "So."),
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_templates_hold_the_text_their_source_prints(processor, hf_config, name):
    one = Processor(processor.tokenizer, processor.settings, name, hf_config)
    prompt, answer = CONVERSATIONS[name]
    assert one.prompt_text("Why?", 0) == prompt
    ids = one.example("Why?", "So.", 0).ids
    ended = () if TEMPLATES[name].end else hf_config.eos_ids
    assert ids == (*processor.tokenizer(prompt + answer)["input_ids"], *ended)
    assert one.example("Why?", "So.", 0, ended=False).ids == one._ids(prompt + answer.removesuffix("###"))


# What the chat templates of the llava-hf checkpoints print, in our own words: images first, then the text.
IMAGES = "{% for part in message.content if part.type == 'image' %}IMAGE{% endfor %}"
TEXT = "{% for part in message.content if part.type == 'text' %}{{ part.text }}{% endfor %}"
EACH = "{% for message in messages %}BEFORE" + IMAGES + "BETWEEN" + TEXT + "AFTER{% endfor %}"


def chat_template(before, image, between, after):
    parts = {"BEFORE": before, "IMAGE": image, "BETWEEN": between, "AFTER": after}
    text = EACH
    for name, part in parts.items():
        text = text.replace(name, "{{ " + repr(part) + " }}")
    return text


CHAT_TEMPLATES = {
    "llava_hf": chat_template("USER: ", "<image>\n", "", " ASSISTANT:"),
    "mistral_instruct": chat_template("[INST] ", "<image>\n", "", " [/INST]"),
    "llama_3": chat_template(
        "<|start_header_id|>user<|end_header_id|>\n\n",
        "<image>",
        "\n",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
}


@pytest.fixture(scope="module")
def next_config(hf_config):
    """A LLaVA-NeXT of the same sizes."""
    side = hf_config.vision.image_size
    pinpoints = tuple((side * down, side * across) for down, across in [(1, 2), (2, 1), (2, 2), (3, 1), (1, 3)])
    return dataclasses.replace(
        hf_config, vision=clip_vision(**dataclasses.asdict(hf_config.vision.tower), pinpoints=pinpoints)
    )


@pytest.fixture(scope="module")
def wide_tokenizer(hf_folder):
    """With the words of every template."""
    tokenizer = AutoTokenizer.from_pretrained(str(hf_folder), local_files_only=True)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<image>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]}
    )
    tokenizer.add_tokens(["###"])
    return tokenizer


@hypothesis.given(
    question=TEXTS, sizes=st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=3)
)
@hypothesis.settings(max_examples=15, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("name", CHAT_TEMPLATES)
def test_a_prompt_of_llava_next_equals_the_one_of_transformers(
    wide_tokenizer, next_config, processor, name, question, sizes
):
    side, vision = next_config.vision.image_size, next_config.vision
    theirs = LlavaNextProcessor(
        LlavaNextImageProcessorPil(
            size={"shortest_edge": side},
            crop_size={"height": side, "width": side},
            image_grid_pinpoints=[list(one) for one in vision.plan.pinpoints],
            image_mean=processor.settings.mean,
            image_std=processor.settings.std,
        ),
        wide_tokenizer,
        vision.tower.patch_size,
        "default",
        CHAT_TEMPLATES[name],
        num_additional_image_tokens=1,
    )
    pictures = [Image.new("RGB", size) for size in sizes]
    text = theirs.apply_chat_template(chat(question, len(sizes)), add_generation_prompt=True)
    want = theirs(text=text, images=pictures)
    one = Processor(wide_tokenizer, processor.settings, name, next_config)
    assert one.prompt_ids(question, pictures) == list(want["input_ids"][0])
    ready = [one.pixels(picture) for picture in pictures]
    assert one.prompt_ids(question, ready) == list(want["input_ids"][0])
    batch = one.pad([one.prompt_ids(question, ready)], [ready])
    ours, filled = batch.pixels_BMHWC[0], 0
    for tiles, theirs_MCHW in zip(ready, want["pixel_values"], strict=True):
        count = len(tiles.pixels_MHWC)
        np.testing.assert_array_equal(
            ours[filled : filled + count], np.asarray(theirs_MCHW)[:count].transpose(0, 2, 3, 1)
        )
        filled += count
    assert not ours[filled:].any()


def test_llama_3_ends_an_answer_with_its_own_token(wide_tokenizer, processor, hf_config):
    one = Processor(wide_tokenizer, processor.settings, "llama_3", hf_config)
    ids = one.example("what ?", "a ring .", 0).ids
    assert ids[-1] == wide_tokenizer.convert_tokens_to_ids("<|eot_id|>")
    assert one.decode(ids[one.example("what ?", "", 0).answer_start :]) == "a ring ."


def test_an_answer_stops_at_the_end_of_its_template(wide_tokenizer, processor, hf_config):
    """LLaVA v0 has no end token: what it writes behind "###" is the next question."""
    one = Processor(wide_tokenizer, processor.settings, "llava_v0", hf_config)
    assert one.decode(wide_tokenizer("it is a ring .###Human: what ?")["input_ids"]) == "it is a ring ."


def test_tokens_of_an_image_of_any_resolution_come_from_the_image(processor, next_config, tmp_path):
    one = Processor(processor.tokenizer, processor.settings, "llava_hf", next_config)
    with pytest.raises(InputError, match="give the images"):
        one.prompt_ids("what ?", 1)
    picture = Image.new("RGB", (90, 20))
    picture.save(tmp_path / "image.png")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # a quarter turn
    picture.save(tmp_path / "turned.jpg", exif=exif)
    for path, size in ((tmp_path / "image.png", (20, 90)), (tmp_path / "turned.jpg", (90, 20))):
        (tokens,) = one.layout(path)
        assert tokens == len(next_config.vision.plan.gather(size)) == len(one.pixels(path).gather_Q)
        assert one.prompt_ids("what ?", [path]).count(next_config.image_token_id) == tokens
        example = one.example("what ?", "a ring .", [path])
        assert example.ids[: example.answer_start] == tuple(one.prompt_ids("what ?", [path]))
        assert one.prompt_text("what ?", [path]).count("<image>") == tokens
    assert one.prompt_ids("what ?", [one.blank_pixels()]).count(next_config.image_token_id) > next_config.vision.P
    with pytest.raises(InputError, match="no such image"):
        one.prompt_ids("what ?", [tmp_path / "absent.png"])
    ids = one.prompt_ids("what ?", [tmp_path / "image.png"])
    with pytest.raises(InputError, match="row 0 has .* image placeholders"):
        one.pad([ids], [[one.pixels(tmp_path / "turned.jpg")]])
    picture.resize((20, 90)).save(tmp_path / "image.png")  # another image under the same name
    os.utime(tmp_path / "image.png", ns=(1, 1))
    assert one.layout(tmp_path / "image.png") == next_config.vision.plan.layout((90, 20))


@pytest.mark.parametrize("change", [{"image_grid_pinpoints": [[32, 64]]}, {"crop_size": {"height": 16, "width": 16}}])
def test_a_processor_that_cuts_other_tiles_than_the_model_is_an_input_error(hf_folder, next_config, change, tmp_path):
    shutil.copytree(hf_folder, tmp_path / "hf")
    path = tmp_path / "hf" / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_processor_type": "LlavaNextImageProcessor"}))
    Processor.from_folder(tmp_path / "hf", next_config)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match="image processor"):
        Processor.from_folder(tmp_path / "hf", next_config)


def test_a_tokenizer_that_takes_the_placeholder_apart_is_an_input_error(processor, hf_config):
    class Apart(Processor):
        def _ids(self, text):
            return tuple(i for i in super()._ids(text) if i != self.cfg.image_token_id)

    with pytest.raises(InputError, match="one token"):
        Apart(processor.tokenizer, processor.settings, "llava_hf", hf_config).prompt_ids("what ?", 1)


def test_generated_ids_decode_without_special_tokens(processor, hf_config):
    ids = processor.example("what is it ?", "it is a ring .", 0).ids
    pads = [hf_config.pad_id] * 3
    assert processor.decode([*ids, *pads]) == "USER: what is it ? ASSISTANT: it is a ring ."


def test_a_placeholder_in_the_text_is_refused(processor):
    """It would take the place of an image's token and shift every later one."""
    for call in (
        lambda: processor.prompt_ids("what is <image> ?"),
        lambda: processor.prompt_ids("<image>", images=0),
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
