"""Random checkpoints and prompts that both sides of a comparison use: sizes, loading, drawn rows."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from vlm_mu_jax.conversion.importer import import_checkpoint
from vlm_mu_jax.data import tiling
from vlm_mu_jax.data.tiling import Tiles
from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.model.image_plans.patches import Patches

_CLIP_LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
_CLIP_SMALL = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 4}
_LLAMA_SMALL = {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8}
# (decoder, vision tower), in the words of Hugging Face configs
SIZES: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    "tiny": (
        {
            "vocab_size": 256,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
        },
        {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
        },
    ),
    "small": ({"vocab_size": 8000, **_LLAMA_SMALL}, {**_CLIP_SMALL, "image_size": 112, "patch_size": 14}),
    "mid": ({"vocab_size": 32000, **_LLAMA_SMALL}, {**_CLIP_SMALL, "image_size": 336, "patch_size": 14}),
    "7b": (
        {
            "vocab_size": 32064,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
        },
        _CLIP_LARGE,
    ),
}


def load(folder: str | Path) -> tuple[dict, Any]:
    """Parameters on the device, and the config, of a Hugging Face checkpoint."""
    checkpoint = import_checkpoint(folder)
    return jax.device_put(checkpoint.params), checkpoint.config


START = 4  # tokens before the image in `prompts`


def picture_side(size: str) -> int:
    """Pixels along a side of the pictures of a model of this size, whichever its family."""
    return SIZES[size][1]["image_size"]


def picture(pixels_HWC: np.ndarray, cfg: ModelConfig) -> np.ndarray | Tiles:
    """A square picture as `Processor.pixels` would make it, at the very size it has."""
    plan = cfg.vision.plan
    if not isinstance(plan, Patches):
        return pixels_HWC
    grid = (len(pixels_HWC) // plan.side,) * 2
    cut = np.ascontiguousarray(tiling.patches(pixels_HWC, plan.patch_size, plan.merge))
    return Tiles(cut, np.arange(grid[0] ** 2, dtype=np.int32), (grid[0] ** 2,), grid=grid)


def image_tokens(cfg: ModelConfig, side: int) -> int:
    """Image tokens of a square picture."""
    plan = cfg.vision.plan
    return (side // plan.side) ** 2 if isinstance(plan, Patches) else cfg.vision.P


def encoded_images(cfg: ModelConfig, side: int) -> int:
    """What the tower encodes of a square picture: the picture, or its patches."""
    plan = cfg.vision.plan
    return (side // plan.patch_size) ** 2 if isinstance(plan, Patches) else 1


def batch_images(pixels_BMHWC: np.ndarray, cfg: ModelConfig) -> dict[str, np.ndarray | None]:
    """The fields of `model.vlm.Batch` that hold the pictures of rows of `prompts`."""
    rows = [[picture(one, cfg) for one in row] for row in pixels_BMHWC]
    width = image_tokens(cfg, pixels_BMHWC.shape[2])
    return tiling.stack(rows, len(rows[0]), rows[0][0], width)._asdict()


def prompts(
    name: str, cfg: ModelConfig, rows: int, longest: int, rng: np.random.Generator, side: int | None = None
) -> dict[str, np.ndarray]:
    """Draws right-padded rows: START tokens, an image, then between longest / 4 and `longest` more tokens.

    Args:
      side: pixels along a side of the images; None = what the tower reads.

    Returns:
      `{name}_tokens` and `{name}_mask` [rows, START + P + longest], `{name}_lengths` [rows] and `{name}_pixels`
      [rows, 1, side, side, 3]. The mask marks the second half of the tokens behind the image.
    """
    side = side or cfg.vision.image_size
    P = image_tokens(cfg, side)
    words, head = rng.integers(longest // 4, longest + 1, rows), START + P
    tokens, mask = np.zeros((rows, head + longest), np.int32), np.zeros((rows, head + longest), bool)
    for i, n in enumerate(words):
        text = rng.integers(1, cfg.text.V - 1, n + START)
        tokens[i, : head + n] = [*text[:START], *[cfg.image_token_id] * P, *text[START:]]
        mask[i, head + n // 2 : head + n] = True
    pixels = rng.standard_normal((rows, 1, side, side, 3)).astype(np.float32)
    lengths = (words + head).astype(np.int32)
    return {f"{name}_tokens": tokens, f"{name}_mask": mask, f"{name}_lengths": lengths, f"{name}_pixels": pixels}


def without_image(tokens_BT: np.ndarray, cfg: ModelConfig) -> np.ndarray:
    """Rows of `prompts` without their image: [rows, T - P]."""
    return np.concatenate([tokens_BT[:, :START], tokens_BT[:, START + cfg.vision.P :]], axis=1)
