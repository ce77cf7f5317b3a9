"""The model as objectives see it: log-probabilities and activations of the weights in training and before it."""

import dataclasses
from typing import Any

import jax
from jax import Array

from vlm_mu_jax.data.batches import TrainBatch
from vlm_mu_jax.model.config import LlavaConfig
from vlm_mu_jax.model.llava import forward, logits_of
from vlm_mu_jax.model.params import Params
from vlm_mu_jax.objectives import logprobs


@dataclasses.dataclass(frozen=True)
class ModelPolicy:
    """`vlm_mu_jax.objectives.policy.Policy` over the real model. reference: weights before training, when needed."""

    params: Params
    lora: dict[str, Any] | None
    reference: Params | None
    cfg: LlavaConfig
    constants: dict[str, Array]

    @property
    def image_token_id(self) -> int | None:
        return self.cfg.image_token_id

    def nll(self, rows: TrainBatch) -> tuple[Array, Array]:
        hidden = forward(self.params, rows.batch, self.cfg, lora=self.lora, logits=False).hidden_BTD
        return logprobs.answer_nll(hidden, self._head(self.params), rows.batch.tokens_BT, rows.mask_BT)

    def kl(self, rows: TrainBatch) -> tuple[Array, Array]:
        hidden = forward(self.params, rows.batch, self.cfg, lora=self.lora, logits=False).hidden_BTD
        before = jax.lax.stop_gradient(forward(self.reference, rows.batch, self.cfg, logits=False).hidden_BTD)
        return logprobs.answer_kl(hidden, self._head(self.params), before, self._head(self.reference), rows.mask_BT)

    def hidden(self, rows: TrainBatch, layer: int) -> Array:
        return forward(self.params, rows.batch, self.cfg, lora=self.lora, upto=layer).hidden_BTD

    def reference_hidden(self, rows: TrainBatch, layer: int) -> Array:
        return forward(self.reference, rows.batch, self.cfg, upto=layer).hidden_BTD

    def _head(self, params: Params) -> logprobs.Head:
        return lambda hidden: logits_of(params, hidden, self.cfg)
