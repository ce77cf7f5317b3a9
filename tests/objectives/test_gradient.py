"""GA and GradDiff: signs, and the KL term at the reference."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.objectives.fake_policy import FakePolicy, rows, value
from vlm_mu_jax.objectives.gradient import GradDiff, GradientAscent
from vlm_mu_jax.objectives.sft import SFT


def test_signs_and_the_kl_term_at_the_reference(rng):
    head, table = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((4, 9), (9, 4)))
    forget = rows(rng.integers(0, 9, (2, 6)), rng.random((2, 6)) < 0.6)
    retain = rows(rng.integers(0, 9, (2, 6)), rng.random((2, 6)) < 0.6)

    def gradient(objective, streams):
        def run(moving):
            policy = FakePolicy(
                lambda r: moving[r.batch.tokens_BT], lambda h: h @ head, lambda r: table[r.batch.tokens_BT]
            )
            return value(objective, policy, streams)

        return jax.grad(run)(table)

    ascent = gradient(GradientAscent(), {"forget": forget})
    descent = {name: gradient(SFT(), {"train": batch}) for name, batch in (("f", forget), ("r", retain))}
    both = {"forget": forget, "retain": retain}
    np.testing.assert_allclose(ascent, -descent["f"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient(GradDiff(), both), descent["r"] - descent["f"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(gradient(GradDiff(retain_term="kl"), both), ascent, rtol=1e-4, atol=1e-5)
