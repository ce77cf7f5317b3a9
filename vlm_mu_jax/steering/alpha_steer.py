"""AlphaSteer: a direction added in proportion to a linear map of the state, which benign states hardly pass.

With one refusal vector r per layer, X the states of harmful prompts and P the projection onto the part of the space
that benign states use least, the method fits a matrix by ridge regression and adds what it makes of a state:

    Delta = argmin |X P Delta - 1 r^T|^2 + lambda |P Delta|^2,    h' = h + alpha * h P Delta

All rows of the target are r, so P Delta has rank one. It is w r^T with

    w = P (P X^T X P + lambda P)^+ P X^T 1,    h' = h + alpha * (h w) r

h w is about 0 for a benign state. For a harmful one it nears 1 where lambda is small beside the squares of the
projected states. In models whose states are small it stays far below 1, and alpha has to make up for it.

h w is the gate `linear`; the operator is `add`. As in the published code, h is the state of the prompt's last token,
and its part is added to every token that the scope writes.

Source: AlphaSteer (arXiv 2506.07022); pngado/AlphaSteer-Next@6077f8a:src/calc_steering_matrix.py (lambda 10, P from
the smallest singular vectors, a share 0.3 to 0.6 of the width) and @80e30ee:src/AlphaSteerModel/AlphaLlama.py. Three
readings are this project's: r is the difference of the anchors' class means, states with a blank image stand beside
those of the text, and layers count block outputs (the published code steers block inputs).
"""

import numpy as np

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.steering.shapes import check_shapes

RIDGE, NULL_SHARE = 10.0, 0.5


def gate_rows(
    harmful_LND: np.ndarray, benign_LKD: np.ndarray, *, ridge: float = RIDGE, null_share: float = NULL_SHARE
) -> np.ndarray:
    """The vector w of every layer, float64 [L, D], not of unit length.

    Args:
      harmful_LND: last-token states of harmful prompts.
      benign_LKD: last-token states of prompts that are to be left alone.
      ridge: lambda. It has the unit of squared states.
      null_share: share of the width that counts as unused by benign states.

    Raises:
      InputError: the share leaves no dimension.
    """
    check_shapes(harmful_LND=harmful_LND)
    check_shapes(benign_LKD=benign_LKD)
    harmful_LND, benign_LKD = np.asarray(harmful_LND, np.float64), np.asarray(benign_LKD, np.float64)
    D = harmful_LND.shape[2]
    dims = int(D * null_share)
    if not 1 <= dims <= D:
        raise InputError(f"a null space of a share {null_share} of width {D} has no dimension; use for example 0.5")
    found = []
    for harmful_ND, benign_KD in zip(harmful_LND, benign_LKD, strict=True):
        axes_RD = np.linalg.eigh(benign_KD.T @ benign_KD)[1].T[:dims]  # the directions with least benign energy
        x_NR = harmful_ND @ axes_RD.T
        found.append(np.linalg.solve(x_NR.T @ x_NR + ridge * np.eye(dims), x_NR.sum(0)) @ axes_RD)
    return np.stack(found)
