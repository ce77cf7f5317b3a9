"""What bin/plan compiles: the training step of a config, or its model on its mesh that answers, guarded or attacked."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlm_mu_jax.attacks.margin.margin import CandidateRows, score
from vlm_mu_jax.attacks.margin.openings import Node
from vlm_mu_jax.attacks.margin.scoring import candidate_flops, image_flops
from vlm_mu_jax.data import image_settings
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.files.json_file import read_json
from vlm_mu_jax.model import flops
from vlm_mu_jax.model.cache import KV
from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.model.families import from_hf
from vlm_mu_jax.model.families.published import published
from vlm_mu_jax.model.generate import generate_program
from vlm_mu_jax.model.params import abstract_params
from vlm_mu_jax.model.steer import Steer
from vlm_mu_jax.model.vlm import Batch, param_specs
from vlm_mu_jax.parallel import rules
from vlm_mu_jax.parallel.activations import OnMesh
from vlm_mu_jax.parallel.mesh import batch_sharding, batch_shards, make_mesh, replicated
from vlm_mu_jax.planning.training_step import image_arrays, planned_step
from vlm_mu_jax.training.settings import model_config as applied

TEXT_TOKENS, NEW_TOKENS = 128, 128  # of a prompt beside its image; generated
BLOCK, CANDIDATE_TOKENS = 64, 32  # attack: candidates per chip that splits rows; tokens from the word's place on


@dataclasses.dataclass(frozen=True)
class PlannedJob:
    """A program to plan.

    flops: analytic, per run on all chips. unit: what one run is. about: lines for people. tokens: what all chips make
    or score in a run. turns: forward passes that they take for it, prefill aside. Both are 0 for training.
    """

    jitted: Any
    args: tuple
    kwargs: dict[str, Any]
    flops: float
    unit: str
    about: tuple[str, ...]
    tokens: int = 0
    turns: int = 0


def model_config(settings: dict[str, Any]) -> ModelConfig:
    """The model of a config: of the folder `model.init` if it is there, with the images that its image processor makes,
    else of the published one `model.like`."""
    init, like = settings["model"]["init"], settings["model"]["like"]
    file = Path(init) / "config.json"
    if init and file.is_file():
        cfg = from_hf(read_json(file), str(file))
        if cfg.vision is not None and any((file.parent / name).exists() for name in image_settings.FILES):
            cfg = dataclasses.replace(cfg, vision=image_settings.fitted(file.parent, cfg.vision))
    elif like:
        cfg = published(like)
    else:
        raise InputError(
            f"config.model.init: there is no {file}, and config.model.like names no published model to plan with"
        )
    return applied(cfg, settings["model"], "tpu")


def train(settings: dict[str, Any], cfg: ModelConfig, devices: list[Any]) -> PlannedJob:
    """One optimizer update."""
    planned = planned_step(settings, cfg, devices)
    forget = settings["forget_batch_size"]
    about = (
        f"{settings['objective']['name']}: trains {planned.trained:.3g} parameters, {planned.frozen:.3g} frozen",
        f"rows per stream and step {settings['batch_size']}{f' (forget {forget})' if forget else ''}, "
        f"{settings['data']['max_length']} tokens each, {settings['accumulate']} micro-batches; "
        f"mesh {_sizes(planned.mesh)}; remat {cfg.text.remat}; attention {cfg.text.attention}",
    )
    return PlannedJob(planned.step, planned.args, {}, planned.flops, "step", about)


def decode(settings: dict[str, Any], cfg: ModelConfig, devices: list[Any]) -> PlannedJob:
    """Generation for `batch_size` prompts with an image each."""
    return _decode(settings, cfg, devices)


def guard(settings: dict[str, Any], cfg: ModelConfig, devices: list[Any]) -> PlannedJob:
    """The same generation with a guard: a direction and a gate at every layer, decided at the prompt."""
    steer = Steer(*_steer_shapes(cfg, make_mesh(**settings["mesh"], devices=devices)), gated=True)
    return _decode(settings, cfg, devices, steer=steer)


def _steer_shapes(cfg: ModelConfig, mesh: jax.sharding.Mesh) -> list[jax.ShapeDtypeStruct]:
    """Basis, strength, shift, threshold and gate of `model.steer.Steer`, whole on every chip."""
    L, D = cfg.text.L, cfg.text.D
    return [_shape(replicated(mesh), shape, jnp.float32) for shape in ((L, 1, D), (L,), (L, D), (L,), (L, D))]


def _decode(settings: dict[str, Any], cfg: ModelConfig, devices: list[Any], **steering: Steer) -> PlannedJob:
    mesh = make_mesh(**settings["mesh"], devices=devices)
    rows, prompt = settings["batch_size"], TEXT_TOKENS + (cfg.vision.most_tokens if cfg.vision else 0)
    put = functools.partial(_shape, batch_sharding(mesh) if rows % batch_shards(mesh) == 0 else replicated(mesh))
    batch = Batch(put((rows, prompt), jnp.int32), put((rows,), jnp.int32), **image_arrays(cfg, (rows,), prompt, put))
    last = prompt + NEW_TOKENS
    shown = rows if cfg.vision else 0
    cost = flops.decoder_flops(cfg.text, np.full(rows, last), pictures=shown)
    cost += flops.head_flops(cfg.text, rows * NEW_TOKENS)
    return PlannedJob(
        OnMesh(generate_program, mesh),
        (_weights(cfg, mesh), batch),
        {"cfg": cfg, "max_new_tokens": NEW_TOKENS, **steering},
        cost + rows * image_flops(cfg),
        "batch",
        (f"{rows} prompts of {prompt} tokens, {NEW_TOKENS} new tokens each; mesh {_sizes(mesh)}",),
        rows * NEW_TOKENS,
        NEW_TOKENS,
    )


def attack(settings: dict[str, Any], cfg: ModelConfig, devices: list[Any]) -> PlannedJob:
    """One block of candidates of the word search on one question's prefix cache."""
    mesh = make_mesh(**settings["mesh"], devices=devices)
    count, prefix = BLOCK * batch_shards(mesh), TEXT_TOKENS + (cfg.vision.most_tokens if cfg.vision else 0)
    rows, whole = (functools.partial(_shape, place) for place in (batch_sharding(mesh), replicated(mesh)))
    keys = whole((cfg.text.L, prefix, cfg.text.K, cfg.text.H), jnp.dtype(cfg.dtype))
    places = None if cfg.text.sliding_window is None else whole((1, prefix), jnp.int32)
    kv = KV(keys, keys, places, whole((1, prefix), jnp.bool_))
    nodes = (Node((), -1, (cfg.text.V - 1,), ()),)
    tokens, lengths = rows((count, CANDIDATE_TOKENS), jnp.int32), rows((count,), jnp.int32)
    cost = candidate_flops(cfg.text, prefix, np.full(count, prefix + CANDIDATE_TOKENS), nodes)
    return PlannedJob(
        OnMesh(score, mesh),
        (_weights(cfg, mesh), CandidateRows(kv, whole((), jnp.int32), tokens, lengths)),
        {"cfg": cfg, "nodes": nodes},
        cost,
        "block",
        (f"{count} candidates of {CANDIDATE_TOKENS} tokens behind a shared prefix of {prefix}; mesh {_sizes(mesh)}",),
        count * CANDIDATE_TOKENS,
        1,
    )


def _sizes(mesh: jax.sharding.Mesh) -> str:
    return " x ".join(f"{name} {size}" for name, size in mesh.shape.items())


def _weights(cfg: ModelConfig, mesh: jax.sharding.Mesh) -> Any:
    specs = param_specs(cfg)
    places = rules.shardings(specs, mesh)
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        abstract_params(specs, jnp.dtype(cfg.dtype)),
        places,
    )


def _shape(place: Any, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=place)


JOBS: dict[str, Callable[[dict[str, Any], ModelConfig, list[Any]], PlannedJob]] = {
    "train": train,
    "decode": decode,
    "attack": attack,
    "guard": guard,
}
