"""A tiny LLaVA whose weights are all random, and rows of every shape: images in front, in the middle, several, none."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from vlm_mu_jax.model.config import ModelConfig, TextConfig
from vlm_mu_jax.model.connectors import mlp
from vlm_mu_jax.model.families import llava
from vlm_mu_jax.model.params import flatten, unflatten
from vlm_mu_jax.model.towers import clip
from vlm_mu_jax.model.vlm import Batch, forward, param_specs


def clip_vision(*, pinpoints=(), **tower):
    """The vision side of a LLaVA: a CLIP tower of these fields, the usual connector, tiles with pinpoints."""
    return llava.vision(clip.Clip(**tower), mlp.Mlp(newline=bool(pinpoints)), pinpoints)


IMAGE, PAD, EOS = 30, 0, 29
TEXT = TextConfig(V=31, D=16, L=3, N=4, K=2, H=8, F=24)
VISION = clip_vision(image_size=8, patch_size=4, D=12, L=2, N=3, F=20)
LLAVA = ModelConfig(TEXT, VISION, image_token_id=IMAGE, eos_ids=(), pad_id=PAD)
TEXT_ONLY = ModelConfig(TEXT, pad_id=PAD)

run = jax.jit(forward, static_argnames=("cfg", "tap", "upto", "keep_cache", "logits", "last_only"))


def text_cfg(**fields):
    return dataclasses.replace(LLAVA, text=dataclasses.replace(TEXT, **fields))


def random_params(cfg, seed=0):
    """Every leaf drawn, biases and norms too, so that each of them moves the output; logits are of order 1."""
    rng = np.random.default_rng(seed)

    def draw(spec):
        noise = rng.normal(size=spec.shape)
        return jnp.asarray(1 + 0.2 * noise if spec.init == "ones" else 0.3 * noise, jnp.float32)

    return unflatten({path: draw(spec) for path, spec in flatten(param_specs(cfg)).items()})


def words(rng, count):
    return [int(i) for i in rng.integers(1, EOS, count)]


def mixed_rows(seed=0):
    """(ids, images): rows of different lengths and images."""
    rng, image = np.random.default_rng(seed), [IMAGE] * VISION.P
    rows = [
        words(rng, 2) + image + words(rng, 3),
        words(rng, 4),
        image + words(rng, 1) + image + words(rng, 2),
        image + words(rng, 6),
    ]
    return rows, [[pixels(rng) for _ in range(row.count(IMAGE) // VISION.P)] for row in rows]


def pixels(rng):
    return rng.normal(size=(VISION.image_size, VISION.image_size, 3)).astype(np.float32)


def pad(rows, images=None, T=None, fill=PAD):
    """Right-padded with `fill`."""
    T = T or max(len(row) for row in rows)
    tokens = np.full((len(rows), T), fill, np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    lengths = np.array([len(row) for row in rows], np.int32)
    most = max((len(one) for one in images or ()), default=0)
    if not most:
        return Batch(jnp.asarray(tokens), jnp.asarray(lengths))
    stack = np.zeros((len(rows), most, VISION.image_size, VISION.image_size, 3), np.float32)
    for i, row_images in enumerate(images):
        for j, one in enumerate(row_images):
            stack[i, j] = one
    return Batch(jnp.asarray(tokens), jnp.asarray(lengths), jnp.asarray(stack))


def text_batch(seed=0, B=2, T=7, lengths=None):
    rng = np.random.default_rng(seed)
    lengths = [T] * B if lengths is None else lengths
    return pad([words(rng, n) for n in lengths], T=T)
