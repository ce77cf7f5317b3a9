"""A shortened life: the folder it leaves is an ordinary LLaVA checkpoint for us and for transformers."""

import dataclasses

import jax
import pytest

from tests.miniature.built_world import assert_equal_transformers
from vlm_mu_jax.conversion import importer
from vlm_mu_jax.data import readers
from vlm_mu_jax.data.prompts import Processor
from vlm_mu_jax.miniature import checkpoint
from vlm_mu_jax.model.params import flatten, init_params
from vlm_mu_jax.model.vlm import param_specs

SHORT = tuple(dataclasses.replace(lesson, steps=2, rows=16) for lesson in checkpoint.LESSONS)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp("miniature")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "BATCH", 4)
        checkpoint.build_miniature(out, seed=5, lessons=SHORT)
    return out


@pytest.fixture(scope="module")
def ours(built):
    return importer.import_checkpoint(built / "hf")


def test_logits_and_prompts_equal_transformers(built, ours):
    processor = Processor.from_folder(built / "hf", ours.config)
    assert_equal_transformers(built / "hf", built / "data", processor, ours, 3)


def test_every_part_has_learned(ours):
    """Each lesson trains what it names; together they move the tower, the projector and the decoder."""
    start = flatten(init_params(param_specs(ours.config), jax.random.key(5)))
    moved = {path.split("/")[0] for path, leaf in flatten(ours.params).items() if (leaf != start[path]).any()}
    assert moved == {"decoder", "projector", "vision"}


def test_the_checkpoint_appears_only_when_training_is_complete(built, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.build_miniature(tmp_path / "out", seed=5, lessons=SHORT)
    assert not (tmp_path / "out" / "hf").exists()


def test_the_vocabulary_covers_the_tokenizer_and_special_ids_are_the_configs(built, ours):
    processor = Processor.from_folder(built / "hf", ours.config)
    tokenizer, cfg = processor.tokenizer, ours.config
    assert len(tokenizer) <= cfg.text.V
    assert (tokenizer.bos_token_id, tokenizer.pad_token_id) == (cfg.bos_id, cfg.pad_id)
    assert (tokenizer.eos_token_id,) == cfg.eos_ids
    assert tokenizer.convert_ids_to_tokens(cfg.image_token_id) == "<image>"
    longest = max(len(processor.prompt_ids(r.question)) for r in readers.read(built / "data" / "train.json"))
    assert longest + 64 <= cfg.text.max_positions
