"""Gradients that make forgetting hold when weights or activations move: SAM, tamper-aware, latent adversarial.

All change how the gradient of the forget terms is taken. The gradient of all other terms stays as it is, so they work
with every objective. The final gradient is that of the keep terms at theta plus

    sam     forget gradient at theta + length * g / |g|,   g = forget gradient at theta
    tamper  mean of the forget gradients at theta_0 .. theta_steps,
            theta_0 = theta,  theta_{k+1} = theta_k - length * s_k / |s_k|,  a_k = gradient of CE(forget) at theta_k,
            s_k = a_k, or sign(a_k) with attacker "sign"
    latent  forget gradient at theta while an attacker's delta stands in the residual stream, see latent.py

SAM looks at the nearest weights where forgetting is worst. Tamper lets an attacker train the harmful answers back for a
few steps, and forgets along its way. It is first order: the attacker's steps are not differentiated. Whoever fine-tunes
uses AdamW, whose first updates have the gradient's sign and one size in every coordinate. Attacker "sign" moves like
that, also where gradients are small. It is this project's own.

|.| is the norm over all that trains. `length` of sam and tamper therefore has the unit of the trained weights, and one
value serves every gradient scale. With weights in bfloat16 a displacement must survive the rounding of the assembled
weights, which is |w| / 256 per coordinate.

Sources: SAM for unlearning: arXiv 2502.05374 (OPTML-Group/Unlearn-Smooth@fc655ba; its SAM overwrites the accumulated
gradient and divides by a norm that may be 0; here the whole step's gradient is taken first, and a zero gradient gives
no displacement). Tamper resistance by simulated fine-tuning: arXiv 2408.00761.
Cost per step, in gradients of the forget terms: 2 for sam, 2 * steps + 1 for tamper, steps + 1 for latent. The keep
terms cost what they did.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.objectives.objective import Objective
from vlm_mu_jax.training.latent import RELEARN

Tree = Any
Metrics = dict[str, Array]
Gradient = Callable[..., tuple[Tree, Metrics]]  # (objective, what trains[, latent]) -> gradient, metrics

KINDS = ("none", "sam", "tamper", "latent")
ATTACKERS = ("gradient", "sign")


@dataclasses.dataclass(frozen=True)
class Robust:
    """How the gradient of the forget terms is taken.

    Attributes:
      kind: "none", "sam", "tamper" or "latent".
      length: of one displacement, in the norm of all that trains; latent: of delta at one position and layer, in the
        units of the residual stream.
      steps: of the attacker of tamper and latent.
      attacker: tamper: what it moves along, the "gradient" or its "sign".
      layers: latent: 0-based decoder blocks behind which delta is added.
      rate: latent: learning rate of the attacker's AdamW.
    """

    kind: str = "none"
    length: float = 0.05
    steps: int = 3
    layers: tuple[int, ...] = ()
    rate: float = 0.05
    attacker: str = "gradient"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"robust.kind: {self.kind!r} is unknown; use one of {', '.join(KINDS)}")
        if not (self.length > 0 and self.rate > 0) or self.steps < 1:
            raise InputError(
                f"robust: length {self.length} and rate {self.rate} must be above 0 and steps {self.steps} at least 1"
            )
        if self.attacker not in ATTACKERS:
            raise InputError(f"robust.attacker: {self.attacker!r} is unknown; use one of {', '.join(ATTACKERS)}")
        object.__setattr__(self, "layers", tuple(sorted(set(self.layers))))
        if self.kind == "latent" and (not self.layers or self.layers[0] < 0):
            raise InputError(f"robust.layers: {self.layers} must name decoder blocks for kind latent, such as (1, 2)")


PLAIN = Robust()


def robust_gradient(
    gradient: Gradient, objective: Objective, theta: Tree, robust: Robust, attack: Callable[[Tree], Array] | None = None
) -> tuple[Tree, Metrics]:
    """Gradient of the objective and metrics at `theta`, under `robust`.

    Args:
      gradient: gradient and metrics (with "loss") of an objective over the whole step, all micro-batches.
      theta: what trains.
      robust: how the gradient of the forget terms is taken.
      attack: what trains -> the attacker's delta; needed by kind latent.

    Raises:
      InputError: the objective forgets nothing.
    """
    if robust.kind == "none":
        return gradient(objective, theta)
    forget, keep = objective.part(forgets=True), objective.part(forgets=False)
    if forget is None:
        raise InputError(f"robust.kind {robust.kind} is for unlearning; this objective has no forget term")
    first, metrics = gradient(forget, theta, attack(theta)) if robust.kind == "latent" else gradient(forget, theta)
    if robust.kind == "latent":
        total = first
    elif robust.kind == "sam":
        total, _ = gradient(forget, moved(theta, first, robust.length))
    else:
        total = _along_relearning(gradient, forget, theta, first, robust)
    if keep is not None:
        kept, more = gradient(keep, theta)
        total = jax.tree.map(jnp.add, total, kept)
        metrics = {**metrics, **more, "loss": metrics["loss"] + more["loss"]}
    return total, metrics


def moved(theta: Tree, direction: Tree, length: float) -> Tree:
    """theta + length * direction / |direction|; theta itself when the direction is 0."""
    norm = jnp.sqrt(sum(jnp.square(leaf.astype(jnp.float32)).sum() for leaf in jax.tree.leaves(direction)))
    scale = jnp.where(norm > 0, length / jnp.where(norm > 0, norm, 1.0), 0.0)
    return jax.tree.map(lambda x, d: x + (scale * d).astype(x.dtype), theta, direction)


def _along_relearning(gradient: Gradient, forget: Objective, theta: Tree, first: Tree, robust: Robust) -> Tree:
    """Mean of the forget gradient over theta and the weights after each of the attacker's steps."""

    def attack(carry: tuple[Tree, Tree], _: None) -> tuple[tuple[Tree, Tree], None]:
        weights, total = carry
        step = gradient(RELEARN, weights)[0]
        step = jax.tree.map(jnp.sign, step) if robust.attacker == "sign" else step
        weights = moved(weights, step, -robust.length)
        return (weights, jax.tree.map(jnp.add, total, gradient(forget, weights)[0])), None

    (_, total), _ = jax.lax.scan(attack, (theta, first), length=robust.steps)
    return jax.tree.map(lambda leaf: leaf / (robust.steps + 1), total)
