"""The model as a Flax module, for programs that expect `init` and `apply`.

`variables["params"]` is the tree of `param_specs(cfg)`, and `variables["lora"]` (with `lora_rank` > 0) that of
`lora.lora_specs`. Weights of a model folder go in as they are, and what a Flax training loop makes of them can be
saved, converted and served as any other model's. docs/flax.md trains one with plain optax.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlm_mu_jax.model.config import ModelConfig
from vlm_mu_jax.model.lora import adapters, lora_specs
from vlm_mu_jax.model.params import Params, Specs, init_params
from vlm_mu_jax.model.vlm import Batch, Output, forward, param_specs


class FlaxModel(nn.Module):
    """`apply({"params": params}, batch, **options)` is `forward(params, batch, cfg, **options)`.

    With the collection "lora" beside it, the adapters are added in. Without it the same module is the model before
    training: no second copy of the weights is needed for a reference.

    cfg: configuration, e.g. `vlm_mu_jax.load(folder).config`.
    lora_rank: rank of the adapters; 0 for none.
    lora_alpha: adapters are scaled by alpha / rank.
    lora_targets: patterns over the decoder's linears that get an adapter, e.g. ("wq.*", "wv.*").
    param_dtype: dtype of the parameters that `init` draws; adapters are float32.

    Example:
        model = vlm_mu_jax.load("runs/base")
        module = vlm_mu_jax.FlaxModel(model.config, lora_rank=8)
        variables = {"params": model.params, "lora": module.init_lora(jax.random.key(0))}
        logits_BTV = module.apply(variables, batch).logits_BTV
    """

    cfg: ModelConfig
    lora_rank: int = 0
    lora_alpha: float = 16.0
    lora_targets: tuple[str, ...] = (".*",)
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, batch: Batch, **options: Any) -> Output:
        specs = param_specs(self.cfg)
        params = {part: self.param(part, self._draw, declared) for part, declared in specs.items()}
        return forward(params, batch, self.cfg, lora=self._adapters(params), **options)

    @nn.nowrap
    def init_lora(self, key: jax.Array) -> Params:
        """The collection "lora" alone, without drawing the model's parameters: a random, b zero."""
        return init_params(self._lora_specs(), key, jnp.float32)

    def _adapters(self, params: Params) -> dict[str, Any] | None:
        if not self.lora_rank or not (self.is_initializing() or self.has_variable("lora", "decoder")):
            return None
        declared = self._lora_specs()
        pairs = {
            part: self.variable("lora", part, lambda one=one: init_params(one, self.make_rng("params"))).value
            for part, one in declared.items()
        }
        return adapters(pairs, self.lora_alpha / self.lora_rank, params["decoder"]["embed_VD"].dtype)

    @nn.nowrap
    def _lora_specs(self) -> Specs:
        return lora_specs(param_specs(self.cfg), self.lora_targets, self.lora_rank)

    def _draw(self, key: jax.Array, specs: Specs) -> Params:
        return init_params(specs, key, self.param_dtype)
