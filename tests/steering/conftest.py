"""A tiny random LLaVA with a real (character-level) tokenizer: enough to test every path of the guard."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tests.model.tiny import clip_vision
from tests.steering.tiny_folder import write_tiny
from vlm_mu_jax.data.images import ImageSettings
from vlm_mu_jax.data.prompts import Processor
from vlm_mu_jax.model.config import ModelConfig, TextConfig
from vlm_mu_jax.model.vlm import param_specs
from vlm_mu_jax.steering.anchor_texts import Anchors
from vlm_mu_jax.steering.extraction import extract_guard
from vlm_mu_jax.steering.gates import AnchorScores
from vlm_mu_jax.steering.hidden_states import last_token_states, prompt_batches
from vlm_mu_jax.storage.model_folder import Model

LETTERS = "abcdefghijklmnopqrstuvwxyzUSERATIN:?\n "


def tiny_model(seed: int = 0, dtype: str = "float32", vision: bool = True, **text) -> Model:
    tokens = ["<pad>", "</s>", "<image>", *dict.fromkeys(LETTERS)]
    sizes = {"V": len(tokens), "D": 32, "L": 4, "N": 4, "K": 2, "H": 8, "F": 48, "max_positions": 256}
    cfg = ModelConfig(
        text=TextConfig(**sizes | text),
        vision=clip_vision(image_size=8, patch_size=4, D=16, L=2, N=2, F=32) if vision else None,
        image_token_id=2 if vision else None,
        bos_id=None,
        eos_ids=(1,),
        pad_id=0,
        dtype=dtype,
    )
    rng = np.random.default_rng(seed)
    # Louder than the default initialisation, whose blocks are almost silent. numpy: nothing to compile.
    draws = {"ones": np.ones, "zeros": np.zeros}
    params = jax.tree.map(
        lambda spec: jnp.asarray(draws.get(spec.init, lambda shape: rng.normal(0, 0.06, shape))(spec.shape), dtype),
        param_specs(cfg),
    )
    settings = ImageSettings(size=8, crop=8, mean=(0.5,) * 3, std=(0.5,) * 3) if vision else None
    return Model(params, cfg, Processor(_tokenizer(tokens), settings, "llava_hf", cfg), Path("tiny"))


def _tokenizer(tokens: list[str]):
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    raw.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="</s>", additional_special_tokens=["<image>"]
    )


def draw_planted(seed: int = 0, strength: float = 4.0, offset: float = 5.0):
    """States [3, 60, 24], harmful = harmless + strength * direction + noise on a large common mean, and directions."""
    L, N, D = 3, 60, 24
    rng = np.random.default_rng(seed)
    truth_LD = rng.normal(size=(L, D))
    truth_LD /= np.linalg.norm(truth_LD, axis=1, keepdims=True)
    common_LND = offset * rng.normal(size=(L, 1, D)) + rng.normal(size=(L, N, D))
    harmful_LND = common_LND + strength * truth_LD[:, None] + 0.5 * rng.normal(size=(L, N, D))
    return harmful_LND, common_LND, truth_LD


@pytest.fixture(scope="session")
def make_model():
    return tiny_model


@pytest.fixture(scope="session")
def planted():
    return draw_planted


@pytest.fixture(scope="session")
def model() -> Model:
    return tiny_model()


@pytest.fixture(scope="session")
def anchors() -> Anchors:
    nouns = ["dax", "wug", "blicket", "toma", "fep", "zorp", "mip", "kiki"]
    return Anchors(tuple(f"how to hurt a {n}?" for n in nouns), tuple(f"how to feed a {n}?" for n in nouns), "0" * 64)


@pytest.fixture(scope="session")
def pictures() -> list[np.ndarray]:
    return list(np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32))


QUESTIONS = ["how to hurt a dax?", "feed it"]


@pytest.fixture(scope="session")
def home(tmp_path_factory, model):
    """The tiny model with a folder of its own."""
    path = tmp_path_factory.mktemp("home")
    write_tiny(path / "model", model, path)
    return dataclasses.replace(model, folder=path / "model")


@pytest.fixture(scope="session")
def split_guard(home, anchors, pictures):
    """Thresholds between the scores of QUESTIONS, as text and with their images: one gate is on, the other off."""
    found = extract_guard(home, anchors).using(layers=(1, 2))
    seen = [last_token_states(home, QUESTIONS, images) for images in (None, pictures[:2])]
    middle = [np.einsum("lnd,ld->ln", states, found.gate_LD).mean(1, keepdims=True) for states in seen]
    return dataclasses.replace(found, scores=AnchorScores(middle[0], middle[0], middle[1], middle[1]))


@pytest.fixture(scope="session")
def pair(home, pictures):
    """QUESTIONS with their images as one batch."""
    return next(prompt_batches(home, QUESTIONS, pictures[:2], 2))[0]
