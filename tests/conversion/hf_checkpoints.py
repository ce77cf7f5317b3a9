"""Tiny random checkpoints made by PyTorch transformers, of every layout that we support."""

import json
import random
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def draw_text(seed: int, **fixed: Any) -> dict[str, Any]:
    """Drawn decoder config; `fixed` overrides. Sizes are odd on purpose: a swapped axis must not fit."""
    rng = random.Random(seed)
    kv_heads = rng.choice([1, 2, 3])
    heads = kv_heads * rng.choice([1, 2, 3])
    head_dim = rng.choice([6, 8, 10])
    drawn = {
        "vocab_size": rng.choice([61, 83, 101]),
        "hidden_size": heads * head_dim,
        "intermediate_size": rng.choice([29, 37, 53]),
        "num_hidden_layers": rng.choice([1, 2, 3]),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": rng.choice([1e-6, 1e-5, 1e-3]),
        "max_position_embeddings": 64,
        "rope_parameters": {"rope_type": "default", "rope_theta": rng.choice([1e4, 5e5])},
        "tie_word_embeddings": False,
    }
    return drawn | fixed


def draw_vision(seed: int, **fixed: Any) -> dict[str, Any]:
    """Drawn CLIP config; `fixed` overrides."""
    rng = random.Random(1000 + seed)
    heads = rng.choice([1, 2, 3])
    patch = rng.choice([4, 5, 7])
    drawn = {
        "hidden_size": heads * rng.choice([6, 10]),
        "intermediate_size": rng.choice([23, 31]),
        "num_hidden_layers": rng.choice([2, 3, 4]),
        "num_attention_heads": heads,
        "patch_size": patch,
        "image_size": patch * rng.choice([2, 3]),
        "layer_norm_eps": rng.choice([1e-5, 1e-3]),
    }
    return drawn | fixed


def make_llava(
    seed: int, text: dict | None = None, vision: dict | None = None, **fixed: Any
) -> LlavaForConditionalGeneration:
    """A LLaVA with drawn sizes and every weight random (norms and biases too). The image token is the last id."""
    text_config = LlamaConfig(**draw_text(seed, **(text or {})))
    config = LlavaConfig(
        text_config=text_config,
        vision_config=CLIPVisionConfig(**draw_vision(seed, **(vision or {}))),
        image_token_index=text_config.vocab_size - 1,
        **fixed,
    )
    return randomise(LlavaForConditionalGeneration(config), seed)


def make_llava_next(
    seed: int, text: dict | None = None, vision: dict | None = None, mistral: bool = False, **fixed: Any
) -> LlavaNextForConditionalGeneration:
    """A LLaVA-NeXT with drawn sizes, all weights random and five ways to tile an image, as the released ones have."""
    text_config = (MistralConfig if mistral else LlamaConfig)(
        **draw_text(seed, **{"max_position_embeddings": 512} | (text or {}))
    )
    vision_config = draw_vision(seed, **(vision or {}))
    side = vision_config["image_size"]
    tiled = [[1, 2], [2, 1], [2, 2], [3, 1], [1, 3]]
    config = LlavaNextConfig(
        text_config=text_config,
        vision_config=CLIPVisionConfig(**vision_config),
        image_token_index=text_config.vocab_size - 1,
        image_grid_pinpoints=[[side * down, side * across] for down, across in tiled],
        **fixed,
    )
    return randomise(LlavaNextForConditionalGeneration(config), seed)


def make_llama(seed: int, **fixed: Any) -> LlamaForCausalLM:
    return randomise(LlamaForCausalLM(LlamaConfig(**draw_text(seed, **fixed))), seed)


def make_mistral(seed: int, **fixed: Any) -> MistralForCausalLM:
    return randomise(MistralForCausalLM(MistralConfig(**draw_text(seed, **fixed))), seed)


def save(model: PreTrainedModel, folder: Path, **options: Any) -> Path:
    model.save_pretrained(folder, **options)
    return folder


def edit_json(path: Path, **changes: Any) -> None:
    """Sets fields of a JSON file; None removes one."""
    value = json.loads(path.read_text())
    value |= changes
    path.write_text(json.dumps({k: v for k, v in value.items() if v is not None}))


def randomise(model: torch.nn.Module, seed: int) -> Any:
    """Weights large enough that every one of them moves the logits; new models have zero biases and unit norms."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim == 1 and "norm" in name and name.endswith("weight"):
                weight.copy_(1 + 0.2 * noise)
            else:
                weight.copy_(noise * (0.2 if weight.ndim == 1 else weight[0].numel() ** -0.5))
    if isinstance(model, PreTrainedModel):
        model.tie_weights()
    return model.eval()
