"""The refusal margin by its definition, for the tests: one whole prompt at a time, no shared cache, no tree."""

import jax
import jax.numpy as jnp
import numpy as np

from vlm_mu_jax.data.placing import Placed, place
from vlm_mu_jax.model.vlm import Batch, forward

LONGEST = 96  # tokens of any prompt in these tests: one shape, so that few programs are compiled
full_forward = jax.jit(forward, static_argnames=("cfg", "keep_cache"))


def prompt_ids(processor, question, word, position, mode, images, context=None):
    """What a server would tokenise: the whole text, the answer's start included."""
    placed = Placed(question) if word is None else place(question, word, position, mode)
    text = processor.prompt_text(placed.question, images, placed.answer_start, context)
    return processor.tokenizer(text)["input_ids"]


def margin(
    model, question, word, image, openings, position="question_start", mode="swap", steer=None, lora=None, context=None
):
    """log p / (1 - p), p = the sum of every opening's probability; word None = the unchanged prompt.

    image: pixels [H, W, 3], of several images [M, H, W, 3], or None.
    The prompt is one forward of batch 1. The opening's tokens follow it as an answer would: with the gates decided on
    the prompt, and steered only by a guard whose scope is "all".
    """
    pixels = None if image is None else (image if image.ndim == 4 else image[None])[None]
    ids = prompt_ids(model.processor, question, word, position, mode, 0 if pixels is None else pixels.shape[1], context)
    row = np.array([ids + [0] * (LONGEST - len(ids))], np.int32)
    start = full_forward(
        model.params,
        Batch(row, np.array([len(ids)], np.int32), pixels),
        model.config,
        steer=steer,
        lora=lora,
        keep_cache=True,
    )
    answer_steer = steer.replace(gate_LB=start.gate_LB) if steer is not None and steer.scope == "all" else None

    def logp(prefix):
        out, last = start, len(ids) - 1
        if prefix:
            batch = Batch(np.array([prefix], np.int32), np.array([len(prefix)], np.int32))
            out = full_forward(
                model.params,
                batch,
                model.config,
                steer=answer_steer,
                lora=lora,
                past=(start.cache,),
                offset_B=jnp.array([len(ids)], jnp.int32),
            )
            last = len(prefix) - 1
        return np.asarray(jax.nn.log_softmax(out.logits_BTV[0, last]), np.float64)

    p = sum(np.exp(sum(logp(o[:i])[t] for i, t in enumerate(o))) for o in openings.refusal)
    return np.log(p) - np.log1p(-p)
