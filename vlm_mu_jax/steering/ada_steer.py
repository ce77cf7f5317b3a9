"""AdaSteer: steering towards refusal whose strength follows two positions of each prompt.

At a layer, r is the refusal direction, from harmful prompts that are answered to harmful prompts that are refused. d is
the harmfulness direction, from harmless prompts to harmful ones among those that are answered. A prompt's state h has
the positions h r and h d (unit vectors). Two logistic regressions on the anchors' positions give

    p_r(h) = sigmoid(w_r h r + b_r)    how likely a harmful prompt at this place is answered (the rejection law)
    p_d(h) = sigmoid(w_d h d + b_d)    how likely an answered prompt at this place is harmful (the harmfulness law)

and with R the vector of r's full length, the difference of the class means, every written token gets

    h' = h + alpha * p_r R - alpha * (1 - p_d) R = h + alpha * (p_r + p_d - 1) R

The first part makes up for what keeps a harmful prompt from being refused. The second takes it away from harmless ones.
For a harmless prompt that is answered the two cancel.

Source: AdaSteer (arXiv 2504.09466); MuyuenLP/AdaSteer@c9833ed:adasteer/models/For_Steering_LlamaModel_adasteer.py. It
takes both coefficients from an unsteered first pass over the prompt, as here, and the projection of d on r
(`HD/proj.pkl`) as the second vector. Its coefficients are linear in the positions and clipped, with constants for each
model. Four readings are this project's: probabilities in place of those constants; the length R of the second vector;
harmful anchors as text are the refused prompts, and with a blank image the answered ones; both positions are
read at the gate layers, whose mean coefficient serves all steered layers.
"""

import numpy as np


def fit(
    refusal_LD: np.ndarray,
    harm_LD: np.ndarray,
    harmful_LND: np.ndarray,
    harmful_blank_LND: np.ndarray,
    harmless_blank_LND: np.ndarray,
) -> dict[str, list[list[float]]]:
    """The regressions of every layer, [[w, b]] under "refusal" and "harm". JSON-ready."""
    found: dict[str, list[list[float]]] = {"refusal": [], "harm": []}
    for layer, (r_D, d_D) in enumerate(zip(refusal_LD, harm_LD, strict=True)):
        answered_N = harmful_blank_LND[layer]
        found["refusal"].append(_logistic(answered_N @ r_D, harmful_LND[layer] @ r_D))
        found["harm"].append(_logistic(answered_N @ d_D, harmless_blank_LND[layer] @ d_D))
    return found


def coefficients(
    fitted: dict[str, list[list[float]]], refusal_LD: np.ndarray, harm_LD: np.ndarray, states_LBD: np.ndarray
) -> np.ndarray:
    """p_r + p_d - 1 of every layer and row, float64 [L, B]: between -1 and 1."""
    states_LBD = np.asarray(states_LBD, np.float64)
    found_LB = np.full(states_LBD.shape[:2], -1.0)
    for name, axis_LD in (("refusal", refusal_LD), ("harm", harm_LD)):
        w_L, b_L = np.asarray(fitted[name]).T
        logit_LB = w_L[:, None] * np.einsum("lbd,ld->lb", states_LBD, axis_LD) + b_L[:, None]
        found_LB += 1 / (1 + np.exp(-np.clip(logit_LB, -500, 500)))
    return found_LB


def _logistic(yes_N: np.ndarray, no_N: np.ndarray, penalty: float = 1.0) -> list[float]:
    """[w, b] of a logistic regression of one number, with a ridge penalty on w times the numbers' spread."""
    from scipy.optimize import minimize

    x_N, y_N = np.concatenate([yes_N, no_N]), np.repeat([1.0, -1.0], [len(yes_N), len(no_N)])
    centre, spread = x_N.mean(), x_N.std() + 1e-12

    def loss(at: np.ndarray) -> float:
        return float(np.logaddexp(0, -y_N * (at[0] * (x_N - centre) / spread + at[1])).sum() + penalty / 2 * at[0] ** 2)

    w, b = minimize(loss, np.zeros(2), method="BFGS").x
    return [float(w / spread), float(b - w * centre / spread)]
