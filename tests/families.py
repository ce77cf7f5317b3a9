"""A tiny random Hugging Face checkpoint of every vision-language family: weights, tokenizer and processor.

`tests/parity/test_family_matrix.py` runs every command on each; `docs/models.md` shows the table. A family is added by
one entry of `FAMILIES` and one row there.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
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
Fields = Mapping[str, Any]  # of a config; they override those of the matrix
NONE: Fields = MappingProxyType({})


def auto_processor(folder: Path) -> Any:
    """transformers' own choice of a processor."""
    return transformers.AutoProcessor.from_pretrained(folder, local_files_only=True)


@dataclasses.dataclass(frozen=True)
class Family:
    """One row of the matrix.

    Attributes:
      write: writes the checkpoint into a folder, as transformers' `save_pretrained` does. Its further arguments change
        what is written.
      processor: transformers' processor of that folder.
      limits: command -> a piece of the message with which it refuses this family.
    """

    write: Callable[..., None]
    processor: Callable[[Path], Any] = auto_processor
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


def _llava_processor(kind: type, images: Any, tokenizer: Any, tower: Any, select: str) -> Any:
    extra = int(isinstance(tower, transformers.CLIPVisionConfig))
    return kind(images, tokenizer, tower.patch_size, select, _llava_chat(), num_additional_image_tokens=extra)


def llava_folder(
    folder: Path,
    text: Fields = NONE,
    vision: Fields = NONE,
    text_class: type = transformers.LlamaConfig,
    tower_class: type = transformers.CLIPVisionConfig,
    kind: str = "Llava",
    **fixed: Any,
) -> None:
    """LLaVA-1.5 or ViP-LLaVA (kind: start of the names of transformers' classes)."""
    tokenizer = build("byte_level")
    tower = tower_class(**vision_of(**vision))
    config = getattr(transformers, f"{kind}Config")(
        text_config=text_class(**text_of(tokenizer, **text)),
        vision_config=tower,
        **_llava_ids(tokenizer) | fixed,
    )
    side = {"height": tower.image_size, "width": tower.image_size}
    images = CLIPImageProcessorPil(size={"shortest_edge": tower.image_size}, crop_size=side)
    if tower_class is transformers.SiglipVisionConfig:
        images = SiglipImageProcessorPil(size=side)
    select = fixed.get("vision_feature_select_strategy", "default")
    processor = _llava_processor(transformers.LlavaProcessor, images, tokenizer, tower, select)
    save(folder, getattr(transformers, f"{kind}ForConditionalGeneration")(config), processor)


def llava_next_folder(
    folder: Path,
    text: Fields = NONE,
    vision: Fields = NONE,
    text_class: type = transformers.LlamaConfig,
    grids: Any = ((1, 2), (2, 1), (2, 2)),
    **fixed: Any,
) -> None:
    """LLaVA-NeXT. grids: rows and columns of tiles."""
    tokenizer = build("byte_level")
    tower = transformers.CLIPVisionConfig(**vision_of(**vision))
    side = tower.image_size
    pinpoints = [[side * rows, side * columns] for rows, columns in grids]
    config = transformers.LlavaNextConfig(
        text_config=text_class(**text_of(tokenizer, **text)),
        vision_config=tower,
        image_grid_pinpoints=pinpoints,
        **_llava_ids(tokenizer) | fixed,
    )
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}, image_grid_pinpoints=pinpoints
    )
    select = fixed.get("vision_feature_select_strategy", "default")
    processor = _llava_processor(transformers.LlavaNextProcessor, images, tokenizer, tower, select)
    save(folder, transformers.LlavaNextForConditionalGeneration(config), processor)


def internvl_folder(
    folder: Path,
    text: Fields = NONE,
    vision: Fields = NONE,
    text_class: type = transformers.Qwen2Config,
    tiles: tuple[int, int] = (1, 4),
    **fixed: Any,
) -> None:
    """An InternVL checkpoint as transformers writes it; see `internvl_processor`. tiles: fewest and most."""
    marks = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    marks["video_token"] = "<video>"
    tokenizer_with(*marks.values()).save_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, extra_special_tokens=marks)
    tower = vision_of(**{"patch_size": 2, "attention_bias": True, **vision})
    tower |= {name: [tower[name]] * 2 for name in ("patch_size", "image_size")}
    config = transformers.InternVLConfig(
        text_config=text_class(**text_of(tokenizer, **text)),
        vision_config=transformers.InternVLVisionConfig(**tower),
        image_token_id=tokenizer.context_image_token_id,
        **fixed,
    )
    tokenizer.chat_template = CHAT.replace("IMAGE", "<IMG_CONTEXT>")
    randomise(transformers.InternVLForConditionalGeneration(config), 0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    height, width = tower["image_size"]
    size, (fewest, most) = {"height": height, "width": width}, tiles
    GotOcr2ImageProcessorPil(size=size, min_patches=fewest, max_patches=most).save_pretrained(folder)


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
    config = json.loads((folder / "config.json").read_text())
    tokens = int((config["vision_config"]["image_size"][0] // config["vision_config"]["patch_size"][0]) ** 2)
    tokens = int(tokens * config["downsample_ratio"] ** 2)
    return _InternVL(images, tokenizer, None, tokens, chat_template=tokenizer.chat_template)


def onevision_folder(
    folder: Path,
    text: Fields = NONE,
    vision: Fields = NONE,
    text_class: type = transformers.Qwen2Config,
    most: int = 2,
    grid: tuple[int, int] = (3, 3),
    **fixed: Any,
) -> None:
    """A LLaVA-OneVision checkpoint as transformers writes it.

    most: as many tiles keep all of their tokens. grid: rows and columns of tiles that there can be.
    """
    tokenizer = tokenizer_with("<video>")
    tower = transformers.SiglipVisionConfig(**vision_of(**{"patch_size": 2, "vision_use_head": False, **vision}))
    side = tower.image_size
    pinpoints = [[side * (i + 1), side * (j + 1)] for i in range(grid[0]) for j in range(grid[1])]
    config = transformers.LlavaOnevisionConfig(
        text_config=text_class(**text_of(tokenizer, **text)),
        vision_config=tower,
        image_grid_pinpoints=pinpoints,
        vision_aspect_ratio=f"anyres_max_{most}",
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        **_llava_ids(tokenizer) | fixed,
    )
    tokenizer.chat_template = _llava_chat()
    randomise(transformers.LlavaOnevisionForConditionalGeneration(config), 0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    images = {"size": {"height": side, "width": side}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    LlavaOnevisionImageProcessorPil(image_grid_pinpoints=pinpoints, **images).save_pretrained(folder)


def onevision_processor(folder: Path) -> Any:
    """transformers' LlavaOnevisionProcessor of a folder, for images alone."""
    images = LlavaOnevisionImageProcessorPil.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    config = json.loads((folder / "config.json").read_text())
    tokens = (config["vision_config"]["image_size"] // config["vision_config"]["patch_size"]) ** 2
    how = {"vision_aspect_ratio": config["vision_aspect_ratio"], "chat_template": tokenizer.chat_template}
    return _OneVision(images, tokenizer, None, tokens, "full", **how)


_QWEN_MARKS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
_QWEN_TOWERS = {  # per start of the names of transformers' classes
    "Qwen2VL": {"embed_dim": 16, "mlp_ratio": 2},
    "Qwen2_5_VL": {"hidden_size": 16, "intermediate_size": 20, "window_size": 16, "fullatt_block_indexes": [1]},
    "Qwen3VL": {
        "hidden_size": 16,
        "intermediate_size": 20,
        "num_position_embeddings": 25,
        "deepstack_visual_indexes": [0, 2],
    },
}


def qwen_folder(folder: Path, kind: str, text: Fields = NONE, vision: Fields = NONE, **fixed: Any) -> None:
    """A Qwen-VL checkpoint as transformers writes it; see `qwen_processor`. kind: a key of `_QWEN_TOWERS`."""
    tokenizer = tokenizer_with(*_QWEN_MARKS)
    start, end, image, video = tokenizer.convert_tokens_to_ids(list(_QWEN_MARKS))
    sections = [2, 1, 1] if kind == "Qwen3VL" else [1, 1, 2]
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections}
    text = text_of(tokenizer, **{"rope_parameters": rope, **text})
    tower = {"depth": 3, "num_heads": 2, "patch_size": PATCH} | _QWEN_TOWERS[kind]
    tower["hidden_size" if kind == "Qwen2VL" else "out_hidden_size"] = text["hidden_size"]
    tower |= vision
    config = getattr(transformers, f"{kind}Config")(
        text_config=text,
        vision_config=tower,
        vision_start_token_id=start,
        vision_end_token_id=end,
        image_token_id=image,
        video_token_id=video,
        **fixed,
    )
    tokenizer.chat_template = CHAT.replace("IMAGE\n", "<|vision_start|><|image_pad|><|vision_end|>")
    randomise(getattr(transformers, f"{kind}ForConditionalGeneration")(config), 0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    merge = tower.get("spatial_merge_size", 2)
    area = (merge * tower["patch_size"]) ** 2
    size = {"shortest_edge": 4 * area, "longest_edge": 16 * area}
    Qwen2VLImageProcessorPil(patch_size=tower["patch_size"], merge_size=merge, size=size).save_pretrained(folder)


class _Qwen(_WithoutVideo, transformers.Qwen2VLProcessor):
    pass


def qwen_processor(folder: Path) -> Any:
    """transformers' processor of a folder, for images alone. That of all three families makes the same of an image."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    images = Qwen2VLImageProcessorPil.from_pretrained(folder)
    return _Qwen(images, tokenizer, None, chat_template=tokenizer.chat_template)


def idefics_folder(
    folder: Path, kind: str, text: Fields = NONE, vision: Fields = NONE, splits: int = 2, **fixed: Any
) -> None:
    """Idefics3 and SmolVLM differ in names alone. SmolVLM's own processor needs packages that the tests do not have; it
    makes the same prompts.

    kind: start of the names of transformers' classes. splits: tiles along the longer side of a picture.
    """
    places = [f"<row_{row}_col_{column}>" for row in (1, 2, 3) for column in (1, 2, 3)]
    tokenizer = tokenizer_with(
        "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<|im_start|>", *places
    )
    tower, fixed = vision_of(**vision), {"scale_factor": 2} | fixed
    config = getattr(transformers, f"{kind}Config")(
        text_config=transformers.LlamaConfig(**text_of(tokenizer, **text)).to_dict(),
        vision_config=tower,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=3,
        **fixed,
    )
    make = {"Idefics3": Idefics3ImageProcessorPil, "SmolVLM": SmolVLMImageProcessorPil}[kind]
    side, tokens = tower["image_size"], (tower["image_size"] // tower["patch_size"] // fixed["scale_factor"]) ** 2
    images = make(size={"longest_edge": splits * side}, max_image_size={"longest_edge": side})
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    save(folder, model, transformers.Idefics3Processor(images, tokenizer, tokens, SMOLVLM_CHAT))


def gemma_folder(folder: Path, text: Fields = NONE, vision: Fields = NONE, **fixed: Any) -> None:
    """A Gemma 3 checkpoint with images. text: fields of the text config. fixed: further fields of the config."""
    marks = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer_with(*marks.values(), "<start_of_turn>", "<end_of_turn>").save_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, extra_special_tokens=marks)
    layers = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 24, "query_pre_attn_scalar": 9}
    tower, fixed = (
        vision_of(**{"patch_size": 2, "vision_use_head": False, **vision}),
        {"mm_tokens_per_image": 4} | fixed,
    )
    config = transformers.Gemma3Config(
        text_config=transformers.Gemma3TextConfig(**text_of(tokenizer, **{**layers, **text})).to_dict(),
        vision_config=tower,
        image_token_index=tokenizer.image_token_id,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        **fixed,
    )
    images = Gemma3ImageProcessorPil(size={"height": tower["image_size"], "width": tower["image_size"]})
    tokens = fixed["mm_tokens_per_image"]
    processor = transformers.Gemma3Processor(images, tokenizer, GEMMA_3, image_seq_length=tokens)
    save(folder, transformers.Gemma3ForConditionalGeneration(config), processor)


FAMILIES: dict[str, Family] = {
    "llava": Family(llava_folder),
    "llava_qwen_siglip": Family(
        functools.partial(
            llava_folder,
            text_class=transformers.Qwen2Config,
            tower_class=transformers.SiglipVisionConfig,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
        )
    ),
    "llava_next": Family(
        functools.partial(llava_next_folder, text={"sliding_window": 30}, text_class=transformers.MistralConfig)
    ),
    "vipllava": Family(functools.partial(llava_folder, kind="VipLlava", vision_feature_layer=[-2, -1, 1])),
    "internvl": Family(internvl_folder, internvl_processor),
    "onevision": Family(onevision_folder, onevision_processor),
    "idefics3": Family(functools.partial(idefics_folder, kind="Idefics3")),
    "smolvlm": Family(functools.partial(idefics_folder, kind="SmolVLM")),
    "qwen2_vl": Family(functools.partial(qwen_folder, kind="Qwen2VL"), qwen_processor),
    "qwen2_5_vl": Family(functools.partial(qwen_folder, kind="Qwen2_5_VL"), qwen_processor),
    "qwen3_vl": Family(functools.partial(qwen_folder, kind="Qwen3VL"), qwen_processor),
    "gemma3": Family(gemma_folder),
}
