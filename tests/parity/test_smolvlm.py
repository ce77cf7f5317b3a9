"""Idefics3, SmolVLM and SmolVLM2 equal PyTorch transformers (PIL backend): prompts, pixels, states, logits, answers."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import transformers
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

from tests.conversion.hf_checkpoints import randomise
from tests.families import FAMILIES, text_of, tokenizer_with, vision_of
from tests.parity.image_family import TOLERANCE, Both, assert_comes_back, pictures
from vlm_mu_jax.conversion.convert import convert
from vlm_mu_jax.data.image_settings import fitted_plan, read_settings
from vlm_mu_jax.data.tiling import prepare
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.families import from_hf
from vlm_mu_jax.model.vlm import encode_tower

SIZES = ((20, 44), (50, 9), (9, 9))  # width, height
LARGE = 512  # pixels of an encoded image of SmolVLM2-500M


@pytest.fixture(scope="module", params=["idefics3", "smolvlm"])
def both(request, tmp_path_factory):
    """Text and images through every stage."""
    folder = tmp_path_factory.mktemp(request.param)
    FAMILIES[request.param].write(folder / "hf")
    tall, wide, small = pictures(*SIZES)
    return Both.of(folder, [(tall,), (wide,), (small,), (wide, tall), ()])


def test_prompts_and_pixels(both):
    both.assert_same_ids_and_pixels()


def test_tower(both):
    inputs, cfg = both.inputs(both.rows[0]), both.ours.config
    pixels = inputs["pixel_values"][0]
    with torch.no_grad():
        want = both.theirs.model.vision_model(pixels).last_hidden_state
    ours = encode_tower(both.ours.params, pixels.numpy().transpose(0, 2, 3, 1)[None], cfg)
    np.testing.assert_allclose(ours[0], want.numpy(), atol=TOLERANCE)


def test_logits_and_answers(both):
    both.assert_same_logits_and_answers()


@pytest.mark.parametrize("shape", [(1, 1), (40, 1), (333, 512), (512, 512), (700, 1900), (1023, 1025), (4000, 90)])
def test_tiles_of_published_sizes(shape, tmp_path):
    """Layout, grid and pixels at SmolVLM2-500M's numbers, also without splitting."""
    (picture,) = pictures(shape[::-1])
    tower = {"image_size": LARGE, "patch_size": LARGE // 4}
    config = {"model_type": "smolvlm", "text_config": text_of(range(90)), "vision_config": tower, "image_token_id": 89}
    vision = from_hf(config).vision
    for split in (True, False):
        fields = {"size": {"longest_edge": 4 * LARGE}, "max_image_size": {"longest_edge": LARGE}}
        theirs = Idefics3ImageProcessorPil(**fields, do_image_splitting=split)
        theirs.save_pretrained(tmp_path)
        made = theirs(picture, return_row_col_info=True, return_tensors="np")
        plan = fitted_plan(tmp_path, vision.plan)
        tiles = prepare(picture, read_settings(tmp_path, LARGE), dataclasses.replace(vision, plan=plan))
        want = made["pixel_values"][0].transpose(0, 2, 3, 1)
        np.testing.assert_allclose(tiles.pixels_MHWC[: len(want)], want, atol=1e-6)
        assert len(tiles.gather_Q) == 4 * len(want) and len(want) <= plan.tiles
        text = get_image_prompt_string(
            made["rows"][0][0], made["cols"][0][0], 4, "<fake_token_around_image>", "<image>", "<global-img>"
        )
        assert "".join(part if isinstance(part, str) else part * "<image>" for part in tiles.layout) == text


@pytest.mark.parametrize("side", [26, 27, 32])
def test_every_patch_has_its_own_position(side):
    """At the published towers' patches along a side; the lookup in float32 moves some of others."""
    config = transformers.Idefics3VisionConfig(
        hidden_size=2, intermediate_size=2, num_hidden_layers=1, num_attention_heads=1, image_size=side, patch_size=1
    )
    embeddings = transformers.Idefics3VisionTransformer(config).embeddings
    with torch.no_grad():
        embeddings.patch_embedding.weight.zero_()
        embeddings.patch_embedding.bias.zero_()
        found = embeddings(torch.zeros(1, 3, side, side), torch.ones(1, side, side, dtype=torch.bool))
    assert torch.equal(found[0], embeddings.position_embedding.weight)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shard_bytes", [5 * 10**9, 10_000])
def test_files_come_back_bit_for_bit(tied, shard_bytes, tmp_path):
    tokenizer = tokenizer_with()
    config = transformers.SmolVLMConfig(
        text_config=transformers.LlamaConfig(**text_of(tokenizer, tie_word_embeddings=tied)).to_dict(),
        vision_config=vision_of(),
        image_token_id=89,
        tie_word_embeddings=tied,
    )
    model = randomise(transformers.SmolVLMForConditionalGeneration(config), 3)
    model.save_pretrained(tmp_path / "hf", max_shard_size=shard_bytes)
    tokenizer.save_pretrained(tmp_path / "hf")
    images = Idefics3ImageProcessorPil(size={"longest_edge": 16}, max_image_size={"longest_edge": 8})
    images.save_pretrained(tmp_path / "hf")
    assert assert_comes_back(tmp_path / "hf", tmp_path, shard_bytes) == "idefics3"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"max_image_size": {"longest_edge": 9}}, "max_image_size 9 is not the tower's 8"),
        ({"size": {"height": 16, "width": 16}}, "has no longest_edge"),
        ({"do_resize": False}, "do_resize false is not supported with do_image_splitting"),
        ({"do_rotate": True}, "do_rotate True"),
    ],
)
def test_what_the_image_processor_may_not_say(both, fields, said, tmp_path):
    source = both.folder / "hf"
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path = tmp_path / "processor_config.json"
    content = json.loads(path.read_text())
    content["image_processor"] |= fields
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=said):
        convert(tmp_path, tmp_path / "ours")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scale_factor": 3}, "scale_factor 3 does not divide the 2 patches"),
        ({"vision_config": vision_of(image_size=25, patch_size=1)}, "25 patches along a side are not supported"),
        ({"text_config": {"model_type": "qwen2"}}, "language model 'qwen2' is not supported"),
    ],
)
def test_configs_that_are_refused(both, change, said):
    config = json.loads((both.folder / "hf" / "config.json").read_text())
    with pytest.raises(InputError, match=said):
        from_hf(config | change)
