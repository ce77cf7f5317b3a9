"""Gates: when the guard acts. A score per layer, a threshold, and one decision per layer or per example.

The score is the projection of the last prompt token's state on the gate vector of its layer, by default the first
safety direction. The gate opens where the score is above the threshold.

    zero            threshold 0: h . V_1 > 0 (the paper)
    midpoint        half way between the class means of the text-only anchors
    midpoint_blank  the same, of the anchors with a blank image: an image shifts every state, harmless ones too
    calibrated      the smallest threshold at which at most a share `fpr` of the harmless anchors passes, in each of the
                    conditions that were measured (text only, blank image)
    none            always open
    linear          no threshold: the score itself is the gate, a real number (AlphaSteer; see `alpha_steer`)

The paper's threshold 0 has no meaning by itself. All prompts share a large common mean, and depending on that mean a
threshold of 0 lets most harmful prompts through or fires on most harmless ones.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.steer import Steer
from vlm_mu_jax.steering.shapes import check_shapes

GATES = ("midpoint", "midpoint_blank", "calibrated", "zero", "none", "linear")


@dataclasses.dataclass(frozen=True)
class AnchorScores:
    """Scores of the anchors on the gate vectors, float [L, N] each.

    The harmful ones are as many as the harmful anchors. Harmless ones include the benign texts. The scores with a blank
    image are None for a model without vision.
    """

    harmful_LN: np.ndarray
    harmless_LN: np.ndarray
    harmful_blank_LN: np.ndarray | None = None
    harmless_blank_LN: np.ndarray | None = None


def thresholds(kind: str, scores: AnchorScores, fpr: float = 0.05) -> np.ndarray:
    """Threshold per layer, float [L].

    Args:
      kind: one of `GATES`.
      fpr: false-positive rate of `calibrated`.

    Raises:
      InputError: an unknown kind, or a gate that needs scores with a blank image where there are none.
    """
    if kind in ("zero", "linear"):  # linear reads no threshold
        return np.zeros(len(scores.harmful_LN))
    if kind == "none":
        return np.full(len(scores.harmful_LN), -np.inf)
    if kind == "midpoint":
        return (scores.harmful_LN.mean(1) + scores.harmless_LN.mean(1)) / 2
    if kind == "midpoint_blank":
        if scores.harmful_blank_LN is None:
            raise InputError("gate midpoint_blank needs a model with vision whose gate reads the image; use midpoint")
        return (scores.harmful_blank_LN.mean(1) + scores.harmless_blank_LN.mean(1)) / 2
    if kind == "calibrated":
        measured = [s for s in (scores.harmless_LN, scores.harmless_blank_LN) if s is not None]
        return np.max([calibrated_L(s, fpr) for s in measured], axis=0)
    raise InputError(f"gate {kind!r} is unknown; use one of {', '.join(GATES)}")


def calibrated_L(harmless_LN: np.ndarray, fpr: float) -> np.ndarray:
    """The smallest observed score per layer that at most a share `fpr` of the harmless scores exceeds, float [L]."""
    if not 0 <= fpr < 1:
        raise InputError(f"false-positive rate {fpr} is not in [0, 1); give for example --fpr=0.05")
    descending_LN = -np.sort(-np.asarray(harmless_LN), axis=1)
    return descending_LN[:, int(fpr * descending_LN.shape[1] + 1e-9)]


def per_layer(steer: Steer, threshold_L: ArrayLike, gate_LD: ArrayLike | None = None) -> Steer:
    """`steer` with a gate that each of its layers decides for itself and for each example, as in the paper.

    Args:
      threshold_L: thresholds. Layers that `steer` leaves alone stay off.
      gate_LD: what the gates project on. None: the first rows of the steered subspaces.
    """
    check_shapes(basis_LMD=steer.basis_LMD, threshold_L=threshold_L, gate_LD=gate_LD)
    on_L = np.asarray(steer.threshold_L) < np.inf
    threshold_L = np.where(on_L, threshold_L, np.inf).astype(np.float32)
    gate_LD = np.asarray(steer.basis_LMD)[:, 0] if gate_LD is None else np.asarray(gate_LD, np.float32)
    return steer.replace(threshold_L=threshold_L, gate_LD=gate_LD, gate_LB=None, gated=True)


def decisions(states_LBD: np.ndarray, gate_LD: np.ndarray, threshold_L: np.ndarray) -> np.ndarray:
    """What each layer's gate says about unsteered last-token states, bool [L, B]."""
    check_shapes(states_LBD=states_LBD, gate_LD=gate_LD, threshold_L=threshold_L)
    scores_LB = np.einsum("lbd,ld->lb", np.asarray(states_LBD, np.float32), np.asarray(gate_LD))
    return scores_LB > np.asarray(threshold_L)[:, None]


def per_example(
    steer: Steer,
    states_LBD: np.ndarray,
    quorum: float = 0.5,
    *,
    threshold_L: ArrayLike | None = None,
    layers: Sequence[int] | None = None,
) -> Steer:
    """`steer` with one decision per example: it acts at all its layers or at none.

    This costs a first pass without steering. In exchange no example is steered at some layers only, and steering at one
    layer cannot change the vote of the next.

    Args:
      states_LBD: last-token states of that first pass, over the same prompts or over their text alone. In the second
        case the language model supervises the multimodal run.
      quorum: share of the voting layers that must be open.
      threshold_L: thresholds of the voting layers. None: those of `steer`.
      layers: the layers that vote. None: the steered ones.
    """
    on_L = np.asarray(steer.threshold_L) < np.inf
    gate_LD = steer.basis_LMD[:, 0] if steer.gate_LD is None else steer.gate_LD
    voting = on_L if layers is None else list(layers)
    votes_LB = decisions(states_LBD, gate_LD, steer.threshold_L if threshold_L is None else threshold_L)
    gate_LB = on_L[:, None] & (votes_LB[voting].mean(0) >= quorum)[None, :]
    return steer.replace(gate_LB=gate_LB, gated=True)


def rates(harmful_LN: ArrayLike, harmless_LK: ArrayLike, threshold_L: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """True- and false-positive rate of every layer's gate on scored prompts, float [L] and [L]."""
    check_shapes(harmful_LN=harmful_LN, harmless_LK=harmless_LK, threshold_L=threshold_L)
    threshold_L1 = np.asarray(threshold_L)[:, None]
    return (np.asarray(harmful_LN) > threshold_L1).mean(1), (np.asarray(harmless_LK) > threshold_L1).mean(1)
