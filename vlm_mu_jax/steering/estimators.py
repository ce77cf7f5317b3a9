"""Estimators: ways to take directions from states, by name. The default, `svd`, is in `directions`.

    svd          top right singular vectors of the uncentred paired differences (VLM-Guard, the pairs of RepE)
    means        difference of the class means (refusal_direction)
    pca          principal components of the centred states of both classes together (the paper's Figure 2)
    lda          Fisher's discriminant, with the within-class covariance shrunk towards a sphere
    probe        weights of a logistic regression with a ridge penalty
    image_shift  what an image adds: uncentred SVD of (with a blank image) - (text only), both classes (TBOP, CMRM)
    lost_refusal difference of the means of the harmful prompts: (text only) - (with a blank image) (AdaSteer)
    null_space   svd within the null space of the benign states (NullSteer): linear operators along it leave benign
                 states as they are

"+" is the harmful side. For image_shift it is the side of the image, for lost_refusal that of the text.

lda and probe tell the classes apart best, which is what a gate needs. What moves a model from one class to the other is
the difference of the means.
"""

import numpy as np

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.steering.directions import Directions, difference_of_means, paired_svd
from vlm_mu_jax.steering.shapes import check_shapes

ESTIMATORS = ("svd", "means", "pca", "lda", "probe", "image_shift", "lost_refusal", "null_space")
RANK_ONE = ("means", "lda", "probe", "lost_refusal")
PAIRED = ("svd", "null_space")


def estimate(
    name: str, harmful_LND: np.ndarray, harmless_LND: np.ndarray, *, rank: int = 1, blank_LKD: np.ndarray | None = None
) -> Directions:
    """Directions of every layer.

    Args:
      name: one of `ESTIMATORS`.
      harmful_LND, harmless_LND: states of the anchors, in pairs for the estimators in `PAIRED`.
      rank: directions per layer; the estimators in `RANK_ONE` have one.
      blank_LKD: states of the same prompts with a blank image, harmful ones first. image_shift and lost_refusal need
        them; null_space takes those of the harmless prompts as further benign states.

    Raises:
      InputError: an unknown name, a rank that the estimator has not, or states that give no direction.
    """
    if name not in ESTIMATORS:
        raise InputError(f"estimator {name!r} is unknown; use one of {', '.join(ESTIMATORS)}")
    if name in RANK_ONE and rank != 1:
        raise InputError(f"estimator {name} gives one direction, not {rank}; use --rank=1 or --estimator=svd")
    check_shapes(harmful_LND=harmful_LND)
    check_shapes(harmless_LND=harmless_LND, blank_LKD=blank_LKD)
    harmful_LND, harmless_LND = np.asarray(harmful_LND, np.float64), np.asarray(harmless_LND, np.float64)
    if name == "svd":
        return paired_svd(harmful_LND, harmless_LND, rank)
    if name == "means":
        return difference_of_means(harmful_LND, harmless_LND)
    if name == "image_shift":
        if blank_LKD is None:
            raise InputError("estimator image_shift needs a model with vision; use svd")
        return paired_svd(blank_LKD, np.concatenate([harmful_LND, harmless_LND], axis=1), rank)
    if name == "lost_refusal":
        if blank_LKD is None:
            raise InputError("estimator lost_refusal needs a model with vision; use means")
        return difference_of_means(harmful_LND, np.asarray(blank_LKD, np.float64)[:, : harmful_LND.shape[1]])
    if name == "null_space":
        with_image = [] if blank_LKD is None else [np.asarray(blank_LKD, np.float64)[:, harmful_LND.shape[1] :]]
        return null_space(harmful_LND, harmless_LND, np.concatenate([harmless_LND, *with_image], axis=1), rank)
    rows_of = {"pca": lambda a, b: _pca(a, b, rank), "lda": _lda, "probe": _probe}[name]
    rows = [rows_of(a, b) for a, b in zip(harmful_LND, harmless_LND, strict=True)]
    return _from_rows(rows, harmful_LND, harmless_LND)


def null_space(
    harmful_LND: np.ndarray, harmless_LND: np.ndarray, benign_LKD: np.ndarray, rank: int = 1, energy: float = 0.999
) -> Directions:
    """SVD of the paired differences after the benign subspace is taken out of them.

    The benign subspace of a layer holds the leading right singular vectors of `benign_LKD`, uncentred, that carry a
    share `energy` of its squares.

    Raises InputError when nothing is left at some layer.
    """
    rows = []
    for layer, benign_KD in enumerate(np.asarray(benign_LKD, np.float64)):
        _, values, axes = np.linalg.svd(benign_KD, full_matrices=False)
        kept = axes[: int(np.searchsorted(np.cumsum(values**2) / (values**2).sum(), energy)) + 1]
        difference_ND = harmful_LND[layer] - harmless_LND[layer]
        left_ND = difference_ND - difference_ND @ kept.T @ kept
        _, left_values, found = np.linalg.svd(left_ND, full_matrices=False)
        if rank > len(left_values) or left_values[rank - 1] <= 1e-6 * np.linalg.norm(difference_ND):
            raise InputError(f"no {rank} directions outside the benign states at layer {layer}; use another estimator")
        rows.append(found[:rank])
    return _from_rows(rows, harmful_LND, harmless_LND)


def _from_rows(rows, harmful_LND: np.ndarray, harmless_LND: np.ndarray) -> Directions:
    """Unit rows [M, D] of every layer, each turned until the class means project onto it positively."""
    basis_LMD = np.stack([row_MD / np.linalg.norm(row_MD, axis=1, keepdims=True) for row_MD in rows])
    means = harmful_LND.mean(1), harmless_LND.mean(1)
    gap_LM = np.einsum("ld,lmd->lm", means[0] - means[1], basis_LMD)
    sign_LM = np.where(gap_LM < 0, -1.0, 1.0)
    return Directions(basis_LMD * sign_LM[:, :, None], sign_LM, np.abs(gap_LM), *means)


def _pca(harmful_ND: np.ndarray, harmless_ND: np.ndarray, rank: int) -> np.ndarray:
    states = np.concatenate([harmful_ND, harmless_ND])
    if not 1 <= rank < min(states.shape):
        raise InputError(f"rank {rank} does not fit {len(states)} anchor states of width {states.shape[1]}")
    return np.linalg.svd(states - states.mean(0), full_matrices=False)[2][:rank]


def _lda(harmful_ND: np.ndarray, harmless_ND: np.ndarray, shrinkage: float = 0.1) -> np.ndarray:
    """(S + r I)^-1 (difference of the means); S: within-class covariance, r: `shrinkage` times its mean variance."""
    within_ND = np.concatenate([harmful_ND - harmful_ND.mean(0), harmless_ND - harmless_ND.mean(0)])
    difference_D = harmful_ND.mean(0) - harmless_ND.mean(0)
    ridge = shrinkage * (within_ND**2).sum() / within_ND.size
    # (X^T X / n + r I)^-1 d by Woodbury: n anchors are far fewer than D dimensions
    n = len(within_ND)
    inner_NN = within_ND @ within_ND.T / n + ridge * np.eye(n)
    return ((difference_D - within_ND.T @ np.linalg.solve(inner_NN, within_ND @ difference_D) / n) / ridge)[None]


def _probe(harmful_ND: np.ndarray, harmless_ND: np.ndarray, penalty: float = 1.0) -> np.ndarray:
    """Weights of a logistic regression on states centred and scaled by one number; the bias is not penalised."""
    from scipy.optimize import minimize

    states = np.concatenate([harmful_ND, harmless_ND])
    centred_ND = states - states.mean(0)
    scale = np.sqrt((centred_ND**2).sum(1).mean())
    x_ND, y_N = centred_ND / scale, np.repeat([1.0, -1.0], [len(harmful_ND), len(harmless_ND)])

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        margin_N = y_N * (x_ND @ w[1:] + w[0])
        pull_N = -y_N / (1 + np.exp(np.minimum(margin_N, 700)))
        gradient = np.concatenate([[pull_N.sum()], x_ND.T @ pull_N + penalty * w[1:]])
        return np.logaddexp(0, -margin_N).sum() + penalty / 2 * w[1:] @ w[1:], gradient

    found = minimize(loss, np.zeros(x_ND.shape[1] + 1), jac=True, method="L-BFGS-B")
    return found.x[None, 1:]
