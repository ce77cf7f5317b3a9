"""Operators: what the guard does to the residual stream along its directions, each as the model's `Steer`.

At the output of block l, and at the positions of the scope, the model computes

    h' = h + g * (strength_l * (h V_l^T) V_l + shift_l)

with orthonormal rows V_l [M, D] and the gate g. An operator is a choice of strength and shift. In the table, c is the
component h(q) V^T of one prompt q, and alpha the guard's strength.

    operator     strength   shift              formula or source
    project_out  -1                            h (I - V^T V), step 2 of VLM-Guard
    amplify      alpha                         step 3 of VLM-Guard, each token with its own component
    amplify      0          alpha * c V        the same, with the component of one prompt for all tokens
    reflect      -2                            h (I - 2 V^T V)
    add          0          alpha * unit * V_1 activation addition of refusal_direction; CMRM, with the direction of an
                                               image's shift and a negative alpha
    transplant   -alpha     alpha * c V        the component moves towards that of another run; towards that of the
                                               text-only run it is ShiftDC (text in place of a caption)
    ablate       -1                            directional ablation of refusal_direction: one V for all blocks, also on
                                               embedded tokens and between attention and MLP; can be baked into weights

`project_out`, `reflect` and `ablate` along the harm direction are *not* defences. On safety-aligned language models
they remove the refusal (refusal_direction, table of ablations; the miniature shows the same). They are here because the
paper names the first one, and because a measurement has to decide.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from vlm_mu_jax.errors import InputError
from vlm_mu_jax.model.steer import Steer
from vlm_mu_jax.steering.shapes import check_shapes

OPERATORS = ("project_out", "amplify", "reflect", "add", "transplant", "ablate")
FIXED_STRENGTH = {"project_out": -1.0, "reflect": -2.0, "ablate": -1.0}


def project_out(basis_LMD: ArrayLike, layers: Sequence[int], *, norm_preserving: bool = False) -> Steer:
    """Removes the component along the rows of V at the chosen layers."""
    return _steer(basis_LMD, -1.0, None, layers, norm_preserving)


def reflect(basis_LMD: ArrayLike, layers: Sequence[int], *, norm_preserving: bool = False) -> Steer:
    """Turns the component along the rows of V around at the chosen layers. The norm stays by itself."""
    return _steer(basis_LMD, -2.0, None, layers, norm_preserving)


def amplify(
    basis_LMD: ArrayLike,
    strength: float,
    layers: Sequence[int],
    *,
    component_LBM: ArrayLike | None = None,
    norm_preserving: bool = False,
) -> Steer:
    """Scales the component along the rows of V by 1 + strength. Strength -1 is `project_out`, -2 is `reflect`.

    Args:
      component_LBM: component of one prompt per row; `strength` times it is added to every token of the row. None: each
        token's own component, h V^T.
    """
    if component_LBM is None:
        return _steer(basis_LMD, strength, None, layers, norm_preserving)
    return _steer(basis_LMD, 0.0, strength * _along(component_LBM, basis_LMD), layers, norm_preserving)


def transplant(
    basis_LMD: ArrayLike,
    strength: float,
    layers: Sequence[int],
    component_LBM: ArrayLike,
    *,
    norm_preserving: bool = False,
) -> Steer:
    """Replaces a share `strength` of the component along the rows of V by `component_LBM`, that of another run.

    Source: ShiftDC (arXiv 2502.13095), with the text-only prompt in place of text and caption.
    """
    shift_LBD = strength * _along(component_LBM, basis_LMD)
    return _steer(basis_LMD, -strength, shift_LBD, layers, norm_preserving)


def add(
    basis_LMD: ArrayLike, strength: float, unit_L: ArrayLike, layers: Sequence[int], *, norm_preserving: bool = False
) -> Steer:
    """Adds strength * unit_l along the first row of V.

    Args:
      unit_L: length of strength 1 in units of the residual stream. With the gap of the class means, strength 1 moves
        the mean harmless state onto the harmful one. Another choice is the mean norm of the residual stream.
    """
    check_shapes(basis_LMD=basis_LMD, unit_L=unit_L)
    shift_LD = strength * np.asarray(unit_L, np.float64)[:, None] * np.asarray(basis_LMD)[:, 0]
    return _steer(basis_LMD, 0.0, shift_LD, layers, norm_preserving)


def ablate(basis_LMD: ArrayLike, layers: Sequence[int]) -> Steer:
    """Removes the subspace of one layer from everything that any block reads or writes.

    Source: directional ablation of refusal_direction (Arditi et al. 2024). Raises InputError unless `layers` is one.
    """
    if len(layers) != 1:
        raise InputError(f"operator ablate removes the subspace of one layer everywhere; give one layer, not {layers}")
    basis_LMD = np.repeat(np.asarray(basis_LMD)[list(layers)], len(basis_LMD), axis=0)
    return _steer(basis_LMD, -1.0, None, range(len(basis_LMD)), False).replace(everywhere=True)


def build(
    operator: str,
    basis_LMD: ArrayLike,
    strength: float,
    layers: Sequence[int],
    *,
    unit_L: ArrayLike | None = None,
    component_LBM: ArrayLike | None = None,
    norm_preserving: bool = False,
) -> Steer:
    """The operator of that name as a `Steer` without a gate. Raises InputError on an unknown name."""
    if operator == "add":
        return add(basis_LMD, strength, unit_L, layers, norm_preserving=norm_preserving)
    if operator == "transplant":
        return transplant(basis_LMD, strength, layers, component_LBM, norm_preserving=norm_preserving)
    if operator == "ablate":
        return ablate(basis_LMD, layers)
    if operator in OPERATORS:
        strength = FIXED_STRENGTH.get(operator, strength)
        return amplify(basis_LMD, strength, layers, component_LBM=component_LBM, norm_preserving=norm_preserving)
    raise InputError(f"operator {operator!r} is unknown; use one of {', '.join(OPERATORS)}")


def parse_layers(text: str, layers: int) -> tuple[int, ...]:
    """Layer numbers, 0-based and in order, of a model with so many layers.

    Args:
      text: "middle" (the contiguous middle third), "all", "last", "7", "4-9" or "3,5,7".

    Raises:
      InputError: the text is none of these, or names a layer that the model has not.
    """
    if text == "all":
        return tuple(range(layers))
    if text == "last":
        return (layers - 1,)
    if text == "middle":
        return tuple(range(layers // 3, layers - layers // 3))
    try:
        spans = [[int(edge) for edge in part.split("-")] for part in text.split(",")]
    except ValueError:
        raise InputError(f"layers {text!r} is not understood; use middle, all, last, 4-9 or 3,5,7") from None
    if not all(0 <= span[0] <= span[-1] < layers and len(span) <= 2 for span in spans):
        raise InputError(f"layers {text!r} is outside this model or out of order; it has layers 0..{layers - 1}")
    return tuple(sorted({layer for span in spans for layer in range(span[0], span[-1] + 1)}))


def _along(component_LBM: ArrayLike | None, basis_LMD: ArrayLike) -> np.ndarray:
    """Components as vectors, [L, B, D]."""
    if component_LBM is None:
        raise InputError("this operator needs the component of a first pass, which is not run here")
    check_shapes(basis_LMD=basis_LMD, component_LBM=component_LBM)
    return np.einsum("lbm,lmd->lbd", np.asarray(component_LBM, np.float64), np.asarray(basis_LMD, np.float64))


def _steer(
    basis_LMD: ArrayLike, strength: float, shift: ArrayLike | None, layers: Sequence[int], norm_preserving: bool
) -> Steer:
    """A `Steer` that is off outside `layers`: zero rows, no shift, and a threshold that nothing passes.

    shift: None, [L, D] or [L, B, D].
    """
    check_shapes(basis_LMD=basis_LMD)
    basis_LMD = np.asarray(basis_LMD)
    on_L = np.zeros(len(basis_LMD))
    on_L[list(layers)] = 1.0
    shift = np.zeros((len(on_L), basis_LMD.shape[-1])) if shift is None else shift
    return Steer(
        basis_LMD=(basis_LMD * on_L[:, None, None]).astype(np.float32),
        strength_L=(on_L * strength).astype(np.float32),
        shift=(shift * on_L.reshape(-1, *[1] * (np.ndim(shift) - 1))).astype(np.float32),
        threshold_L=np.where(on_L > 0, -np.inf, np.inf).astype(np.float32),
        norm_preserving=norm_preserving,
    )
