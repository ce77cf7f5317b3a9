"""Which token is picked, against the plain definitions."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vlm_mu_jax.model.sampling import likeliest, nucleus

LOGITS = hnp.arrays(np.float32, (3, 7), elements=st.sampled_from([-np.inf, -1.0, 0.0, 1.0]))


@given(LOGITS)
def test_the_likeliest_token_is_that_of_argmax(logits):
    """Of a row without any finite logit it is the first token too."""
    np.testing.assert_array_equal(likeliest(jnp.asarray(logits)), logits.argmax(axis=1))


@pytest.mark.parametrize("top_p, kept", [(0.0, 1), (0.5, 1), (0.51, 2), (0.8, 2), (0.81, 3), (1.0, 4)])
def test_the_nucleus_is_the_smallest_set_that_reaches_top_p(top_p, kept):
    shares = np.array([[0.2, 0.5, 0.0, 0.3]])  # token 2 has no mass and stays out of all but the whole
    with np.errstate(divide="ignore"):
        logits = jnp.asarray(np.log(shares), jnp.float32)
    order = [1, 3, 0, 2][:kept]
    for one in (top_p, jnp.full((1, 1), top_p)):
        inside = np.flatnonzero(np.isfinite(nucleus(logits, one))[0])
        assert set(inside) == set(order) - {2}
