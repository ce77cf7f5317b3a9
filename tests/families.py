"""A tiny random Hugging Face checkpoint of every vision-language family: weights, tokenizer and processor.

`tests/parity/test_family_matrix.py` runs every command on each; `docs/models.md` shows the table. A family is added by
one entry of `FAMILIES` and one row there.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import transformers
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from tests.attacks.conftest import build
from tests.conversion.hf_checkpoints import randomise

# Plain texts between the marks, as the tiny tokenizer knows them; the image comes where the message has it.
CHAT = (
    "{{ bos_token }}{% for m in messages %}{{ m.role | upper }}: {% for c in m.content %}"
    "{% if c.type == 'image' %}{{ 'IMAGE\n' }}{% else %}{{ c.text }}{% endif %}{% endfor %}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
SIDE, PATCH = 8, 4  # pixels of an encoded image and of a patch


@dataclasses.dataclass(frozen=True)
class Family:
    """One row of the matrix.

    Attributes:
      write: writes the checkpoint into a folder, as transformers' `save_pretrained` does.
      limits: command -> a piece of the message with which it refuses this family.
    """

    write: Callable[[Path], None]
    limits: Mapping[str, str] = dataclasses.field(default_factory=dict)


def tokenizer_with(*marks: str) -> Any:
    """The tiny byte-level tokenizer, and further special tokens."""
    tokenizer = build("byte_level")
    tokenizer.add_tokens(list(marks), special_tokens=True)
    return tokenizer


def text_of(tokenizer: Any, **fixed: Any) -> dict[str, Any]:
    """Fields of a decoder of two layers; `fixed` overrides."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 3,
    } | fixed


def vision_of(**fixed: Any) -> dict[str, Any]:
    """Fields of a tower of two layers; `fixed` overrides."""
    return {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": PATCH,
    } | fixed


def save(folder: Path, model: Any, processor: Any, seed: int = 0) -> None:
    """Writes a model with all weights random, and its processor."""
    randomise(model, seed).save_pretrained(folder)
    processor.save_pretrained(folder)


def _llava_ids(tokenizer: Any) -> dict[str, int]:
    return {"image_token_index": tokenizer.convert_tokens_to_ids("<image>")}


def _llava_chat() -> str:
    return CHAT.replace("IMAGE", "<image>")


def _llava(folder: Path) -> None:
    tokenizer = build("byte_level")
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**text_of(tokenizer)),
        vision_config=transformers.CLIPVisionConfig(**vision_of()),
        **_llava_ids(tokenizer),
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    processor = transformers.LlavaProcessor(
        images, tokenizer, PATCH, "default", _llava_chat(), num_additional_image_tokens=1
    )
    save(folder, transformers.LlavaForConditionalGeneration(config), processor)


def _llava_qwen_siglip(folder: Path) -> None:
    tokenizer = build("byte_level")
    config = transformers.LlavaConfig(
        text_config=transformers.Qwen2Config(**text_of(tokenizer)),
        vision_config=transformers.SiglipVisionConfig(**vision_of()),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        **_llava_ids(tokenizer),
    )
    images = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    processor = transformers.LlavaProcessor(images, tokenizer, PATCH, "full", _llava_chat())
    save(folder, transformers.LlavaForConditionalGeneration(config), processor)


def _llava_next(folder: Path) -> None:
    tokenizer = build("byte_level")
    pinpoints = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
    config = transformers.LlavaNextConfig(
        text_config=transformers.MistralConfig(**text_of(tokenizer, sliding_window=30)),
        vision_config=transformers.CLIPVisionConfig(**vision_of()),
        image_grid_pinpoints=pinpoints,
        **_llava_ids(tokenizer),
    )
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=pinpoints
    )
    processor = transformers.LlavaNextProcessor(
        images, tokenizer, PATCH, "default", _llava_chat(), num_additional_image_tokens=1
    )
    save(folder, transformers.LlavaNextForConditionalGeneration(config), processor)


def _vipllava(folder: Path) -> None:
    tokenizer = build("byte_level")
    config = transformers.VipLlavaConfig(
        text_config=transformers.LlamaConfig(**text_of(tokenizer)),
        vision_config=transformers.CLIPVisionConfig(**vision_of()),
        vision_feature_layer=[-2, -1, 1],
        **_llava_ids(tokenizer),
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    processor = transformers.LlavaProcessor(
        images, tokenizer, PATCH, "default", _llava_chat(), num_additional_image_tokens=1
    )
    save(folder, transformers.VipLlavaForConditionalGeneration(config), processor)


_MODULE_LIMIT = {"guard bake": "the module is for LLaVA"}

FAMILIES: dict[str, Family] = {
    "llava": Family(_llava),
    "llava_qwen_siglip": Family(_llava_qwen_siglip),
    "llava_next": Family(
        _llava_next, {**_MODULE_LIMIT, "attack pgd": "does not know models that cut an image into tiles"}
    ),
    "vipllava": Family(_vipllava, _MODULE_LIMIT),
}
