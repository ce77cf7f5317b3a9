"""A policy whose log-probabilities are given: objectives are tested without a model."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp

from vlm_mu_jax.objectives import logprobs


def rows(tokens, mask, lengths=None, reference=None):
    """What an objective reads of a training batch."""
    tokens, mask = jnp.asarray(tokens), jnp.asarray(mask, bool)
    lengths = jnp.full((tokens.shape[0],), tokens.shape[1]) if lengths is None else jnp.asarray(lengths)
    batch = SimpleNamespace(tokens_BT=tokens, lengths_B=lengths)
    return SimpleNamespace(batch=batch, mask_BT=mask, reference_nll_B=reference)


@dataclasses.dataclass
class FakePolicy:
    """hidden_of: rows -> hidden; head: hidden -> logits; reference_of: hidden before training."""

    hidden_of: Any
    head: Any = None
    reference_of: Any = None
    constants: dict = dataclasses.field(default_factory=dict)
    image_token_id: int | None = 99

    def nll(self, r):
        return logprobs.answer_nll(self.hidden_of(r), self.head, r.batch.tokens_BT, r.mask_BT)

    def kl(self, r):
        return logprobs.answer_kl(self.hidden_of(r), self.head, self.reference_of(r), self.head, r.mask_BT)

    def hidden(self, r, layer):
        return self.hidden_of(r)

    def reference_hidden(self, r, layer):
        return self.reference_of(r)


def value(objective, policy, streams):
    """The objective's loss on whole batches."""
    totals = objective.denominators(streams, policy.image_token_id)
    return objective.loss(policy, streams, totals)[0]
