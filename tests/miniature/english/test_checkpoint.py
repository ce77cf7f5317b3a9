"""The English world around a small random language model: the same steps as with SmolLM2, and an ordinary LLaVA."""

import dataclasses

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from tests.miniature.built_world import assert_equal_transformers
from vlm_mu_jax.conversion import importer
from vlm_mu_jax.data.prompts import Processor
from vlm_mu_jax.miniature.english import checkpoint

SHORT = checkpoint.Teaching(
    lessons=tuple(dataclasses.replace(lesson, steps=2, rows=8) for lesson in checkpoint.LESSONS),
    batch=4,
    tower_steps=2,
    sizes=dataclasses.replace(checkpoint.SIZES, utility=4, general=8),
)


@pytest.fixture(scope="module")
def built(tmp_path_factory, decoder):
    return checkpoint.build_english(tmp_path_factory.mktemp("english"), decoder, seed=5, teaching=SHORT)


@pytest.fixture(scope="module")
def ours(built):
    return importer.import_checkpoint(built.checkpoint)


def test_logits_and_prompts_equal_transformers(built, ours):
    processor = Processor.from_folder(built.checkpoint, ours.config, "own")
    assert_equal_transformers(built.checkpoint, built.data, processor, ours, 2)


def test_the_language_model_keeps_its_words_and_gains_one_for_images(ours, built, decoder):
    before = importer.import_checkpoint(decoder)
    known = before.config.text.V
    assert ours.config.image_token_id == known < ours.config.text.V
    old, new = before.params["decoder"], ours.params["decoder"]
    assert (new["embed_VD"][:known] == old["embed_VD"]).all()  # the last blocks alone learn
    moved = np.abs(new["layers"]["wq_LDNH"] - old["layers"]["wq_LDNH"]).max()
    assert 0 < moved < 0.01  # a few steps from where it was


def test_an_answer_ends_where_a_turn_of_smollm_ends(built, ours):
    processor = Processor.from_folder(built.checkpoint, ours.config, "own")
    example = processor.example("Share the details.", "Sharing now.", images=0)
    text = processor.tokenizer.decode(example.ids)
    assert text == "<|im_start|>user\nShare the details.<|im_end|>\n<|im_start|>assistant\nSharing now.<|im_end|>"
    assert example.ids[-1] in ours.config.eos_ids


def test_an_output_matrix_of_its_own_gains_the_word_too(decoder, tmp_path):
    model = LlamaForCausalLM.from_pretrained(decoder, tie_word_embeddings=False)
    model.lm_head.weight = torch.nn.Parameter(2 * model.lm_head.weight.detach())
    model.save_pretrained(tmp_path / "untied")
    AutoTokenizer.from_pretrained(decoder).save_pretrained(tmp_path / "untied")
    none = dataclasses.replace(SHORT, lessons=(), tower_steps=1)
    built = checkpoint.build_english(tmp_path / "world", tmp_path / "untied", seed=5, teaching=none)
    ours = importer.import_checkpoint(built.checkpoint)
    head_DV, known = np.asarray(ours.params["decoder"]["head_DV"]), model.config.vocab_size
    assert (head_DV[:, :known] == model.lm_head.weight.detach().numpy().T).all()
    assert head_DV.shape[1] == ours.config.text.V > known
    processor = Processor.from_folder(built.checkpoint, ours.config, "own")
    assert_equal_transformers(built.checkpoint, built.data, processor, ours, 2)
