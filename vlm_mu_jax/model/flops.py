"""Analytic floating-point operations of a forward pass, two per multiply-add.

Counted: every matrix product. Attention counts only the keys that a query may read: earlier ones, those in its window,
and those of its own image where these are read in both directions.
Not counted: norms, rotary angles, softmax, losses. XLA's own count cannot be used: it counts a scan's body once.
"""

from typing import Any

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


def attention_flops(cfg: TextConfig, lengths: np.ndarray, layer: int = 0, pictures: int = 0) -> float:
    """Scores and reads of one block over rows of these lengths. pictures: of all rows, of a model whose image tokens
    read each other in both directions."""
    n = np.asarray(lengths, np.float64)
    pairs = _causal_pairs(cfg, n, layer).sum()
    if cfg.image_run is not None:
        run = cfg.image_run
        pairs += pictures * (run**2 - _causal_pairs(cfg, np.float64(run), layer))
    return float(4 * cfg.N * cfg.H * pairs)


def _causal_pairs(cfg: TextConfig, n: Any, layer: int) -> Any:
    """Queries with the keys that each may read, in a row of n tokens."""
    w = np.minimum(n, cfg.sliding_window) if cfg.has_window(layer) else n
    return w * (w + 1) / 2 + (n - w) * w  # the first w queries see 1..w keys, the others w


def decoder_flops(cfg: TextConfig, lengths: np.ndarray, layers: int | None = None, pictures: int = 0) -> float:
    """The first `layers` blocks (all by default) over rows of these lengths; without the vocabulary product.

    pictures: as for `attention_flops`.
    """
    tokens = float(np.asarray(lengths, np.float64).sum())
    depth = cfg.L if layers is None else layers
    linear = depth * 2 * sum(linear_sizes(cfg).values()) * tokens
    if not cfg.windowed:
        return linear + depth * attention_flops(cfg, lengths, 0, pictures)
    return linear + sum(attention_flops(cfg, lengths, layer, pictures) for layer in range(depth))


def head_flops(cfg: TextConfig, positions: float) -> float:
    """Logits at this many positions."""
    return 2.0 * cfg.D * cfg.V * positions


def vision_flops(cfg: VisionConfig, images: int = 1) -> float:
    """Encoded images of one picture through the blocks of the tower that the connector's features need."""
    return cfg.tower.flops(images)


def projector_sizes(cfg: ModelConfig) -> dict[str, int]:
    """Weights of the connector's linear maps, in the order they are applied."""
    return cfg.vision.connector.linear_sizes(cfg.vision.tower.E, cfg.text.D)
