"""Bytes that a model needs on each device: its shards of the weights, and what a batch of prompts adds to them.

Read from shapes alone, before anything is loaded or compiled. `bin/plan` compiles the programs and is exact.
"""

import math

import jax.numpy as jnp
from jax.sharding import Mesh

from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.model.params import abstract_params, flatten
from vlm_mu_jax.model.vlm import param_specs
from vlm_mu_jax.parallel import rules
from vlm_mu_jax.parallel.mesh import batch_shards

TEXT_TOKENS = 512  # that a prompt is taken to have beside its image
_COPIES = 3  # of an activation, while a block makes the next one


def weight_bytes(cfg: ModelConfig, mesh: Mesh, dtype: str) -> int:
    """Bytes of the largest share of the weights that one device of the mesh holds.

    Raises:
      InputError: a size that an axis of the mesh does not divide; see `rules.partition`.
    """
    specs = param_specs(cfg)
    places = flatten(rules.shardings(specs, mesh))
    leaves = flatten(abstract_params(specs, jnp.dtype(dtype)))
    return sum(math.prod(places[path].shard_shape(leaf.shape)) * leaf.dtype.itemsize for path, leaf in leaves.items())


def generation_bytes(cfg: ModelConfig, dtype: str, mesh: Mesh, rows: int, new_tokens: int) -> int:
    """Bytes per device while `rows` prompts with an image each are answered: weights, keys and values, activations."""
    text, item = cfg.text, jnp.dtype(dtype).itemsize
    rows_here, tensor = -(-rows // batch_shards(mesh)), mesh.shape["tensor"]
    prompt = TEXT_TOKENS + (cfg.vision.most_tokens if cfg.vision else 0)
    cache = 2 * text.L * (prompt + new_tokens) * text.K * text.H * item // tensor
    block = prompt * (2 * text.D + 2 * text.F // tensor) * item * _COPIES
    logits = 2 * text.V * 4 // tensor
    layer = _gathered_layer(cfg, dtype) if mesh.shape["fsdp"] > 1 else 0
    return weight_bytes(cfg, mesh, dtype) + layer // tensor + rows_here * (cache + block + logits)


def _gathered_layer(cfg: ModelConfig, dtype: str) -> int:
    """Bytes of one decoder layer, which is whole on each device while it is used under fsdp."""
    stacked = [spec for spec in flatten(param_specs(cfg)).values() if spec.axes[:1] == ("layers",)]
    return sum(math.prod(spec.shape[1:]) for spec in stacked) * jnp.dtype(dtype).itemsize
