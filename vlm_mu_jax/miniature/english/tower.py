"""The English world's vision tower: it learns to say what a sign is in the language model's own word vectors.

A caption such as "a red circle, a red circle, ..." has one token for every image token. Tower and projector are trained
so that image token i is the embedding of caption token i, and the language model reads a sign as it reads the words. It
does not run meanwhile, so this costs seconds.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vlm_mu_jax.miniature import world as w
from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.model.params import Params
from vlm_mu_jax.model.vlm import encode_images
from vlm_mu_jax.progress import Progress

STEPS, BATCH, LEARNING_RATE, DRAWINGS = 600, 64, 2e-3, 24
PARTS = ("vision", "projector")


def train_tower(
    params: Params, cfg: ModelConfig, processor: Any, seed: int, progress: Progress | None = None, steps: int = STEPS
) -> Params:
    """The parameters with another tower and projector.

    Args:
      processor: tokenizer and image settings (`data.prompts.Processor`).
      seed: draws signs and batches.
      progress: shown over steps; None is silent.
    """
    pixels_NHWC, captions_NP = _signs(processor, cfg.vision.P, np.random.default_rng((seed, 7)))
    embed_VD = jnp.asarray(params["decoder"]["embed_VD"], jnp.float32)
    scale = embed_VD.std()
    optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, steps, 0.02))

    def loss(part: Params, pixels_BHWC: jax.Array, captions_BP: jax.Array) -> jax.Array:
        features_BPD = encode_images({**params, **part}, pixels_BHWC[:, None], cfg)
        return jnp.mean(((features_BPD - embed_VD[captions_BP]) / scale) ** 2)

    @jax.jit
    def update(part: Params, state: Any, pixels_BHWC: jax.Array, captions_BP: jax.Array) -> tuple[Params, Any]:
        changes, state = optimizer.update(jax.grad(loss)(part, pixels_BHWC, captions_BP), state)
        return optax.apply_updates(part, changes), state

    part = {name: params[name] for name in PARTS}
    state, rng = optimizer.init(part), np.random.default_rng((seed, 8))
    numbers = range(steps)
    for _ in progress(numbers, "english: tower", steps) if progress else numbers:
        chosen = rng.integers(len(pixels_NHWC), size=BATCH)
        part, state = update(part, state, pixels_NHWC[chosen], captions_NP[chosen])
    return {**params, **part}


def _signs(processor: Any, P: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Drawn signs [N, H, W, 3] and the caption of each as P token ids [N, P]."""
    pixels, captions = [], []
    for shape in w.SHAPES:
        for colour in w.COLOURS:
            ids = processor.tokenizer(f" a {colour} {shape}," * P, add_special_tokens=False)["input_ids"][:P]
            for _ in range(DRAWINGS):
                pixels.append(processor.pixels(w.draw_sign(shape, colour, rng)))
                captions.append(ids)
    return np.stack(pixels), np.asarray(captions)
