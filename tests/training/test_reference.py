"""Reference log-probabilities: equal to the direct ones, computed once, found again by content."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.training import tiny
from vlm_mu_jax.model.vlm import forward, logits_of
from vlm_mu_jax.objectives import logprobs
from vlm_mu_jax.objectives.registry import make_objective
from vlm_mu_jax.parallel.mesh import single_device_mesh
from vlm_mu_jax.storage.identity import weights_hash
from vlm_mu_jax.training.reference import reference_nll, rows_of_steps
from vlm_mu_jax.training.trainable import Selection


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


def test_only_the_rows_of_the_steps_are_computed(params):
    stream, mesh = tiny.stream(count=20, batch=4), single_device_mesh()
    rows = rows_of_steps(stream, 2)
    assert rows == sorted({*stream.indices(0).tolist(), *stream.indices(1).tolist()}) and len(rows) == 8
    assert rows_of_steps(stream, 10**9) == list(range(20))
    some = reference_nll(params, stream, tiny.TEXT, mesh, rows_per_batch=8, rows=rows)
    every = reference_nll(params, stream, tiny.TEXT, mesh, rows_per_batch=4)
    assert np.flatnonzero(np.isfinite(some)).tolist() == rows
    np.testing.assert_allclose(some[rows], every[rows], rtol=1e-6)


def test_a_run_pays_for_the_references_of_its_own_steps_in_few_passes(params, tmp_path):
    objective, passes = make_objective("npo"), {}

    def progress(items, label, total=None):
        passes[label] = total
        return items

    streams = {name: tiny.stream(count=64, batch=4, name=name) for name in objective.streams}
    tiny.fit(
        objective, params, 3, streams, progress=progress, workdir=tmp_path, trainable=Selection(("decoder/norm_D",))
    )
    lines = next(tmp_path.glob("reference_*.jsonl")).read_text().splitlines()
    assert len(lines) == 12 and passes["reference forget"] == 1  # 3 steps of 4 rows, in one pass
