"""Analytic cost of a search, from `model.flops`: forward passes without the padding that fixed shapes add."""

import numpy as np

from vlm_mu_jax.attacks.openings import Node
from vlm_mu_jax.model import flops
from vlm_mu_jax.model.config import ModelConfig, TextConfig


def candidate_flops(cfg: TextConfig, start: int, lengths: np.ndarray, nodes: tuple[Node, ...]) -> float:
    """Scoring whole prompts of these lengths whose first `start` tokens are in the cache."""
    n = np.asarray(lengths)
    total = flops.decoder_flops(cfg, n) - n.size * flops.decoder_flops(cfg, np.array([start]))
    for node in nodes[1:]:  # one token each, behind the prompt and the node's earlier tokens
        end = n + len(node.prefix)
        total += flops.decoder_flops(cfg, end) - flops.decoder_flops(cfg, end - 1)
    return total + flops.head_flops(cfg, n.size * len(nodes))


def image_flops(cfg: ModelConfig, images: int | None = None) -> float:
    """One picture through the vision tower and the projector. images: its encoded images; None = as many as can be."""
    if cfg.vision is None:
        return 0.0
    images = cfg.vision.tiles if images is None else images
    projector = 2.0 * cfg.vision.tokens(images) * sum(flops.projector_sizes(cfg).values())
    return flops.vision_flops(cfg.vision, images) + projector
