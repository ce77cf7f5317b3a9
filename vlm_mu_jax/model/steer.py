"""Steering as data: what is added to the residual stream, at which layers and which tokens.

`Steer` holds arrays with a leading layer axis. `decoder.decode` hands one slice of them to each layer and applies
`Steering` around the layer's block. Without a `Steer` the compiled program holds no trace of any of this.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

# The tokens that a `Steer` may write: the prompt and every generated token ("all"), the whole prompt, its last token
# alone, its text tokens, its image tokens, or the generated tokens alone.
SCOPES = ("all", "prompt", "last", "text", "image", "generated")
LATE = ("last", "generated")  # the scopes that leave all of a prompt but its last token alone


@flax.struct.dataclass
class Steer:
    """h' = h + g * (strength_l * (h V_l^T) V_l + shift_l) at block output l and the positions of `scope`.

    basis_LMD: rows of V_l, orthonormal (zero rows leave a layer alone). strength_L: alpha per layer; -1 projects the
    subspace out, -2 reflects it, > 0 amplifies it. shift: constant to add, [L, D], or [L, B, D] for one per row.
    threshold_L: gate threshold. gate_LD: what the gate projects on; None = the first rows of V.
    gate_LB: per-layer, per-row gate in {0, 1} from an earlier forward; None = decide in this one.
    linear: g is the projection h gate_l itself, a real number, in place of 0 or 1.
    gated: False means g = 1. Gates decided here read the row's last token before steering: g = [h gate_l > threshold].
    norm_preserving: rescale h' to the norm of h.
    scope: positions written, one of SCOPES. everywhere: written are also the embedded tokens and the stream between
      attention and MLP, so that every reader of the stream sees h'; gates must then be known beforehand.
    hide_image: the tokens after the prompt do not read its image where a gate is open; see `cache.without_images`.
    """

    basis_LMD: Array
    strength_L: Array
    shift: Array
    threshold_L: Array
    gate_LD: Array | None = None
    gate_LB: Array | None = None
    gated: bool = flax.struct.field(pytree_node=False, default=False)
    linear: bool = flax.struct.field(pytree_node=False, default=False)
    norm_preserving: bool = flax.struct.field(pytree_node=False, default=False)
    scope: str = flax.struct.field(pytree_node=False, default="all")
    everywhere: bool = flax.struct.field(pytree_node=False, default=False)
    hide_image: bool = flax.struct.field(pytree_node=False, default=False)

    def by_layer(self) -> dict[str, Array]:
        """What layer l reads, each with a leading layer axis."""
        gate_row = self.basis_LMD[:, 0] if self.gate_LD is None else self.gate_LD
        return {
            "basis": self.basis_LMD,
            "strength": self.strength_L,
            "shift": self.shift,
            "threshold": self.threshold_L,
            "gate_row": gate_row,
            **({} if self.gate_LB is None else {"gate": self.gate_LB}),
        }


def on_prefix(steer: Steer | None) -> Steer | None:
    """What steers a prompt's tokens before its last one: `steer`, or None where it writes later tokens only."""
    return None if steer is None or steer.scope in LATE else steer


def hides_image(steer: Steer | None) -> bool:
    """Whether the tokens after a prompt may have to leave its image unread."""
    return steer is not None and steer.hide_image


def while_decoding(steer: Steer | None, gate_LB: Array | None) -> Steer | None:
    """What steers the tokens after the prompt: `steer` with the prompt's gates, or None where it writes none."""
    if steer is None or steer.scope not in ("all", "generated"):
        return None
    return steer.replace(scope="all", gate_LB=gate_LB)


@dataclasses.dataclass(frozen=True)
class Steering:
    """A `Steer` applied to the rows of one forward.

    last_B: index of each row's last token. image_BT: which tokens are an image's, or None where no scope asks.
    """

    steer: Steer
    last_B: Array
    image_BT: Array | None

    def before(self, x_BTD: Array) -> Array:
        """Embedded tokens as the first block shall read them."""
        if not self.steer.everywhere:
            return x_BTD
        return self.after(x_BTD, jax.tree.map(lambda leaf: leaf[0], self.steer.by_layer()))[0]

    def between(self, x_BTD: Array, layer: dict[str, Array]) -> Array:
        """The stream between a block's attention and its MLP."""
        return self.after(x_BTD, layer)[0] if self.steer.everywhere else x_BTD

    def after(self, x_BTD: Array, layer: dict[str, Array]) -> tuple[Array, Array]:
        """A block's output, steered, and the gate of every row. Rows whose gate is 0 keep their exact bits.

        layer: this layer's slice of `Steer.by_layer`.
        """
        x32, basis_MD, shift = (x.astype(jnp.float32) for x in (x_BTD, layer["basis"], layer["shift"]))
        gate_B = self._gates(x32, layer)
        shift_BTD = shift[:, None] if shift.ndim == 2 else shift[None, None]
        if self.steer.linear:
            added = layer["strength"] * (x32 @ basis_MD.T) @ basis_MD + shift_BTD
            moved = x32 + gate_B[:, None, None] * added
        else:
            moved = x32 + layer["strength"] * (x32 @ basis_MD.T) @ basis_MD + shift_BTD
        if self.steer.norm_preserving:
            norms = [jnp.linalg.norm(h, axis=-1, keepdims=True) for h in (x32, moved)]
            moved = moved * norms[0] / jnp.maximum(norms[1], 1e-12)
        write_BT1 = (gate_B[:, None] != 0)[:, :, None] & self._written(x_BTD.shape[1])[:, :, None]
        return jnp.where(write_BT1, moved.astype(x_BTD.dtype), x_BTD), gate_B

    def _gates(self, x32: Array, layer: dict[str, Array]) -> Array:
        B = x32.shape[0]
        if not self.steer.gated:
            return jnp.ones((B,), jnp.float32)
        if "gate" in layer:
            return layer["gate"].astype(jnp.float32)
        last_BD = x32[jnp.arange(B), self.last_B]
        score_B = last_BD @ layer["gate_row"].astype(jnp.float32)
        return score_B if self.steer.linear else (score_B > layer["threshold"]).astype(jnp.float32)

    def _written(self, T: int) -> Array:
        """Which of these tokens the scope writes, bool [B, T] or [1, 1]."""
        scope = self.steer.scope
        if scope in ("text", "image"):
            return self.image_BT if scope == "image" else ~self.image_BT
        if scope == "last":
            return jnp.arange(T)[None] == self.last_B[:, None]
        return jnp.full((1, 1), scope != "generated")
