"""Model configuration: frozen dataclasses read from a Hugging Face `config.json`.

Fields use the shape letters of the code: V vocabulary, D model, L layers, N query heads, K key/value heads,
H head size, F feed-forward, P image tokens of one image.
"""

import dataclasses
from typing import Any

from vlm_mu_jax.errors import InputError

_LLAMA_FAMILY = ("llama", "mistral", "vicuna")
_LLAVA = ("llava", "llava_next")
# transformers@configuration_llava_next.py: what a llava_next config without this field means
_PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))


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
    """CLIP vision tower, which of its hidden states the projector reads, and how images are cut for it."""

    image_size: int
    patch_size: int
    D: int
    L: int
    N: int
    F: int
    norm_eps: float = 1e-5
    activation: str = "quick_gelu"
    feature_layers: tuple[int, ...] = (-2,)  # indices into [embeddings, block 0 output, ...], as in HF
    select: str = "default"  # "default" drops the class token, "full" keeps it
    pinpoints: tuple[tuple[int, int], ...] = ()  # LLaVA-NeXT: (height, width) an image may be tiled at; () = no tiles

    @property
    def patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    @property
    def P(self) -> int:
        """Image tokens per encoded image: of a whole image, or (LLaVA-NeXT) of one tile."""
        return self.patches + (self.select == "full")

    @property
    def most_tokens(self) -> int:
        """Image tokens of the largest image. LLaVA-NeXT: every patch of the largest pinpoint and a newline per row."""
        size, side = self.image_size, self.image_size // self.patch_size
        grids = ((height // size * side, width // size * side) for height, width in self.pinpoints)
        return self.P + max((rows * (columns + 1) for rows, columns in grids), default=0)

    @property
    def tiles(self) -> int:
        """Encoded images per image: 1, or (LLaVA-NeXT) the small view and the tiles of the largest pinpoint."""
        return 1 + max((height * width // self.image_size**2 for height, width in self.pinpoints), default=0)


@dataclasses.dataclass(frozen=True)
class LlavaConfig:
    """A LLaVA model, or a text-only Llama-family model when `vision` is None."""

    text: TextConfig
    vision: VisionConfig | None = None
    image_token_id: int | None = None
    projector_activation: str = "gelu"
    projector_bias: bool = True
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    pad_id: int = 0
    dtype: str = "float32"

    def with_text(self, **changes: Any) -> "LlavaConfig":
        """The same model with some decoder fields replaced, e.g. `cfg.with_text(remat="full")`."""
        return dataclasses.replace(self, text=dataclasses.replace(self.text, **changes))


def from_hf(config: dict[str, Any], source: str = "config.json") -> LlavaConfig:
    """Reads a `config.json` of LLaVA-1.5, LLaVA-NeXT or a Llama-family model, in transformers 4 and 5 spellings.

    Args:
      config: the parsed file.
      source: its name, for messages.

    Raises:
      InputError: unknown architecture, a missing field, or one with an impossible value.
    """
    kind = config.get("model_type")
    if kind not in (*_LLAVA, *_LLAMA_FAMILY):
        raise InputError(
            f"{source}: model_type {kind!r} is not supported; use a LLaVA-1.5, LLaVA-NeXT or Llama-family checkpoint"
        )
    try:
        if kind in _LLAVA:
            cfg = _llava(config)
        else:
            cfg = LlavaConfig(text=_text(config), **_token_ids(config), dtype=_dtype(config))
    except InputError:
        raise
    except KeyError as error:
        raise InputError(f"{source}: field {error} is missing; is this a complete Hugging Face config?") from error
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise InputError(f"{source}: a field has a value of the wrong kind ({error}); restore the file") from error
    _check_values(cfg, source)
    return cfg


def _check_values(cfg: LlavaConfig, source: str) -> None:
    """Sizes must be positive and fit each other: shapes and loops are built on them."""
    problems = []
    for name, part in (("text", cfg.text), ("vision", cfg.vision)):
        for field in dataclasses.fields(part) if part else ():
            value = getattr(part, field.name)
            if field.type is int and (type(value) is not int or value < 1):
                problems.append(f"{name} {field.name} is {value!r}, not a positive number")
    if not problems and cfg.text.N % cfg.text.K:
        problems.append(f"{cfg.text.N} attention heads cannot share {cfg.text.K} key/value heads")
    if not problems and cfg.vision:
        vision = cfg.vision
        if vision.D % vision.N:
            problems.append(f"vision width {vision.D} is not a multiple of its {vision.N} heads")
        if any(type(i) is not int or not -vision.L - 1 <= i <= vision.L for i in vision.feature_layers):
            problems.append(f"vision_feature_layer {list(vision.feature_layers)} is not within {vision.L} layers")
        if vision.select not in ("default", "full"):
            problems.append(f"vision_feature_select_strategy {vision.select!r} is neither 'default' nor 'full'")
        problems += _check_tiles(vision)
    if problems:
        raise InputError(f"{source}: {'; '.join(problems)}; restore the file")


def _check_tiles(vision: VisionConfig) -> list[str]:
    problems = []
    if vision.pinpoints and vision.select == "full":
        problems.append("vision_feature_select_strategy 'full' leaves a class token in every tile of LLaVA-NeXT")
    for sides in vision.pinpoints:
        if len(sides) != 2 or any(type(n) is not int or n < 1 or n % vision.image_size for n in sides):
            problems.append(f"image_grid_pinpoints: {list(sides)} is not a pair of multiples of {vision.image_size}")
    return problems


def _llava(config: dict[str, Any]) -> LlavaConfig:
    text, vision = config["text_config"], config["vision_config"]
    if vision.get("model_type", "clip_vision_model") != "clip_vision_model":
        raise InputError(
            f"config.json: vision tower {vision['model_type']!r} is not supported; LLaVA uses clip_vision_model"
        )
    layers = config.get("vision_feature_layer", -2)
    image_token = config.get("image_token_id", config.get("image_token_index", 32000))
    ids = _token_ids({**text, **{k: v for k, v in config.items() if k.endswith("_token_id") and v is not None}})
    # either level ties: transformers copies the text config's value upwards
    tied = any(part.get("tie_word_embeddings") for part in (config, text))
    return LlavaConfig(
        text=_text({**text, "tie_word_embeddings": tied}),
        vision=VisionConfig(
            image_size=vision.get("image_size", 224),
            patch_size=vision.get("patch_size", 32),
            D=vision.get("hidden_size", 768),
            L=vision.get("num_hidden_layers", 12),
            N=vision.get("num_attention_heads", 12),
            F=vision.get("intermediate_size", 3072),
            norm_eps=vision.get("layer_norm_eps", 1e-5),
            activation=vision.get("hidden_act", "quick_gelu"),
            feature_layers=tuple(layers) if isinstance(layers, (list, tuple)) else (layers,),
            select=config.get("vision_feature_select_strategy", "default"),
            pinpoints=_pinpoints(config),
        ),
        image_token_id=image_token,
        projector_activation=config.get("projector_hidden_act", "gelu"),
        projector_bias=config.get("multimodal_projector_bias", True),
        dtype=_dtype({**text, **config}),
        **ids,
    )


def _pinpoints(config: dict[str, Any]) -> tuple[tuple[int, int], ...]:
    if config["model_type"] != "llava_next":
        return ()
    if config.get("use_image_newline_parameter") is False:  # transformers' model has the newline all the same
        raise InputError("config.json: use_image_newline_parameter is false; LLaVA-NeXT without it is not supported")
    given = config.get("image_grid_pinpoints")
    if given is not None and not given:
        raise InputError("config.json: image_grid_pinpoints is empty; LLaVA-NeXT needs at least one resolution")
    return _PINPOINTS if given is None else tuple(tuple(sides) for sides in given)


def _text(config: dict[str, Any]) -> TextConfig:
    if config.get("model_type", "llama") not in _LLAMA_FAMILY:
        raise InputError(
            f"config.json: language model {config['model_type']!r} is not supported; use a Llama-family one"
        )
    if config.get("hidden_act", "silu") != "silu":
        raise InputError(
            f"config.json: hidden_act {config['hidden_act']!r} is not supported; Llama-family models use silu"
        )
    heads = config.get("num_attention_heads", 32)
    width = config.get("hidden_size", 4096)
    is_mistral = config.get("model_type") == "mistral"
    max_positions = config.get("max_position_embeddings", 131072 if is_mistral else 2048)
    rope = _rope(config)
    return TextConfig(
        V=config.get("vocab_size", 32000),
        D=width,
        L=config.get("num_hidden_layers", 32),
        N=heads,
        K=config.get("num_key_value_heads", 8 if is_mistral else None) or heads,
        H=config.get("head_dim") or width // heads,
        F=config.get("intermediate_size", 14336 if is_mistral else 11008),
        norm_eps=config.get("rms_norm_eps", 1e-6),
        rope_theta=float(rope.get("rope_theta", config.get("rope_theta", 10000.0))),
        rope_scaling=_rope_scaling(rope, max_positions),
        max_positions=max_positions,
        tie_embeddings=config.get("tie_word_embeddings", False),
        attention_bias=config.get("attention_bias", False),
        mlp_bias=config.get("mlp_bias", False),
        sliding_window=config.get("sliding_window", 4096) if is_mistral else None,
    )


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """transformers 5 writes `rope_parameters`, transformers 4 `rope_scaling` plus `rope_theta`."""
    return config.get("rope_parameters") or config.get("rope_scaling") or {}


def _rope_scaling(rope: dict[str, Any], max_positions: int) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind not in ("linear", "dynamic", "llama3"):
        raise InputError(f"config.json: rope scaling {kind!r} is not supported; use linear, dynamic or llama3")
    return RopeScaling(
        kind=kind,
        factor=float(rope["factor"]),
        low_freq_factor=float(rope.get("low_freq_factor", 1.0)),
        high_freq_factor=float(rope.get("high_freq_factor", 4.0)),
        original_max_positions=int(rope.get("original_max_position_embeddings") or max_positions),
    )


def _token_ids(config: dict[str, Any]) -> dict[str, Any]:
    eos = config.get("eos_token_id", 2)
    eos_ids = tuple(eos) if isinstance(eos, (list, tuple)) else (() if eos is None else (eos,))
    pad = config.get("pad_token_id")
    return {"bos_id": config.get("bos_token_id", 1), "eos_ids": eos_ids, "pad_id": 0 if pad is None or pad < 0 else pad}


def _dtype(config: dict[str, Any]) -> str:
    name = config.get("dtype") or config.get("torch_dtype") or "float32"
    if name not in ("float32", "bfloat16", "float16"):
        raise InputError(f"config.json: dtype {name!r} is not supported; use float32, bfloat16 or float16")
    return name
