"""Model configuration: frozen dataclasses, which `families.from_hf` reads from a Hugging Face `config.json`.

Fields use the shape letters of the code: V vocabulary, D model, L layers, N query heads, K key/value heads,
H head size, F feed-forward, P image tokens of one image.
"""

import dataclasses
from typing import Any

from vlm_mu_jax.model.connectors.connector import Connector
from vlm_mu_jax.model.image_plans.image_plan import ImagePlan
from vlm_mu_jax.model.towers.tower import Tower


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Rotary frequency scaling, one of the kinds of transformers' `modeling_rope_utils`.

    low_freq_factor, high_freq_factor: of "llama3". beta_fast, beta_slow, truncate: of "yarn".
    attention_factor: what "yarn" multiplies cosines and sines by.
    """

    kind: str  # "linear" | "dynamic" | "llama3" | "yarn"
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The decoder. Families differ in these fields alone; the defaults are Llama's.

    attention_bias: biases of queries, keys, values and output; qkv_bias: of the first three alone.
    qk_norm: an RMS norm over each query's and key's head before rotation.
    post_norms: further norms behind attention and MLP, before each joins the residual stream.
    norm_offset: norms scale by 1 + w, in float32, instead of by w.
    query_scalar: scores are scaled by its inverse square root; None = H.
    embed_scale: token embeddings are multiplied by it.
    sliding_window: tokens that a query reads, its own included; None = all.
    windowed: which layers have the window; () = all of them.
    window_rope_theta: rope base of the layers with the window, unscaled; None = that of the others.
    rope_axes: of each of the H / 2 rotary frequencies, the axis (0 time, 1 height, 2 width) whose position it turns by;
      () = there is one axis. See `grids.places`.
    deep: blocks 0..deep - 1 are followed by features of the image, added to the stream at its tokens.
    image_run: most image tokens that follow each other, of one image, where these read each other in both directions;
      None = image tokens are causal as well.
    """

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
    qkv_bias: bool = False
    mlp_bias: bool = False
    activation: str = "silu"  # of the MLP, a name in vlm_mu_jax.model.layers.ACTIVATIONS
    qk_norm: bool = False
    post_norms: bool = False
    norm_offset: bool = False
    query_scalar: float | None = None
    embed_scale: float | None = None
    sliding_window: int | None = None
    windowed: tuple[bool, ...] = ()
    window_rope_theta: float | None = None
    rope_axes: tuple[int, ...] = ()
    deep: int = 0
    image_run: int | None = None
    unroll: int = 1  # layers unrolled per scan step
    remat: str = "none"  # name in vlm_mu_jax.model.layers.REMAT_POLICIES
    attention: str = "xla"  # kernel of a forward's own tokens, as vlm_mu_jax.model.flash.choose returns it

    def has_window(self, layer: int) -> bool:
        """Whether this layer's queries read a sliding window only."""
        return self.sliding_window is not None and (not self.windowed or self.windowed[layer])


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """How pictures become image tokens. plan: a picture -> encoded images and token count. tower: an encoded image ->
    states. connector: states -> image tokens. several: the plan of pictures that share a prompt with others; None = as
    of one alone."""

    tower: Tower
    connector: Connector
    plan: ImagePlan
    several: ImagePlan | None = None

    @property
    def image_size(self) -> int:
        """Side of an encoded image, pixels."""
        return self.tower.image_size

    @property
    def P(self) -> int:
        """Image tokens of one encoded image."""
        return self.connector.tokens(self.tower.P)

    def tokens(self, images: int) -> int:
        """Image tokens of so many encoded images."""
        return self.connector.tokens(images * self.tower.P)

    @property
    def tiles(self) -> int:
        """Most encoded images of one picture."""
        return self.plan.tiles

    @property
    def most_tokens(self) -> int:
        """Most image tokens of one picture."""
        return self.plan.most_tokens


@dataclasses.dataclass(frozen=True)
class ModelConfig:
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

    def with_text(self, **changes: Any) -> "ModelConfig":
        """The same model with some decoder fields replaced, e.g. `cfg.with_text(remat="full")`."""
        return dataclasses.replace(self, text=dataclasses.replace(self.text, **changes))
