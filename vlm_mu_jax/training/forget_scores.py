"""How much each forget record says to the model: its loss, or the norm of its gradient (GraNd, arXiv 2107.07075)."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import Array

from vlm_mu_jax.data.batches import Stream, TrainBatch, bucket_lengths
from vlm_mu_jax.data.records import Record
from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.params import Params
from vlm_mu_jax.parallel.activations import OnMesh
from vlm_mu_jax.progress import Progress
from vlm_mu_jax.storage.model_folder import Model
from vlm_mu_jax.training.model_policy import ModelPolicy
from vlm_mu_jax.training.sources import tokenised


def score(
    model: Model,
    records: Sequence[Record],
    root: Path,
    by: str,
    *,
    max_length: int = 2048,
    buckets: int = 4,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Scores by record id, one record at a time (gradients of a batch are not those of its rows).

    Args:
      root: folder the image paths are relative to.
      by: "loss", the mean negative log-likelihood of an answer token in nats, or "gradient_norm", the 2-norm of its
        gradient over all decoder weights. Means over tokens, so that long answers are not favoured for their length.
      max_length: tokens of a row; longer answers are cut.
      buckets: lengths that rows are padded to; each costs a compilation.

    Raises InputError for a record whose prompt leaves no room for an answer.
    """
    rows, _ = tokenised(records, {r.source: root for r in records}, model.processor, max_length)
    missing = [r.id for i, r in enumerate(records) if i not in rows]
    if missing:
        raise InputError(f"{missing[0]}: its prompt leaves no room for an answer within {max_length} tokens")
    lengths = bucket_lengths(list(rows.values()), buckets)
    stream = Stream(
        list(rows.values()),
        1,
        0,
        name="forget",
        load_image=model.processor.pixels,
        lengths=lengths,
        image_token_id=model.config.image_token_id,
    )

    def loss(decoder: Params, params: Params, batch: TrainBatch) -> Array:
        nll_B, tokens_B = ModelPolicy({**params, "decoder": decoder}, None, None, model.config, {}).nll(batch)
        return nll_B.sum() / tokens_B.sum()

    def gradient_norm(decoder: Params, params: Params, batch: TrainBatch) -> Array:
        gradients = jax.tree.leaves(jax.grad(loss)(decoder, params, batch))
        return jnp.sqrt(sum(jnp.sum(jnp.square(g.astype(jnp.float32))) for g in gradients))

    measure = OnMesh(jax.jit({"loss": loss, "gradient_norm": gradient_norm}[by]))
    show = progress or (lambda items, label, total=None: items)
    order = show(range(len(records)), by.replace("_", " "), len(records))
    params = model.params
    return {records[i].id: float(measure(params["decoder"], params, stream.take([i]))) for i in order}
