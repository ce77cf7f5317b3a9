"""Analytic cost of a search: floating-point operations of forward passes, two per multiply-add."""

import numpy as np

from vlm_mu_jax.model.config import LlavaConfig, TextConfig, VisionConfig


def decoder_flops(cfg: TextConfig, lengths: np.ndarray) -> float:
    """One forward over prompts of these lengths that reads the vocabulary at one position each.

    Counted: the matrix products of every block, causal attention scores and reads, the head. Not counted: norms,
    rotary angles, softmax, and the padding that fixed shapes add.
    """
    n = np.asarray(lengths, np.float64)
    weights = cfg.L * (2 * cfg.D * cfg.N * cfg.H + 2 * cfg.D * cfg.K * cfg.H + 3 * cfg.D * cfg.F)
    attention = 4 * cfg.L * cfg.N * cfg.H * (n * (n + 1) / 2).sum()
    return float(2 * weights * n.sum() + attention + 2 * cfg.D * cfg.V * n.size)


def vision_flops(cfg: LlavaConfig) -> float:
    """One image through the vision tower and the projector."""
    vision: VisionConfig | None = cfg.vision
    if vision is None:
        return 0.0
    n, D, width = vision.patches + 1, vision.D, vision.D * len(vision.feature_layers)
    blocks = vision.L * (2 * n * (4 * D * D + 2 * D * vision.F) + 4 * n * n * D)
    patches = 2 * vision.patches * 3 * vision.patch_size**2 * D
    return float(blocks + patches + 2 * vision.P * (width * cfg.text.D + cfg.text.D**2))
