"""A LLaVA-NeXT checkpoint with its tokenizer and processor goes through every job and answers as in transformers."""

import json

import jax
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from transformers import AutoProcessor, LlavaNextProcessor
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

import vlm_mu_jax
from tests.attacks.conftest import build
from tests.conversion.hf_checkpoints import make_llava_next, save
from vlm_mu_jax.attacks.margin.openings import Openings
from vlm_mu_jax.attacks.margin.search_run import SearchTarget
from vlm_mu_jax.attacks.words import search
from vlm_mu_jax.attacks.words.search import SearchOptions
from vlm_mu_jax.conversion.convert import convert
from vlm_mu_jax.data.placing import place
from vlm_mu_jax.evaluation.answers.asking import AnswerOptions, answer_questions
from vlm_mu_jax.evaluation.questions.question import Question
from vlm_mu_jax.model.params import flatten
from vlm_mu_jax.model.vlm import forward
from vlm_mu_jax.steering.hidden_states import last_token_states
from vlm_mu_jax.training.settings import checked, defaults
from vlm_mu_jax.training.train import train

SIDE, PATCH = 8, 4
MISTRAL_CHAT = (
    "{% for m in messages %}[INST] {% for c in m.content if c.type == 'image' %}{{ '<image>\\n' }}{% endfor %}"
    "{% for c in m.content if c.type == 'text' %}{{ c.text }}{% endfor %} [/INST]{% endfor %}"
)
QUESTIONS = ["share the steps of the dax ?", "what can the wug on this sign ?", "describe the fep"]
SHAPES = [(20, 44), (50, 9), (7, 7)]  # width, height


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`hf/` as transformers writes it, `ours/`, and `data/` with images of several shapes, one of them turned."""
    top = tmp_path_factory.mktemp("next")
    tokenizer = build("byte_level")
    text = {
        "vocab_size": len(tokenizer),
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_size": 32,
        "sliding_window": 30,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 3,
    }
    theirs = make_llava_next(1, text, {"image_size": SIDE, "patch_size": PATCH}, mistral=True)
    theirs.config.image_token_index = theirs.config.image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_grid_pinpoints=theirs.config.image_grid_pinpoints,
    )
    save(theirs, top / "hf")
    LlavaNextProcessor(
        processor, tokenizer, PATCH, "default", MISTRAL_CHAT, num_additional_image_tokens=1
    ).save_pretrained(top / "hf")
    done = convert(top / "hf", top / "ours")
    assert done.template == "own"
    write_data(top / "data")
    return top, theirs


def write_data(folder):
    (folder / "train").mkdir(parents=True)
    rng, rows = np.random.default_rng(0), []
    for i, (question, (width, height)) in enumerate(zip(QUESTIONS, SHAPES, strict=True)):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6 if i == 0 else 1
        picture = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
        picture.save(folder / "train" / f"{i}.png", exif=exif)
        pair = {"instruction": question, "response": "i cannot help"}
        rows.append({"id": f"u{i}", "image": f"{i}.png", "safe": False, "harmful_category": "x", "instr-resp": [pair]})
    (folder / "train.json").write_text(json.dumps(rows))


def their_inputs(folder, question, images):
    content = [{"type": "image", "path": str(image)} for image in images] + [{"type": "text", "text": question}]
    processor = AutoProcessor.from_pretrained(folder / "hf", local_files_only=True)
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    )


def test_answers_equal_those_of_transformers_from_the_same_files(folder, tmp_path):
    """From text and image file to answer: templates, EXIF, tiles, counts, packing, window and greedy decoding."""
    top, theirs = folder
    model = vlm_mu_jax.load(top / "ours")
    files = [top / "data" / "train" / f"{i}.png" for i in range(3)]
    items = [Question(f"q{i}", q, f) for i, (q, f) in enumerate(zip(QUESTIONS, files, strict=True))]
    items += [Question("text", QUESTIONS[0], None), Question("blank", QUESTIONS[0], "blank:white")]
    Image.new("RGB", (SIDE, SIDE), "white").save(tmp_path / "white.png")
    shown = [*([file] for file in files), [], [tmp_path / "white.png"]]
    answers = answer_questions(model, items, tmp_path / "answers.jsonl", AnswerOptions(2, 5))
    for item, images, answer in zip(items, shown, answers, strict=True):
        inputs = their_inputs(top, item.text, images)
        made = theirs.generate(
            **inputs, max_new_tokens=5, do_sample=False, suppress_tokens=[model.config.image_token_id]
        )[0, inputs["input_ids"].shape[1] :].tolist()
        assert model.processor.prompt_ids(item.text, images) == inputs["input_ids"][0].tolist(), item.id
        assert (answer.answer, answer.tokens) == (model.processor.decode(made), len(made)), item.id


def test_gradients_equal_those_of_transformers(folder):
    """Of the summed log-likelihood of a prompt, through the decoder, the packing and the projector."""
    top, theirs = folder
    model = vlm_mu_jax.load(top / "ours")
    file = top / "data" / "train" / "1.png"
    inputs = their_inputs(top, QUESTIONS[1], [file])
    theirs.zero_grad()
    torch.log_softmax(theirs(**inputs).logits[0, :-1], -1).gather(1, inputs["input_ids"][0, 1:, None]).sum().backward()
    ids = model.processor.prompt_ids(QUESTIONS[1], [file])
    batch = model.processor.pad([ids], [[model.processor.pixels(file)]])

    def likelihood(params):
        logprobs = jax.nn.log_softmax(forward(params, batch, model.config).logits_BTV[0, : len(ids) - 1])
        return logprobs[np.arange(len(ids) - 1), np.array(ids[1:])].sum()

    ours = jax.jit(jax.grad(likelihood))(model.params)["projector"]
    projector = theirs.model.multi_modal_projector
    for name, weight in {
        "newline_D": theirs.model.image_newline,
        "w1_ED": projector.linear_1.weight,
        "b2_D": projector.linear_2.bias,
    }.items():
        want = weight.grad.numpy().T
        assert np.abs(want).max() > 0.1, name
        np.testing.assert_allclose(ours[name], want, rtol=1e-3, atol=1e-3 * np.abs(want).max(), err_msg=name)


def test_search_and_states_see_the_image_as_a_whole_prompt_does(folder):
    top, _ = folder
    model = vlm_mu_jax.load(top / "ours")
    images = [model.processor.pixels(top / "data" / "train" / f"{i}.png") for i in (0, 1)]
    words, refusal = ("what", "please"), 9
    asks = [search.SearchQuestion(question, image) for question, image in zip(QUESTIONS, images, strict=False)]
    found = search.search(model, asks, words, SearchTarget(Openings(((refusal,),))), SearchOptions(block=4))[
        "question_start"
    ]
    texts = [place(ask.question, word, "question_start", "swap").question for ask in asks for word in words]
    shown = [[ask.image] for ask in asks for _ in words]
    rows = [model.processor.prompt_ids(text, image) for text, image in zip(texts, shown, strict=True)]
    out = jax.jit(forward, static_argnames=("cfg", "tap"))(
        model.params, model.processor.pad(rows, shown), cfg=model.config, tap="last"
    )
    last = np.asarray(out.logits_BTV)[np.arange(4), [len(row) - 1 for row in rows]]
    p = np.exp(last[:, refusal] - np.log(np.exp(last).sum(-1)))
    np.testing.assert_allclose(found.margins_QW.ravel(), np.log(p) - np.log1p(-p), atol=1e-4)
    states = last_token_states(model, texts, [one for (one,) in shown], batch_size=4)
    np.testing.assert_allclose(states, out.taps, atol=1e-4)


@pytest.mark.slow
def test_a_training_step_trains_the_newline_and_the_export_is_a_llava_next(folder, tmp_path):
    top, _ = folder
    config = defaults("sft")
    config.model.init = str(top / "ours")
    config.data.update(root=str(top / "data"), safety="train.json")
    config.update(steps=1, batch_size=2)
    train(checked(config), tmp_path)
    before, after = (flatten(vlm_mu_jax.load(where).params) for where in (top / "ours", tmp_path))
    moved = {path for path in before if (np.asarray(before[path]) != np.asarray(after[path])).any()}
    assert "projector/newline_D" in moved and not any(path.startswith("vision") for path in moved)
