"""A wrong shape is one line that names the argument."""

import dataclasses

import numpy as np
import pytest

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.steering import gates, operators
from vlm_mu_jax.steering.directions import difference_of_means
from vlm_mu_jax.steering.shapes import check_shapes

BASIS_LMD = np.zeros((4, 2, 8))


def test_one_letter_has_one_size_in_all_arrays():
    check_shapes(basis_LMD=BASIS_LMD, gate_LD=np.zeros((4, 8)), nothing_LM=None, list_L=[0, 0, 0, 0])
    with pytest.raises(InputError, match=r"gate_LD has shape \[4, 7\]; it must be \[L, D\] with L = 4, D = 8"):
        check_shapes(basis_LMD=BASIS_LMD, gate_LD=np.zeros((4, 7)))
    with pytest.raises(InputError, match=r"basis_LMD has shape \[4, 8\]; it must be \[L, M, D\]$"):
        check_shapes(basis_LMD=np.zeros((4, 8)))


def test_public_functions_name_the_argument(planted):
    harmful, harmless, _ = planted()
    found = difference_of_means(harmful, harmless)
    steer = operators.amplify(BASIS_LMD, 1.0, (1,))
    wrong = {
        "basis_LMD": lambda: operators.project_out(np.zeros((4, 8)), (1,)),
        "unit_L": lambda: operators.add(BASIS_LMD, 1.0, np.ones(3), (1,)),
        "component_LBM": lambda: operators.amplify(BASIS_LMD, 1.0, (1,), component_LBM=np.ones((4, 5, 3))),
        "threshold_L": lambda: gates.per_layer(steer, np.zeros(3)),
        "gate_LD": lambda: gates.per_layer(steer, np.zeros(4), np.zeros((4, 9))),
        "states_LBD|gate_LD": lambda: gates.per_example(gates.per_layer(steer, np.zeros(4)), np.zeros((4, 5, 9))),
        "states_LND": lambda: found.scores(np.zeros((3, 5, 23))),
        "mean_harmful_LD": lambda: dataclasses.replace(found, mean_harmful_LD=np.zeros((3, 23))),
    }
    for name, call in wrong.items():
        with pytest.raises(InputError, match=rf"^({name}) has shape"):
            call()
