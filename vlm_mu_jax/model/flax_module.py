"""A Flax module over the functional core, for programs that expect `init` and `apply`.

`variables["params"]` is the very tree of `param_specs(cfg)`: weights of a model folder go in as they are, and what a
Flax training loop makes of them can be saved, converted and served as any other model.

Example:
    model = vlm_mu_jax.load("runs/base")
    output = LlavaModule(model.config).apply({"params": model.params}, batch)
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlm_mu_jax.model.config import LlavaConfig
from vlm_mu_jax.model.llava import Batch, Output, forward, param_specs
from vlm_mu_jax.model.params import Params, Specs, init_params


class LlavaModule(nn.Module):
    """`apply({"params": params}, batch, **options)` is `forward(params, batch, cfg, **options)`.

    param_dtype: dtype of the parameters that `init` draws.
    """

    cfg: LlavaConfig
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, batch: Batch, **options: Any) -> Output:
        params = {part: self.param(part, self._draw, specs) for part, specs in param_specs(self.cfg).items()}
        return forward(params, batch, self.cfg, **options)

    def _draw(self, key: jax.Array, specs: Specs) -> Params:
        return init_params(specs, key, self.param_dtype)
