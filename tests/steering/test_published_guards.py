"""Published guards by name: each is a valid setting, and means what its paper says."""

import numpy as np
import pytest

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.steering import ada_steer
from vlm_mu_jax.steering.extraction import ExtractOptions, extract_guard
from vlm_mu_jax.steering.hidden_states import last_token_states
from vlm_mu_jax.steering.published_guards import METHODS, published


@pytest.mark.parametrize("name", METHODS)
def test_every_method_makes_a_guard(model, anchors, name):
    guard = extract_guard(model, anchors, ExtractOptions(method=name, layers="1"))
    states_LBD = np.random.default_rng(0).normal(size=(4, 2, 32))
    steer = guard.as_steer(states_LBD)
    basis_MD, h = guard.directions.basis_LMD[1], states_LBD[1]
    own = h @ basis_MD.T @ basis_MD
    shift = np.asarray(steer.shift)[1]
    wanted = {  # what is added to a token whose state is h, where the gate is on
        "vlm_guard": own,
        "vlm_guard_text": own,
        "vlm_guard_projection": -own,
        "tbop": -own,
        "null_steer": own,
        "alpha_steer": 4 * (guard.directions.mean_harmful_LD - guard.directions.mean_harmless_LD)[1],  # times its gate
        "ada_steer": 0.0 * h,
        "activation_addition": guard.directions.mean_harmful_LD[1] - guard.directions.mean_harmless_LD[1],
        "directional_ablation": -own,
        "shiftdc": own - own,
    }
    if name == "ada_steer":
        found_LB = ada_steer.coefficients(
            guard.origin["ada_steer"], guard.directions.basis_LMD[:, 0], guard.gate_LD, states_LBD
        )
        wanted[name] = found_LB[1][:, None] * (guard.directions.mean_harmful_LD - guard.directions.mean_harmless_LD)[1]
    added = float(steer.strength_L[1]) * own + shift
    if name == "cmrm":
        questions = [*anchors.harmful, *anchors.harmless]
        blank = [model.processor.blank_pixels()] * len(questions)
        moved = (last_token_states(model, questions, blank) - last_token_states(model, questions))[1].mean(0)
        assert -shift @ moved > 0.9 * np.linalg.norm(moved) * np.linalg.norm(shift)
    else:
        np.testing.assert_allclose(added, np.broadcast_to(wanted[name], h.shape), atol=1e-4)


def test_an_unknown_method_is_an_input_error():
    with pytest.raises(InputError, match="use one of"):
        published("vlm_guard_2")
