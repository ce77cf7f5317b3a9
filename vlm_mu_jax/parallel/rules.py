"""One table from logical axis names to mesh axes, and the shardings it gives.

Every parameter declares logical axes ("embed", "heads", ...). A rule that cannot be applied is an error that names
the parameter and the rule: silently replicating a misspelt or non-divisible axis would only show up as lost memory.
"""

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vlm_mu_jax.errors import InputError

RULES: dict[str, str | None] = {
    "layers": None,  # scanned
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head": None,
    "mlp": "tensor",
    "vocab": "tensor",
}


def partition(
    path: str, axes: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh, rules: Mapping[str, str | None] = RULES
) -> PartitionSpec:
    """The mesh axis of every dimension of one parameter.

    Raises:
      InputError: an axis without a rule, two dimensions on one mesh axis, or a size the mesh axis does not divide.
    """
    used: dict[str, str] = {}
    spec: list[str | None] = []
    for axis, size in zip(axes, shape, strict=True):
        if axis is not None and axis not in rules:
            raise InputError(f"{path}: no sharding rule for axis {axis!r}; add it to the rule table")
        target = None if axis is None else rules[axis]
        if target is None or mesh.shape[target] == 1:
            spec.append(None)
            continue
        if target in used:
            raise InputError(
                f"{path}: rules {used[target]} -> {target} and {axis} -> {target} put two dimensions on one mesh axis"
            )
        if size % mesh.shape[target]:
            raise InputError(
                f"{path}: rule {axis} -> {target} cannot split size {size} over {mesh.shape[target]} devices; "
                f"choose mesh.{target} that divides {size}"
            )
        used[target] = axis
        spec.append(target)
    return PartitionSpec(*spec)


def shardings(
    specs: Mapping[str, Any], mesh: Mesh, rules: Mapping[str, str | None] = RULES, prefix: str = ""
) -> dict[str, Any]:
    """NamedShardings for a nested dict of declarations (anything with `.axes` and `.shape`)."""
    return {
        name: shardings(spec, mesh, rules, f"{prefix}{name}/")
        if isinstance(spec, Mapping)
        else NamedSharding(mesh, partition(f"{prefix}{name}", spec.axes, spec.shape, mesh, rules))
        for name, spec in specs.items()
    }


def place(
    params: dict[str, Any], specs: Mapping[str, Any], mesh: Mesh, rules: Mapping[str, str | None] = RULES
) -> dict[str, Any]:
    """Parameters moved onto the mesh by the rules."""
    from vlm_mu_jax.parallel.mesh import put

    return jax.tree.map(put, params, shardings(specs, mesh, rules))
