"""A policy whose log-probabilities are given: objectives are tested without a model."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp

from vlm_mu_jax.objectives import logprobs
from vlm_mu_jax.objectives.objective import Objective
from vlm_mu_jax.objectives.reading import Reading

IMAGE = 99


def rows(tokens, mask, lengths=None, reference=None):
    """What an objective reads of a training batch."""
    tokens, mask = jnp.asarray(tokens), jnp.asarray(mask, bool)
    lengths = jnp.full((tokens.shape[0],), tokens.shape[1]) if lengths is None else jnp.asarray(lengths)
    batch = SimpleNamespace(tokens_BT=tokens, lengths_B=lengths)
    reference = None if reference is None else jnp.asarray(reference, jnp.float32)
    return SimpleNamespace(batch=batch, mask_BT=mask, reference_nll_B=reference)


@dataclasses.dataclass
class FakePolicy:
    """hidden_of: rows -> hidden; head: hidden -> logits; reference_of: hidden before training."""

    hidden_of: Any
    head: Any = None
    reference_of: Any = None
    constants: dict = dataclasses.field(default_factory=dict)
    image_token_id: int | None = IMAGE

    def read(self, streams, reads):
        return {name: self._one(streams[name], read) for name, read in reads.items()}

    def nll(self, r):
        return logprobs.answer_nll(self.hidden_of(r), self.head, r.batch.tokens_BT, r.mask_BT)[0]

    def _one(self, r, read):
        before = jax.lax.stop_gradient(self.reference_of(r)) if read.needs_reference else None
        sums = {}
        if read.tokens:
            known = None if before is None else (before, self.head)
            found = logprobs.answer_sums(self.hidden_of(r), self.head, r.batch.tokens_BT, r.mask_BT, read.tokens, known)
            sums = dict(zip(read.tokens, found, strict=True))
        hidden = {layer: self.hidden_of(r) for layer in read.layers}
        return Reading(sums, hidden, dict.fromkeys(read.layers, before) if read.reference else {})


def value(objective, policy, streams):
    """The loss of an objective, or of one term with weight 1, on whole batches."""
    if not isinstance(objective, Objective):
        objective = Objective(((1.0, objective),))
    totals = objective.denominators(streams, policy.image_token_id)
    return objective.loss(policy, streams, totals)[0]
