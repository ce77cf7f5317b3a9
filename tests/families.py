"""A tiny random Hugging Face checkpoint of every vision-language family: weights, tokenizer and processor.

`tests/parity/test_family_matrix.py` runs every command on each; `docs/models.md` shows the table. A family is added by
one entry of `FAMILIES` and one row there.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import transformers
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE as SMOLVLM_CHAT

from tests.attacks.conftest import build
from tests.conversion.hf_checkpoints import randomise
from tests.data.templates import GEMMA_3

# Plain texts between the marks, as the tiny tokenizer knows them; the image comes where the message has it.
CHAT = (
    "{{ bos_token }}{% for m in messages %}{{ m.role | upper }}: {% for c in m.content %}"
    "{% if c.type == 'image' %}{{ 'IMAGE\n' }}{% else %}{{ c.text }}{% endif %}{% endfor %}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
SIDE, PATCH = 8, 4  # pixels of an encoded image and of a patch


def _auto_processor(folder: Path) -> Any:
    return transformers.AutoProcessor.from_pretrained(folder, local_files_only=True)


@dataclasses.dataclass(frozen=True)
class Family:
    """One row of the matrix.

    Attributes:
      write: writes the checkpoint into a folder, as transformers' `save_pretrained` does.
      processor: transformers' processor of that folder.
      limits: command -> a piece of the message with which it refuses this family.
    """

    write: Callable[[Path], None]
    processor: Callable[[Path], Any] = _auto_processor
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


def internvl_folder(
    folder: Path, text: type = transformers.Qwen2Config, vision: dict | None = None, **fixed: Any
) -> None:
    """An InternVL checkpoint as transformers writes it; see `internvl_processor`.

    text: class of the text config. vision: fields of the tower. fixed: further fields of the config.
    """
    marks = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    marks["video_token"] = "<video>"
    tokenizer_with(*marks.values()).save_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, extra_special_tokens=marks)
    tower = transformers.InternVLVisionConfig(
        **vision_of(**{"patch_size": [2, 2], "image_size": [SIDE, SIDE], "attention_bias": True, **(vision or {})})
    )
    config = transformers.InternVLConfig(
        text_config=text(**text_of(tokenizer)),
        vision_config=tower,
        image_token_id=tokenizer.context_image_token_id,
        **fixed,
    )
    tokenizer.chat_template = CHAT.replace("IMAGE", "<IMG_CONTEXT>")
    randomise(transformers.InternVLForConditionalGeneration(config), 0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    GotOcr2ImageProcessorPil(size={"height": SIDE, "width": SIDE}, max_patches=4).save_pretrained(folder)


class _WithoutVideo:
    """Video processors need torchvision, and their absence is not foreseen."""

    def check_argument_for_proper_class(self, *_: Any) -> None:
        pass


class _InternVL(_WithoutVideo, transformers.InternVLProcessor):
    pass


class _OneVision(_WithoutVideo, transformers.LlavaOnevisionProcessor):
    pass


def internvl_processor(folder: Path) -> Any:
    """transformers' InternVLProcessor of a folder, for images alone."""
    images = GotOcr2ImageProcessorPil.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return _InternVL(images, tokenizer, None, (SIDE // 2 // 2) ** 2, chat_template=tokenizer.chat_template)


def onevision_folder(folder: Path, text: type = transformers.Qwen2Config, most: int = 2, **fixed: Any) -> None:
    """A LLaVA-OneVision checkpoint as transformers writes it, with up to 3 x 3 tiles of 4 x 4 tokens.

    text: class of the text config. most: as many tiles keep all of their tokens. fixed: further fields of the config.
    """
    tokenizer = tokenizer_with("<video>")
    pinpoints = [[SIDE * rows, SIDE * columns] for rows in (1, 2, 3) for columns in (1, 2, 3)]
    config = transformers.LlavaOnevisionConfig(
        text_config=text(**text_of(tokenizer)),
        vision_config=transformers.SiglipVisionConfig(**vision_of(patch_size=2, vision_use_head=False)),
        image_grid_pinpoints=pinpoints,
        vision_aspect_ratio=f"anyres_max_{most}",
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        **_llava_ids(tokenizer),
        **fixed,
    )
    tokenizer.chat_template = _llava_chat()
    randomise(transformers.LlavaOnevisionForConditionalGeneration(config), 0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    images = {"size": {"height": SIDE, "width": SIDE}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    LlavaOnevisionImageProcessorPil(image_grid_pinpoints=pinpoints, **images).save_pretrained(folder)


def onevision_processor(folder: Path, most: int = 2) -> Any:
    """transformers' LlavaOnevisionProcessor of a folder, for images alone."""
    images = LlavaOnevisionImageProcessorPil.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    how = {"vision_aspect_ratio": f"anyres_max_{most}", "chat_template": tokenizer.chat_template}
    return _OneVision(images, tokenizer, None, (SIDE // 2) ** 2, "full", **how)


_QWEN_MARKS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
_QWEN_SIZE = {"shortest_edge": 4 * SIDE**2, "longest_edge": 16 * SIDE**2}


def qwen_folder(folder: Path, kind: str, sections: list[int], tower: dict[str, Any], seed: int = 0) -> None:
    """A Qwen-VL checkpoint as transformers writes it; see `qwen_processor`.

    Args:
      kind: start of the names of transformers' classes.
      sections: rotary frequencies of each axis.
      tower: fields of the vision config.
    """
    tokenizer = tokenizer_with(*_QWEN_MARKS)
    start, end, image, video = tokenizer.convert_tokens_to_ids(list(_QWEN_MARKS))
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections}
    config = getattr(transformers, f"{kind}Config")(
        text_config=text_of(tokenizer, rope_parameters=rope),
        vision_config={"depth": 3, "num_heads": 2, "patch_size": PATCH} | tower,
        vision_start_token_id=start,
        vision_end_token_id=end,
        image_token_id=image,
        video_token_id=video,
    )
    tokenizer.chat_template = CHAT.replace("IMAGE\n", "<|vision_start|><|image_pad|><|vision_end|>")
    randomise(getattr(transformers, f"{kind}ForConditionalGeneration")(config), seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(patch_size=PATCH, size=_QWEN_SIZE).save_pretrained(folder)


class _Qwen(_WithoutVideo, transformers.Qwen2VLProcessor):
    pass


def qwen_processor(folder: Path) -> Any:
    """transformers' processor of a folder, for images alone. That of all three families makes the same of an image."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    images = Qwen2VLImageProcessorPil.from_pretrained(folder)
    return _Qwen(images, tokenizer, None, chat_template=tokenizer.chat_template)


def qwen2_vl(folder: Path) -> None:
    qwen_folder(folder, "Qwen2VL", [1, 1, 2], {"embed_dim": 16, "mlp_ratio": 2, "hidden_size": 32})


def qwen2_5_vl(folder: Path) -> None:
    tower = {"hidden_size": 16, "intermediate_size": 20, "out_hidden_size": 32, "window_size": 16}
    qwen_folder(folder, "Qwen2_5_VL", [1, 1, 2], tower | {"fullatt_block_indexes": [1]})


def qwen3_vl(folder: Path) -> None:
    tower = {"hidden_size": 16, "intermediate_size": 20, "out_hidden_size": 32, "num_position_embeddings": 25}
    qwen_folder(folder, "Qwen3VL", [2, 1, 1], tower | {"deepstack_visual_indexes": [0, 2]})


def _idefics(folder: Path, kind: str) -> None:
    """Idefics3 and SmolVLM differ in names alone. SmolVLM's own processor needs packages that the tests do not have; it
    makes the same prompts."""
    places = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    tokenizer = tokenizer_with(
        "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<|im_start|>", *places
    )
    images, config, model = {
        "Idefics3": (
            Idefics3ImageProcessorPil,
            transformers.Idefics3Config,
            transformers.Idefics3ForConditionalGeneration,
        ),
        "SmolVLM": (SmolVLMImageProcessorPil, transformers.SmolVLMConfig, transformers.SmolVLMForConditionalGeneration),
    }[kind]
    config = config(
        text_config=transformers.LlamaConfig(**text_of(tokenizer)).to_dict(),
        vision_config=vision_of(),
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=3,
    )
    made = images(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE})
    save(folder, model(config), transformers.Idefics3Processor(made, tokenizer, 1, SMOLVLM_CHAT))


def gemma_folder(folder: Path, text: dict | None = None, **fixed: Any) -> None:
    """A Gemma 3 checkpoint with images. text: fields of the text config. fixed: further fields of the config."""
    marks = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer_with(*marks.values(), "<start_of_turn>", "<end_of_turn>").save_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, extra_special_tokens=marks)
    layers = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 24, "query_pre_attn_scalar": 9}
    config = transformers.Gemma3Config(
        text_config=transformers.Gemma3TextConfig(**text_of(tokenizer, **{**layers, **(text or {})})).to_dict(),
        vision_config=vision_of(patch_size=2, vision_use_head=False),
        mm_tokens_per_image=4,
        image_token_index=tokenizer.image_token_id,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        **fixed,
    )
    images = Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE})
    processor = transformers.Gemma3Processor(images, tokenizer, GEMMA_3, image_seq_length=4)
    save(folder, transformers.Gemma3ForConditionalGeneration(config), processor)


FAMILIES: dict[str, Family] = {
    "llava": Family(_llava),
    "llava_qwen_siglip": Family(_llava_qwen_siglip),
    "llava_next": Family(_llava_next),
    "vipllava": Family(_vipllava),
    "internvl": Family(internvl_folder, internvl_processor),
    "onevision": Family(onevision_folder, onevision_processor),
    "idefics3": Family(functools.partial(_idefics, kind="Idefics3")),
    "smolvlm": Family(functools.partial(_idefics, kind="SmolVLM")),
    "qwen2_vl": Family(qwen2_vl, qwen_processor),
    "qwen2_5_vl": Family(qwen2_5_vl, qwen_processor),
    "qwen3_vl": Family(qwen3_vl, qwen_processor),
    "gemma3": Family(gemma_folder),
}
