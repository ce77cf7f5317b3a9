"""Gemma 3 with images equals PyTorch transformers (PIL backend): prompts, pixels, states, logits, answers."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.families import gemma_folder
from tests.parity.image_family import QUESTION, TOLERANCE, Both, assert_comes_back, logits_of, pictures
from vlm_mu_jax.attacks.margin.prefix import blocks, tokenise
from vlm_mu_jax.data.placing import Placed
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.evaluation.answers.asking import AnswerOptions, answer_questions
from vlm_mu_jax.evaluation.questions.question import Question
from vlm_mu_jax.model import flash
from vlm_mu_jax.model.checks import check_cut
from vlm_mu_jax.model.families import from_hf
from vlm_mu_jax.model.generate import generate
from vlm_mu_jax.model.vlm import encode_images, encode_tower

SIZES = ((20, 44), (50, 9), (9, 9))  # width, height
# A window shorter than an image's four tokens beside a global layer, and global layers alone.
TEXTS = {"short_window": {"sliding_window": 3}, "global_alone": {"layer_types": ["full_attention"] * 2}}


@pytest.fixture(scope="module", params=TEXTS)
def both(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    gemma_folder(folder / "hf", TEXTS[request.param])
    tall, wide, small = pictures(*SIZES)
    return Both.of(folder, [(tall,), (wide,), (small,), (wide, tall), ()])


def test_prompts_and_pixels(both):
    both.assert_same_ids_and_pixels()


def test_tower_and_image_tokens(both):
    pixels = both.inputs(both.rows[3])["pixel_values"]
    with torch.no_grad():
        found = both.theirs.model.get_image_features(pixels)
    shown = pixels.numpy().transpose(0, 2, 3, 1)[None]
    ours = encode_tower(both.ours.params, shown, both.ours.config)
    np.testing.assert_allclose(ours[0], found.last_hidden_state.numpy(), atol=TOLERANCE)
    tokens = encode_images(both.ours.params, shown, both.ours.config)
    np.testing.assert_allclose(tokens[0], found.pooler_output.numpy().reshape(tokens.shape[1:]), atol=TOLERANCE)


def test_logits_and_answers(both):
    both.assert_same_logits_and_answers()


def test_an_image_reads_itself_both_ways_and_a_kernel_that_cannot_is_refused(both):
    """Or the tests above say nothing: without it the logits of an image's own tokens are others."""
    batch, cfg = both.batch(), both.ours.config
    causal = cfg.with_text(image_run=None)
    with_it, without = (np.asarray(logits_of(both.ours.params, batch, one)) for one in (cfg, causal))
    assert np.abs(with_it - without)[0].max() > 0.01
    assert np.abs(with_it - without)[4, : batch.lengths_B[4]].max() < 1e-5  # no image, nothing to read
    with pytest.raises(InputError, match="image tokens read each other both ways"):
        flash.choose("splash", "tpu", cfg.text, "float32")


def test_answers_on_a_shared_beginning_are_those_of_whole_prompts(both):
    """The beginning ends behind the image, never inside it."""
    (image,) = both.rows[0]
    image.save(both.folder / "shown.png")
    questions = [Question(f"q{i}", f"{QUESTION} {word}", both.folder / "shown.png") for i, word in enumerate("abcd")]
    shared = answer_questions(both.ours, questions, options=AnswerOptions(4, 5))
    alone = [answer_questions(both.ours, [one], options=AnswerOptions(1, 5))[0] for one in questions]
    assert [one.answer for one in shared] == [one.answer for one in alone]


def test_a_beginning_that_ends_inside_an_image_is_refused(both):
    """By `generate`; the attacks' shared starts hold it too."""
    processor, image = both.ours.processor, both.rows[0][0]
    ids = processor.prompt_ids(QUESTION, [image])
    first = ids.index(both.ours.config.image_token_id)
    for cut, allowed in ((first + 1, False), (first + 4, True), (first, True)):
        prefix = processor.pad([ids[:cut]], [[processor.pixels(image)]])
        rest = processor.pad([ids[cut:]], [[processor.pixels(image)]])
        if allowed:
            check_cut(prefix, rest, both.ours.config)
        else:
            with pytest.raises(InputError, match="prefix ends inside an image"):
                generate(both.ours.params, rest, both.ours.config, max_new_tokens=1, prefix=prefix)
    prompts = tokenise(processor, QUESTION, [image], [Placed(QUESTION)])
    with pytest.raises(AssertionError, match="a shared start ends before its image does"):
        next(blocks(prompts, np.arange(1), first + 1, 4))


SPELLINGS = {  # prefixes of transformers 5's files -> those of others
    "gemma3_v5": {},
    "gemma3_v4": {"vision_tower.": "vision_tower.vision_model."},
    "gemma3_modules_v5": {
        "language_model.model.": "model.language_model.",
        "language_model.lm_head.": "lm_head.",
        "vision_tower.": "model.vision_tower.",
        "multi_modal_projector.": "model.multi_modal_projector.",
    },
    "gemma3_modules": {
        "language_model.model.": "model.language_model.",
        "language_model.lm_head.": "lm_head.",
        "vision_tower.": "model.vision_tower.vision_model.",
        "multi_modal_projector.": "model.multi_modal_projector.",
    },
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_files_come_back_bit_for_bit(spelling, tied, tmp_path):
    gemma_folder(tmp_path / "hf", {"tie_word_embeddings": tied}, tie_word_embeddings=tied)
    path = tmp_path / "hf" / "model.safetensors"
    tensors = load_file(path)
    assert any("lm_head" in key for key in tensors) == (not tied)
    renamed = {}
    for key, value in tensors.items():
        old = next((old for old in SPELLINGS[spelling] if key.startswith(old)), "")
        renamed[SPELLINGS[spelling].get(old, "") + key.removeprefix(old)] = value
    save_file(renamed, path, metadata={"format": "pt"})
    shard_bytes = 20_000 if spelling == "gemma3_v4" else 5 * 10**9
    assert assert_comes_back(tmp_path / "hf", tmp_path, shard_bytes) == spelling


def test_pan_and_scan_stays_off_as_in_transformers(both, tmp_path):
    """Its processor passes false over whatever the file says."""
    for file in (both.folder / "hf").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path = tmp_path / "processor_config.json"
    content = json.loads(path.read_text())
    content["image_processor"] |= {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 2}
    path.write_text(json.dumps(content))
    (tmp_path / "hf").mkdir()
    for file in tmp_path.glob("*.*"):
        file.rename(tmp_path / "hf" / file.name)
    wide = pictures((50, 9))[0]
    Both.of(tmp_path, [(wide,)]).assert_same_ids_and_pixels()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mm_tokens_per_image": 5}, "mm_tokens_per_image 5 does not part 4 x 4 patches into squares"),
        ({"mm_tokens_per_image": 9}, "mm_tokens_per_image 9 does not part"),
        ({"text_config": {"model_type": "llama"}}, "language model 'llama' is not supported for Gemma 3"),
    ],
)
def test_configs_that_are_refused(both, change, said):
    config = json.loads((both.folder / "hf" / "config.json").read_text())
    with pytest.raises(InputError, match=said):
        from_hf(config | change)
