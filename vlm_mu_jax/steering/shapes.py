"""Shapes that names promise: `basis_LMD` has three axes, and its L is the L of `gate_LD`."""

from typing import Any

import chex
import numpy as np

from vlm_mu_jax.errors import InputError


def check_shapes(**arrays: Any) -> None:
    """Compares arrays with the letters at the end of their names. A letter has one size in all of them.

        check_shapes(basis_LMD=basis_LMD, gate_LD=gate_LD)

    Arrays that are None are left out.

    Raises:
      InputError: names the argument, its shape and the shape that was expected.
    """
    sizes: dict[str, int] = {}
    for name, array in arrays.items():
        if array is None:
            continue
        letters, shape = name.rpartition("_")[2], np.shape(array)
        try:
            chex.assert_shape(_shaped(array), tuple(sizes.get(letter) for letter in letters))
        except AssertionError as error:
            known = [f"{x} = {sizes[x]}" for x in letters if x in sizes]
            expected = f"[{', '.join(letters)}]" + (f" with {', '.join(known)}" if known else "")
            raise InputError(f"{name} has shape {list(shape)}; it must be {expected}") from error
        sizes |= dict(zip(letters, shape, strict=True))


def _shaped(array: Any) -> Any:
    return array if hasattr(array, "shape") else np.asarray(array)
