"""Small tokenizers of the kinds that LLaVA-class models use, trained on neutral sentences; a tiny random model."""

import dataclasses
from pathlib import Path

import jax
import pytest

from tests.model.tiny import clip_vision
from vlm_mu_jax.data.images import ImageSettings
from vlm_mu_jax.data.prompts import Processor
from vlm_mu_jax.model.config import ModelConfig, TextConfig
from vlm_mu_jax.model.params import init_params
from vlm_mu_jax.model.vlm import param_specs

OPENERS = ("share", "what", "describe", "please", "can", "explain")
NOUNS = ("blick", "dax", "wug", "toma", "fep", "zorp")
SENTENCES = [f"{o} the steps of the {n} on this sign ?" for o in OPENERS for n in NOUNS]
SENTENCES += [f"{o.title()} the {n}" for o in OPENERS for n in NOUNS]
ANSWERS = ["sorry , i cannot help with this", "i cannot help", "i see a red sign", "take it , then turn it"]


@pytest.fixture(scope="session")
def tokenizers_by_kind():
    return {kind: build(kind) for kind in ("word_level", "byte_level", "metaspace")}


def build(kind: str):
    """A trained tokenizer with <unk>, <s>, </s>, <pad> and <image>.

    "no_split" merges across spaces and line ends, which makes candidates differ from the place before their word.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
    text = [f"USER: {s} ASSISTANT: {a}" for s in SENTENCES for a in ANSWERS]
    if kind == "word_level":
        tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.WordLevelTrainer(special_tokens=special)
    else:
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        level = kind in ("byte_level", "no_split")
        tokenizer.pre_tokenizer = (
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind != "no_split")
            if level
            else pre_tokenizers.Metaspace()
        )
        tokenizer.decoder = decoders.ByteLevel() if level else decoders.Metaspace()
        alphabet = pre_tokenizers.ByteLevel.alphabet() if level else []
        trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(text, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
    )


@dataclasses.dataclass(frozen=True)
class TinyModel:
    """Has what `vlm_mu_jax.load` returns."""

    params: dict
    config: ModelConfig
    processor: Processor
    folder: Path = Path("tiny")


def tiny_processor(kind: str = "byte_level", vision: bool = True) -> Processor:
    """For a LLaVA with grouped queries and a subword tokenizer, so that some words are several tokens."""
    tokenizer = build(kind)
    cfg = ModelConfig(
        text=TextConfig(V=len(tokenizer), D=32, L=2, N=4, K=2, H=8, F=48, max_positions=256),
        vision=clip_vision(image_size=8, patch_size=4, D=16, L=2, N=2, F=32) if vision else None,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>") if vision else None,
        bos_id=1,
        eos_ids=(2,),
        pad_id=3,
    )
    settings = ImageSettings(size=8, crop=8, mean=(0.5,) * 3, std=(0.5,) * 3) if vision else None
    return Processor(tokenizer, settings, "llava_hf", cfg)


def tiny_model(seed: int = 0, vision: bool = True, kind: str = "byte_level", loud: float = 6.0) -> TinyModel:
    """A random LLaVA."""
    processor = tiny_processor(kind, vision)
    params = init_params(param_specs(processor.cfg), jax.random.key(seed))
    # Default initialisation leaves the blocks almost silent; louder ones make every test about something.
    params = jax.tree.map(lambda leaf: leaf * loud if leaf.ndim > 1 else leaf, params)
    return TinyModel(params, processor.cfg, processor)


@pytest.fixture(scope="session")
def make_model():
    return tiny_model


@pytest.fixture(scope="session")
def model() -> TinyModel:
    return tiny_model()
