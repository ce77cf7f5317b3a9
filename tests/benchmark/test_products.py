"""What is counted as the products of an answer: every map for the prompts, the head once, both for every new token."""

import dataclasses

import jax.numpy as jnp
import pytest

from tests.model.tiny import TEXT_ONLY, random_params
from vlm_mu_jax.benchmark import products


class Model:
    def __init__(self, cfg):
        self.config, self.params = cfg, random_params(cfg)


@pytest.mark.parametrize("tied", [True, False])
def test_every_map_and_the_head_are_counted_at_their_rows(tied, monkeypatch):
    cfg, seen = dataclasses.replace(TEXT_ONLY, text=dataclasses.replace(TEXT_ONLY.text, tie_embeddings=tied)), []

    def weights(maps, rows):
        seen.extend(maps)
        return rows * sum(w.size for w in maps)

    monkeypatch.setattr(products, "_seconds", weights)
    found = products.answer_seconds(Model(cfg), prompt_tokens=5, rows=3, new_tokens=2)
    t = cfg.text
    maps = t.L * (t.D * t.H * (2 * t.N + 2 * t.K) + 3 * t.D * t.F)
    head = t.D * t.V
    assert found == 5 * maps + 3 * head + 2 * 3 * (maps + head)
    inputs = {w.shape[0]: jnp.ones((3, w.shape[0])) for w in seen}
    assert [y.shape for y in products._products(seen, inputs)] == [(3, w.shape[1]) for w in seen]
