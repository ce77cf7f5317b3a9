"""The tiny model of conftest as a model folder on disk; its Hugging Face config says what `tiny_model` says."""

import json
from pathlib import Path

from vlm_mu_jax.storage.model_folder import write_model_folder


def write_tiny(folder: Path, model, scratch: Path) -> None:
    text, vision = model.config.text, model.config.vision
    config = {
        "model_type": "llava",
        "architectures": ["LlavaForConditionalGeneration"],
        "image_token_id": 2,
        "torch_dtype": model.config.dtype,
        "text_config": {
            "model_type": "llama",
            "vocab_size": text.V,
            "hidden_size": text.D,
            "num_hidden_layers": text.L,
            "num_attention_heads": text.N,
            "num_key_value_heads": text.K,
            "head_dim": text.H,
            "intermediate_size": text.F,
            "max_position_embeddings": text.max_positions,
            "rms_norm_eps": text.norm_eps,
            "bos_token_id": None,
            "eos_token_id": 1,
            "pad_token_id": 0,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "image_size": vision.image_size,
            "patch_size": vision.tower.patch_size,
            "hidden_size": vision.tower.D,
            "num_hidden_layers": vision.tower.L,
            "num_attention_heads": vision.tower.N,
            "intermediate_size": vision.tower.F,
        },
    }
    files = scratch / "files"
    model.processor.tokenizer.save_pretrained(files)
    image = {
        "size": {"shortest_edge": 8},
        "crop_size": {"height": 8, "width": 8},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (files / "preprocessor_config.json").write_text(json.dumps(image))
    write_model_folder(folder, model.params, config, files, template="llava_hf", dialect="llava_v4", provenance={})
