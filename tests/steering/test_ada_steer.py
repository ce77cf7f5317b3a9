"""AdaSteer: what its two regressions make of prompts, and what a guard without them says."""

import numpy as np
import pytest

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.steering import ada_steer, bake
from vlm_mu_jax.steering.extraction import ExtractOptions, extract_guard


def test_answered_harmful_prompts_are_moved_and_no_others():
    rng = np.random.default_rng(0)
    r_D, d_D = np.eye(6)[:2]
    refused_ND, answered_ND, harmless_ND = (
        3 + 0.2 * rng.normal(size=(40, 6)) + at for at in (2 * r_D + 2 * d_D, 2 * d_D, 0 * d_D)
    )
    fitted = ada_steer.fit(r_D[None], d_D[None], refused_ND[None], answered_ND[None], harmless_ND[None])
    states_BD = np.stack([refused_ND.mean(0), answered_ND.mean(0), harmless_ND.mean(0)])
    found_B = ada_steer.coefficients(fitted, r_D[None], d_D[None], states_BD[None])[0]
    np.testing.assert_allclose(found_B, [0, 1, 0], atol=0.1)


def test_what_the_regressions_need_is_said(model, anchors):
    states_LBD = np.zeros((4, 1, 32))
    with pytest.raises(InputError, match="ada_steer"):
        extract_guard(model, anchors, ExtractOptions(layers="1")).using(component="adaptive", gate="none").as_steer(
            states_LBD
        )
    guard = extract_guard(model, anchors, ExtractOptions(method="ada_steer", layers="1"))
    assert guard.options.needs_first_pass and not guard.options.first_pass_reads_text
    with pytest.raises(InputError, match="--gate=none"):
        guard.using(gate="midpoint")
    with pytest.raises(InputError, match="nearest"):
        bake.module_settings(guard)
    with pytest.raises(InputError, match="lost_refusal"):
        extract_guard(model, anchors, ExtractOptions(method="ada_steer", layers="1", blank=None))
