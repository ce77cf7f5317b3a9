"""The one table between Hugging Face checkpoints and our parameters, read in both directions.

A row says which tensor of the file is which parameter (or which layer of a stacked parameter) and how the array is
laid out in each. Spellings of the same checkpoint differ only in prefixes: a `Dialect` is nothing but those prefixes.
File keys were taken from `save_pretrained` of transformers 4 and 5 (5.23), see tests/conversion/test_names.py.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Collection, Iterator

import numpy as np

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model import params as params_lib

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one tensor is stored in the file, given its shape among our parameters (without the layer axis).

    transposed: the file has [out, in...], we have [in..., out...]; otherwise only the shape may differ.
    file_shape: our shape -> shape in the file. Both ways are exact: values are moved, never computed.
    """

    transposed: bool
    file_shape: Callable[[Shape], Shape]

    def to_ours(self, array: np.ndarray, shape: Shape) -> np.ndarray:
        """Tensor of the file -> array of `shape` (a view where possible)."""
        if not self.transposed:
            return array.reshape(shape)
        return array.reshape(array.shape[0], -1).T.reshape(shape)

    def to_file(self, array: np.ndarray) -> np.ndarray:
        """Our array -> contiguous tensor of the file."""
        return np.ascontiguousarray(self.file_view(array))

    def file_view(self, array: np.ndarray) -> np.ndarray:
        """Our array -> tensor of the file, a view where possible."""
        shape = self.file_shape(array.shape)
        if self.transposed:
            array = array.reshape(-1, shape[0]).T
        return array.reshape(shape)


def _conv_shape(shape: Shape) -> Shape:
    """[3 p p, D] -> [D, 3, p, p], the weight of the convolution that cuts the image into patches."""
    side = math.isqrt(shape[0] // 3)
    return (shape[1], 3, side, side)


SAME = Layout(False, lambda shape: shape)
FLAT = Layout(False, lambda shape: (math.prod(shape),))  # biases of heads: [N, H] -> [N H]
LINEAR = Layout(True, lambda shape: (math.prod(shape[1:]), shape[0]))  # [D, N, H] -> [N H, D]
MERGE = Layout(True, lambda shape: (shape[-1], math.prod(shape[:-1])))  # [N, H, D] -> [D, N H]
CONV = Layout(True, _conv_shape)

# (key in the file, parameter, layout); {l}: the layer, the other braces: prefixes of the `Dialect`
TABLE: tuple[tuple[str, str, Layout], ...] = (
    ("{text}embed_tokens.weight", "decoder/embed_VD", SAME),
    ("{text}layers.{l}.input_layernorm.weight", "decoder/layers/attn_norm_LD", SAME),
    ("{text}layers.{l}.self_attn.q_proj.weight", "decoder/layers/wq_LDNH", LINEAR),
    ("{text}layers.{l}.self_attn.q_proj.bias", "decoder/layers/bq_LNH", FLAT),
    ("{text}layers.{l}.self_attn.k_proj.weight", "decoder/layers/wk_LDKH", LINEAR),
    ("{text}layers.{l}.self_attn.k_proj.bias", "decoder/layers/bk_LKH", FLAT),
    ("{text}layers.{l}.self_attn.v_proj.weight", "decoder/layers/wv_LDKH", LINEAR),
    ("{text}layers.{l}.self_attn.v_proj.bias", "decoder/layers/bv_LKH", FLAT),
    ("{text}layers.{l}.self_attn.o_proj.weight", "decoder/layers/wo_LNHD", MERGE),
    ("{text}layers.{l}.self_attn.o_proj.bias", "decoder/layers/bo_LD", SAME),
    ("{text}layers.{l}.post_attention_layernorm.weight", "decoder/layers/mlp_norm_LD", SAME),
    ("{text}layers.{l}.mlp.gate_proj.weight", "decoder/layers/wgate_LDF", LINEAR),
    ("{text}layers.{l}.mlp.gate_proj.bias", "decoder/layers/bgate_LF", SAME),
    ("{text}layers.{l}.mlp.up_proj.weight", "decoder/layers/wup_LDF", LINEAR),
    ("{text}layers.{l}.mlp.up_proj.bias", "decoder/layers/bup_LF", SAME),
    ("{text}layers.{l}.mlp.down_proj.weight", "decoder/layers/wdown_LFD", LINEAR),
    ("{text}layers.{l}.mlp.down_proj.bias", "decoder/layers/bdown_LD", SAME),
    ("{text}norm.weight", "decoder/norm_D", SAME),
    ("{head}weight", "decoder/head_DV", LINEAR),
    ("{linear_1}weight", "projector/w1_ED", LINEAR),
    ("{linear_1}bias", "projector/b1_D", SAME),
    ("{linear_2}weight", "projector/w2_DD", LINEAR),
    ("{linear_2}bias", "projector/b2_D", SAME),
    ("{newline}", "projector/newline_D", SAME),
    ("{vision}embeddings.class_embedding", "vision/class_D", SAME),
    ("{vision}embeddings.patch_embedding.weight", "vision/patch_CD", CONV),
    ("{vision}embeddings.position_embedding.weight", "vision/position_QD", SAME),
    ("{vision}pre_layrnorm.weight", "vision/pre_norm_scale_D", SAME),  # the missing "e" is in every checkpoint
    ("{vision}pre_layrnorm.bias", "vision/pre_norm_bias_D", SAME),
    ("{vision}encoder.layers.{l}.layer_norm1.weight", "vision/layers/norm1_scale_LD", SAME),
    ("{vision}encoder.layers.{l}.layer_norm1.bias", "vision/layers/norm1_bias_LD", SAME),
    ("{vision}encoder.layers.{l}.self_attn.q_proj.weight", "vision/layers/wq_LDNH", LINEAR),
    ("{vision}encoder.layers.{l}.self_attn.q_proj.bias", "vision/layers/bq_LNH", FLAT),
    ("{vision}encoder.layers.{l}.self_attn.k_proj.weight", "vision/layers/wk_LDNH", LINEAR),
    ("{vision}encoder.layers.{l}.self_attn.k_proj.bias", "vision/layers/bk_LNH", FLAT),
    ("{vision}encoder.layers.{l}.self_attn.v_proj.weight", "vision/layers/wv_LDNH", LINEAR),
    ("{vision}encoder.layers.{l}.self_attn.v_proj.bias", "vision/layers/bv_LNH", FLAT),
    ("{vision}encoder.layers.{l}.self_attn.out_proj.weight", "vision/layers/wo_LNHD", MERGE),
    ("{vision}encoder.layers.{l}.self_attn.out_proj.bias", "vision/layers/bo_LD", SAME),
    ("{vision}encoder.layers.{l}.layer_norm2.weight", "vision/layers/norm2_scale_LD", SAME),
    ("{vision}encoder.layers.{l}.layer_norm2.bias", "vision/layers/norm2_bias_LD", SAME),
    ("{vision}encoder.layers.{l}.mlp.fc1.weight", "vision/layers/w1_LDF", LINEAR),
    ("{vision}encoder.layers.{l}.mlp.fc1.bias", "vision/layers/b1_LF", SAME),
    ("{vision}encoder.layers.{l}.mlp.fc2.weight", "vision/layers/w2_LFD", LINEAR),
    ("{vision}encoder.layers.{l}.mlp.fc2.bias", "vision/layers/b2_LD", SAME),
    ("{vision}post_layernorm.weight", "vision/post_norm_scale_D", SAME),
    ("{vision}post_layernorm.bias", "vision/post_norm_bias_D", SAME),
)

# Tensors that old checkpoints carry and that hold no learned value: recomputed from the config.
IGNORED = (
    re.compile(r"(^|\.)rotary_emb\.inv_freq$"),
    re.compile(r"(^|\.)embeddings\.position_ids$"),
)

# What a whole CLIP checkpoint holds besides the vision tower: the text tower and the way into the common space.
CLIP_TEXT = (
    re.compile(r"^text_model\."),
    re.compile(r"^(text|visual)_projection\.weight$"),
    re.compile(r"^logit_scale$"),
)


@dataclasses.dataclass(frozen=True)
class Dialect:
    """One spelling of the file keys. vision: None for a text-only checkpoint. linear_1, linear_2: of the projector.
    newline: the whole key of LLaVA-NeXT's newline."""

    name: str
    text: str
    head: str
    vision: str | None = None
    linear_1: str | None = None
    linear_2: str | None = None
    newline: str | None = None


# The v4 spelling is what the released llava-hf checkpoints have and what every reader accepts.
DIALECTS: dict[str, Dialect] = {
    d.name: d
    for d in (
        Dialect(
            "llava_v4",
            "language_model.model.",
            "language_model.lm_head.",
            "vision_tower.vision_model.",
            "multi_modal_projector.linear_1.",
            "multi_modal_projector.linear_2.",
            "image_newline",
        ),
        # transformers >= 5.6 saves CLIP without the `vision_model` level, the rest as before
        Dialect(
            "llava_v5",
            "language_model.model.",
            "language_model.lm_head.",
            "vision_tower.",
            "multi_modal_projector.linear_1.",
            "multi_modal_projector.linear_2.",
            "image_newline",
        ),
        # module names of transformers >= 4.52, as written by tools that save `state_dict()` itself
        Dialect(
            "llava_modules",
            "model.language_model.",
            "lm_head.",
            "model.vision_tower.vision_model.",
            "model.multi_modal_projector.linear_1.",
            "model.multi_modal_projector.linear_2.",
            "model.image_newline",
        ),
        Dialect(
            "llava_modules_v5",
            "model.language_model.",
            "lm_head.",
            "model.vision_tower.",
            "model.multi_modal_projector.linear_1.",
            "model.multi_modal_projector.linear_2.",
            "model.image_newline",
        ),
        # haotian-liu/LLaVA itself: a Llama with a projector, see convert/original.py
        Dialect(
            "llava_original",
            "model.",
            "lm_head.",
            "model.vision_tower.vision_tower.vision_model.",
            "model.mm_projector.0.",
            "model.mm_projector.2.",
            "model.image_newline",
        ),
        # the same with the tower in a folder of its own; what stands before the slash is no part of the key
        Dialect(
            "llava_original_split",
            "model.",
            "lm_head.",
            "vision_tower/vision_model.",
            "model.mm_projector.0.",
            "model.mm_projector.2.",
            "model.image_newline",
        ),
        Dialect("text", "model.", "lm_head."),
    )
}


def default_dialect(specs: params_lib.Specs) -> Dialect:
    """The dialect written when the weights came from nowhere else."""
    return DIALECTS["llava_v4" if "vision" in specs else "text"]


@dataclasses.dataclass(frozen=True)
class Slot:
    """One tensor of the file: which parameter it is, and which layer of it (None: not stacked)."""

    key: str
    path: str
    layer: int | None
    shape: Shape  # ours, without the layer axis
    layout: Layout

    @property
    def file_shape(self) -> Shape:
        return self.layout.file_shape(self.shape)

    def index(self) -> tuple[int, ...]:
        """Where this tensor sits in the parameter's array."""
        return () if self.layer is None else (self.layer,)


def slots(specs: params_lib.Specs, dialect: Dialect) -> Iterator[Slot]:
    """Every tensor that a checkpoint of this dialect holds for these parameters, stacked parameters layer by layer."""
    flat = params_lib.flatten(specs)
    unknown = flat.keys() - {path for _, path, _ in TABLE}
    assert not unknown, f"parameters without a row in the name table: {sorted(unknown)}"
    for template, path, layout in TABLE:
        if path not in flat:
            continue
        shape = flat[path].shape
        layers = range(shape[0]) if "{l}" in template else (None,)
        for layer in layers:
            key = template.format(l=layer, **_prefixes(dialect))
            yield Slot(key, path, layer, shape if layer is None else shape[1:], layout)


def _prefixes(dialect: Dialect) -> dict[str, str]:
    return {
        "text": dialect.text,
        "head": dialect.head,
        "vision": dialect.vision or "",
        "linear_1": dialect.linear_1 or "",
        "linear_2": dialect.linear_2 or "",
        "newline": dialect.newline or "",
    }


def for_adapters(dialect: str, specs: params_lib.Specs) -> Dialect:
    """The module names of the class that reads checkpoints of `dialect`, as adapters need them.

    That is transformers >= 4.52 whatever its files say, or LLaVA's own class for its own layout.
    """
    if dialect.startswith("llava_original"):
        return DIALECTS["llava_original"]
    return DIALECTS["llava_modules_v5" if "vision" in specs else "text"]


def fitting(specs: params_lib.Specs) -> list[Dialect]:
    """The dialects that a model with these parameters can be spelled in."""
    return [dialect for dialect in DIALECTS.values() if (dialect.vision is not None) == ("vision" in specs)]


def find_dialect(keys: Collection[str], specs: params_lib.Specs, source: str) -> Dialect:
    """The dialect that explains most of the file's keys.

    Raises:
      InputError: none explains a single one.
    """
    present = set(keys)
    scores = {dialect.name: sum(slot.key in present for slot in slots(specs, dialect)) for dialect in fitting(specs)}
    best = max(scores, key=scores.__getitem__)
    if not scores[best]:
        kind = "LLaVA" if "vision" in specs else "Llama-family"
        example = min(present, default="none at all")
        what = f"config.json says {kind}, but no tensor has such a name (found {example})"
        raise InputError(f"{source}: {what}; use another checkpoint")
    return DIALECTS[best]


def is_ignored(key: str) -> bool:
    return any(pattern.search(key) for pattern in IGNORED)


def is_clip_text(key: str) -> bool:
    """Whether a tensor of a CLIP checkpoint belongs to its text half."""
    return any(pattern.search(key) for pattern in CLIP_TEXT)
