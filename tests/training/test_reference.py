"""Reference log-probabilities: equal to the direct ones, computed once, found again by content."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.training import tiny
from vlm_mu_jax.model.llava import forward, logits_of
from vlm_mu_jax.objectives import logprobs
from vlm_mu_jax.parallel.mesh import single_device_mesh
from vlm_mu_jax.storage.identity import weights_hash
from vlm_mu_jax.training.reference import reference_nll


def test_computed_once_and_right(params, tmp_path):
    stream, asked = tiny.stream(count=10), []

    def progress(items, label, total=None):
        asked.append(total)
        return items

    def compute(weights=params, chosen=stream):
        return reference_nll(
            weights, chosen, tiny.TEXT, single_device_mesh(), rows_per_batch=4, cache=tmp_path, progress=progress
        )

    first = compute()
    batch = jax.tree.map(jnp.asarray, stream.take(range(10)))
    hidden = forward(params, batch.batch, tiny.TEXT, logits=False).hidden_BTD
    head = lambda x: logits_of(params, x, tiny.TEXT)  # noqa: E731
    want, _ = logprobs.answer_nll(hidden, head, batch.batch.tokens_BT, batch.mask_BT)
    np.testing.assert_allclose(first, want, rtol=1e-5)

    file = next(tmp_path.glob("reference_*.jsonl"))
    file.write_text(file.read_text()[:-20])  # the last line is cut short, as by a crash
    np.testing.assert_array_equal(compute(), first)
    np.testing.assert_array_equal(compute(chosen=tiny.stream(count=12))[:10], first)  # other rows are added
    other = jax.tree.map(lambda x: x * 1.1, params)
    assert np.abs(compute(other) - first).max() > 1e-3
    assert asked == [3, 1, 1, 3]
    assert weights_hash(params) != weights_hash(other) and weights_hash(params) == weights_hash(dict(params))
