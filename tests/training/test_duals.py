"""The dual retain weight: it follows its rule from step to step and survives a crash."""

import numpy as np
import pytest

from tests.training import tiny
from tests.training.test_loop import Faulty
from vlm_mu_jax.objectives.registry import make_objective
from vlm_mu_jax.training.duals import with_duals
from vlm_mu_jax.training.optimizer import OptimConfig, make_optimizer
from vlm_mu_jax.training.trainable import Selection

STEPS, RATE, LIMIT = 4, 2.0, 2.5
PDU = make_objective("pdu", retain_weight=0.5, retain_limit=LIMIT, dual_rate=RATE, dual_warmup=1)


def run(params, workdir, streams, accumulate=1):
    return tiny.fit(
        PDU,
        params,
        STEPS,
        streams,
        trainable=Selection.of(select=["decoder/norm_D"]),
        workdir=workdir,
        checkpoint_every=2,
        accumulate=accumulate,
    ).metrics


def test_it_follows_the_excess_after_the_warm_up_and_resumes_where_it_was(params, tmp_path):
    straight = run(params, tmp_path / "a", tiny.streams(PDU))
    dual, nll = straight["retain_dual"], straight["retain_nll"]
    np.testing.assert_allclose(dual[:2], 0.5, rtol=1e-6)  # the first update comes after the warm-up
    for k in (1, 2):
        np.testing.assert_allclose(dual[k + 1], max(0.0, dual[k] + RATE * (nll[k] - LIMIT)), rtol=1e-5)
    assert dual[3] != dual[1]

    def crash():
        raise KeyboardInterrupt

    broken = {**tiny.streams(PDU), "retain": Faulty(tiny.streams(PDU)["retain"], 3, crash)}
    with pytest.raises(KeyboardInterrupt):
        run(params, tmp_path / "b", broken)
    resumed = run(params, tmp_path / "b", tiny.streams(PDU))
    np.testing.assert_array_equal(resumed["retain_dual"], dual[2:])
    split = run(params, None, tiny.streams(PDU), accumulate=2)
    np.testing.assert_allclose(split["retain_dual"], dual, rtol=1e-4)


def test_objectives_without_duals_keep_their_optimizer():
    optimizer = make_optimizer(OptimConfig(1e-2), 3)
    assert with_duals(optimizer, make_objective("npo")) is optimizer
