"""Safety directions from last-token states of harmful and harmless prompts, one set per decoder layer.

Letters: L layers, N anchor pairs, M rank (directions per layer), D model width. All is computed in float64 on the host:
sums over 100 x 4096 differences in half precision lose the direction.

Source: VLM-Guard (arXiv 2502.10486), section "safety steering direction". A = H(harmful) - H(harmless), row by row,
and A = U S V^T; the directions are the top right singular vectors. The paper leaves two things open. A is *not*
centred here: the signal is the mean of A, and centring removes it. And the sign that an SVD returns is arbitrary, so
every row is turned until the mean of A projects onto it positively: "+" is the harmful side.
"""

import dataclasses

import numpy as np

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.steering.shapes import check_shapes


@dataclasses.dataclass(frozen=True)
class Directions:
    """Directions of every layer, and what is needed to read them. Float arrays.

    Attributes:
      basis_LMD: orthonormal rows, the harmful side positive.
      sign_LM: the factor (+1 or -1) that turned what the decomposition returned.
      singular_LM: singular values. For a difference of means, the norm of the difference.
      mean_harmful_LD, mean_harmless_LD: class means of the states.

    Raises InputError when the shapes do not belong together.
    """

    basis_LMD: np.ndarray
    sign_LM: np.ndarray
    singular_LM: np.ndarray
    mean_harmful_LD: np.ndarray
    mean_harmless_LD: np.ndarray

    def __post_init__(self):
        check_shapes(**vars(self))

    def first(self, rank: int) -> "Directions":
        """The first `rank` directions of every layer."""
        rows = {name: getattr(self, name)[:, :rank] for name in ("basis_LMD", "sign_LM", "singular_LM")}
        return dataclasses.replace(self, **rows)

    def scores(self, states_LND: np.ndarray) -> np.ndarray:
        """Projection of states on the first direction of their layer, float [L, N]."""
        check_shapes(basis_LMD=self.basis_LMD, states_LND=states_LND)
        return np.einsum("lnd,ld->ln", np.asarray(states_LND, np.float64), self.basis_LMD[:, 0])

    def midpoint_L(self) -> np.ndarray:
        """The point half way between the two class means along the first direction, float [L]."""
        middle_LD = (self.mean_harmful_LD + self.mean_harmless_LD) / 2
        return np.einsum("ld,ld->l", middle_LD, self.basis_LMD[:, 0])

    def gap_L(self) -> np.ndarray:
        """Distance of the class means along the first direction, float [L]. Adding it moves harmless onto harmful."""
        return np.einsum("ld,ld->l", self.mean_harmful_LD - self.mean_harmless_LD, self.basis_LMD[:, 0])


def paired_svd(harmful_LND: np.ndarray, harmless_LND: np.ndarray, rank: int = 1) -> Directions:
    """Top `rank` right singular vectors of every layer's uncentred differences.

    Args:
      harmful_LND, harmless_LND: states of the anchors; row n of one belongs to row n of the other.
      rank: directions per layer.

    Raises:
      InputError: the shapes are not those of pairs, `rank` is larger than the number of pairs or the width, or a layer
        has fewer independent differences.
    """
    harmful_LND, harmless_LND = np.asarray(harmful_LND, np.float64), np.asarray(harmless_LND, np.float64)
    if harmful_LND.shape != harmless_LND.shape:
        raise InputError(f"anchors are not pairs: states {harmful_LND.shape} against {harmless_LND.shape}")
    _, pairs, width = harmful_LND.shape
    if not 1 <= rank <= min(pairs, width):
        raise InputError(f"rank {rank} does not fit {pairs} anchor pairs of width {width}; use 1..{min(pairs, width)}")
    basis, sign, singular = [], [], []
    for layer, difference_ND in enumerate(harmful_LND - harmless_LND):
        _, values, rows = np.linalg.svd(difference_ND, full_matrices=False)
        if values[rank - 1] <= 1e-9 * max(values[0], 1e-30):
            raise InputError(
                f"anchors give fewer than {rank} independent differences at layer {layer}; use more or other pairs"
            )
        sign_M = _sign_of_mean(difference_ND, rows[:rank])
        basis.append(rows[:rank] * sign_M[:, None])
        sign.append(sign_M)
        singular.append(values[:rank])
    return Directions(np.stack(basis), np.stack(sign), np.stack(singular), harmful_LND.mean(1), harmless_LND.mean(1))


def difference_of_means(harmful_LND: np.ndarray, harmless_LKD: np.ndarray) -> Directions:
    """Unit vector from the harmless to the harmful mean of every layer. The rank is 1; the anchors need not be pairs.

    Source: refusal_direction (Arditi et al. 2024). Raises InputError when the two means of a layer coincide.
    """
    check_shapes(harmful_LND=harmful_LND, harmless_LKD=harmless_LKD)
    mean_harmful_LD = np.asarray(harmful_LND, np.float64).mean(1)
    mean_harmless_LD = np.asarray(harmless_LKD, np.float64).mean(1)
    difference_LD = mean_harmful_LD - mean_harmless_LD
    norm_L = np.linalg.norm(difference_LD, axis=1)
    if not np.all(norm_L > 0):
        raise InputError(f"anchors have equal means at layer {int(np.argmin(norm_L))}; use other anchors")
    basis_LMD = (difference_LD / norm_L[:, None])[:, None]
    return Directions(basis_LMD, np.ones((len(norm_L), 1)), norm_L[:, None], mean_harmful_LD, mean_harmless_LD)


def _sign_of_mean(difference_ND: np.ndarray, rows_MD: np.ndarray) -> np.ndarray:
    """+1 or -1 per row: the sign of the mean projection of the differences."""
    return np.where((difference_ND @ rows_MD.T).mean(0) < 0, -1.0, 1.0)
