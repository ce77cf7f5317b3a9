"""What the guard does to the residual stream along its directions, each as the model's `Steer`.

The model applies, at the output of block l and at every position,

    h' = h + g * (strength_l * (h V_l^T) V_l + shift_l)

with orthonormal rows V_l [M, D]. Every operator below is a choice of strength and shift:

    project_out  strength -1             h (I - V^T V), the formula of VLM-Guard's step 2
    amplify      strength alpha > 0      VLM-Guard's step 3 with the harmful side positive
    reflect      strength -2             h (I - 2 V^T V)
    add          shift alpha * unit * V_1   refusal_direction's activation addition

`project_out` along the harm direction is *not* a defence: on safety-aligned language models it removes the
refusal (refusal_direction, table of ablations; the miniature shows the same). It is here because the paper
names it and because a measurement has to decide; the default is `amplify`.
"""

import numpy as np

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.decoder import Steer

OPERATORS = ("project_out", "amplify", "reflect", "add")
FIXED_STRENGTH = {"project_out": -1.0, "reflect": -2.0}


def project_out(basis_LMD, layers, *, norm_preserving: bool = False) -> Steer:
    """Remove the component along the rows of V at the chosen layers."""
    return _linear(basis_LMD, -1.0, layers, norm_preserving)


def reflect(basis_LMD, layers, *, norm_preserving: bool = False) -> Steer:
    """Turn the component along the rows of V around at the chosen layers (keeps the norm by itself)."""
    return _linear(basis_LMD, -2.0, layers, norm_preserving)


def amplify(basis_LMD, strength: float, layers, *, norm_preserving: bool = False) -> Steer:
    """Scale the component along the rows of V by 1 + strength; strength -1 is `project_out`, -2 `reflect`."""
    return _linear(basis_LMD, strength, layers, norm_preserving)


def add(basis_LMD, strength: float, unit_L, layers, *, norm_preserving: bool = False) -> Steer:
    """Add strength * unit_l along the first row of V.

    unit_L: length of one unit in residual-stream units, for example the gap of the class means (then strength 1
    moves the mean harmless state onto the harmful one) or the mean residual norm.
    """
    on_L = _switch(len(basis_LMD), layers)
    shift_LD = (on_L * strength * np.asarray(unit_L, np.float64))[:, None] * np.asarray(basis_LMD)[:, 0]
    return _steer(basis_LMD, np.zeros(len(on_L)), shift_LD, on_L, norm_preserving)


def build(operator: str, basis_LMD, strength: float, layers, *, unit_L=None, norm_preserving: bool = False) -> Steer:
    """The operator called `operator` as a `Steer` without a gate. Raises InputError on an unknown name."""
    if operator == "add":
        return add(basis_LMD, strength, unit_L, layers, norm_preserving=norm_preserving)
    if operator in FIXED_STRENGTH:
        return _linear(basis_LMD, FIXED_STRENGTH[operator], layers, norm_preserving)
    if operator == "amplify":
        return amplify(basis_LMD, strength, layers, norm_preserving=norm_preserving)
    raise InputError(f"operator {operator!r} is unknown; use one of {', '.join(OPERATORS)}")


def parse_layers(text: str, layers: int) -> tuple[int, ...]:
    """Layer indices from "middle" (the contiguous middle third), "all", "4-9", "7" or "3,5,7" (0-based).

    Raises InputError when the text is none of these or names a layer the model has not.
    """
    if text == "all":
        return tuple(range(layers))
    if text == "middle":
        return tuple(range(layers // 3, layers - layers // 3))
    try:
        spans = [[int(edge) for edge in part.split("-")] for part in text.split(",")]
    except ValueError:
        raise InputError(f"layers {text!r} is not understood; use middle, all, 4-9 or 3,5,7") from None
    if not all(0 <= span[0] <= span[-1] < layers and len(span) <= 2 for span in spans):
        raise InputError(f"layers {text!r} is outside this model or out of order; it has layers 0..{layers - 1}")
    return tuple(sorted({layer for span in spans for layer in range(span[0], span[-1] + 1)}))


def _linear(basis_LMD, strength: float, layers, norm_preserving: bool) -> Steer:
    on_L = _switch(len(basis_LMD), layers)
    shift_LD = np.zeros((len(on_L), np.shape(basis_LMD)[-1]))
    return _steer(basis_LMD, on_L * strength, shift_LD, on_L, norm_preserving)


def _switch(count: int, layers) -> np.ndarray:
    """1.0 for the chosen layers, 0.0 elsewhere, [L]."""
    on_L = np.zeros(count)
    on_L[list(layers)] = 1.0
    return on_L


def _steer(basis_LMD, strength_L, shift_LD, on_L, norm_preserving: bool) -> Steer:
    # Layers that are off get zero rows and a threshold nothing passes, so that they are off three times over.
    return Steer(
        basis_LMD=(np.asarray(basis_LMD) * on_L[:, None, None]).astype(np.float32),
        strength_L=np.asarray(strength_L, np.float32),
        shift_LD=np.asarray(shift_LD, np.float32),
        threshold_L=np.where(on_L > 0, -np.inf, np.inf).astype(np.float32),
        gate_LB=None,
        gated=False,
        norm_preserving=norm_preserving,
    )
