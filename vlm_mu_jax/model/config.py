"""Model configuration: frozen dataclasses, which `families.from_hf` reads from a Hugging Face `config.json`.

Fields use the shape letters of the code: V vocabulary, D model, L layers, N query heads, K key/value heads,
H head size, F feed-forward, P image tokens of one image.
"""

import dataclasses
from typing import Any

from vlm_mu_jax.model.connectors.connector import Connector
from vlm_mu_jax.model.image_plans import ImagePlan
from vlm_mu_jax.model.towers.tower import Tower


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Rotary frequency scaling, one of the kinds of transformers' `modeling_rope_utils`."""

    kind: str  # "linear" | "dynamic" | "llama3"
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 0


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Llama-family decoder."""

    V: int
    D: int
    L: int
    N: int
    K: int
    H: int
    F: int
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    max_positions: int = 4096
    tie_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    sliding_window: int | None = None
    unroll: int = 1  # layers unrolled per scan step
    remat: str = "none"  # name in vlm_mu_jax.model.layers.REMAT_POLICIES
    attention: str = "xla"  # kernel of a forward's own tokens, as vlm_mu_jax.model.flash.choose returns it


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """How pictures become image tokens. plan: a picture -> encoded images and token count. tower: an encoded image ->
    states. connector: states -> image tokens."""

    tower: Tower
    connector: Connector
    plan: ImagePlan

    @property
    def image_size(self) -> int:
        """Side of an encoded image, pixels."""
        return self.tower.image_size

    @property
    def P(self) -> int:
        """Image tokens of one encoded image."""
        return self.connector.tokens(self.tower.P)

    @property
    def tiles(self) -> int:
        """Most encoded images of one picture."""
        return self.plan.tiles

    @property
    def most_tokens(self) -> int:
        """Most image tokens of one picture."""
        return self.plan.most_tokens


@dataclasses.dataclass(frozen=True)
class LlavaConfig:
    """A vision-language model, or a text-only one when `vision` is None.

    image_token_id: the placeholder that stands for each image token in a row of ids.
    """

    text: TextConfig
    vision: VisionConfig | None = None
    image_token_id: int | None = None
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    pad_id: int = 0
    dtype: str = "float32"

    def with_text(self, **changes: Any) -> "LlavaConfig":
        """The same model with some decoder fields replaced, e.g. `cfg.with_text(remat="full")`."""
        return dataclasses.replace(self, text=dataclasses.replace(self.text, **changes))
