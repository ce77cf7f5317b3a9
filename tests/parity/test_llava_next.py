"""LLaVA-NeXT equals PyTorch transformers: logits, greedy tokens, and the checkpoint there and back."""

import json

import jax
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlavaNextForConditionalGeneration
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from tests.conversion.hf_checkpoints import make_llava_next, save
from tests.conversion.test_exporter import LLAVA_DIALECTS, spell, tensors, there_and_back
from vlm_mu_jax.conversion import importer, names
from vlm_mu_jax.data import images, tiling
from vlm_mu_jax.model.generate import generate
from vlm_mu_jax.model.vlm import Batch, forward

TOLERANCE = 1e-4
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
CASES = {
    "vicuna": {"text": {"num_attention_heads": 4, "num_key_value_heads": 4, "hidden_size": 24}},
    "mistral_window": {
        "mistral": True,
        "text": {"num_attention_heads": 6, "num_key_value_heads": 2, "hidden_size": 36, "sliding_window": 21},
    },
    "odd_sizes": {"mistral": True, "vision": {"patch_size": 5, "image_size": 17}, "text": {"sliding_window": None}},
    "feature_list": {"vision_feature_layer": [-2, -1], "multimodal_projector_bias": False},
}
SHAPES = ((40, 25), (9, 60), (60, 9), (5, 5), (31, 33), (1, 90))  # height, width: every way to tile, and hardly a row


@pytest.fixture(scope="module", params=CASES)
def both(request, tmp_path_factory):
    """(transformers' model, ours, transformers' image processor) of one drawn checkpoint."""
    theirs = make_llava_next(list(CASES).index(request.param), **CASES[request.param])
    ours = importer.import_checkpoint(save(theirs, tmp_path_factory.mktemp("next")))
    side = ours.config.vision.image_size
    processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_grid_pinpoints=theirs.config.image_grid_pinpoints,
    )
    return theirs, ours, processor


def drawn_rows(cfg):
    """(ids, pictures): an image of every shape, alone and with others, first and last, and a row without one."""
    rng = np.random.default_rng(0)
    some = [Image.fromarray(rng.integers(0, 256, (h, w, 3), np.uint8)) for h, w in SHAPES]
    plan = [(some[0],), (some[1], some[2]), (some[3],), (some[4],), (some[5], some[0]), ()]
    rows = []
    for pictures in plan:
        row = rng.integers(3, cfg.image_token_id, 4).tolist()
        for one in pictures:
            row += [cfg.image_token_id] * len(cfg.vision.plan.gather((one.height, one.width)))
            row += rng.integers(3, cfg.image_token_id, int(rng.integers(1, 4))).tolist()
        rows.append(row)
    return rows, plan


def our_batch(cfg, rows, plan):
    settings = images.ImageSettings(cfg.vision.image_size, cfg.vision.image_size, tuple(MEAN), tuple(STD))
    tiles = [[tiling.prepare(one, settings, cfg.vision) for one in pictures] for pictures in plan]
    lengths = np.array([len(row) for row in rows], np.int32)
    tokens = np.ones((len(rows), lengths.max() + 3), np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    like = next(row[0] for row in tiles if row)
    pixels, gather_BQ = tiling.stack(tiles, 2, like, width=tokens.shape[1])[:2]
    return Batch(tokens, lengths, pixels, gather_BQ=gather_BQ)


def their_inputs(processor, row, pictures):
    shown = processor(list(pictures), return_tensors="pt") if pictures else {}
    return {"input_ids": torch.tensor([row]), "attention_mask": torch.ones(1, len(row), dtype=torch.long), **shown}


def test_logits_of_a_mixed_batch_equal_transformers_row_by_row(both):
    """And images of other sizes run in the same compiled program."""
    theirs, ours, processor = both
    rows, plan = drawn_rows(ours.config)
    run = jax.jit(forward, static_argnums=2)
    got = np.asarray(run(ours.params, our_batch(ours.config, rows, plan), ours.config).logits_BTV)
    programs = run._cache_size()
    turned = run(ours.params, our_batch(ours.config, rows[::-1], plan[::-1]), ours.config).logits_BTV[::-1]
    assert run._cache_size() == programs
    np.testing.assert_allclose(turned, got, atol=TOLERANCE)
    for i, (row, pictures) in enumerate(zip(rows, plan, strict=True)):
        with torch.no_grad():
            want = theirs(**their_inputs(processor, row, pictures)).logits[0].numpy()
        assert np.abs(want).max() > 0.5, "logits too small for the tolerance to mean anything"
        assert np.abs(got[i, : len(row)] - want).max() <= TOLERANCE, f"row {i}"


@pytest.mark.parametrize("both", ["vicuna", "mistral_window"], indirect=True)
def test_greedy_tokens_equal_transformers(both):
    """Transformers is told not to write the image placeholder; ours never does."""
    theirs, ours, processor = both
    rows, plan = drawn_rows(ours.config)
    made = generate(ours.params, our_batch(ours.config, rows, plan), ours.config, max_new_tokens=6)
    for i, (row, pictures) in enumerate(zip(rows, plan, strict=True)):
        want = theirs.generate(
            **their_inputs(processor, row, pictures),
            max_new_tokens=6,
            do_sample=False,
            pad_token_id=0,
            suppress_tokens=[ours.config.image_token_id],
        )[0, len(row) :].tolist()
        assert np.asarray(made.tokens_BG)[i, : int(made.lengths_B[i])].tolist() == want


@pytest.mark.parametrize("dialect", LLAVA_DIALECTS)
@pytest.mark.parametrize("mistral", [False, True])
def test_there_and_back_is_bit_exact_in_every_dialect(dialect, mistral, tmp_path):
    source = save(make_llava_next(7, mistral=mistral).to(torch.bfloat16), tmp_path / "hf")
    spell(source, names.DIALECTS[dialect])
    back = there_and_back(source, tmp_path)
    assert tensors(back) == tensors(source) and any("image_newline" in key for key in tensors(source))
    assert json.loads((back / "config.json").read_text()) == json.loads((source / "config.json").read_text())
    loaded, report = LlavaNextForConditionalGeneration.from_pretrained(back, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    stored = next(array for key, array in tensors(source).items() if "image_newline" in key)
    assert loaded.model.image_newline.detach().view(torch.uint16).numpy().tobytes() == stored[2]
