"""Checkpoints in the layout of haotian-liu/LLaVA, laid out by hand from its key names, and its forward pass in torch.

The forward pass follows llava/model/llava_arch.py: embeddings of the text before and after each image, the projected
hidden states of the CLIP tower between them, and a plain Llama on top.
"""

import dataclasses
import io
import json
from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaNextForConditionalGeneration,
    MistralConfig,
    MistralForCausalLM,
)

from tests.conversion.hf_checkpoints import draw_text, draw_vision, randomise

INSIDE = "model.vision_tower.vision_tower.vision_model."
TEXT = [
    "what is this sign",
    "describe the red sign and the blue square",
    "USER: ASSISTANT: a chat between a curious user",
    "the assistant gives helpful, detailed, and polite answers to the user's questions",
]


@dataclasses.dataclass
class OriginalLlava:
    """The parts of a LLaVA-1.5 as its own code builds them."""

    language: LlamaForCausalLM
    tower: CLIPVisionModel
    projector: torch.nn.Sequential
    select_layer: int = -2
    keep_class: bool = False

    def logits(self, pieces: list[list[int]], images: torch.Tensor) -> torch.Tensor:
        """[T, V] for text ids `pieces` with image i between pieces i and i + 1. images: [M, 3, H, W]."""
        embed = self.language.get_input_embeddings()
        with torch.no_grad():
            parts = [embed(torch.tensor(pieces[0]))]
            for image, piece in zip(images, pieces[1:], strict=True):
                states = self.tower(image[None], output_hidden_states=True).hidden_states[self.select_layer][0]
                parts += [self.projector(states if self.keep_class else states[1:]), embed(torch.tensor(piece))]
            return self.language(inputs_embeds=torch.cat(parts)[None]).logits[0]


def make_original(seed: int, mistral: bool = False, **fixed) -> OriginalLlava:
    text = draw_text(seed, vocab_size=fixed.pop("vocab_size", 83), num_hidden_layers=2)
    kind, model = (MistralConfig, MistralForCausalLM) if mistral else (LlamaConfig, LlamaForCausalLM)
    language = randomise(model(kind(**text, **fixed)), seed)
    vision = CLIPVisionConfig(**draw_vision(seed))
    tower = randomise(CLIPVisionModel(vision), seed + 1)
    projector = torch.nn.Sequential(
        torch.nn.Linear(vision.hidden_size, text["hidden_size"]),
        torch.nn.GELU(),
        torch.nn.Linear(text["hidden_size"], text["hidden_size"]),
    )
    return OriginalLlava(language, tower, randomise(projector, seed + 2))


def config_json(model: OriginalLlava, **changes) -> dict:
    """config.json with the fields of liuhaotian/llava-v1.5-7b."""
    text = model.language.config
    kind = "llava_mistral" if text.model_type == "mistral" else "llava"
    config = {
        "_name_or_path": "llava-v1.5-7b",
        "architectures": ["LlavaLlamaForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "freeze_mm_mlp_adapter": False,
        "hidden_act": "silu",
        "hidden_size": text.hidden_size,
        "image_aspect_ratio": "pad",
        "image_grid_pinpoints": None,
        "initializer_range": 0.02,
        "intermediate_size": text.intermediate_size,
        "max_length": 4096,
        "max_position_embeddings": text.max_position_embeddings,
        "mm_hidden_size": model.tower.config.hidden_size,
        "mm_projector_type": "mlp2x_gelu",
        "mm_resampler_type": None,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "cls_patch" if model.keep_class else "patch",
        "mm_vision_select_layer": model.select_layer,
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        "model_type": kind,
        "num_attention_heads": text.num_attention_heads,
        "num_hidden_layers": text.num_hidden_layers,
        "num_key_value_heads": text.num_key_value_heads,
        "pad_token_id": 0,
        "pretraining_tp": 1,
        "rms_norm_eps": text.rms_norm_eps,
        "rope_theta": text.rope_parameters["rope_theta"],
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "transformers_version": "4.31.0",
        "tune_mm_mlp_adapter": False,
        "unfreeze_mm_vision_tower": False,
        "use_cache": True,
        "use_mm_proj": True,
        "vocab_size": text.vocab_size,
    }
    if kind == "llava_mistral":
        config["sliding_window"] = text.sliding_window
    return config | changes


def language_tensors(model: OriginalLlava) -> dict[str, torch.Tensor]:
    """`model.layers.0...`, `model.embed_tokens...`, `model.norm...`, `lm_head...`: a Llama's own state dict."""
    return {key: value.contiguous() for key, value in model.language.state_dict().items()}


def projector_tensors(model: OriginalLlava) -> dict[str, torch.Tensor]:
    return {
        "model.mm_projector.0.weight": model.projector[0].weight.detach(),
        "model.mm_projector.0.bias": model.projector[0].bias.detach(),
        "model.mm_projector.2.weight": model.projector[2].weight.detach(),
        "model.mm_projector.2.bias": model.projector[2].bias.detach(),
    }


def tower_tensors(model: OriginalLlava, prefix: str = INSIDE) -> dict[str, torch.Tensor]:
    """The tower's tensors, `prefix` + `embeddings.class_embedding` and so on."""
    bare = {key.removeprefix("vision_model."): value for key, value in model.tower.state_dict().items()}
    return {prefix + key: value.contiguous() for key, value in bare.items() if not key.endswith("position_ids")}


def save_original(model: OriginalLlava, folder: Path, tower_inside: bool = True, **changes) -> Path:
    """A LLaVA checkpoint folder with a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = language_tensors(model) | projector_tensors(model) | (tower_tensors(model) if tower_inside else {})
    inverse = torch.ones(model.language.config.head_dim // 2)
    # old files carry this buffer
    tensors |= {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": inverse.clone() for i in range(2)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config_json(model, **changes)))
    save_tokenizer(folder, model.language.config.vocab_size)
    return folder


def save_clip(model: OriginalLlava, folder: Path, layout: str = "clip") -> Path:
    """The tower as a checkpoint of its own.

    layout: "clip", a whole CLIP (openai's); "vision", only the tower; "vision_v5", as transformers >= 5.6 spells it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vision = model.tower.config.to_dict()
    if layout == "clip":
        config = CLIPConfig(
            text_config={
                "hidden_size": 8,
                "intermediate_size": 8,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "vocab_size": 50000,
                "max_position_embeddings": 6,
            },
            vision_config=vision,
            projection_dim=4,
        )
        whole = {key: value.contiguous() for key, value in CLIPModel(config).state_dict().items()}
        tensors = whole | tower_tensors(model, "vision_model.")
        assert tensors.keys() == whole.keys()
        positions = torch.arange(3)[None]
        tensors |= {f"{part}_model.embeddings.position_ids": positions.clone() for part in ("vision", "text")}
        description = config.to_dict() | {"vision_config": vision}
    else:
        tensors, description = tower_tensors(model, "vision_model." if layout == "vision" else ""), vision
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(description))
    processor = {"size": 336, "crop_size": 336, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def save_tokenizer(folder: Path, vocab_size: int) -> sentencepiece.SentencePieceProcessor:
    """tokenizer.model and tokenizer_config.json as Vicuna has them: no tokenizer.json, no pad token of its own."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT),
        model_writer=model,
        vocab_size=vocab_size,
        model_type="bpe",
        byte_fallback=vocab_size > 300,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=True,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<unk>",
        "model_max_length": 2048,
        "legacy": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def save_original_next(model: LlavaNextForConditionalGeneration, folder: Path) -> Path:
    """transformers' LLaVA-NeXT as LLaVA-1.6 stores it: tower inside, config.json of liuhaotian/llava-v1.6-vicuna-7b."""
    folder.mkdir(parents=True, exist_ok=True)
    moved = {
        "model.language_model.": "model.",
        "model.vision_tower.": INSIDE,
        "model.multi_modal_projector.linear_1.": "model.mm_projector.0.",
        "model.multi_modal_projector.linear_2.": "model.mm_projector.2.",
    }
    tensors = {}
    for key, value in model.state_dict().items():
        old = next((prefix for prefix in moved if key.startswith(prefix)), "")
        tensors[moved.get(old, "") + key.removeprefix(old)] = value.contiguous()
    assert {"lm_head.weight", "model.image_newline", "model.norm.weight"} <= tensors.keys()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    parts = OriginalLlava(model, model.model.vision_tower, None)
    parts.language = type("Language", (), {"config": model.config.text_config})
    changes = {
        "image_aspect_ratio": "anyres",
        "image_crop_resolution": 224,
        "image_grid_pinpoints": [list(reversed(sides)) for sides in model.config.image_grid_pinpoints],
        "image_split_resolution": 224,
        "mm_patch_merge_type": "spatial_unpad",
        "mm_vision_tower_lr": 2e-06,
        "unfreeze_mm_vision_tower": True,
    }
    (folder / "config.json").write_text(json.dumps(config_json(parts, **changes)))
    save_tokenizer(folder, model.config.text_config.vocab_size)
    return folder
