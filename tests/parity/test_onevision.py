"""LLaVA-OneVision equals PyTorch transformers: pixels, prompt ids, logits and greedy tokens; the checkpoint both ways.

Tokens of large pictures are interpolated down; pictures that share a prompt are read whole. transformers' image
processor is that of the PIL backend, and its processor stands without one for video, which needs torchvision.
"""

import shutil

import jax
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import vlm_mu_jax
from tests.conversion.test_exporter import LLAVA_DIALECTS, spell, tensors, there_and_back
from tests.families import onevision_folder, onevision_processor
from tests.parity.test_internvl import QUESTIONS, assert_same_greedy_tokens, assert_same_logits, prompts, their_inputs
from vlm_mu_jax.conversion import names
from vlm_mu_jax.data import batches
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.families import from_hf
from vlm_mu_jax.model.image_plans.anyres_max import AnyresMax
from vlm_mu_jax.model.image_plans.tiled import Tiled
from vlm_mu_jax.model.vlm import project

SHAPES = ((44, 20), (9, 50), (7, 7))  # width, height: interpolated, two ways to tile, and one tile


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(transformers' model, its processor, ours, image files, the folder of the checkpoint)."""
    top = tmp_path_factory.mktemp("onevision")
    onevision_folder(top / "hf")
    rng, files = np.random.default_rng(0), []
    for i, (width, height) in enumerate(SHAPES):
        files.append(top / f"{i}.png")
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(files[-1])
    vlm_mu_jax.convert(top / "hf", top / "ours")
    theirs = transformers.LlavaOnevisionForConditionalGeneration.from_pretrained(top / "hf").eval()
    return theirs, onevision_processor(top / "hf"), vlm_mu_jax.load(top / "ours"), files, top / "hf"


def test_ids_and_pixels_equal_those_of_the_processor(both):
    _, processor, ours, files, _ = both
    for question, shown in prompts(files):
        inputs = their_inputs(processor, question, shown)
        assert ours.processor.prompt_ids(question, shown) == inputs["input_ids"][0].tolist()
        pixels = [ours.processor.pixels(file).pixels_MHWC for file in ours.processor.together(shown)]
        for got, want in zip(pixels, inputs.get("pixel_values", ()), strict=True):
            np.testing.assert_allclose(got, want.permute(0, 2, 3, 1).numpy()[: len(got)], atol=1e-6)


def test_logits_of_a_mixed_batch_equal_transformers_row_by_row(both):
    assert_same_logits(*both[:4])


def test_24_greedy_tokens_of_a_mixed_batch_equal_transformers_and_the_whole_forward(both):
    assert_same_greedy_tokens(*both[:4])


def test_pictures_of_training_rows_are_those_of_prompts(both):
    """One alone is cut into tiles, two of one conversation are not; shapes are the same for both rows."""
    _, _, ours, files, _ = both
    one = ours.processor
    rows = []
    for shown in (files[:1], files[:2]):
        example = one.example(QUESTIONS[0], "a ring", shown)
        rows.append(batches.row(example, one.together([str(file) for file in shown]), str(len(shown))))
    stream = batches.Stream(rows, 2, 0, load_image=one.pixels)
    batch = stream.take([0, 1]).batch
    pixels = [[one.pixels(file) for file in one.together(shown)] for shown in (files[:1], files[:2])]
    want = one.pad([row.ids for row in rows], pixels, length=batch.tokens_BT.shape[1])
    assert batch.pixels_BMHWC.shape[1] == 2 * ours.config.vision.tiles > want.pixels_BMHWC.shape[1]
    np.testing.assert_array_equal(batch.pixels_BMHWC[:, : want.pixels_BMHWC.shape[1]], want.pixels_BMHWC)
    jax.tree.map(np.testing.assert_array_equal, batch.gather_BQ, want.gather_BQ)
    assert want.gather_BQ.weight_QK[0].max() == 1 > np.sort(np.unique(want.gather_BQ.weight_QK[0]))[-2] > 0


@pytest.mark.parametrize("size", [(20, 44), (50, 9), (24, 24), (24, 23), (17, 16), (8, 8)])
def test_packing_equals_that_of_transformers(both, size):
    """Of features at random, so that every tap and weight counts; from one tile to nine."""
    theirs, _, ours, _, _ = both
    cfg = ours.config
    count = len(cfg.vision.plan.views(size))
    features = np.random.default_rng(0).normal(size=(count, cfg.vision.P, cfg.text.D)).astype(np.float32)
    with torch.no_grad():
        (want,), _ = theirs.model.pack_image_features(
            [torch.tensor(features)], torch.tensor([size]), theirs.model.image_newline, "anyres_max_2"
        )
    table = jax.tree.map(lambda x: x[None], cfg.vision.plan.gather(size))
    plain = _Plain(cfg)
    got = np.asarray(project(ours.params, features[None], plain, table))[0]
    np.testing.assert_allclose(got, want.numpy(), atol=1e-5)


class _Plain:
    """A config whose connector hands the features on, with the newline of the model's own."""

    def __init__(self, cfg):
        self.text, self.vision, self.connector = cfg.text, self, self
        self.extra = cfg.vision.connector.extra

    def project(self, _, states_BMPE):
        return states_BMPE


@pytest.mark.parametrize("dialect", LLAVA_DIALECTS)
def test_there_and_back_is_bit_exact(both, dialect, tmp_path):
    """Sharded too, and transformers loads it without complaint."""
    theirs, _, _, _, folder = both
    source = shutil.copytree(folder, tmp_path / "hf")
    spell(source, names.DIALECTS[dialect])
    back = there_and_back(source, tmp_path, shard_bytes=20_000)
    assert tensors(back) == tensors(source) and len(list(back.glob("*.safetensors"))) > 1
    _, report = type(theirs).from_pretrained(back, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_tied_heads(tmp_path):
    onevision_folder(tmp_path / "hf", tie_word_embeddings=True)
    back = there_and_back(tmp_path / "hf", tmp_path)
    assert tensors(back) == tensors(tmp_path / "hf") and not any("lm_head" in key for key in tensors(back))


def test_no_picture_has_more_tokens_than_the_plan_says():
    released = tuple((384 * rows, 384 * columns) for rows in range(1, 7) for columns in range(1, 7))
    plan = AnyresMax(Tiled(729, 27, 384, released), 9)
    assert plan.tiles == 37
    sizes = [(h, w) for h in (60, 384, 700, 1152, 1300, 2304, 4000) for w in (60, 384, 1153, 1500, 2304)]
    assert max(len(plan.gather(size)) for size in sizes) <= plan.most_tokens
    # by hand: nine tiles keep 81 x 81 tokens; thirty-six are interpolated to as many
    assert len(plan.gather((1152, 1152))) == len(plan.gather((2304, 2304))) == 729 + 81 * (81 + 1)


def test_what_cannot_be_followed_is_refused_by_name():
    config = {"model_type": "llava_onevision", "text_config": {"model_type": "qwen2"}}
    assert from_hf(config).vision.P == 729 and from_hf(config).vision.tiles == 37
    for field, value, message in (
        ("model_type", "llava_qwen", "llava-hf"),
        ("vision_aspect_ratio", "pad", "vision_aspect_ratio"),
        ("vision_feature_select_strategy", "default", "vision_feature_select_strategy"),
        ("use_image_newline_parameter", False, "use_image_newline_parameter"),
        ("image_grid_pinpoints", [[384, 100]], "image_grid_pinpoints"),
    ):
        with pytest.raises(InputError, match=message):
            from_hf(config | {field: value})
