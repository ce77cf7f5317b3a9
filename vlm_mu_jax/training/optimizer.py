"""AdamW with warm-up, cosine or constant learning rate, and clipping by global norm."""

import dataclasses
import math
from typing import Any

import jax
import optax

from vlm_mu_jax.errors import InputError

SCHEDULES = ("cosine", "constant")
_MOST = {"warmup": 1, "final": 1, "b1": 1, "b2": 1} | dict.fromkeys(
    ("learning_rate", "eps", "weight_decay", "clip"), math.inf
)


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """AdamW and its schedule.

    Attributes:
      learning_rate: the peak.
      schedule: "cosine" or "constant".
      warmup: fraction of all steps with a linear rise; LLaVA has 0.03.
      final: last learning rate of the cosine, as a fraction of the peak.
      b1, b2, eps: of Adam.
      weight_decay: acts on matrices only, not on norms and biases.
      clip: largest global gradient norm; 0 for none.
    """

    learning_rate: float = 1e-4
    schedule: str = "cosine"
    warmup: float = 0.03
    final: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float = 1.0

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise InputError(f"optim.schedule: {self.schedule!r} is unknown; use one of {', '.join(SCHEDULES)}")
        for name, most in _MOST.items():
            value = getattr(self, name)
            if not (0 <= value <= most and math.isfinite(value)):
                least = "at least 0" if most == math.inf else f"between 0 and {most}"
                raise InputError(f"optim.{name} must be {least}, not {value}")


def learning_rate(cfg: OptimConfig, steps: int) -> optax.Schedule:
    """Learning rate as a function of the step (0-based); the first step already moves."""
    warm = max(round(cfg.warmup * steps), 0)
    if cfg.schedule == "constant":
        after = optax.constant_schedule(cfg.learning_rate)
    else:
        after = optax.cosine_decay_schedule(cfg.learning_rate, max(steps - warm, 1), alpha=cfg.final)
    if not warm:
        return after
    rise = optax.linear_schedule(cfg.learning_rate / (warm + 1), cfg.learning_rate, warm)
    return optax.join_schedules([rise, after], [warm])


def make_optimizer(cfg: OptimConfig, steps: int) -> optax.GradientTransformation:
    """The optax chain; its state has the dtype of the trainable leaves."""
    adamw = optax.adamw(
        learning_rate(cfg, steps), cfg.b1, cfg.b2, cfg.eps, weight_decay=cfg.weight_decay, mask=_decayed
    )
    return optax.chain(optax.clip_by_global_norm(cfg.clip), adamw) if cfg.clip else adamw


def _decayed(tree: Any) -> Any:
    """True for matrices: weights, embeddings and LoRA factors; False for norms and biases (b, b1_D, bq_LNH, ...)."""

    def is_matrix(path: tuple, leaf: Any) -> bool:
        name = str(getattr(path[-1], "key", path[-1]))
        return name in ("a", "b") or not (name.startswith("b") or "norm" in name or name == "class_D")

    return jax.tree_util.tree_map_with_path(is_matrix, tree)
