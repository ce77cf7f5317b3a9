"""Analytic floating-point operations of a forward pass, two per multiply-add.

Counted: every matrix product, with causal (and sliding-window) attention counting only the keys a query may read.
Not counted: norms, rotary angles, softmax, losses. XLA's own count cannot be used: it counts a scan's body once.
"""

import numpy as np

from vlm_mu_jax.model.config import ModelConfig, TextConfig, VisionConfig


def linear_sizes(cfg: TextConfig) -> dict[str, int]:
    """Weights of every linear map of one decoder block, in the order they are applied."""
    D, N, K, H, F = cfg.D, cfg.N, cfg.K, cfg.H, cfg.F
    return {
        "wq_LDNH": D * N * H,
        "wk_LDKH": D * K * H,
        "wv_LDKH": D * K * H,
        "wo_LNHD": N * H * D,
        "wgate_LDF": D * F,
        "wup_LDF": D * F,
        "wdown_LFD": F * D,
    }


def attention_flops(cfg: TextConfig, lengths: np.ndarray, layer: int = 0) -> float:
    """Scores and reads of one block over rows of these lengths."""
    n = np.asarray(lengths, np.float64)
    w = np.minimum(n, cfg.sliding_window) if cfg.has_window(layer) else n
    pairs = w * (w + 1) / 2 + (n - w) * w  # the first w queries see 1..w keys, the others w
    return float(4 * cfg.N * cfg.H * pairs.sum())


def decoder_flops(cfg: TextConfig, lengths: np.ndarray, layers: int | None = None) -> float:
    """The first `layers` blocks (all by default) over rows of these lengths; without the vocabulary product."""
    tokens = float(np.asarray(lengths, np.float64).sum())
    depth = cfg.L if layers is None else layers
    linear = depth * 2 * sum(linear_sizes(cfg).values()) * tokens
    if not cfg.windowed:
        return linear + depth * attention_flops(cfg, lengths)
    return linear + sum(attention_flops(cfg, lengths, layer) for layer in range(depth))


def head_flops(cfg: TextConfig, positions: float) -> float:
    """Logits at this many positions."""
    return 2.0 * cfg.D * cfg.V * positions


def vision_flops(cfg: VisionConfig, images: int = 1) -> float:
    """Encoded images of one picture through the blocks of the tower that the connector's features need."""
    return cfg.tower.flops(images)


def projector_sizes(cfg: ModelConfig) -> dict[str, int]:
    """Weights of the connector's linear maps, in the order they are applied."""
    return cfg.vision.connector.linear_sizes(cfg.vision.tower.E, cfg.text.D)
